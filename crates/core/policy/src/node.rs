//! The node authoriser: what a kubelet may do, by the pods that are bound to its node
//! (plugin/pkg/auth/authorizer/node/node_authorizer.go). Rules that need no relationship are in its bootstrap role.

use serde_json::Value;

use crate::admission::Lookup;
use crate::rbac::{Query, Rbac, Rule};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Verb.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name, empty for a collection.
    pub name: &'a str,
    /// Raw field selector.
    pub field_selector: &'a str,
}

/// The node that a user is, if it is one.
#[must_use]
pub fn node_of<'a>(user: &'a str, groups: &[String]) -> Option<&'a str> {
    let node = user.strip_prefix("system:node:").filter(|node| !node.is_empty())?;
    groups.iter().any(|group| group == "system:nodes").then_some(node)
}

/// Decides: `Ok` allows, `Err` says why there is no opinion.
///
/// # Errors
/// The reason.
pub fn authorize(node: &str, asked: &Attributes<'_>, lookup: &dyn Lookup) -> Result<(), String> {
    match (asked.group, asked.resource) {
        ("", "secrets") => read_related(
            node,
            asked,
            lookup,
            &["get", "list", "watch"],
            "can only read resources of this type",
        ),
        ("", "configmaps") => read_related(
            node,
            asked,
            lookup,
            &["get", "list", "watch"],
            "can only read resources of this type",
        ),
        ("", "persistentvolumeclaims") if asked.subresource == "status" && matches!(asked.verb, "update" | "patch") => {
            related(node, asked, lookup)
        }
        ("", "persistentvolumeclaims") => read_related(
            node,
            asked,
            lookup,
            &["get"],
            "can only get individual resources of this type",
        ),
        ("", "persistentvolumes") => read_related(
            node,
            asked,
            lookup,
            &["get"],
            "can only get individual resources of this type",
        ),
        ("", "serviceaccounts") => service_account(node, asked, lookup),
        ("", "nodes") => own_node(node, asked),
        ("", "pods") => pods(node, asked, lookup),
        ("coordination.k8s.io", "leases") => lease(node, asked),
        ("storage.k8s.io", "csinodes") => csi_node(node, asked),
        ("resource.k8s.io", "resourceslices") => by_selector(asked, "spec.nodeName", node),
        _ if rules().iter().any(|rule| rule.allows(&query(asked, &resource_name(asked)))) => Ok(()),
        _ => Err(String::new()),
    }
}

fn resource_name(asked: &Attributes<'_>) -> String {
    if asked.subresource.is_empty() {
        asked.resource.to_owned()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    }
}

fn query<'a>(asked: &Attributes<'a>, resource: &'a str) -> Query<'a> {
    Query::Resource {
        verb: asked.verb,
        group: asked.group,
        resource,
        name: asked.name,
    }
}

/// Rules of the role `system:node`, which no binding grants any more.
fn rules() -> &'static [Rule] {
    static RULES: std::sync::LazyLock<Vec<Rule>> = std::sync::LazyLock::new(|| {
        let mut rbac = Rbac::default();
        for object in crate::bootstrap::objects() {
            rbac.set(&object);
        }
        rbac.rules_of("", "ClusterRole", "system:node")
            .map(<[Rule]>::to_vec)
            .unwrap_or_default()
    });
    &RULES
}

fn read_related(node: &str, asked: &Attributes<'_>, lookup: &dyn Lookup, verbs: &[&str], only: &str) -> Result<(), String> {
    if !verbs.contains(&asked.verb) {
        return Err(only.to_owned());
    }
    if !asked.subresource.is_empty() {
        return Err("cannot read subresource".into());
    }
    related(node, asked, lookup)
}

fn related(node: &str, asked: &Attributes<'_>, lookup: &dyn Lookup) -> Result<(), String> {
    if asked.name.is_empty() {
        return Err("No Object name found".into());
    }
    let unrelated = || Err(format!("no relationship found between node '{node}' and this object"));
    if asked.resource == "persistentvolumes" {
        let Some(volume) = lookup.get("", "persistentvolumes", "", asked.name) else {
            return unrelated();
        };
        let claim = &volume["spec"]["claimRef"];
        let (Some(namespace), Some(name)) = (claim["namespace"].as_str(), claim["name"].as_str()) else {
            return unrelated();
        };
        let claim = Attributes {
            resource: "persistentvolumeclaims",
            namespace,
            name,
            ..*asked
        };
        return if is_used(node, &claim, lookup) { Ok(()) } else { unrelated() };
    }
    if is_used(node, asked, lookup) { Ok(()) } else { unrelated() }
}

fn is_used(node: &str, asked: &Attributes<'_>, lookup: &dyn Lookup) -> bool {
    let pods = lookup.list("", "pods", Some(asked.namespace));
    pods.iter()
        .filter(|pod| pod["spec"]["nodeName"] == node)
        .any(|pod| uses(pod, asked.resource, asked.name))
}

/// Whether a pod refers to an object of its namespace.
#[must_use]
pub fn uses(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let items = |list: &'static str| spec[list].as_array().into_iter().flatten();
    let containers = || {
        items("containers")
            .chain(items("initContainers"))
            .chain(items("ephemeralContainers"))
    };
    let volumes = || items("volumes");
    let sources = || volumes().flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    let environment = |from: &'static str, key: &'static str| {
        containers().any(|container| {
            let list = |list: &'static str| container[list].as_array().into_iter().flatten();
            list("envFrom").any(|source| source[from]["name"] == name)
                || list("env").any(|variable| variable["valueFrom"][key]["name"] == name)
        })
    };
    match resource {
        "secrets" => {
            items("imagePullSecrets").any(|secret| secret["name"] == name)
                || volumes()
                    .any(|volume| volume["secret"]["secretName"] == name || volume["csi"]["nodePublishSecretRef"]["name"] == name)
                || sources().any(|source| source["secret"]["name"] == name)
                || environment("secretRef", "secretKeyRef")
        }
        "configmaps" => {
            volumes().any(|volume| volume["configMap"]["name"] == name)
                || sources().any(|source| source["configMap"]["name"] == name)
                || environment("configMapRef", "configMapKeyRef")
        }
        "persistentvolumeclaims" => {
            let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
            volumes().any(|volume| {
                let made = !volume["ephemeral"].is_null()
                    && volume["name"]
                        .as_str()
                        .is_some_and(|volume| name == format!("{pod_name}-{volume}"));
                made || volume["persistentVolumeClaim"]["claimName"] == name
            })
        }
        "serviceaccounts" => spec["serviceAccountName"] == name,
        _ => false,
    }
}

fn service_account(node: &str, asked: &Attributes<'_>, lookup: &dyn Lookup) -> Result<(), String> {
    match (asked.verb, asked.subresource) {
        ("create", "token") | ("get", "") => related(node, asked, lookup),
        _ => Err("can only create tokens for individual service accounts".into()),
    }
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    let own = asked.name == node;
    match (asked.verb, asked.subresource) {
        ("create", "") => Ok(()),
        ("update" | "patch", "" | "status") => Ok(()), // Admission holds it to its own.
        ("get" | "list" | "watch", "") if own => Ok(()),
        ("get", "") => Err(format!(
            "node '{node}' cannot read '{}', only its own Node object",
            asked.name
        )),
        ("list" | "watch", "") => match by_selector(asked, "metadata.name", node) {
            Ok(()) => Ok(()),
            Err(_) => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

fn pods(node: &str, asked: &Attributes<'_>, lookup: &dyn Lookup) -> Result<(), String> {
    match (asked.verb, asked.subresource) {
        ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => Ok(()),
        ("get", "") => {
            let pod = lookup.get("", "pods", asked.namespace, asked.name);
            if pod.is_some_and(|pod| pod["spec"]["nodeName"] == node) {
                Ok(())
            } else {
                Err(format!("no relationship found between node '{node}' and this object"))
            }
        }
        ("list" | "watch", "") => by_selector(asked, "spec.nodeName", node)
            .map_err(|_| "can only list/watch pods with spec.nodeName field selector".to_owned()),
        _ => Err(String::new()),
    }
}

fn by_selector(asked: &Attributes<'_>, path: &str, node: &str) -> Result<(), String> {
    if !matches!(asked.verb, "list" | "watch" | "deletecollection") {
        return Ok(());
    }
    let wanted = format!("{path}={node}");
    let held = asked.field_selector.split(',').any(|term| term.replace("==", "=") == wanted);
    if held {
        Ok(())
    } else {
        Err(format!("can only {} with {path} field selector", asked.verb))
    }
}

fn lease(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if asked.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access CSINode with the same name as the requesting node".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_wherever_a_pod_has_them() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "robot", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "all"}}], "env": [{"valueFrom": {"secretKeyRef": {"name": "one"}}}]}],
            "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                {"name": "e", "ephemeral": {}}, {"name": "c", "persistentVolumeClaim": {"claimName": "data"}}]}});
        for (resource, name) in [
            ("serviceaccounts", "robot"),
            ("secrets", "pull"),
            ("secrets", "one"),
            ("configmaps", "all"),
            ("configmaps", "kube-root-ca.crt"),
            ("persistentvolumeclaims", "p-e"),
            ("persistentvolumeclaims", "data"),
        ] {
            assert!(uses(&pod, resource, name), "{resource} {name}");
            assert!(!uses(&pod, resource, "other"), "{resource}");
        }
    }

    #[test]
    fn only_nodes_are_nodes() {
        let groups = vec!["system:nodes".to_owned()];
        assert_eq!(node_of("system:node:n1", &groups), Some("n1"));
        assert_eq!(node_of("system:node:n1", &[]), None);
        assert_eq!(node_of("system:node:", &groups), None);
    }
}
