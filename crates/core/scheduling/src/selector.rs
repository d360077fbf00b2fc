//! Label selectors and node selector terms.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

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
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|term| holds(&term.operator, look(&term.key), term.values.as_deref().unwrap_or_default()))
}

/// One operator of a selector; `Gt` and `Lt` are those of node selectors.
fn holds(operator: &str, value: Option<&str>, values: &[String]) -> bool {
    let among = |value: &str| values.iter().any(|wanted| wanted == value);
    let numbers = || {
        let value: i64 = value?.parse().ok()?;
        let bound: i64 = values.first()?.parse().ok()?;
        Some((value, bound))
    };
    match operator {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// Whether a node satisfies one term; an empty term matches no node.
#[must_use]
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then(|| node.metadata.name.as_deref().unwrap_or_default());
    let all = |terms: &[NodeSelectorRequirement], look: &dyn Fn(&str) -> Option<String>| {
        terms.iter().all(|term| {
            let value = look(&term.key);
            holds(&term.operator, value.as_deref(), term.values.as_deref().unwrap_or_default())
        })
    };
    all(labels, &|key| label(key).map(str::to_owned)) && all(fields, &|key| field(key).map(str::to_owned))
}
