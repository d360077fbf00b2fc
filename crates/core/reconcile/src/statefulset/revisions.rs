//! Which template pods are made of: the revision that the set is at and the one that it is on its way to.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Snapshot, pod, start_ordinal};
use crate::history;
use crate::ownership::{self, Claim};
use crate::plan::{Action, Plan};

/// The two revisions of a set.
pub(super) struct Revisions {
    current: String,
    update: String,
    current_template: PodTemplateSpec,
    update_template: PodTemplateSpec,
    pub(super) collision_count: i32,
}

/// The set's history, sorted. What is to be adopted is put into the plan.
pub(super) fn claimed(
    snapshot: &Snapshot,
    spec: &StatefulSetSpec,
    owner: &OwnerReference,
    plan: &mut Plan,
) -> Vec<Arc<ControllerRevision>> {
    let deleting = snapshot.set.metadata.deletion_timestamp.is_some();
    let mut ours = Vec::new();
    for revision in &snapshot.revisions {
        // One that no longer matches is let be, not released.
        if ownership::selects(&spec.selector, revision.metadata.labels.as_ref()) {
            match history::claim(owner, deleting, revision, true) {
                Claim::Ours => ours.push(Arc::clone(revision)),
                Claim::Adopt(action) | Claim::Release(action) => plan.actions.push(action),
                Claim::NotOurs => {}
            }
        }
    }
    history::sort(&mut ours);
    ours
}

impl Revisions {
    /// Finds both. A template that is in the history is its newest revision again, another one becomes a revision; that is
    /// put into the plan. Nothing where the set is going away and has no history left, or where it cannot be read.
    pub(super) fn find(
        snapshot: &Snapshot,
        spec: &StatefulSetSpec,
        owner: &OwnerReference,
        history: &[Arc<ControllerRevision>],
        plan: &mut Plan,
    ) -> Option<Self> {
        let set = &*snapshot.set;
        let status = set.status.as_ref();
        let mut collision_count = status.and_then(|status| status.collision_count).unwrap_or(0);
        let next = history::next(history);
        let last = history.last();
        let update = match history::find_equal(history, &spec.template).last() {
            Some(equal) if last.is_some_and(|last| last.data == equal.data) => Arc::clone(last?),
            Some(equal) => {
                let (changed, action) = history::renumber(equal, next);
                plan.actions.push(action);
                Arc::new(changed)
            }
            None if last.is_some_and(|last| history::means(last, &spec.template)) => Arc::clone(last?),
            // The history of a set that goes away goes before it; it is not to come back.
            None if set.metadata.deletion_timestamp.is_some() => return None,
            None => {
                let owner = history::Owner {
                    metadata: &set.metadata,
                    reference: owner,
                    hash_label: history::HASH_LABEL,
                };
                let made = history::make(owner, &spec.template, next, collision_count, &snapshot.revisions);
                collision_count = made.collision_count;
                if !made.exists {
                    plan.actions.push(history::create(&made.revision));
                }
                Arc::new(made.revision)
            }
        };
        let held = status.and_then(|status| status.current_revision.as_deref());
        let current = history
            .iter()
            .find(|revision| Some(history::name_of(revision)) == held)
            .unwrap_or(&update);
        Some(Self {
            current: history::name_of(current).to_owned(),
            update: history::name_of(&update).to_owned(),
            current_template: history::template_of(current)?,
            update_template: history::template_of(&update)?,
            collision_count,
        })
    }

    pub(super) fn current_name(&self) -> &str {
        &self.current
    }

    pub(super) fn update_name(&self) -> &str {
        &self.update
    }

    /// The pod that belongs at an ordinal: of the current revision below the partition.
    pub(super) fn pod(&self, set: &StatefulSet, spec: &StatefulSetSpec, owner: &OwnerReference, ordinal: i32) -> Pod {
        let strategy = spec.update_strategy.as_ref();
        let rolls = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("RollingUpdate");
        let kept = match strategy.and_then(|strategy| strategy.rolling_update.as_ref()) {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None if rolls => set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0),
            None => 0,
        };
        let (template, name) = if i64::from(ordinal) < i64::from(start_ordinal(spec)) + i64::from(kept) {
            (&self.current_template, &self.current)
        } else {
            (&self.update_template, &self.update)
        };
        pod::of_template(set, spec, owner, ordinal, template, name)
    }

    /// Deletes the oldest revisions beyond the limit that neither the set nor a pod is at.
    pub(super) fn truncate(
        &self,
        spec: &StatefulSetSpec,
        history: &[Arc<ControllerRevision>],
        pods: &[&Arc<Pod>],
    ) -> Vec<Action> {
        let mut live: BTreeSet<&str> = pods.iter().map(|pod| pod::revision(pod)).collect();
        live.extend([self.current_name(), self.update_name()]);
        history::truncate(history, &live, history::name_of, spec.revision_history_limit.unwrap_or(10))
    }
}
