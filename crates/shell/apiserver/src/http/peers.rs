//! Pods as network policies of other nodes name them: labels, addresses, ports with names, and nothing that a pod holds or runs.
//!
//! Invariant: whoever may list or watch `pods/peers` sees no more of a pod than stands here.

use serde_json::{Map, Value, json};

/// Some members of an object, as far as they are there.
fn some(of: &Value, names: &[&str]) -> Value {
    let members = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), of.get(name)?.clone())));
    Value::Object(members.collect::<Map<_, _>>())
}

/// Containers with named ports.
fn containers(of: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let all = of.as_array().into_iter().flatten().filter(|it| wanted(it));
    let shown = all.filter_map(|container| {
        let ports = container["ports"].as_array()?.iter().filter(|port| port["name"].is_string());
        let ports: Vec<Value> = ports.map(|port| some(port, &["name", "containerPort", "protocol"])).collect();
        let mut shown = some(container, &["name", "restartPolicy"]);
        shown["ports"] = ports.into();
        Some(shown)
    });
    shown.collect()
}

/// What is shown of an object; of one that is no pod, its labels.
pub(crate) fn peer(object: &Value) -> Value {
    let metadata = some(
        &object["metadata"],
        &["name", "namespace", "uid", "resourceVersion", "labels"],
    );
    let mut shown = json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata});
    if object["kind"] != "Pod" {
        return shown;
    }
    let spec = &object["spec"];
    if spec.is_object() {
        shown["spec"] = some(spec, &["nodeName", "hostNetwork"]);
        shown["spec"]["containers"] = containers(&spec["containers"], |_| true).into();
        shown["spec"]["initContainers"] = containers(&spec["initContainers"], |it| it["restartPolicy"] == "Always").into();
    }
    if object["status"].is_object() {
        shown["status"] = some(&object["status"], &["phase", "podIP", "podIPs"]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_shows_where_a_pod_is_and_not_what_it_does() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "x", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"},
                "annotations": {"secret": "s"}, "managedFields": [{}]},
            "spec": {"nodeName": "one", "serviceAccountName": "secret", "containers": [
                    {"name": "c", "image": "secret", "env": [{"name": "secret", "value": "secret"}],
                     "ports": [{"name": "http", "containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]},
                    {"name": "d", "command": ["secret"]}],
                "initContainers": [{"name": "i", "ports": [{"name": "once", "containerPort": 1}]},
                    {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]}],
                "volumes": [{"name": "v", "secret": {"secretName": "secret"}}]},
            "status": {"phase": "Running", "podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}], "message": "secret"},
        });
        let shown = peer(&pod);
        assert!(!shown.to_string().contains("secret"), "{shown}");
        assert_eq!(
            shown,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "x", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
                "spec": {"nodeName": "one",
                    "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}],
                    "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]}]},
                "status": {"phase": "Running", "podIP": "10.42.0.2", "podIPs": [{"ip": "10.42.0.2"}]},
            })
        );
    }
}
