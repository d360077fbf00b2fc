//! Field selectors: `metadata.name=a,status.phase!=Running`.
//!
//! Invariant: matching an object costs one look-up per path, however many terms there are on it.

use std::collections::{BTreeMap, BTreeSet};

use super::SelectorError;

/// How a term compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOperator {
    /// `=` and `==`.
    Equals,
    /// `!=`.
    NotEquals,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// Path such as `metadata.name`.
    pub path: String,
    /// Comparison.
    pub operator: FieldOperator,
    /// Value, unescaped.
    pub value: String,
}

/// All terms must hold; none means everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Terms, sorted as upstream sorts them: by their text.
    terms: Vec<FieldTerm>,
    by_path: BTreeMap<String, Demand>,
}

/// What all terms on one path together ask of its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    equal: BTreeSet<String>,
    unequal: BTreeSet<String>,
}

impl Demand {
    /// Whether a value fulfils it; a missing one counts as empty.
    #[must_use]
    pub fn fits(&self, value: &str) -> bool {
        let equal = match self.equal.len() {
            0 => true,
            1 => self.equal.contains(value),
            _ => false,
        };
        equal && !self.unequal.contains(value)
    }

    /// The one value that fulfils it, where only one can.
    #[must_use]
    pub fn only(&self) -> Option<&str> {
        match self.equal.len() {
            1 => self.equal.first().map(String::as_str),
            _ => None,
        }
    }
}

impl FieldSelector {
    /// Parses the query parameter `fieldSelector`.
    ///
    /// # Errors
    /// With upstream's text.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split(text);
        parts.sort_unstable();
        let mut terms: Vec<FieldTerm> = Vec::new();
        let mut by_path: BTreeMap<String, Demand> = BTreeMap::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((path, operator, value)) = divide(part) else {
                return Err(SelectorError::new(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            let value = unescape(value)?;
            let demand = by_path.entry(path.to_owned()).or_default();
            match operator {
                FieldOperator::Equals => demand.equal.insert(value.clone()),
                FieldOperator::NotEquals => demand.unequal.insert(value.clone()),
            };
            terms.push(FieldTerm {
                path: path.to_owned(),
                operator,
                value,
            });
        }
        Ok(Self { terms, by_path })
    }

    /// Terms, sorted as upstream sorts them: by their text.
    #[must_use]
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// What is asked of each path.
    pub fn demands(&self) -> impl Iterator<Item = (&str, &Demand)> {
        self.by_path.iter().map(|(path, demand)| (path.as_str(), demand))
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether all terms hold, `look` giving the value at a path; a missing one counts as empty.
    pub fn matches<'a>(&self, mut look: impl FnMut(&str) -> Option<&'a str>) -> bool {
        self.demands()
            .all(|(path, demand)| demand.fits(look(path).unwrap_or_default()))
    }

    /// The value that `path` must have, if an equality says so.
    #[must_use]
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.path == path && term.operator == FieldOperator::Equals)
            .map(|term| term.value.as_str())
    }
}

fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn divide(part: &str) -> Option<(&str, FieldOperator, &str)> {
    part.char_indices().find_map(|(at, _)| {
        let rest = &part[at..];
        [
            ("!=", FieldOperator::NotEquals),
            ("==", FieldOperator::Equals),
            ("=", FieldOperator::Equals),
        ]
        .into_iter()
        .find_map(|(sign, operator)| rest.strip_prefix(sign).map(|value| (&part[..at], operator, value)))
    })
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '\\' | ',' | '=' if escaped => out.push(c),
            _ if escaped => {
                return Err(SelectorError::new(format!(
                    "invalid field selector: invalid escape sequence: \\{c}"
                )));
            }
            '\\' => {
                escaped = true;
                continue;
            }
            ',' | '=' => {
                return Err(SelectorError::new(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(c)
                )));
            }
            _ => out.push(c),
        }
        escaped = false;
    }
    if escaped {
        return Err(SelectorError::new(
            "invalid field selector: invalid escape sequence: \\".into(),
        ));
    }
    Ok(out)
}

impl std::fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let sign = match term.operator {
                FieldOperator::Equals => "=",
                FieldOperator::NotEquals => "!=",
            };
            write!(f, "{}{sign}", term.path)?;
            for c in term.value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_parsed_matched_and_printed() {
        let selector = FieldSelector::parse("status.phase!=Running,metadata.name==a\\,b,").unwrap();
        assert_eq!(selector.to_string(), "metadata.name=a\\,b,status.phase!=Running");
        assert_eq!(selector.exact("metadata.name"), Some("a,b"));
        assert!(selector.matches(|path| (path == "metadata.name").then_some("a,b")));
        assert!(!selector.matches(|path| Some(if path == "metadata.name" { "a,b" } else { "Running" })));
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }

    #[test]
    fn bad_terms_are_refused_with_upstreams_text() {
        for (text, message) in [
            (
                "metadata.name>a",
                "invalid selector: 'metadata.name>a'; can't understand 'metadata.name>a'",
            ),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            ("a=\\x", "invalid field selector: invalid escape sequence: \\x"),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), message);
        }
    }
}
