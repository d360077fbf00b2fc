//! The roles and bindings that every cluster has from its first start
//! (plugin/pkg/auth/authorizer/rbac/bootstrappolicy), read from a table.

mod reconcile;

use serde_json::{Map, Value, json};

pub use reconcile::{Reconciled, reconcile};

const TABLE: &str = include_str!("bootstrap.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// All objects, ClusterRoles and Roles before their bindings, as they are to be created.
///
/// # Panics
/// When the table is malformed; a test reads it whole.
#[must_use]
pub fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["role", name, rest @ ..] => objects.push(role(name, rest)),
            ["bind", name, role, subjects @ ..] => objects.push(binding(name, role, subjects)),
            rule => {
                let role = objects.last_mut().expect("a rule follows a role");
                let rules = role["rules"].as_array_mut().expect("a role has rules");
                rules.push(parse_rule(rule));
            }
        }
    }
    objects
}

fn parse_rule(words: &[&str]) -> Value {
    match words {
        [verbs, "path", paths] => json!({"verbs": list(verbs), "nonResourceURLs": list(paths)}),
        [verbs, groups, resources] => json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)}),
        [verbs, groups, resources, names] => {
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources), "resourceNames": list(names)})
        }
        other => panic!("not a rule: {other:?}"),
    }
}

fn list(text: &str) -> Vec<&str> {
    text.split(',').map(|word| if word == "core" { "" } else { word }).collect()
}

fn metadata(name: &str) -> (Value, bool) {
    let mut metadata = json!({
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "name": name,
    });
    let Some((namespace, name)) = name.split_once('/') else {
        return (metadata, false);
    };
    metadata["name"] = json!(name);
    metadata["namespace"] = json!(namespace);
    (metadata, true)
}

fn role(name: &str, extras: &[&str]) -> Value {
    let (mut metadata, namespaced) = metadata(name);
    let mut selectors = Vec::new();
    for extra in extras {
        match extra.split_once('=') {
            Some(("label", label)) => metadata["labels"][label] = json!("true"),
            Some(("aggregate", label)) => {
                let labels: Map<String, Value> = [(label.to_owned(), json!("true"))].into_iter().collect();
                selectors.push(json!({"matchLabels": labels}));
            }
            _ => panic!("not an extra of a role: {extra}"),
        }
    }
    let mut role = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if namespaced { "Role" } else { "ClusterRole" },
        "metadata": metadata,
        "rules": [],
    });
    if !selectors.is_empty() {
        role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    role
}

fn binding(name: &str, role: &str, subjects: &[&str]) -> Value {
    let (metadata, namespaced) = metadata(name);
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|subject| match subject.split_once(':') {
            Some(("group", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
            Some(("user", name)) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
            Some(("account", account)) => {
                let (namespace, name) = account.split_once('/').expect("an account has a namespace");
                json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
            }
            _ => panic!("not a subject: {subject}"),
        })
        .collect();
    let (kind, role) = match role.strip_prefix("role:") {
        Some(role) => ("Role", role),
        None => ("ClusterRole", role),
    };
    let mut binding = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if namespaced { "RoleBinding" } else { "ClusterRoleBinding" },
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
    });
    if !subjects.is_empty() {
        binding["subjects"] = json!(subjects);
    }
    binding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let objects = objects();
        let named = |kind: &str, name: &str| {
            objects
                .iter()
                .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
                .unwrap_or_else(|| panic!("{name}"))
        };
        assert_eq!(named("ClusterRole", "cluster-admin")["rules"][0]["apiGroups"], json!(["*"]));
        assert!(named("ClusterRole", "admin")["aggregationRule"].is_object());
        assert_eq!(
            named("ClusterRoleBinding", "cluster-admin")["subjects"][0]["name"],
            "system:masters"
        );
        let leader = named("RoleBinding", "system::leader-locking-kube-scheduler");
        assert_eq!(leader["metadata"]["namespace"], "kube-system");
        for binding in objects.iter().filter(|object| object["roleRef"].is_object()) {
            let name = binding["roleRef"]["name"].as_str().unwrap();
            named(binding["roleRef"]["kind"].as_str().unwrap(), name);
        }
    }
}
