//! Sets of field paths, as `managedFields` writes them.
//!
//! Invariant: a set holds no empty branch, so that "empty" means that nothing is owned. Path elements stay in their
//! serialised form (`f:name`, `k:{"name":"x"}`, `v:"x"`, `i:0`): that is what is stored, and it is unique per element.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::order::Place;

/// A set of paths below one point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<String, Node>);

/// One path element: whether its own path is in the set, and what is below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether the path that ends here is in the set.
    pub member: bool,
    /// What is below.
    pub below: Set,
}

impl Node {
    /// Whether nothing is here nor below.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// Whether it holds no path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the one-element path is in the set.
    #[must_use]
    pub fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|node| node.member)
    }

    /// What is below an element.
    #[must_use]
    pub fn below(&self, element: &str) -> Option<&Set> {
        self.0.get(element).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Puts a node under an element; an empty one is not put.
    pub fn put(&mut self, element: String, node: Node) {
        if !node.is_empty() {
            self.0.insert(element, node);
        }
    }

    /// Puts a path of serialised elements in.
    pub fn insert(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = self.0.entry((*first).to_owned()).or_default();
        if rest.is_empty() {
            node.member = true;
        } else {
            node.below.insert(rest);
        }
    }

    /// The elements with their nodes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(element, node)| (element.as_str(), node))
    }

    /// Paths of either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.extend(other);
        self
    }

    /// Takes the paths of another in.
    pub fn extend(&mut self, other: &Self) {
        for (element, node) in &other.0 {
            match self.0.get_mut(element) {
                Some(mine) => {
                    mine.member |= node.member;
                    mine.below.extend(&node.below);
                }
                None => {
                    self.0.insert(element.clone(), node.clone());
                }
            }
        }
    }

    /// Likewise, of one that nobody needs afterwards.
    pub fn absorb(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (element, node) in other.0 {
            match self.0.get_mut(&element) {
                Some(mine) => {
                    mine.member |= node.member;
                    mine.below.absorb(node.below);
                }
                None => {
                    self.0.insert(element, node);
                }
            }
        }
    }

    /// Paths of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (element, node) in &self.0 {
            if let Some(theirs) = other.0.get(element) {
                let both = Node {
                    member: node.member && theirs.member,
                    below: node.below.intersection(&theirs.below),
                };
                out.put(element.clone(), both);
            }
        }
        out
    }

    /// Takes out the paths of another, path by path: what is below a removed path stays.
    pub fn subtract(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        self.0.retain(|element, node| {
            if let Some(theirs) = other.0.get(element) {
                node.member &= !theirs.member;
                node.below.subtract(&theirs.below);
            }
            !node.is_empty()
        });
    }

    /// Takes out the paths of another with all that is below them.
    pub fn subtract_below(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        self.0.retain(|element, node| {
            if let Some(theirs) = other.0.get(element) {
                if theirs.member {
                    return false;
                }
                node.below.subtract_below(&theirs.below);
            }
            !node.is_empty()
        });
    }

    /// Every path, those that end here before those further below, in upstream's order.
    pub fn paths<'a>(&'a self, prefix: &mut Vec<&'a str>, visit: &mut impl FnMut(&[&'a str])) {
        let mut elements: Vec<(&String, &Node)> = self.0.iter().collect();
        if elements.iter().any(|(element, _)| !element.starts_with("f:")) {
            elements.sort_by_cached_key(|(element, _)| Place::of(element));
        }
        for &(element, node) in &elements {
            if node.member {
                prefix.push(element);
                visit(prefix);
                prefix.pop();
            }
        }
        for (element, node) in elements {
            prefix.push(element);
            node.below.paths(prefix, visit);
            prefix.pop();
        }
    }

    /// From `fieldsV1`. An element that is not an object is taken for an empty one.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        let object = value.as_object().into_iter().flatten();
        let nodes = object.filter(|(element, _)| *element != ".").map(|(element, below)| {
            let mut node = Node {
                member: true,
                below: Self::from_value(below),
            };
            if !node.below.is_empty() {
                node.member = below.get(".").is_some();
            }
            (element.clone(), node)
        });
        nodes.collect()
    }

    /// To `fieldsV1`.
    #[must_use]
    pub fn into_value(self) -> Value {
        let members = self.0.into_iter().map(|(element, node)| {
            let mut below = match node.below.into_value() {
                Value::Object(below) => below,
                _ => Map::new(),
            };
            if node.member && !below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (element, Value::Object(below))
        });
        Value::Object(members.collect())
    }
}

/// From nodes under their elements, the empty ones left out. Made at once, a set of elements in order costs a fraction of what
/// as many insertions would.
impl FromIterator<(String, Node)> for Set {
    fn from_iter<I: IntoIterator<Item = (String, Node)>>(nodes: I) -> Self {
        Self(nodes.into_iter().filter(|(_, node)| !node.is_empty()).collect())
    }
}

/// A path of serialised elements as messages show it: `.spec.ports[port=80,protocol="TCP"].name`.
#[must_use]
pub fn show_path(path: &[&str]) -> String {
    path.iter().map(|element| show(element)).collect()
}

/// One serialised element as messages show it.
#[must_use]
pub fn show(element: &str) -> String {
    let Some((kind, rest)) = element.split_once(':') else {
        return element.to_owned();
    };
    match kind {
        "f" => format!(".{rest}"),
        "k" => match serde_json::from_str::<Map<String, Value>>(rest) {
            Ok(keys) => {
                let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{rest}]"),
        },
        "v" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

/// A key as upstream shows it, which prints objects without braces.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, member)| format!("{name}={}", shown(member)))
            .collect(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        Set::from_value(&value)
    }

    #[test]
    fn reads_and_writes_fields_v1() {
        let value = json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}, "f:replicas": {}}});
        let read = set(value.clone());
        assert!(!read.has("f:spec") && read.below("f:spec").unwrap().has("f:replicas"));
        assert_eq!(read.into_value(), value);
    }

    #[test]
    fn subtracting_a_path_keeps_what_is_below_unless_asked() {
        let all = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let a = set(json!({"f:a": {}}));
        let mut exact = all.clone();
        exact.subtract(&a);
        assert_eq!(exact, set(json!({"f:a": {"f:b": {}}, "f:c": {}})));
        let mut whole = all.clone();
        whole.subtract_below(&a);
        assert_eq!(whole, set(json!({"f:c": {}})));
        assert_eq!(all.intersection(&a), a);
    }

    #[test]
    fn paths_are_shown_as_upstream_shows_them() {
        let path = ["f:spec", "f:ports", "k:{\"containerPort\":80,\"protocol\":\"TCP\"}", "f:name"];
        assert_eq!(show_path(&path), ".spec.ports[containerPort=80,protocol=\"TCP\"].name");
        assert_eq!(show("v:\"x\""), "[=\"x\"]");
    }

    fn sets() -> impl Strategy<Value = Set> {
        let path = prop::collection::vec(prop::sample::select(vec!["f:a", "f:b", "v:1"]), 1..4);
        prop::collection::vec(path, 0..6).prop_map(|paths| {
            let mut out = Set::default();
            for path in &paths {
                out.insert(path);
            }
            out
        })
    }

    proptest! {
        #[test]
        fn set_laws_hold(a in sets(), b in sets()) {
            let both = a.intersection(&b);
            let mut only_a = a.clone();
            only_a.subtract(&b);
            prop_assert!(only_a.intersection(&b).is_empty());
            prop_assert_eq!(only_a.union(&both), a.clone());
            prop_assert_eq!(a.clone().union(&b), b.clone().union(&a));
            let mut absorbed = a.clone();
            absorbed.absorb(b.clone());
            prop_assert_eq!(absorbed, a.clone().union(&b));
            prop_assert_eq!(Set::from_value(&a.clone().into_value()), a);
        }
    }
}
