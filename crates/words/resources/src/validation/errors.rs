//! Where the problems of one object are collected.
//!
//! Invariant: no more is kept than an answer tells ([`ERRORS_BYTES_MAX`]), however many problems an object has.

use std::collections::HashSet;

use trireme_api::cost::ERRORS_BYTES_MAX;
use trireme_api::field::FieldError;

use super::Judged;

/// The problems found so far, in order.
#[derive(Debug, Default)]
pub(super) struct Errors {
    found: Vec<FieldError>,
    bytes: usize,
    warnings: Vec<String>,
    excuse: Excuse,
}

/// What excuses that a changed object has something wrong where the old one had it, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Excuse {
    /// The old object's bulk, which is there.
    #[default]
    Old,
    /// The new object's bulk, which is the old one's; that is set aside.
    Same,
    /// Nothing: the old object's bulk is set aside.
    Nothing,
}

impl Errors {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet.
    pub fn with_excuse(excuse: Excuse) -> Self {
        Self {
            excuse,
            ..Self::default()
        }
    }

    /// What excuses faults in the object's bulk.
    pub fn excuse(&self) -> Excuse {
        self.excuse
    }

    /// Adds all that others are.
    pub fn absorb(&mut self, others: Self) {
        self.extend(others.found);
        self.warnings.extend(others.warnings);
    }

    /// Takes warnings back.
    pub fn unwarn(&mut self, known: &HashSet<String>) {
        self.warnings.retain(|warning| !known.contains(warning));
    }

    /// Adds one, unless there are enough.
    pub fn push(&mut self, error: FieldError) {
        if self.full() {
            return;
        }
        self.bytes += error.path.len() + error.value.len() + error.detail.len();
        self.found.push(error);
    }

    /// Adds several.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        errors.into_iter().for_each(|error| self.push(error));
    }

    /// Adds what the client is only told of.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Whether no more is told: what looks at all pairs of things, or shows a whole list in each problem, ends here.
    pub fn full(&self) -> bool {
        self.bytes >= ERRORS_BYTES_MAX
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether there is nothing to tell, warnings included.
    pub fn is_silent(&self) -> bool {
        self.found.is_empty() && self.warnings.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }
}

impl IntoIterator for Errors {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

impl From<Errors> for Judged {
    fn from(errors: Errors) -> Self {
        Self {
            errors: errors.found,
            warnings: errors.warnings,
        }
    }
}

impl From<Errors> for Vec<FieldError> {
    fn from(errors: Errors) -> Self {
        errors.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::node::Node;
    use serde_json::Value;

    #[test]
    fn the_error_that_exceeds_the_limit_is_the_last() {
        let long = Value::String("x".repeat(ERRORS_BYTES_MAX / 2));
        let node = Node::root(&long);
        let mut errors = Errors::new();
        errors.extend((0..4).map(|_| node.bad("")));
        assert_eq!((errors.len(), errors.full()), (2, true));
        errors.push(node.bad(""));
        assert_eq!(Vec::from(errors).len(), 2);
    }
}
