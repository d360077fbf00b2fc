//! What controllers ask of every object of a kind at every change, read from its bytes: a decode for each of them would
//! cost more than the answer.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Pod;
use trireme_api::Object;
use trireme_client::{Cache, Change};
use trireme_reconcile::pods::{CountedPod, PodFacts};

/// `spec.nodeName` of a pod, empty where there is none.
pub(crate) fn node_of(pod: &Object) -> Cow<'_, str> {
    pod.text_at(&["spec", "nodeName"]).unwrap_or_default()
}

/// Whether a pod succeeded or failed.
pub(crate) fn is_finished(pod: &Object) -> bool {
    matches!(pod.text_at(&["status", "phase"]).as_deref(), Some("Succeeded" | "Failed"))
}

/// The UID of an object's controller, if it has one.
pub(crate) fn controller_of(object: &Object) -> Option<&str> {
    let mut owners = object.header().owners.iter();
    owners.find(|owner| owner.controller).map(|owner| owner.uid.as_str())
}

/// Pods of a namespace as those see them who keep a number of pods, where a predicate lets them through. None is decoded.
pub(crate) fn counted_pods(cache: &Cache, namespace: &str, wanted: impl Fn(&Object) -> bool) -> Vec<CountedPod> {
    cache.read::<Pod, _>(Some(namespace), wanted, CountedPod::of)
}

/// Whether a change is one of a pod in nothing that those count by who keep a number of pods: whose it is, its labels, whether it
/// is being deleted or has finished, whether it is ready and since when. Binding and most of what a kubelet says of a pod that
/// starts is such.
pub(crate) fn counts_alike(change: &Change) -> bool {
    is_alike(change, |before, after| {
        before.is_finished() == after.is_finished() && (before.ready, before.ready_since) == (after.ready, after.ready_since)
    })
}

/// Whether a change is one of a pod in nothing that matters to those who send to it.
pub(crate) fn serves_alike(change: &Change) -> bool {
    is_alike(change, PodFacts::serves_alike)
}

/// Whether a pod stays the same one with the same labels and owners, as much on its way out as before, and with facts that are
/// alike.
fn is_alike(change: &Change, alike: impl FnOnce(&PodFacts, &PodFacts) -> bool) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        return false;
    };
    let (before, after) = (old.header(), new.header());
    let facts = |pod: &Object| pod.facts::<PodFacts>();
    before.uid == after.uid
        && before.labels == after.labels
        && before.owners == after.owners
        && before.deleting == after.deleting
        && matches!((facts(old), facts(new)), (Ok(before), Ok(after)) if alike(&before, &after))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use trireme_client::ResourceRef;

    use super::*;

    /// A pod and what became of it.
    fn change(pod: &Value, path: &str, value: Value) -> Change {
        let mut changed = pod.clone();
        changed["metadata"]["resourceVersion"] = "2".into();
        *changed.pointer_mut(path).unwrap() = value;
        let object = |value: &Value| Some(Object::from_value(value).unwrap());
        Change {
            resource: Arc::new(ResourceRef::of::<Pod>()),
            namespace: String::new(),
            name: "p".into(),
            old: object(pod),
            new: object(&changed),
        }
    }

    #[test]
    fn what_is_sent_to_a_pod_hangs_on_this_and_nothing_else() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"}, "annotations": {}},
            "spec": {"nodeName": "", "hostname": "h", "containers": [{"name": "c", "ports": [{"name": "p", "containerPort": 1}]}]},
            "status": {"phase": "Pending", "podIPs": [], "containerStatuses": [], "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let table = [
            ("/metadata/annotations", json!({"x": "y"}), true),
            ("/status/phase", json!("Running"), true),
            ("/status/containerStatuses", json!([{"name": "c", "restartCount": 3}]), true),
            ("/status/conditions/0/lastTransitionTime", json!("2026-01-01T00:00:01Z"), true),
            ("/status/conditions/0/status", json!("False"), false),
            ("/status/podIPs", json!([{"ip": "10.0.0.1"}]), false),
            ("/status/phase", json!("Failed"), false),
            ("/spec/nodeName", json!("n"), false),
            ("/spec/hostname", json!("i"), false),
            ("/spec/containers/0/ports/0/containerPort", json!(2), false),
            ("/metadata/labels/a", json!("c"), false),
            ("/metadata/uid", json!("v"), false),
        ];
        for (path, value, expected) in table {
            assert_eq!(serves_alike(&change(&pod, path, value.clone())), expected, "{path} {value}");
        }
    }

    #[test]
    fn what_a_number_of_pods_hangs_on_is_noticed_and_nothing_else() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
            "spec": {},
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": "False", "lastTransitionTime": null}]}});
        let alike = |pod: &Value, path: &str, value: Value| counts_alike(&change(pod, path, value));
        let table = [
            ("/spec", json!({"nodeName": "n"}), true),
            ("/status/phase", json!("Running"), true),
            ("/status/conditions/0/status", json!("False"), true),
            ("/status/phase", json!("Failed"), false),
            ("/status/conditions/1/status", json!("True"), false),
            // Since when a pod is not ready counts for nothing.
            ("/status/conditions/1/lastTransitionTime", json!("2026-01-01T00:00:01Z"), true),
            ("/status/conditions", json!(null), true),
            ("/status/conditions", json!("unreadable"), false),
            ("/metadata/uid", json!("v"), false),
            ("/metadata/labels/a", json!("c"), false),
            ("/metadata/ownerReferences", json!([]), false),
        ];
        for (path, value, expected) in table {
            assert_eq!(alike(&pod, path, value.clone()), expected, "{path} {value}");
        }
        let mut ready = pod;
        ready["status"]["conditions"][1] =
            json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let table = [
            ("/status/conditions/1/lastTransitionTime", json!("2026-01-01T00:00:01Z")),
            ("/status/conditions/1/lastTransitionTime", json!(null)),
            ("/status/conditions/1/status", json!("Unknown")),
            ("/status/conditions", json!(null)),
        ];
        for (path, value) in table {
            assert!(!alike(&ready, path, value.clone()), "{path} {value}");
        }
    }
}
