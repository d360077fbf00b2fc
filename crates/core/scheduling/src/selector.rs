//! Label selectors and node selector terms.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use trireme_api::fit::{self, Requirement};

/// Whether labels satisfy a selector: an absent selector matches nothing, an empty one everything.
#[must_use]
pub fn selects(selector: Option<&LabelSelector>, labels: Option<&BTreeMap<String, String>>) -> bool {
    let Some(selector) = selector else { return false };
    let look = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| look(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|term| {
            let values = term.values.as_deref().unwrap_or_default();
            let (key, operator) = (term.key.as_str(), term.operator.as_str());
            Requirement { key, operator, values }.holds(look(key))
        })
}

/// Whether a node satisfies one term; an empty term matches no node.
#[must_use]
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    fit::term_matches(
        term.match_expressions.iter().flatten().map(requirement),
        term.match_fields.iter().flatten().map(requirement),
        node.metadata.name.as_deref().unwrap_or_default(),
        label,
    )
}

fn requirement(requirement: &NodeSelectorRequirement) -> Requirement<'_> {
    Requirement {
        key: &requirement.key,
        operator: &requirement.operator,
        values: requirement.values.as_deref().unwrap_or_default(),
    }
}
