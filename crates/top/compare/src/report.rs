//! What was found, and which of it is agreed to be so.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::case::{Finding, Step};

/// A kind of difference with its smallest example.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kind {
    #[serde(flatten)]
    pub(crate) finding: Finding,
    /// How many cases showed it.
    pub(crate) count: usize,
    /// The first of them.
    pub(crate) case: u64,
    /// Its steps, without those that are not needed.
    pub(crate) steps: Vec<Step>,
    /// Why it is so, where it is agreed.
    pub(crate) reason: Option<String>,
    /// Whether it did not come again when its case was run alone.
    pub(crate) passing: bool,
}

impl Kind {
    /// Whether it is a difference that nobody agreed to.
    pub(crate) fn is_open(&self) -> bool {
        self.reason.is_none() && !self.passing
    }
}

/// One line of the list of deviations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deviation {
    patterns: [String; 3],
    reason: String,
}

/// Reads the list: lines of the form ``- `METHOD KIND PATH`: reason``, in which `*` stands for anything.
pub(crate) fn deviations(path: &Path) -> Result<Vec<Deviation>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    text.lines().filter(|line| line.starts_with("- `")).map(parse).collect()
}

fn parse(line: &str) -> Result<Deviation> {
    let inner = line.strip_prefix("- `").and_then(|rest| rest.split_once("`: "));
    let (what, reason) =
        inner.with_context(|| format!("a deviation looks like - `METHOD KIND PATH`: reason; this does not: {line}"))?;
    let parts: Vec<&str> = what.rsplitn(3, ' ').collect();
    let [path, kind, method] = parts.as_slice() else {
        anyhow::bail!("a deviation names method, kind and path; this does not: {line}");
    };
    ensure!(!reason.trim().is_empty(), "a deviation has a reason; this has none: {line}");
    Ok(Deviation {
        patterns: [method, kind, path].map(|part| (*part).to_owned()),
        reason: reason.trim().to_owned(),
    })
}

impl Deviation {
    /// The reason, where it is about this finding.
    pub(crate) fn covers(&self, finding: &Finding) -> Option<&str> {
        let [method, kind, path] = &self.patterns;
        let covers = matches(method, &finding.method) && matches(kind, &finding.kind) && matches(path, &finding.difference.path);
        covers.then_some(self.reason.as_str())
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut ended = !pattern.contains('*');
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        ended = !part.is_empty();
    }
    !ended || rest.is_empty()
}

/// For people.
pub(crate) fn print(kinds: &[Kind], seed: u64, cases: u64) {
    for kind in kinds {
        let Finding {
            method,
            kind: of,
            difference,
            request,
        } = &kind.finding;
        println!(
            "{method} {of} {} ({} times, first in case {} of seed {seed})",
            difference.path, kind.count, kind.case
        );
        if let Some(reason) = &kind.reason {
            println!("  agreed:  {reason}");
            continue;
        }
        if kind.passing {
            println!("  passing: not seen again when its case was run alone");
        }
        println!("  stock:   {}", difference.stock);
        println!("  trireme: {}", difference.trireme);
        println!("  request: {request}");
        if kind.steps.len() > 1 {
            println!("  steps:   {}", serde_json::to_string(&kind.steps).unwrap_or_default());
        }
        println!();
    }
    let open = kinds.iter().filter(|kind| kind.is_open()).count();
    let agreed = kinds.iter().filter(|kind| kind.reason.is_some()).count();
    println!(
        "{cases} cases of seed {seed}: {open} kinds of difference, {agreed} agreed, {} passing",
        kinds.len() - open - agreed
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::difference::Difference;

    #[test]
    fn a_deviation_covers_what_it_names_and_needs_a_reason() {
        let finding = |method: &str, kind: &str, path: &str| Finding {
            method: method.into(),
            kind: kind.into(),
            difference: Difference {
                path: path.into(),
                stock: String::new(),
                trireme: String::new(),
            },
            request: String::new(),
        };
        let table = parse("- `list as table Pod rows[].cells[]`: ages differ").unwrap();
        assert_eq!(
            table.covers(&finding("list as table", "Pod", "rows[].cells[]")),
            Some("ages differ")
        );
        assert_eq!(table.covers(&finding("list as table", "Pod", "rows[].cells[].x")), None);
        let any = parse("- `* Pod status.*Status`: because").unwrap();
        assert!(any.covers(&finding("create", "Pod", "status.qosStatus")).is_some());
        assert!(any.covers(&finding("create", "Pod", "status.qosStatus.a")).is_none());
        assert!(any.covers(&finding("create", "PodTemplate", "status.aStatus")).is_none());
        for wrong in ["- `create Pod`: because", "- `create Pod a`:  ", "- `create Pod a` because"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
