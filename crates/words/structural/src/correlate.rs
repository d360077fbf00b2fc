//! Which part of an old object a part of the new one was, and whether it changed
//! (staging/src/k8s.io/apiserver/pkg/cel/common: equality.go, maplist.go).
//!
//! Invariant: looking an element up costs no search, and each pair is compared once.

use std::cell::{Cell, OnceCell};
use std::collections::HashMap;

use serde_json::Value;

use crate::node::{ListType, Node, Type};

/// A value and what it was.
pub(crate) struct Correlated<'a> {
    pub new: &'a Value,
    pub old: &'a Value,
    pub node: &'a Node,
    equal: Cell<Option<bool>>,
    keyed: OnceCell<HashMap<String, &'a Value>>,
}

impl<'a> Correlated<'a> {
    pub fn new(new: &'a Value, old: &'a Value, node: &'a Node) -> Self {
        Self {
            new,
            old,
            node,
            equal: Cell::new(None),
            keyed: OnceCell::new(),
        }
    }

    /// A member that both have and that has a schema.
    pub fn key(&self, name: &str) -> Option<Self> {
        let (new, old) = (self.new.as_object()?.get(name)?, self.old.as_object()?.get(name)?);
        Some(Self::new(new, old, self.node.member(name)?))
    }

    /// An element of a list whose elements have keys.
    pub fn index(&self, index: usize) -> Option<Self> {
        let new = self.new.as_array()?.get(index)?;
        let old = self.element(new)?;
        Some(Self::new(new, old, self.node.items()?))
    }

    fn element(&self, new: &Value) -> Option<&'a Value> {
        let ListType::Map(keys) = &self.node.list else {
            return None;
        };
        let keyed = self.keyed.get_or_init(|| keyed(self.node, self.old));
        keyed.get(&composite(new, keys)?).copied()
    }

    /// Whether it is what it was. Members that have no schema count as changed, as upstream counts them.
    pub fn is_same(&self) -> bool {
        if let Some(known) = self.equal.get() {
            return known;
        }
        let same = self.compare();
        self.equal.set(Some(same));
        same
    }

    fn compare(&self) -> bool {
        match (self.new, self.old) {
            (Value::Object(new), Value::Object(old)) => {
                new.len() == old.len() && new.keys().all(|name| self.key(name).is_some_and(|inner| inner.is_same()))
            }
            (Value::Array(new), Value::Array(old)) if matches!(self.node.list, ListType::Map(_)) => {
                new.len() == old.len() && (0..new.len()).all(|index| self.index(index).is_some_and(|inner| inner.is_same()))
            }
            (new, old) => same(new, old),
        }
    }
}

/// Whether two values are equal in Go's eyes: a whole number and a float never are.
fn same(new: &Value, old: &Value) -> bool {
    new == old
}

/// The first element of each key, of a list whose elements have keys.
pub(crate) fn keyed<'a>(node: &Node, list: &'a Value) -> HashMap<String, &'a Value> {
    let mut found = HashMap::new();
    if let (ListType::Map(keys), Type::Array, Value::Array(items)) = (&node.list, node.is, list) {
        for item in items {
            if let Some(key) = composite(item, keys) {
                found.entry(key).or_insert(item);
            }
        }
    }
    found
}

/// The keys of an element, if all are there and scalar.
pub(crate) fn composite(element: &Value, keys: &[Box<str>]) -> Option<String> {
    let members = element.as_object()?;
    if keys.is_empty() {
        return None;
    }
    let mut made = String::new();
    for key in keys {
        match members.get(&**key)? {
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
            scalar => {
                made.push('\0');
                made.push_str(&scalar.to_string());
            }
        }
    }
    Some(made)
}
