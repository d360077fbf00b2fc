//! The ReplicaSet controller: as many pods of a template as asked for (pkg/controller/replicaset/replica_set.go).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use serde_json::Value;

use crate::ownership::{self, Claim};
use crate::plan::{Action, EventKind, EventNote, ObjectRef, Plan};
use crate::pods::{CountedPod, deletion_order};

/// Most pods made or deleted by one plan.
pub const BURST_REPLICAS: usize = 500;

/// In what the kinds differ that this reconciler keeps.
#[derive(Debug)]
pub struct Kind {
    /// `apiVersion`.
    pub api_version: &'static str,
    /// `kind`.
    pub name: &'static str,
    /// Whether its status has `terminatingReplicas`.
    pub tells_terminating: bool,
    /// The object to write, out of the ReplicaSet that stands for it.
    pub write: fn(&ReplicaSet) -> Value,
}

/// ReplicaSets themselves.
pub const KIND: Kind = Kind {
    api_version: "apps/v1",
    name: "ReplicaSet",
    tells_terminating: true,
    write: to_value,
};

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What the object is.
    pub kind: &'static Kind,
    /// Desired.
    pub replica_set: Arc<ReplicaSet>,
    /// All pods of its namespace.
    pub pods: Vec<CountedPod>,
    /// The last error of creating or deleting pods, if the last plan failed by one.
    pub failure: Option<Failure>,
}

/// Why pods could not be made or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Creation failed.
    Create(String),
    /// Deletion failed.
    Delete(String),
}

/// Plans one step. `suffix` gives five fresh letters for the name of a pod at each call.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp, suffix: &mut dyn FnMut() -> String) -> Plan {
    let replica_set = &snapshot.replica_set;
    let Some(spec) = &replica_set.spec else {
        return Plan::default();
    };
    let owner = ownership::controller_reference(snapshot.kind.api_version, snapshot.kind.name, &replica_set.metadata);
    let deleting = replica_set.metadata.deletion_timestamp.is_some();
    let mut plan = Plan::default();
    let mut ours: Vec<&CountedPod> = Vec::new();
    for pod in &snapshot.pods {
        if pod.is_finished() {
            continue; // Finished pods are left to their garbage collection.
        }
        let matches = ownership::selects(&spec.selector, Some(&pod.header().labels));
        match ownership::claim_pod(&owner, deleting, pod.object(), matches) {
            Claim::Ours => ours.push(pod),
            Claim::Adopt(action) | Claim::Release(action) => plan.actions.push(action),
            Claim::NotOurs => {}
        }
    }
    if !plan.actions.is_empty() {
        return plan; // What was adopted or released is seen at the next look.
    }
    let active: Vec<&CountedPod> = ours.iter().copied().filter(|pod| !pod.header().deleting).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);

    // Status before pods: it tells what was observed, and a failing creation must not hold it back.
    push_status(&mut plan, snapshot, &ours, &active, now);
    if !deleting {
        if active.len() < wanted {
            let template = spec.template.clone().unwrap_or_default();
            for _ in 0..(wanted - active.len()).min(BURST_REPLICAS) {
                let pod = pod_from_template(&template, &replica_set.metadata, owner.clone(), suffix);
                create_pod(&mut plan, &regarding(snapshot), &pod);
            }
        } else {
            for pod in to_delete(&active, active.len() - wanted, snapshot, now) {
                delete_pod(&mut plan, &regarding(snapshot), ownership::pod_ref(pod.object()));
            }
        }
    }
    plan.requeue_after = active
        .iter()
        .filter_map(|pod| pod.available_in(spec.min_ready_seconds.unwrap_or(0), now))
        .filter(|left| !left.is_zero())
        .min();
    plan
}

fn regarding(snapshot: &Snapshot) -> ObjectRef {
    ownership::object_ref(snapshot.kind.api_version, snapshot.kind.name, &snapshot.replica_set.metadata)
}

fn note(regarding: &ObjectRef, kind: EventKind, reason: &str, message: String) -> EventNote {
    EventNote {
        regarding: regarding.clone(),
        kind,
        reason: reason.into(),
        message,
    }
}

/// A pod with a name of its own: the owner's name, a dash and the suffix.
#[must_use]
pub fn pod_from_template(
    template: &PodTemplateSpec,
    owner: &ObjectMeta,
    reference: OwnerReference,
    suffix: &mut dyn FnMut() -> String,
) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let owner_name = owner.name.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(ownership::generated_name(&owner_name, suffix)),
            generate_name: Some(format!("{owner_name}-")),
            namespace: owner.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Creates a pod and tells so.
pub fn create_pod(plan: &mut Plan, owner: &ObjectRef, pod: &Pod) {
    let created = format!("Created pod: {}", pod.metadata.name.as_deref().unwrap_or_default());
    plan.actions.push(Action::Told {
        action: Box::new(Action::Create {
            object: to_value(pod),
            exists_is_done: false,
        }),
        done: Some(note(owner, EventKind::Normal, "SuccessfulCreate", created)),
        failed: Some(note(owner, EventKind::Warning, "FailedCreate", "Error creating".into())),
    });
}

/// Deletes a pod and tells so.
pub fn delete_pod(plan: &mut Plan, owner: &ObjectRef, target: ObjectRef) {
    let deleted = format!("Deleted pod: {}", target.name);
    plan.actions.push(Action::Told {
        done: Some(note(owner, EventKind::Normal, "SuccessfulDelete", deleted)),
        failed: Some(note(owner, EventKind::Warning, "FailedDelete", "Error deleting".into())),
        action: Box::new(Action::Delete {
            target,
            grace_period_seconds: None,
            propagation: None,
        }),
    });
}

/// A typed object as JSON.
///
/// # Panics
/// Never: Kubernetes types serialise.
#[must_use]
pub fn to_value<T: serde::Serialize>(object: &T) -> Value {
    serde_json::to_value(object).expect("Kubernetes types serialise")
}

fn to_delete<'a>(active: &[&'a CountedPod], count: usize, snapshot: &'a Snapshot, now: Timestamp) -> Vec<&'a CountedPod> {
    let count = count.min(BURST_REPLICAS);
    if count == 0 {
        return Vec::new();
    }
    // Neighbours are pods of all ReplicaSets of the same owner, so that a rolling update thins out crowded nodes first.
    let is_owned = ownership::controller_of(&snapshot.replica_set.metadata).is_some();
    let selector = snapshot.replica_set.spec.as_ref().map(|spec| &spec.selector);
    let own: BTreeSet<&str> = active.iter().map(|pod| pod.header().uid.as_str()).collect();
    let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in snapshot.pods.iter().filter(|pod| pod.is_active()) {
        let labels = &pod.header().labels;
        let related = own.contains(pod.header().uid.as_str())
            || (is_owned && selector.is_some_and(|selector| same_but_hash(&selector.match_labels, labels)));
        if related {
            *per_node.entry(&pod.facts().node).or_default() += 1;
        }
    }
    let ranked = |pod: &&'a CountedPod| (*pod, per_node.get(&*pod.facts().node).copied().unwrap_or(0));
    let mut sorted: Vec<(&CountedPod, usize)> = active.iter().map(ranked).collect();
    sorted.sort_by(|left, right| deletion_order(*left, *right, now));
    sorted.truncate(count);
    sorted.into_iter().map(|(pod, _)| pod).collect()
}

/// Whether a pod is one that a ReplicaSet of this selector looks at though it is not its own: one that it may adopt, or
/// a neighbour, whose labels are selected but for the hash of the template.
#[must_use]
pub fn is_related(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    ownership::selects(selector, Some(labels)) || same_but_hash(&selector.match_labels, labels)
}

fn same_but_hash(selector: &Option<BTreeMap<String, String>>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .flatten()
        .filter(|(key, _)| *key != "pod-template-hash")
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn push_status(plan: &mut Plan, snapshot: &Snapshot, ours: &[&CountedPod], active: &[&CountedPod], now: Timestamp) {
    let replica_set = &snapshot.replica_set;
    let Some(spec) = &replica_set.spec else { return };
    let old = replica_set.status.clone().unwrap_or_default();
    let template_labels = spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let fully_labeled = active.iter().filter(|pod| {
        template_labels
            .into_iter()
            .flatten()
            .all(|(key, value)| pod.header().labels.get(key) == Some(value))
    });
    let ready = active.iter().filter(|pod| pod.facts().ready);
    let minimum = spec.min_ready_seconds.unwrap_or(0);
    let available = active
        .iter()
        .filter(|pod| pod.available_in(minimum, now).is_some_and(|left| left.is_zero()));
    let count = |items: usize| i32::try_from(items).unwrap_or(i32::MAX);
    let nonzero = |items: usize| Some(count(items)).filter(|items| *items != 0);
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: nonzero(fully_labeled.count()),
        ready_replicas: nonzero(ready.count()),
        available_replicas: nonzero(available.count()),
        terminating_replicas: snapshot.kind.tells_terminating.then(|| count(ours.len() - active.len())),
        observed_generation: replica_set.metadata.generation,
        conditions: conditions(&old, snapshot.failure.as_ref(), now),
    };
    if status != old {
        let mut changed = ReplicaSet::clone(replica_set);
        changed.status = Some(status);
        plan.actions.push(Action::UpdateStatus {
            object: (snapshot.kind.write)(&changed),
        });
    }
}

fn conditions(old: &ReplicaSetStatus, failure: Option<&Failure>, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    const KIND: &str = "ReplicaFailure";
    let mut conditions: Vec<_> = old.conditions.iter().flatten().cloned().collect();
    let present = conditions.iter().any(|condition| condition.type_ == KIND);
    match failure {
        None => conditions.retain(|condition| condition.type_ != KIND),
        Some(_) if present => {}
        Some(failure) => {
            let (reason, message) = match failure {
                Failure::Create(message) => ("FailedCreate", message),
                Failure::Delete(message) => ("FailedDelete", message),
            };
            conditions.push(ReplicaSetCondition {
                type_: KIND.into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message.clone()),
                last_transition_time: Some(Time(now)),
            });
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn replica_set(replicas: i32) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "web", "namespace": "ns", "uid": "rs-uid", "generation": 2},
                "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
                "status": {"replicas": 0}
            }))
            .unwrap(),
        )
    }

    fn pod(name: &str, owned: bool, ready: bool) -> CountedPod {
        let owners = if owned {
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs-uid", "controller": true}])
        } else {
            json!([])
        };
        let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}, "ownerReferences": owners,
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": "n"},
            "status": {"phase": "Running", "conditions": [condition]}
        });
        CountedPod::made(&pod)
    }

    fn plan(replicas: i32, pods: Vec<CountedPod>) -> Plan {
        let mut number = 0;
        let mut suffix = || {
            number += 1;
            format!("{number:05}")
        };
        reconcile(
            &Snapshot {
                kind: &KIND,
                replica_set: replica_set(replicas),
                pods,
                failure: None,
            },
            now(),
            &mut suffix,
        )
    }

    #[test]
    fn missing_pods_are_made_and_told() {
        let plan = plan(2, vec![pod("a", true, true)]);
        let created: Vec<_> = plan
            .actions
            .iter()
            .filter_map(|action| match action.effect() {
                Action::Create { object, .. } => object["metadata"]["name"].as_str(),
                _ => None,
            })
            .collect();
        assert_eq!(created, ["web-00001"]);
        let told = plan.actions.iter().find_map(|action| match action {
            Action::Told { done, failed, .. } => done.as_ref().zip(failed.as_ref()),
            _ => None,
        });
        let (done, failed) = told.unwrap();
        assert_eq!(
            (done.reason.as_str(), done.message.as_str()),
            ("SuccessfulCreate", "Created pod: web-00001")
        );
        assert_eq!(
            (failed.reason.as_str(), failed.message.as_str()),
            ("FailedCreate", "Error creating")
        );
        assert!(matches!(&plan.actions[0], Action::UpdateStatus { object } if object["status"]["readyReplicas"] == 1));
    }

    #[test]
    fn the_unready_pod_goes_first() {
        let plan = plan(1, vec![pod("a", true, true), pod("b", true, false)]);
        let deleted: Vec<_> = plan
            .actions
            .iter()
            .filter_map(|action| match action.effect() {
                Action::Delete { target, .. } => Some(target.name.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(deleted, ["b"]);
    }

    #[test]
    fn an_orphan_that_matches_is_adopted_before_anything_else() {
        let plan = plan(1, vec![pod("a", false, true)]);
        assert_eq!(plan.actions.len(), 1);
        assert!(
            matches!(&plan.actions[0], Action::Patch { patch, .. } if patch["metadata"]["ownerReferences"][0]["uid"] == "rs-uid")
        );
    }

    #[test]
    fn a_settled_set_plans_nothing() {
        let mut settled = ReplicaSet::clone(&replica_set(1));
        settled.status = Some(ReplicaSetStatus {
            replicas: 1,
            fully_labeled_replicas: Some(1),
            ready_replicas: Some(1),
            available_replicas: Some(1),
            terminating_replicas: Some(0),
            observed_generation: Some(2),
            conditions: None,
        });
        let snapshot = Snapshot {
            kind: &KIND,
            replica_set: Arc::new(settled),
            pods: vec![pod("a", true, true)],
            failure: None,
        };
        assert_eq!(
            reconcile(&snapshot, now(), &mut || unreachable!("nothing is made")),
            Plan::default()
        );
    }
}
