//! That elements of lists are there once: whole elements of sets, keys of those that have keys
//! (pkg/apiserver/schema/listtype).
//!
//! Invariant: each value that is there more than once is told once, at its second place.

use std::collections::HashMap;

use serde_json::{Map, Value};
use trireme_api::cost::ERRORS_BYTES_MAX;
use trireme_api::field::{FieldError, FieldErrorType};

use crate::node::{ListType, Node};
use crate::path::Path;
use crate::show;

/// What was found, no more than is told.
#[derive(Default)]
pub(crate) struct Twins {
    pub errors: Vec<FieldError>,
    bytes: usize,
}

impl Twins {
    fn push(&mut self, kind: FieldErrorType, at: &Path<'_>, value: String, detail: &str) {
        if self.bytes >= ERRORS_BYTES_MAX {
            return;
        }
        let path = at.field();
        self.bytes += path.len() + value.len() + detail.len();
        self.errors.push(FieldError {
            kind,
            path,
            value,
            detail: detail.to_owned(),
        });
    }

    /// Looks at a value and what is in it.
    pub fn look(&mut self, value: &Value, node: &Node, at: &Path<'_>) {
        if !node.below.keyed_lists {
            return;
        }
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    if let Some(inner) = node.additional()
                        && !node.properties.contains_key(name.as_str())
                    {
                        self.look(member, inner, &at.key(name));
                    } else if let Some(inner) = node.properties.get(name.as_str()) {
                        self.look(member, inner, &at.child(name));
                    }
                }
            }
            Value::Array(items) => {
                match &node.list {
                    ListType::Atomic => {}
                    ListType::Set => {
                        for index in twins(items) {
                            self.push(FieldErrorType::Duplicate, &at.index(index), show::value(&items[index]), "");
                        }
                    }
                    ListType::Map(keys) => self.keys(items, keys, at),
                }
                if let Some(inner) = node.items() {
                    for (index, item) in items.iter().enumerate() {
                        self.look(item, inner, &at.index(index));
                    }
                }
            }
            _ => {}
        }
    }

    fn keys(&mut self, items: &[Value], keys: &[Box<str>], at: &Path<'_>) {
        if let Some(index) = items.iter().position(|item| !item.is_null() && !item.is_object()) {
            const MUST: &str = "must be an object for an array of list-type map";
            self.push(FieldErrorType::Invalid, &at.index(index), show::value(&items[index]), MUST);
            return;
        }
        let all: Vec<Value> = items
            .iter()
            .map(|item| {
                let own = keys
                    .iter()
                    .filter_map(|key| Some(((**key).to_owned(), item.get(&**key)?.clone())));
                Value::Object(own.collect::<Map<_, _>>())
            })
            .collect();
        for index in twins(&all) {
            self.push(FieldErrorType::Duplicate, &at.index(index), show::json(&all[index]), "");
        }
    }
}

/// Where values are there for the second time.
fn twins(items: &[Value]) -> Vec<usize> {
    if items.len() < 2 {
        return Vec::new();
    }
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(items.len());
    let mut found = Vec::new();
    for (index, item) in items.iter().enumerate() {
        // JSON tells values of different types apart; numbers in it are as they were sent.
        let times = seen.entry(item.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            found.push(index);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn twins_are_told_once_at_their_second_place() {
        assert_eq!(twins(&[json!(1), json!("1"), json!(1), json!(1), json!("1")]), [2, 4]);
        assert_eq!(twins(&[json!({"a": 1}), json!({"a": 1}), json!(null)]), [1]);
    }
}
