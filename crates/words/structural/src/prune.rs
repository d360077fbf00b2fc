//! Removes what a schema does not know (pkg/apiserver/schema/pruning), and nulls that stand where none may
//! (pkg/apiserver/schema/defaulting/prunenulls.go).
//!
//! Invariant: what is pruned once is pruned for good: doing it again changes nothing.

use serde_json::Value;
use trireme_api::cost::TOLD_BYTES_MAX;

use crate::node::Node;

/// What stands at the top of every resource, whatever its schema says.
pub(crate) const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Paths of what was removed.
pub(crate) struct Told<'t> {
    pub paths: Option<&'t mut Vec<String>>,
    path: String,
    bytes: usize,
}

impl<'t> Told<'t> {
    pub fn new(paths: Option<&'t mut Vec<String>>) -> Self {
        Self {
            paths,
            path: String::new(),
            bytes: 0,
        }
    }

    /// Goes into a member; gives how long the path was.
    fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if self.paths.is_some() {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(name);
        }
        length
    }

    fn enter_index(&mut self, index: usize) -> usize {
        let length = self.path.len();
        if self.paths.is_some() {
            self.path.push_str(&format!("[{index}]"));
        }
        length
    }

    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
    }

    fn tell(&mut self, name: &str) {
        if self.bytes > TOLD_BYTES_MAX {
            return;
        }
        let length = self.enter(name);
        self.bytes += self.path.len();
        if let Some(paths) = self.paths.as_deref_mut() {
            paths.push(self.path.clone());
        }
        self.leave(length);
    }
}

/// Prunes a value. `resource` says that it is one, so that its type and metadata stay.
pub(crate) fn prune(value: &mut Value, node: Option<&Node>, resource: bool, told: &mut Told<'_>) {
    if let Some(node) = node.filter(|node| node.preserve) {
        return keep(value, node, resource, told);
    }
    match value {
        Value::Object(members) => {
            let embedded = resource || node.is_some_and(|node| node.embedded);
            members.retain(|name, member| {
                if embedded && META.contains(&name.as_str()) {
                    return true;
                }
                let known = node.and_then(|node| node.properties.get(name.as_str()));
                if known.is_none() && node.is_none_or(|node| !node.says_more_members()) {
                    if node.is_none() || !told.path.is_empty() || !META.contains(&name.as_str()) {
                        told.tell(name);
                    }
                    return false;
                }
                let before = told.enter(name);
                prune(member, known.or_else(|| node.and_then(Node::additional)), false, told);
                told.leave(before);
                true
            });
        }
        Value::Array(items) => {
            let inner = node.and_then(Node::items);
            for (index, item) in items.iter_mut().enumerate() {
                let before = told.enter_index(index);
                prune(item, inner, false, told);
                told.leave(before);
            }
        }
        _ => {}
    }
}

/// Prunes only what the schema knows within what is kept.
fn keep(value: &mut Value, node: &Node, resource: bool, told: &mut Told<'_>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if (resource || node.embedded) && META.contains(&name.as_str()) {
                    continue;
                }
                let known = node.properties.get(name.as_str());
                if known.is_some() || node.says_more_members() {
                    let before = told.enter(name);
                    prune(member, known.or_else(|| node.additional()), false, told);
                    told.leave(before);
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = node.items() else {
                return;
            };
            for (index, item) in items.iter_mut().enumerate() {
                let before = told.enter_index(index);
                keep(item, inner, false, told);
                told.leave(before);
            }
        }
        _ => {}
    }
}

/// Removes nulls of members that may not be null and for which no default stands.
pub(crate) fn nulls(value: &mut Value, node: Option<&Node>) {
    match value {
        Value::Object(members) => members.retain(|name, member| {
            let inner = node.and_then(|node| node.member(name));
            if member.is_null() && inner.is_some_and(|inner| !inner.nullable && inner.default.is_none()) {
                return false;
            }
            nulls(member, inner);
            true
        }),
        Value::Array(items) => {
            let inner = node.and_then(Node::items);
            for item in items {
                nulls(item, inner);
            }
        }
        _ => {}
    }
}
