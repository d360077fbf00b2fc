//! A namespace that is being deleted: pods go first, then all else; conditions say what remains; at the end the
//! finalizer `kubernetes` goes.
//!
//! Invariant: the finalizer goes only when a live listing of every resource showed nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use trireme_api::Object;

use crate::plan::{Action, ObjectRef, Plan};

const FINALIZER: &str = "kubernetes";
/// Look again after this long while something remains; deletions wake the controller earlier.
const RECHECK: Duration = Duration::from_secs(5);

/// A namespace and all that is in it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// Objects per resource, listed live; only asked for while the namespace is being deleted.
    pub contents: Vec<Contents>,
    /// Resources that could not be listed, and why.
    pub failures: Vec<String>,
}

/// The objects of one resource in the namespace.
#[derive(Clone, Debug)]
pub struct Contents {
    /// API group.
    pub group: String,
    /// Plural.
    pub plural: String,
    /// The objects.
    pub objects: Vec<Object>,
}

/// Decides the next step of a deletion.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let namespace = &*snapshot.namespace;
    if namespace.metadata.deletion_timestamp.is_none() {
        return Plan::default();
    }
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.clone())
        .unwrap_or_default();
    if finalizers.is_empty() {
        return Plan {
            actions: vec![Action::Delete {
                target: own_ref(namespace),
                grace_period_seconds: None,
                propagation: None,
            }],
            requeue_after: None,
        };
    }
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Plan::default();
    }
    let is_pods = |contents: &&Contents| contents.group.is_empty() && contents.plural == "pods";
    let pods_left = snapshot
        .contents
        .iter()
        .find(is_pods)
        .is_some_and(|pods| !pods.objects.is_empty());
    // Other things may be what the pods need to end well.
    let in_turn = snapshot.contents.iter().filter(|contents| !pods_left || is_pods(contents));
    let objects = in_turn.clone().flat_map(|contents| &contents.objects);
    let deletions: Vec<_> = objects.filter(|object| !object.header().deleting).map(delete).collect();
    if !deletions.is_empty() {
        return Plan {
            actions: deletions,
            // What finalizers or graceful termination hold is counted the next time.
            requeue_after: Some(Duration::from_millis(50)),
        };
    }
    let remaining = snapshot.contents.iter().any(|contents| !contents.objects.is_empty());
    let totals = if pods_left {
        Totals::default()
    } else {
        Totals::of(&snapshot.contents)
    };
    let mut plan = Plan::default();
    plan.actions.extend(conditions(namespace, &totals, &snapshot.failures, now));
    if remaining || !snapshot.failures.is_empty() {
        plan.requeue_after = Some(RECHECK);
    } else {
        let left: Vec<_> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        plan.actions.push(Action::UpdateSubresource {
            target: own_ref(namespace),
            subresource: "finalize",
            object: json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": namespace.metadata.name, "uid": namespace.metadata.uid},
                "spec": {"finalizers": left},
            }),
        });
    }
    plan
}

fn own_ref(namespace: &Namespace) -> ObjectRef {
    ObjectRef {
        api_version: "v1".into(),
        kind: "Namespace".into(),
        namespace: String::new(),
        name: namespace.metadata.name.clone().unwrap_or_default(),
        uid: namespace.metadata.uid.clone().unwrap_or_default(),
    }
}

fn delete(object: &Object) -> Action {
    Action::Delete {
        target: reference(object),
        grace_period_seconds: None,
        propagation: Some("Background"),
    }
}

/// An object by its header.
#[must_use]
pub fn reference(object: &Object) -> ObjectRef {
    let header = object.header();
    ObjectRef {
        api_version: header.api_version.clone(),
        kind: header.kind.clone(),
        namespace: header.namespace.clone(),
        name: header.name.clone(),
        uid: header.uid.clone(),
    }
}

/// What remains, counted by resource and by finalizer.
#[derive(Default)]
struct Totals {
    resources: Vec<String>,
    finalizers: Vec<String>,
}

impl Totals {
    fn of(contents: &[Contents]) -> Self {
        let mut resources = Vec::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for contents in contents.iter().filter(|contents| !contents.objects.is_empty()) {
            let count = contents.objects.len();
            resources.push(format!(
                "{}.{} has {count} resource instances",
                contents.plural, contents.group
            ));
            for finalizer in contents.objects.iter().flat_map(|object| &object.header().finalizers) {
                *counts.entry(finalizer).or_default() += 1;
            }
        }
        resources.sort();
        let finalizers = counts
            .into_iter()
            .map(|(name, count)| format!("{name} in {count} resource instances"));
        Self {
            resources,
            finalizers: finalizers.collect(),
        }
    }
}

/// The five conditions; the update of the status if any of them changed.
fn conditions(namespace: &Namespace, totals: &Totals, failures: &[String], now: Timestamp) -> Option<Action> {
    let list = |items: &[String]| items.join(", ");
    let failed = (!failures.is_empty()).then(|| {
        let count = failures.len();
        (
            "ContentDeletionFailed",
            format!("Failed to delete all resource types, {count} remaining: {}", list(failures)),
        )
    });
    let resources = (!totals.resources.is_empty()).then(|| {
        let what = list(&totals.resources);
        ("SomeResourcesRemain", format!("Some resources are remaining: {what}"))
    });
    let finalizers = (!totals.finalizers.is_empty()).then(|| {
        let what = list(&totals.finalizers);
        (
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {what}"),
        )
    });
    // type, reason and message when all is well, and what is not well.
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
            None,
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
            None,
        ),
        (
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
            failed,
        ),
        (
            "NamespaceContentRemaining",
            "ContentRemoved",
            "All content successfully removed",
            resources,
        ),
        (
            "NamespaceFinalizersRemaining",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
            finalizers,
        ),
    ];
    let mut all = namespace
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut changed = false;
    for (kind, good_reason, good_message, trouble) in wanted {
        let (status, reason, message) = match trouble {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", good_reason, good_message.to_owned()),
        };
        let old = all.iter_mut().find(|condition| condition.type_ == kind);
        let since = match &old {
            Some(old) if old.status == status => old.last_transition_time.clone(),
            _ => Some(Time(now)),
        };
        let new = NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: since,
        };
        match old {
            Some(old) if *old == new => {}
            Some(old) => {
                *old = new;
                changed = true;
            }
            None => {
                all.push(new);
                changed = true;
            }
        }
    }
    if !changed {
        return None;
    }
    let mut object: Value = serde_json::to_value(namespace).expect("a Namespace serialises");
    object["status"]["phase"] = "Terminating".into();
    object["status"]["conditions"] = serde_json::to_value(all).expect("conditions serialise");
    Some(Action::UpdateStatus { object })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(deleting: bool, finalizers: &Value) -> Arc<Namespace> {
        let mut value = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"finalizers": finalizers}});
        if deleting {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn object(kind: &str, deleting: bool, finalizer: Option<&str>) -> Object {
        let mut value = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": "a", "uid": kind}});
        if deleting {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        if let Some(finalizer) = finalizer {
            value["metadata"]["finalizers"] = json!([finalizer]);
        }
        Object::from_value(&value).unwrap()
    }

    fn contents(plural: &str, objects: Vec<Object>) -> Contents {
        Contents {
            group: String::new(),
            plural: plural.into(),
            objects,
        }
    }

    fn plan(namespace: Arc<Namespace>, contents: Vec<Contents>) -> Vec<String> {
        let snapshot = Snapshot {
            namespace,
            contents,
            failures: Vec::new(),
        };
        let plan = reconcile(&snapshot, Timestamp::UNIX_EPOCH);
        plan.actions
            .iter()
            .map(|action| match action {
                Action::Delete { target, .. } => format!("delete {}", target.kind),
                Action::UpdateStatus { object } => {
                    let all = object["status"]["conditions"].as_array().unwrap();
                    let bad = all.iter().filter(|condition| condition["status"] == "True");
                    let bad: Vec<_> = bad.map(|condition| condition["message"].as_str().unwrap()).collect();
                    format!("status of {}: {}", all.len(), bad.join("; "))
                }
                Action::UpdateSubresource { object, .. } => format!("finalize {}", object["spec"]["finalizers"]),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn pods_then_the_rest_then_the_finalizer() {
        let ours = json!(["kubernetes"]);
        let gone = || namespace(true, &ours);
        for (name, namespace, contents, actions) in [
            (
                "not being deleted",
                namespace(false, &ours),
                vec![contents("pods", vec![object("Pod", false, None)])],
                vec![],
            ),
            (
                "pods first",
                gone(),
                vec![
                    contents("configmaps", vec![object("ConfigMap", false, None)]),
                    contents("pods", vec![object("Pod", false, None)]),
                ],
                vec!["delete Pod"],
            ),
            (
                "a terminating pod holds back the rest",
                gone(),
                vec![
                    contents("configmaps", vec![object("ConfigMap", false, None)]),
                    contents("pods", vec![object("Pod", true, None)]),
                ],
                vec!["status of 5: "],
            ),
            (
                "a finalizer is told",
                gone(),
                vec![contents("configmaps", vec![object("ConfigMap", true, Some("a.b/c"))])],
                vec![
                    "status of 5: Some resources are remaining: configmaps. has 1 resource instances; Some content in the namespace \
                     has finalizers remaining: a.b/c in 1 resource instances",
                ],
            ),
            ("empty", gone(), vec![], vec!["status of 5: ", "finalize []"]),
            (
                "another finalizer stays",
                namespace(true, &json!(["kubernetes", "x/y"])),
                vec![],
                vec!["status of 5: ", "finalize [\"x/y\"]"],
            ),
            ("finalized", namespace(true, &json!([])), vec![], vec!["delete Namespace"]),
        ] {
            assert_eq!(plan(namespace, contents), actions, "{name}");
        }
    }
}
