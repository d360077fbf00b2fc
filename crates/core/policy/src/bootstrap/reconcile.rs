//! What becomes of a bootstrap role or binding that is there already: it gains what it lacks and keeps what it has more
//! (component-helpers/auth/rbac/reconciliation).
//!
//! Invariant: nothing is taken away, but for a binding of another role and the aggregation of a role that has none. Who
//! sets `rbac.authorization.kubernetes.io/autoupdate` to `false` keeps the object as it is.

use serde_json::{Map, Value, json};

use crate::rbac::{Rule, uncovered};

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What to do with an object that is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Reconciled {
    /// It has all it should, or says that it is not to be touched.
    Keep,
    /// It becomes this.
    Update(Value),
    /// It binds another role, which cannot be changed: it is replaced by the expected one.
    Recreate,
}

/// Reconciles an object with what this version expects.
#[must_use]
pub fn reconcile(existing: &Value, expected: &Value) -> Reconciled {
    if existing["metadata"]["annotations"][AUTO_UPDATE] == "false" {
        return Reconciled::Keep;
    }
    let binds = expected["roleRef"].is_object();
    if binds && existing["roleRef"] != expected["roleRef"] {
        return Reconciled::Recreate;
    }
    let mut object = existing.clone();
    for kind in ["annotations", "labels"] {
        add_members(&mut object["metadata"], kind, &expected["metadata"][kind]);
    }
    if binds {
        add_subjects(&mut object, &expected["subjects"]);
    } else {
        add_rules(&mut object, &expected["rules"]);
        add_selectors(&mut object, &expected["aggregationRule"]);
    }
    if object == *existing {
        Reconciled::Keep
    } else {
        Reconciled::Update(object)
    }
}

/// Adds members that are absent; those that are there stay.
fn add_members(metadata: &mut Value, kind: &str, expected: &Value) {
    let Some(expected) = expected.as_object().filter(|expected| !expected.is_empty()) else {
        return;
    };
    if !metadata[kind].is_object() {
        metadata[kind] = Value::Object(Map::new());
    }
    for (key, value) in expected {
        if metadata[kind].get(key).is_none() {
            metadata[kind][key] = value.clone();
        }
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn add_subjects(binding: &mut Value, expected: &Value) {
    let mut subjects = list(&binding["subjects"]);
    let before = subjects.len();
    for subject in list(expected) {
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    if subjects.len() > before {
        binding["subjects"] = json!(subjects);
    }
}

fn add_rules(role: &mut Value, expected: &Value) {
    let parse = |rules: &Value| serde_json::from_value::<Vec<Rule>>(rules.clone()).unwrap_or_default();
    let missing = uncovered(&parse(&role["rules"]), &parse(expected));
    if missing.is_empty() {
        return;
    }
    let mut rules = list(&role["rules"]);
    rules.extend(missing.into_iter().map(shown));
    role["rules"] = json!(rules);
}

/// A rule as it is stored: without what it does not say.
fn shown(rule: Rule) -> Value {
    let mut value = json!({"verbs": rule.verbs});
    for (name, items) in [
        ("apiGroups", rule.api_groups),
        ("resources", rule.resources),
        ("resourceNames", rule.resource_names),
        ("nonResourceURLs", rule.non_resource_urls),
    ] {
        if !items.is_empty() {
            value[name] = json!(items);
        }
    }
    value
}

fn add_selectors(role: &mut Value, expected: &Value) {
    if expected.is_null() {
        if let Some(members) = role.as_object_mut() {
            members.remove("aggregationRule");
        }
        return;
    }
    let mut selectors = list(&role["aggregationRule"]["clusterRoleSelectors"]);
    let before = selectors.len();
    for selector in list(&expected["clusterRoleSelectors"]) {
        if !selectors.contains(&selector) {
            selectors.push(selector);
        }
    }
    if selectors.len() > before {
        role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str]) -> Value {
        json!({"verbs": verbs, "apiGroups": [""], "resources": ["pods"]})
    }

    fn updated(existing: &Value, expected: &Value) -> Value {
        match reconcile(existing, expected) {
            Reconciled::Update(object) => {
                assert_eq!(reconcile(&object, expected), Reconciled::Keep, "once is enough");
                object
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_role_gains_the_rules_it_lacks_and_keeps_its_own() {
        let expected = json!({"kind": "ClusterRole", "metadata": {"name": "r", "labels": {"a": "1"}, "annotations": {AUTO_UPDATE: "true"}},
            "rules": [rule(&["get", "list"]), rule(&["watch"])]});
        let existing = json!({"kind": "ClusterRole", "metadata": {"name": "r", "uid": "u", "labels": {"a": "2"}},
            "rules": [rule(&["get"]), rule(&["delete"])]});
        let object = updated(&existing, &expected);
        assert_eq!(
            object["rules"],
            json!([rule(&["get"]), rule(&["delete"]), rule(&["list"]), rule(&["watch"])])
        );
        assert_eq!(object["metadata"]["labels"], json!({"a": "2"}), "what somebody set stays");
        assert_eq!(object["metadata"]["annotations"], json!({AUTO_UPDATE: "true"}));
        assert_eq!(object["metadata"]["uid"], "u");
        let mut guarded = existing;
        guarded["metadata"]["annotations"] = json!({AUTO_UPDATE: "false"});
        assert_eq!(reconcile(&guarded, &expected), Reconciled::Keep);
        let mut whole = expected.clone();
        whole["rules"] = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
        assert_eq!(reconcile(&whole, &expected), Reconciled::Keep);
    }

    #[test]
    fn an_aggregated_role_gains_selectors_and_loses_no_rules() {
        let by = |label: &str| json!({"matchLabels": {label: "true"}});
        let expected = json!({"metadata": {"name": "r"}, "rules": [], "aggregationRule": {"clusterRoleSelectors": [by("x")]}});
        let existing =
            json!({"metadata": {"name": "r"}, "rules": [rule(&["get"])], "aggregationRule": {"clusterRoleSelectors": [by("y")]}});
        let object = updated(&existing, &expected);
        assert_eq!(object["aggregationRule"]["clusterRoleSelectors"], json!([by("y"), by("x")]));
        assert_eq!(object["rules"], json!([rule(&["get"])]));
        let plain = json!({"metadata": {"name": "r"}, "rules": [rule(&["get"])]});
        assert_eq!(updated(&existing, &plain), plain);
    }

    #[test]
    fn a_binding_gains_the_subjects_it_lacks_and_is_replaced_for_another_role() {
        let subject = |name: &str| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name});
        let binding = |role: &str, subjects: Value| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects});
        let expected = binding("r", json!([subject("a"), subject("b")]));
        let existing = binding("r", json!([subject("c"), subject("a")]));
        let object = updated(&existing, &expected);
        assert_eq!(object["subjects"], json!([subject("c"), subject("a"), subject("b")]));
        assert_eq!(reconcile(&binding("other", json!([])), &expected), Reconciled::Recreate);
        let mut none = binding("r", json!([]));
        none["subjects"].take();
        assert_eq!(reconcile(&none, &binding("r", Value::Null)), Reconciled::Keep);
    }
}
