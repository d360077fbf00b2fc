//! A DaemonSet's history: which revision is the present one, and which of the earlier ones are kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use serde_json::json;

use super::placement::hash_of;
use super::{Snapshot, by_node};
use crate::history::{self, Owner, REVISION_LABEL};
use crate::ownership::{self, Claim};
use crate::plan::{Action, Plan};
use crate::pods::CountedPod;
use crate::replicaset::to_value;

/// How many earlier revisions are kept where the DaemonSet does not say.
const LIMIT: i32 = 10;

/// The history as it is once the plan so far is carried out.
pub(super) struct History {
    /// The hash of the present revision: what its pods are labelled with.
    pub(super) hash: String,
    /// Earlier revisions, the oldest first.
    pub(super) old: Vec<Arc<ControllerRevision>>,
    /// For the status.
    pub(super) collision_count: Option<i32>,
}

/// The revisions of ours, sorted; what is to be adopted or released goes into the plan.
pub(super) fn claim(
    snapshot: &Snapshot,
    selector: &LabelSelector,
    owner: &OwnerReference,
    plan: &mut Plan,
) -> Vec<Arc<ControllerRevision>> {
    let mut ours = Vec::new();
    for revision in &snapshot.revisions {
        let matches = ownership::selects(selector, revision.metadata.labels.as_ref());
        match history::claim(owner, false, revision, matches) {
            Claim::Ours => ours.push(Arc::clone(revision)),
            Claim::Adopt(action) | Claim::Release(action) => plan.actions.push(action),
            Claim::NotOurs => {}
        }
    }
    history::sort(&mut ours);
    ours
}

/// Makes the present revision, or numbers it as the latest where the DaemonSet went back to an earlier one. Nothing where
/// revisions have to be put right first.
pub(super) fn settle(
    snapshot: &Snapshot,
    owner: &OwnerReference,
    ours: Vec<Arc<ControllerRevision>>,
    pods: &[&CountedPod],
    plan: &mut Plan,
) -> Option<History> {
    let set = &*snapshot.daemon_set;
    let template = &set.spec.as_ref()?.template;
    for revision in &ours {
        if hash_of(revision.metadata.labels.as_ref()).is_empty() {
            let mut labelled = ControllerRevision::clone(revision);
            let labels = labelled.metadata.labels.get_or_insert_default();
            labels.insert(REVISION_LABEL.into(), history::name_of(revision).into());
            plan.actions.push(Action::Update {
                object: to_value(&labelled),
            });
        }
    }
    if !plan.actions.is_empty() {
        return None;
    }
    let mut present: Vec<Arc<ControllerRevision>> = history::find_equal(&ours, template).into_iter().cloned().collect();
    let is_present = |revision: &Arc<ControllerRevision>| present.iter().any(|held| Arc::ptr_eq(held, revision));
    let old: Vec<_> = ours.iter().filter(|revision| !is_present(revision)).cloned().collect();
    let number = history::next(&old);
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);

    let Some(current) = present.pop() else {
        let owner = Owner {
            metadata: &set.metadata,
            reference: owner,
            hash_label: REVISION_LABEL,
        };
        let made = history::make(owner, template, number, collisions.unwrap_or(0), &snapshot.revisions);
        if !made.exists {
            plan.actions.push(history::create(&made.revision));
        }
        let collided = Some(made.collision_count).filter(|count| *count > collisions.unwrap_or(0));
        return Some(History {
            hash: hash_of(made.revision.metadata.labels.as_ref()).to_owned(),
            old,
            collision_count: collided.or(collisions),
        });
    };
    let hash = hash_of(current.metadata.labels.as_ref()).to_owned();
    if !present.is_empty() {
        merge(&hash, &present, pods, plan);
        return None;
    }
    if current.revision < number {
        plan.actions.push(history::renumber(&current, number).1);
    }
    Some(History {
        hash,
        old,
        collision_count: collisions,
    })
}

/// Several revisions of one template become one: their pods are labelled as its own.
fn merge(hash: &str, doubles: &[Arc<ControllerRevision>], pods: &[&CountedPod], plan: &mut Plan) {
    for pod in pods {
        if hash_of(Some(&pod.header().labels)) != hash {
            plan.actions.push(Action::Patch {
                target: ownership::pod_ref(pod.object()),
                subresource: None,
                patch: json!({"metadata": {"labels": {REVISION_LABEL: hash}}}),
            });
        }
    }
    plan.actions.extend(doubles.iter().map(|double| history::delete(double)));
}

/// Deletes the oldest earlier revisions beyond the limit, but none that a pod is still of.
pub(super) fn truncate(set: &DaemonSet, old: &[Arc<ControllerRevision>], pods: &[&CountedPod], plan: &mut Plan) {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    let limit = usize::try_from(limit.unwrap_or(LIMIT)).unwrap_or(0);
    let by_node = by_node(pods.iter().copied());
    let live: BTreeSet<&str> = by_node
        .values()
        .flatten()
        .map(|pod| hash_of(Some(&pod.header().labels)))
        .collect();
    let unneeded = old
        .iter()
        .filter(|revision| !live.contains(hash_of(revision.metadata.labels.as_ref())));
    let excess = old.len().saturating_sub(limit);
    plan.actions
        .extend(unneeded.take(excess).map(|revision| history::delete(revision)));
}
