//! An object with the time, and short ways to the texts of its fields.
//!
//! Invariant: a missing field reads as its zero value.

use jiff::Timestamp;
use serde_json::Value;
use trireme_api::path;

use super::words::since;

/// An object with the time, and short ways to its fields.
pub(super) struct View<'a> {
    /// The object.
    pub(super) value: &'a Value,
    /// The time.
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    pub(super) fn str(&self, at: &[&str]) -> &'a str {
        path::str(self.value, at)
    }

    pub(super) fn text(&self, at: &[&str]) -> Value {
        Value::from(self.str(at))
    }

    pub(super) fn number(&self, at: &[&str]) -> i64 {
        path::i64(self.value, at).unwrap_or(0)
    }

    pub(super) fn int(&self, at: &[&str]) -> Value {
        Value::from(self.number(at))
    }

    pub(super) fn flag(&self, at: &[&str], default: bool) -> Value {
        Value::from(path::get(self.value, at).and_then(Value::as_bool).unwrap_or(default))
    }

    pub(super) fn or(&self, at: &[&str], default: &str) -> Value {
        match path::get(self.value, at) {
            Some(Value::String(text)) => Value::from(text.as_str()),
            Some(Value::Null) | None => Value::from(default),
            Some(other) => Value::from(other.to_string()),
        }
    }

    pub(super) fn list(&self, at: &[&str]) -> &'a [Value] {
        path::list(self.value, at)
    }

    pub(super) fn get(&self, at: &[&str]) -> Option<&'a Value> {
        path::get(self.value, at)
    }

    pub(super) fn len(&self, at: &[&str]) -> usize {
        match self.get(at) {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(members)) => members.len(),
            _ => 0,
        }
    }

    pub(super) fn name(&self) -> Value {
        self.text(&["metadata", "name"])
    }

    pub(super) fn age(&self) -> Value {
        Value::from(since(self.get(&["metadata", "creationTimestamp"]), self.now))
    }

    pub(super) fn since(&self, at: &[&str]) -> String {
        since(self.get(at), self.now)
    }

    pub(super) fn condition(&self, kind: &str) -> Option<&'a str> {
        let conditions = self.list(&["status", "conditions"]);
        conditions
            .iter()
            .find(|condition| path::str(condition, &["type"]) == kind)
            .map(|found| path::str(found, &["status"]))
    }

    pub(super) fn phase(&self) -> Value {
        if self.get(&["metadata", "deletionTimestamp"]).is_some() {
            Value::from("Terminating")
        } else {
            self.text(&["status", "phase"])
        }
    }

    pub(super) fn default_class(&self, annotations: &[&str]) -> Value {
        let marked = annotations
            .iter()
            .any(|name| self.str(&["metadata", "annotations", name]) == "true");
        Value::from(format!(
            "{}{}",
            self.str(&["metadata", "name"]),
            if marked { " (default)" } else { "" }
        ))
    }
}

pub(super) fn joined(items: &[Value], separator: &str) -> String {
    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(separator)
}
