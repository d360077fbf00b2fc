//! Walks over values: which fields a value sets, how two values differ, what is left without some fields.
//!
//! Invariant: absent and null are different: null is a value that is set. List elements that cannot be told apart are
//! one path.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::set::{Node, Set};
use super::shape::{Shape, element_of};

/// How a value differs from another, path by path.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// In the new one only.
    pub added: Set,
    /// In both, different.
    pub modified: Set,
    /// In the old one only.
    pub removed: Set,
    /// Whether a list that differs has an element that has no place in it: then upstream tracks nobody.
    pub untold: bool,
    /// Whether `spec` is the same in both, order of lists included, or in neither.
    pub same_spec: bool,
}

#[derive(Default)]
struct DeltaNode {
    added: Node,
    modified: Node,
    removed: Node,
    untold: bool,
}

impl DeltaNode {
    fn put(&mut self, element: &str, prefix: &str, child: DeltaNode) {
        self.untold |= child.untold;
        for (set, node) in [
            (&mut self.added, child.added),
            (&mut self.modified, child.modified),
            (&mut self.removed, child.removed),
        ] {
            if !node.is_empty() {
                set.below.put([prefix, element].concat(), node);
            }
        }
    }
}

/// Compares two objects of one shape.
#[must_use]
pub fn compare(old: &Value, new: &Value, shape: Shape<'_>) -> Delta {
    let shape = shape.settle([Some(old), Some(new)]);
    let mut node = DeltaNode::default();
    let mut same_spec = true;
    if shape.is_map() {
        zip(members(Some(old)), members(Some(new)), |name, old, new| {
            let same = compare_member(name, old, new, shape, &mut node, Looks::Once);
            same_spec &= same || name != "spec";
        });
    } else {
        same_spec = old == new;
        node = compare_at(Some(old), Some(new), shape, !same_spec);
    }
    Delta {
        added: node.added.below,
        modified: node.modified.below,
        removed: node.removed.below,
        untold: node.untold,
        same_spec,
    }
}

/// How often a map is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// Its members are compared at once: it is large, and to find that it differs somewhere would cost as much as to find where.
    Once,
    /// First whether it differs, which most maps in an object do not.
    Twice,
}

/// Compares a member of a map, and says whether it is the same.
fn compare_member(
    name: &str,
    old: Option<&Value>,
    new: Option<&Value>,
    shape: Shape<'_>,
    out: &mut DeltaNode,
    looks: Looks,
) -> bool {
    let shape = shape.member(name).unwrap_or(Shape::Leaf);
    if looks == Looks::Once
        && let (Some(Value::Object(before)), Some(Value::Object(after))) = (old, new)
        && let settled = shape.settle([old, new])
        && settled.is_map()
        && !is_leaf(settled, old, new)
    {
        let (mut child, mut same) = (DeltaNode::default(), true);
        zip(before, after, |name, old, new| {
            same &= compare_member(name, old, new, settled, &mut child, Looks::Twice);
        });
        out.put(name, "f:", child);
        return same;
    }
    if old.is_some() && old == new {
        return true;
    }
    out.put(name, "f:", compare_at(old, new, shape, true));
    false
}

fn is_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
        Some(_) => false,
    }
}

fn is_leaf(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> bool {
    match shape {
        Shape::Leaf => true,
        _ => is_nothing(old) && is_nothing(new),
    }
}

static NO_MEMBERS: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

fn members(value: Option<&Value>) -> &Map<String, Value> {
    value.and_then(Value::as_object).unwrap_or(&NO_MEMBERS)
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// How two values differ, where it is known that they do; else whether they do, too.
fn compare_at(old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>, differ: bool) -> DeltaNode {
    let mut out = DeltaNode::default();
    if let (Some(old), Some(new)) = (old, new)
        && shape.is_by_value()
        && old.is_object() != new.is_object()
        && !(old.is_null() || new.is_null())
    {
        // What is no object any more was one value and has lost its members; what becomes one gains them.
        let (before, after) = (
            Some(old).filter(|old| old.is_object()),
            Some(new).filter(|new| new.is_object()),
        );
        out = compare_at(before, after, shape, true);
        out.added.member = false;
        out.removed.member = false;
        out.modified.member = true;
        return out;
    }
    let shape = shape.settle([old, new]);
    if is_leaf(shape, old, new) {
        match (old, new) {
            (None, Some(_)) => out.added.member = true,
            (Some(_), None) => out.removed.member = true,
            (Some(old), Some(new)) if differ || old != new => out.modified.member = true,
            _ => {}
        }
        return out;
    }
    if shape.is_map() {
        zip(members(old), members(new), |name, old, new| {
            compare_member(name, old, new, shape, &mut out, Looks::Twice);
        });
    } else {
        compare_items(items(old), items(new), shape, &mut out);
    }
    if old.is_none() {
        out.added.member = true;
    } else if new.is_none() {
        out.removed.member = true;
    }
    out
}

fn compare_items(old: &[Value], new: &[Value], shape: Shape<'_>, out: &mut DeltaNode) {
    let mut by_element: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old {
        match element_of(shape, item) {
            Ok(element) => by_element.entry(element).or_default().0.push(item),
            Err(_) => out.untold = true,
        }
    }
    for item in new {
        match element_of(shape, item) {
            Ok(element) => by_element.entry(element).or_default().1.push(item),
            Err(_) => out.untold = true,
        }
    }
    for (element, (old, new)) in by_element {
        let mut child = DeltaNode::default();
        match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => {
                child = compare_at(old.first().copied(), new.first().copied(), shape.element(), false);
            }
            ([_, _, ..], [_, _, ..]) => child.modified.member = old != new,
            ([_, _, ..], _) => {
                if let Some(new) = new.first() {
                    child = compare_at(None, Some(new), shape.element(), true);
                }
                child.removed.member = true;
            }
            (_, [_, _, ..]) => {
                if let Some(old) = old.first() {
                    child = compare_at(Some(old), None, shape.element(), true);
                }
                child.added.member = true;
            }
        }
        out.put(&element, "", child);
    }
}

/// Visits the names of two sorted maps together.
fn zip<'a>(
    old: &'a Map<String, Value>,
    new: &'a Map<String, Value>,
    mut visit: impl FnMut(&'a str, Option<&'a Value>, Option<&'a Value>),
) {
    let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let from_left = if order.is_le() { left.next() } else { None };
        let from_right = if order.is_ge() { right.next() } else { None };
        if let Some((name, _)) = from_left.or(from_right) {
            visit(name, from_left.map(|(_, value)| value), from_right.map(|(_, value)| value));
        }
    }
}

/// The fields that an object sets.
#[must_use]
pub fn fields_of(value: &Value, shape: Shape<'_>) -> Set {
    fields_at(value, shape).below
}

fn fields_at(value: &Value, shape: Shape<'_>) -> Node {
    let mut out = Node::default();
    let shape = shape.settle([Some(value), None]);
    if matches!(shape, Shape::Leaf) {
        out.member = true;
    } else if shape.is_map() {
        let fields = members(Some(value)).into_iter().map(|(name, value)| {
            let mut child = fields_at(value, shape.member(name).unwrap_or(Shape::Leaf));
            if value.is_null() || value.as_object().is_some_and(Map::is_empty) || !shape.declares(name) {
                child.member = true;
            }
            (format!("f:{name}"), child)
        });
        out.below = fields.collect();
    } else {
        let mut seen: BTreeMap<String, Option<&Value>> = BTreeMap::new();
        for item in items(Some(value)) {
            if let Ok(element) = element_of(shape, item) {
                // A second one of the same element leaves only the element itself.
                seen.entry(element).and_modify(|first| *first = None).or_insert(Some(item));
            }
        }
        let elements = seen.into_iter().map(|(element, item)| {
            let mut child = item.map_or_else(Node::default, |item| fields_at(item, shape.element()));
            child.member = true;
            (element, child)
        });
        out.below = elements.collect();
    }
    out
}

/// The set with every struct field that has something below it as a member too.
#[must_use]
pub fn with_named_fields(set: &Set, shape: Shape<'_>) -> Set {
    let mut out = Set::default();
    for (element, node) in set.iter() {
        let name = element.strip_prefix("f:");
        let child = match name {
            Some(name) => shape.member(name).unwrap_or(Shape::Leaf),
            None => shape.element(),
        };
        let named = name.is_some_and(|name| shape.declares(name));
        let member = node.member || (named && !node.below.is_empty());
        out.put(
            element.to_owned(),
            Node {
                member,
                below: with_named_fields(&node.below, child),
            },
        );
    }
    out
}

/// The value without the fields of a set. What all of whose members go is left empty.
#[must_use]
pub fn without(value: &Value, set: &Set, shape: Shape<'_>) -> Value {
    let shape = shape.settle([Some(value), None]);
    match value {
        Value::Object(object) if !object.is_empty() => {
            if !shape.is_map() {
                return Value::Null;
            }
            let mut kept = Map::new();
            for (name, value) in object {
                let element = format!("f:{name}");
                if set.has(&element) {
                    continue;
                }
                let value = match set.below(&element) {
                    Some(below) => emptied(value, below, shape.member(name).unwrap_or(Shape::Leaf)),
                    None => value.clone(),
                };
                kept.insert(name.clone(), value);
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        Value::Array(items) if !items.is_empty() => {
            if !shape.is_associative() {
                return Value::Null;
            }
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                let Ok(element) = element_of(shape, item) else { continue };
                if set.has(&element) {
                    continue;
                }
                kept.push(match set.below(&element) {
                    Some(below) => emptied(item, below, shape.element()),
                    None => item.clone(),
                });
            }
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        Value::Object(_) | Value::Array(_) => Value::Null,
        scalar => scalar.clone(),
    }
}

/// Likewise, of a member or element that itself stays: empty rather than nothing.
fn emptied(value: &Value, set: &Set, shape: Shape<'_>) -> Value {
    match (without(value, set, shape), value) {
        (Value::Null, Value::Object(_)) => Value::Object(Map::new()),
        (Value::Null, Value::Array(_)) => Value::Array(Vec::new()),
        (left, _) => left,
    }
}

/// Lays `new` over `old`: what `new` sets wins, what only `old` sets stays.
#[must_use]
pub fn merge(old: &Value, new: Value, shape: Shape<'_>) -> Value {
    merge_moved(Some(old), new, shape).unwrap_or(Value::Null)
}

/// Like [`merge_at`]: what the new value sets as a whole is moved, and not copied.
fn merge_moved(old: Option<&Value>, new: Value, shape: Shape<'_>) -> Option<Value> {
    let settled = settled(old, Some(&new), shape);
    if is_leaf(settled, old, Some(&new)) {
        return Some(new);
    }
    let Value::Object(sent) = new else {
        return merge_at(old, Some(&new), shape);
    };
    if !settled.is_map() {
        return merge_at(old, Some(&Value::Object(sent)), shape);
    }
    let inside = |name: &str| settled.member(name).unwrap_or(Shape::Leaf);
    let mut out = Vec::new();
    let mut before = members(old).iter().peekable();
    for (name, new) in sent {
        while let Some((left, old)) = before.next_if(|(left, _)| **left < name) {
            out.extend(merge_at(Some(old), None, inside(left)).map(|kept| (left.clone(), kept)));
        }
        let old = before.next_if(|(left, _)| **left == name).map(|(_, old)| old);
        let shape = inside(&name);
        out.extend(merge_moved(old, new, shape).map(|merged| (name, merged)));
    }
    for (left, old) in before {
        out.extend(merge_at(Some(old), None, inside(left)).map(|kept| (left.clone(), kept)));
    }
    (!out.is_empty()).then(|| Value::Object(out.into_iter().collect()))
}

/// The shape by what is there; of two different types the new one decides.
fn settled<'s>(old: Option<&Value>, new: Option<&Value>, shape: Shape<'s>) -> Shape<'s> {
    match (old, new) {
        (Some(_), Some(value)) if shape.settle([old, new]).is_map() == value.is_object() => shape.settle([old, new]),
        _ => shape.settle([new.or(old), None]),
    }
}

fn merge_at(old: Option<&Value>, new: Option<&Value>, shape: Shape<'_>) -> Option<Value> {
    let shape = settled(old, new, shape);
    if is_leaf(shape, old, new) {
        return new.or(old).cloned();
    }
    if shape.is_map() {
        let mut out = Vec::new();
        zip(members(old), members(new), |name, old, new| {
            if let Some(merged) = merge_at(old, new, shape.member(name).unwrap_or(Shape::Leaf)) {
                out.push((name.to_owned(), merged));
            }
        });
        (!out.is_empty()).then(|| Value::Object(out.into_iter().collect()))
    } else {
        let out = merge_items(items(old), items(new), shape);
        (!out.is_empty()).then_some(Value::Array(out))
    }
}

/// The order: that of `new`, with elements that only `old` has kept in front of what followed them in `old`.
fn merge_items(old: &[Value], new: &[Value], shape: Shape<'_>) -> Vec<Value> {
    let index = |items: &[Value]| -> Vec<(String, usize)> {
        let elements = items.iter().enumerate();
        elements
            .filter_map(|(at, item)| element_of(shape, item).ok().map(|element| (element, at)))
            .collect()
    };
    let (left, right) = (index(old), index(new));
    // An element that the old list has twice merges with nothing.
    let mut in_old: BTreeMap<&str, Option<&Value>> = BTreeMap::new();
    for (element, at) in &left {
        in_old
            .entry(element)
            .and_modify(|first| *first = None)
            .or_insert(Some(&old[*at]));
    }
    let in_new: BTreeMap<&str, &Value> = right.iter().map(|(element, at)| (element.as_str(), &new[*at])).collect();
    let mut shared = right
        .iter()
        .map(|(element, _)| element.as_str())
        .filter(|element| in_old.contains_key(element));
    let mut next_shared = shared.next();
    let mut done: HashSet<&str> = HashSet::with_capacity(right.len());
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if l < left.len() && r < right.len() {
            let element = left[l].0.as_str();
            if element == right[r].0 {
                done.insert(element);
                out.extend(merge_at(in_old[element], Some(in_new[element]), shape.element()));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if in_new.contains_key(element) && next_shared.is_some_and(|next| next != element) {
                // Shared, but its turn is later.
                l += 1;
                continue;
            }
        }
        if l < left.len() {
            let element = left[l].0.as_str();
            if !in_new.contains_key(element) {
                out.push(old[left[l].1].clone());
                l += 1;
                continue;
            }
            if done.contains(element) {
                l += 1;
            }
        }
        if r < right.len() {
            let element = right[r].0.as_str();
            done.insert(element);
            let before = in_old.get(element).copied().flatten();
            out.extend(merge_at(before, Some(in_new[element]), shape.element()));
            r += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows;
    use serde_json::json;

    fn pod() -> Shape<'static> {
        Shape::of_row(rows::find("", "v1", "pods").unwrap())
    }

    #[test]
    fn comparing_tells_added_modified_and_removed_paths() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "x", "image": "i"}]}});
        let new =
            json!({"metadata": {"labels": {"a": "9"}}, "spec": {"containers": [{"name": "x", "image": "j"}, {"name": "y"}]}});
        let delta = compare(&old, &new, pod());
        assert_eq!(
            delta.added.into_value(),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"y\"}": {".": {}, "f:name": {}}}}})
        );
        assert_eq!(
            delta.modified.into_value(),
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {"f:image": {}}}}})
        );
        assert_eq!(delta.removed.into_value(), json!({"f:metadata": {"f:labels": {"f:b": {}}}}));
    }

    #[test]
    fn a_spec_is_the_same_when_nothing_in_it_differs() {
        let spec = json!({"containers": [{"name": "x"}, {"name": "y"}], "nodeSelector": {"a": "b"}});
        let old = json!({"metadata": {"labels": {"a": "1"}}, "spec": spec});
        let with = |change: &dyn Fn(&mut Value)| {
            let mut new = old.clone();
            new["metadata"]["labels"]["a"] = json!("2");
            change(&mut new);
            compare(&old, &new, pod()).same_spec
        };
        assert!(with(&|_| {}));
        assert!(!with(&|new| new["spec"]["nodeSelector"]["a"] = json!("c")));
        assert!(!with(&|new| new["spec"]["nodeName"] = json!("n")));
        assert!(!with(&|new| drop(
            new["spec"].as_object_mut().unwrap().remove("nodeSelector")
        )));
        assert!(!with(&|new| drop(new.as_object_mut().unwrap().remove("spec"))));
        // Nobody's field changes where elements with keys change places, but the spec does.
        assert!(!with(&|new| new["spec"]["containers"].as_array_mut().unwrap().reverse()));
        assert!(compare(&json!({}), &json!({"metadata": {}}), pod()).same_spec);
    }

    #[test]
    fn keys_with_defaults_are_filled_in() {
        let value = json!({"spec": {"containers": [{"name": "x", "ports": [{"containerPort": 80}]}]}});
        let set = fields_of(&value, pod()).into_value();
        assert_eq!(
            set["f:spec"]["f:containers"]["k:{\"name\":\"x\"}"]["f:ports"],
            json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}})
        );
    }

    #[test]
    fn lists_merge_by_key_in_the_new_order() {
        let names = |value: &Value| -> String {
            let items = value["spec"]["containers"].as_array().unwrap();
            items.iter().map(|item| item["name"].as_str().unwrap()).collect()
        };
        let pod_of = |names: &str| {
            let items: Vec<_> = names.chars().map(|name| json!({"name": name.to_string()})).collect();
            json!({"spec": {"containers": items}})
        };
        for (old, new, want) in [
            ("abc", "b", "abc"),
            ("abc", "cb", "acb"),
            ("ab", "xa", "xab"),
            ("", "ab", "ab"),
            ("ab", "bxa", "bxa"),
        ] {
            assert_eq!(names(&merge(&pod_of(old), pod_of(new), pod())), want, "{old} + {new}");
        }
    }

    #[test]
    fn removing_leaves_empty_what_lost_its_members() {
        let value = json!({"metadata": {"labels": {"a": "1"}, "name": "n"}});
        let mut set = Set::default();
        set.insert(&["f:metadata", "f:labels", "f:a"]);
        assert_eq!(without(&value, &set, pod()), json!({"metadata": {"labels": {}, "name": "n"}}));
    }
}
