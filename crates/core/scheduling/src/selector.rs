//! Label selectors and node selectors as records that can be compared and hashed.

use std::collections::BTreeMap;

use serde::Deserialize;
use trireme_api::fit::{self, Requirement};

use crate::view::nullable;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A label selector: an absent one (an `Option` of it) selects nothing, an empty one everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be equal.
    #[serde(deserialize_with = "nullable")]
    pub match_labels: Labels,
    /// Requirements that must hold.
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<Expression>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Expression {
    /// A label's key, or the path of a field.
    #[serde(deserialize_with = "nullable")]
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, and for nodes `Gt` and `Lt`.
    #[serde(deserialize_with = "nullable")]
    pub operator: String,
    /// What it compares with.
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<String>,
}

impl Expression {
    fn requirement(&self) -> Requirement<'_> {
        Requirement {
            key: &self.key,
            operator: &self.operator,
            values: &self.values,
        }
    }
}

impl LabelSelector {
    /// Whether it asks for nothing, and so selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether labels satisfy it.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        let equal = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal
            && self.match_expressions.iter().all(|expression| {
                let value = labels.get(&expression.key).map(String::as_str);
                expression.requirement().holds(value)
            })
    }
}

/// Terms of which one must be satisfied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// The terms; without any, no node is selected.
    #[serde(deserialize_with = "nullable")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// Requirements on a node that must all hold; an empty term is satisfied by no node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// On labels.
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<Expression>,
    /// On fields; `metadata.name` is the only one.
    #[serde(deserialize_with = "nullable")]
    pub match_fields: Vec<Expression>,
}

impl NodeSelectorTerm {
    /// Whether a node of this name and with these labels satisfies it.
    #[must_use]
    pub fn selects(&self, name: &str, labels: &Labels) -> bool {
        fit::term_matches(
            self.match_expressions.iter().map(Expression::requirement),
            self.match_fields.iter().map(Expression::requirement),
            name,
            |key| labels.get(key).map(String::as_str),
        )
    }
}

impl NodeSelector {
    /// Whether a node satisfies any of its terms.
    #[must_use]
    pub fn selects(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector_terms.iter().any(|term| term.selects(name, labels))
    }
}
