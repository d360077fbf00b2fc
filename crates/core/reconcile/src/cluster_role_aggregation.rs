//! A ClusterRole with an aggregation rule holds the rules of all ClusterRoles that its selectors name
//! (pkg/controller/clusterroleaggregation).
//!
//! Invariant: a role never takes in itself; the rules stand in the order of selectors and of names, each once.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Value, json};

use crate::ownership::selects;
use crate::plan::{Action, Plan};

/// The field manager of the rules.
pub const MANAGER: &str = "clusterrole-aggregation-controller";

/// A role and all that there are.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The role.
    pub role: Arc<ClusterRole>,
    /// All roles, itself too.
    pub all: Vec<Arc<ClusterRole>>,
}

/// Whether a role takes in others.
#[must_use]
pub fn is_aggregated(role: &ClusterRole) -> bool {
    role.aggregation_rule.is_some()
}

/// Applies the rules that the role should hold, where it holds others.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let role = &snapshot.role;
    let Some(rule) = &role.aggregation_rule else {
        return Plan::default();
    };
    let mut others: Vec<&ClusterRole> = snapshot.all.iter().map(|other| &**other).collect();
    others.retain(|other| other.metadata.name != role.metadata.name);
    others.sort_by_key(|other| &other.metadata.name);
    let mut wanted: Vec<Value> = Vec::new();
    for selector in rule.cluster_role_selectors.iter().flatten() {
        let selected = others
            .iter()
            .filter(|other| selects(selector, other.metadata.labels.as_ref()));
        for rule in selected.flat_map(|other| other.rules.iter().flatten()).map(plain) {
            if !wanted.contains(&rule) {
                wanted.push(rule);
            }
        }
    }
    let held: Vec<Value> = role.rules.iter().flatten().map(plain).collect();
    let mut plan = Plan::default();
    if held == wanted {
        return plan;
    }
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": role.metadata.name},
    });
    if !wanted.is_empty() {
        object["rules"] = json!(wanted);
    }
    plan.actions.push(Action::Apply {
        object,
        manager: MANAGER,
    });
    plan
}

/// A rule without its empty lists: absent and empty are the same.
fn plain(rule: &PolicyRule) -> Value {
    let mut value = serde_json::to_value(rule).expect("a rule serialises");
    if let Some(members) = value.as_object_mut() {
        members.retain(|name, list| name == "verbs" || list.as_array().is_none_or(|list| !list.is_empty()));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, labels: Value, rules: Value, selectors: Value) -> Arc<ClusterRole> {
        let mut value = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
        if selectors.is_array() {
            value["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn rule(verb: &str) -> Value {
        json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]})
    }

    #[test]
    fn a_role_holds_what_its_selectors_name() {
        let to = |label: &str| json!({label: "true"});
        let by = |label: &str| json!([{"matchLabels": {label: "true"}}]);
        let all = vec![
            role("b", to("x"), json!([rule("get"), rule("list")]), Value::Null),
            role("a", to("x"), json!([rule("list"), rule("watch")]), Value::Null),
            role("c", to("y"), json!([rule("delete")]), Value::Null),
        ];
        let wanted = json!([rule("list"), rule("watch"), rule("get")]);
        for (name, own, applied) in [
            (
                "not aggregated",
                role("r", json!({}), json!([rule("create")]), Value::Null),
                None,
            ),
            ("empty", role("r", json!({}), Value::Null, by("x")), Some(wanted.clone())),
            ("as it should be", role("r", json!({}), wanted.clone(), by("x")), None),
            (
                "too much",
                role("r", json!({}), json!([rule("create")]), by("x")),
                Some(wanted.clone()),
            ),
            ("selects itself", role("r", to("x"), wanted.clone(), by("x")), None),
            (
                "selects nothing",
                role("r", json!({}), json!([rule("get")]), by("z")),
                Some(Value::Null),
            ),
            ("nothing of nothing", role("r", json!({}), Value::Null, json!([])), None),
            (
                "two selectors",
                role("r", json!({}), Value::Null, json!([by("y")[0], by("x")[0]])),
                Some(json!([rule("delete"), rule("list"), rule("watch"), rule("get")])),
            ),
            (
                "an empty list is no list",
                role(
                    "r",
                    json!({}),
                    json!([{"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"], "resourceNames": []}]),
                    by("y"),
                ),
                None,
            ),
        ] {
            let mut all = all.clone();
            all.push(Arc::clone(&own));
            let plan = reconcile(&Snapshot { role: own, all }, Timestamp::UNIX_EPOCH);
            let found = plan.actions.first().map(|action| match action {
                Action::Apply { object, manager } => {
                    assert_eq!((*manager, &object["metadata"]["name"]), (MANAGER, &json!("r")));
                    object["rules"].clone()
                }
                other => panic!("{other:?}"),
            });
            assert_eq!(found, applied, "{name}");
        }
    }
}
