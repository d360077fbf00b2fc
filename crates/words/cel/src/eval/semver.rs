//! Semantic versions, as upstream's library reads them.

use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter};

use super::error::{Evaluated, refused};
use super::show::quoted;

/// A version.
#[derive(Clone, Debug)]
pub struct Semver {
    /// Major, minor, patch.
    pub numbers: [u64; 3],
    before: Vec<Box<str>>,
    build: Vec<Box<str>>,
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn number(text: &str, small: &str, large: &str) -> Evaluated<u64> {
    if !digits(text) {
        return refused(format!("Invalid character(s) found in {small} number {}", quoted(text)));
    }
    if text.len() > 1 && text.starts_with('0') {
        return refused(format!("{large} number must not contain leading zeroes {}", quoted(text)));
    }
    match text.parse() {
        Ok(number) => Ok(number),
        Err(_) => {
            let why = if text.is_empty() {
                "invalid syntax"
            } else {
                "value out of range"
            };
            refused(format!("strconv.ParseUint: parsing {}: {why}", quoted(text)))
        }
    }
}

fn fits(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric())
}

impl Semver {
    /// The version that a text is; with `lenient`, one that lacks numbers or has zeros too many.
    pub(crate) fn parse(text: &str, lenient: bool) -> Evaluated<Self> {
        if lenient {
            let text = text.strip_prefix('v').unwrap_or(text);
            let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
            for part in &mut parts {
                if part.len() > 1 {
                    let stripped = part.trim_start_matches('0');
                    let zero = if stripped.starts_with(|letter: char| letter.is_ascii_digit()) {
                        ""
                    } else {
                        "0"
                    };
                    *part = format!("{zero}{stripped}");
                }
            }
            if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
                return refused("short version cannot contain PreRelease/Build meta data");
            }
            parts.resize(3, "0".into());
            return Self::strict(&parts.join("."));
        }
        Self::strict(text)
    }

    fn strict(text: &str) -> Evaluated<Self> {
        if text.is_empty() {
            return refused("Version string empty");
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(patch)) = (parts.next(), parts.next(), parts.next()) else {
            return refused("No Major.Minor.Patch elements found");
        };
        let (major, minor) = (number(major, "major", "Major")?, number(minor, "minor", "Minor")?);
        let (patch, build) = patch
            .split_once('+')
            .map_or((patch, None), |(patch, build)| (patch, Some(build)));
        let (patch, before) = patch
            .split_once('-')
            .map_or((patch, None), |(patch, before)| (patch, Some(before)));
        let patch = number(patch, "patch", "Patch")?;
        let mut version = Self {
            numbers: [major, minor, patch],
            before: Vec::new(),
            build: Vec::new(),
        };
        for part in before.into_iter().flat_map(|before| before.split('.')) {
            if part.is_empty() {
                return refused("Prerelease is empty");
            }
            if digits(part) {
                if part.len() > 1 && part.starts_with('0') {
                    return refused(format!(
                        "Numeric PreRelease version must not contain leading zeroes {}",
                        quoted(part)
                    ));
                }
                if part.parse::<u64>().is_err() {
                    return refused(format!("strconv.ParseUint: parsing {}: value out of range", quoted(part)));
                }
            } else if !fits(part) {
                return refused(format!("Invalid character(s) found in prerelease {}", quoted(part)));
            }
            version.before.push(part.into());
        }
        for part in build.into_iter().flat_map(|build| build.split('.')) {
            if part.is_empty() {
                return refused("Build meta data is empty");
            }
            if !fits(part) {
                return refused(format!("Invalid character(s) found in build meta data {}", quoted(part)));
            }
            version.build.push(part.into());
        }
        Ok(version)
    }

    /// Which is newer; builds do not count.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let numbers = self.numbers.cmp(&other.numbers);
        if numbers != Ordering::Equal {
            return numbers;
        }
        match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => {}
        }
        for (one, other) in self.before.iter().zip(&other.before) {
            let order = match (
                digits(one).then(|| one.parse::<u64>()),
                digits(other).then(|| other.parse::<u64>()),
            ) {
                (Some(Ok(one)), Some(Ok(other))) => one.cmp(&other),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                _ => one.cmp(other),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
        self.before.len().cmp(&other.before.len())
    }
}

impl Display for Semver {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(out, "{major}.{minor}.{patch}")?;
        if !self.before.is_empty() {
            write!(out, "-{}", self.before.join("."))?;
        }
        if !self.build.is_empty() {
            write!(out, "+{}", self.build.join("."))?;
        }
        Ok(())
    }
}
