//! What a check has met so far in a list, for telling what stands twice.
//!
//! Invariant: asking costs the same however long the list is. Few are kept in a row, as most lists are short.

use std::collections::HashSet;
use std::hash::Hash;

/// Above this number they are kept by hash.
const FEW: usize = 16;

/// The values met.
pub(super) struct Seen<T> {
    few: Vec<T>,
    many: HashSet<T>,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self {
            few: Vec::new(),
            many: HashSet::new(),
        }
    }
}

impl<T: Eq + Hash> Seen<T> {
    /// Whether a value was met.
    pub(super) fn contains(&self, value: &T) -> bool {
        if self.many.is_empty() {
            self.few.contains(value)
        } else {
            self.many.contains(value)
        }
    }

    /// Notes a value.
    pub(super) fn push(&mut self, value: T) {
        if self.many.is_empty() && self.few.len() < FEW {
            self.few.push(value);
            return;
        }
        self.many.extend(self.few.drain(..));
        self.many.insert(value);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.few.clear();
        self.many.clear();
    }
}

impl<T: Eq + Hash> FromIterator<T> for Seen<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut seen = Self::default();
        for value in values {
            seen.push(value);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_told_alike() {
        let mut seen: Seen<usize> = Seen::default();
        for value in 0..100 {
            assert!(!seen.contains(&value), "{value}");
            seen.push(value);
            seen.push(value);
            assert!((0..=value).all(|before| seen.contains(&before)), "{value}");
        }
        seen.clear();
        assert!(!seen.contains(&5));
    }
}
