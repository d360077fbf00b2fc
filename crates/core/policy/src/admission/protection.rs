//! Marks that objects carry from birth: finalizers of storage in use, the taint of nodes that are not yet ready.
//!
//! Invariant: a mark that is there is not set twice. Controllers take the marks away.

use serde_json::{Value, json};

use super::{Operation, Request};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn fill(request: &mut Request<'_>) {
    if request.operation != Operation::Create || !request.subresource.is_empty() {
        return;
    }
    match (request.group, request.resource) {
        ("", "persistentvolumes") => finalizer(request.object, "kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => finalizer(request.object, "kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => finalizer(request.object, "kubernetes.io/vac-protection"),
        ("", "nodes") => taint(request.object),
        _ => {}
    }
}

fn finalizer(object: &mut Value, name: &str) {
    add(&mut object["metadata"]["finalizers"], |held| held == name, || json!(name));
}

fn taint(object: &mut Value) {
    let same = |taint: &Value| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule";
    add(
        &mut object["spec"]["taints"],
        same,
        || json!({"key": NOT_READY, "effect": "NoSchedule"}),
    );
}

fn add(list: &mut Value, same: impl Fn(&Value) -> bool, item: impl FnOnce() -> Value) {
    match list {
        Value::Array(items) if items.iter().any(same) => {}
        Value::Array(items) => items.push(item()),
        list => *list = json!([item()]),
    }
}
