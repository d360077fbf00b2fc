//! Lists and maps that were sent empty, which the canonical form does not tell from none: upstream's refusals show them.
//!
//! Invariant: they are put back into a copy that is only judged once more for its words, never into what is stored.

use serde_json::{Map, Value};

/// Where a list or map was sent empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Empty {
    /// Path with indices, for example `spec.rules[0].verbs`. Names with dots in them are not told from paths, so that a
    /// value below them is not put back.
    path: String,
    /// Whether it was a list.
    list: bool,
}

impl Empty {
    pub(super) fn list(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            list: true,
        }
    }

    pub(super) fn map(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            list: false,
        }
    }

    /// Puts it back where nothing stands in its place; whether it did.
    fn put_back(&self, value: &mut Value) -> bool {
        let (parent, last) = match self.path.rsplit_once('.') {
            Some((parent, last)) => (parent, last),
            None => ("", self.path.as_str()),
        };
        let mut at = value;
        for step in parent.split(['.', '[']).filter(|step| !step.is_empty()) {
            let below = match step.strip_suffix(']').and_then(|index| index.parse::<usize>().ok()) {
                Some(index) => at.get_mut(index),
                None => at.get_mut(step),
            };
            let Some(below) = below else { return false };
            at = below;
        }
        let Some(members) = at.as_object_mut() else { return false };
        let slot = members.entry(last).or_insert(Value::Null);
        if !slot.is_null() {
            return false;
        }
        *slot = if self.list {
            Value::Array(Vec::new())
        } else {
            Value::Object(Map::new())
        };
        true
    }
}

/// A value with what was sent empty put back; none where it is as it was.
#[must_use]
pub fn as_sent(value: &Value, empty: &[Empty]) -> Option<Value> {
    if empty.is_empty() {
        return None;
    }
    let mut value = value.clone();
    let changed = empty.iter().filter(|empty| empty.put_back(&mut value)).count();
    (changed > 0).then_some(value)
}
