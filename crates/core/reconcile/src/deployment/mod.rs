//! The Deployment controller: rolls ReplicaSets from one template to the next (pkg/controller/deployment).
//!
//! One plan takes one step: adopt, or create the new ReplicaSet, or scale; then the status. The next look takes the next.

mod revision;
mod scaling;
mod status;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use crate::ownership::{self, Claim};
use crate::plan::{Action, EventKind, EventNote, Plan};
use crate::pods::CountedPod;
use crate::replicaset::to_value;

pub(crate) use scaling::resolve;

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub deployment: Arc<Deployment>,
    /// All ReplicaSets of its namespace.
    pub replica_sets: Vec<Arc<ReplicaSet>>,
    /// All pods of its namespace; only the Recreate strategy looks at them.
    pub pods: Vec<CountedPod>,
}

/// The state that one plan works on: copies that are compared with what they were at the end.
struct Work<'a> {
    deployment: Deployment,
    before: &'a Deployment,
    /// Old ReplicaSets and, last, the new one where it exists.
    old: Vec<Set>,
    new: Option<Set>,
    plan: Plan,
    now: Timestamp,
}

/// A ReplicaSet and what it was.
#[derive(Clone)]
struct Set {
    now: ReplicaSet,
    before: Option<Arc<ReplicaSet>>,
}

impl Set {
    fn name(&self) -> &str {
        self.now.metadata.name.as_deref().unwrap_or_default()
    }

    fn replicas(&self) -> i32 {
        self.now.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn set_replicas(&mut self, replicas: i32) {
        if let Some(spec) = &mut self.now.spec {
            spec.replicas = Some(replicas);
        }
    }

    fn status(&self) -> k8s_openapi::api::apps::v1::ReplicaSetStatus {
        self.now.status.clone().unwrap_or_default()
    }

    fn available(&self) -> i32 {
        self.status().available_replicas.unwrap_or(0)
    }

    fn is_active(&self) -> bool {
        self.replicas() > 0
    }

    fn created(&self) -> (Option<Timestamp>, String) {
        (
            self.now.metadata.creation_timestamp.as_ref().map(|time| time.0),
            self.name().to_owned(),
        )
    }
}

/// Plans one step.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let before = &*snapshot.deployment;
    let Some(spec) = &before.spec else { return Plan::default() };
    let deleting = before.metadata.deletion_timestamp.is_some();
    let owner = ownership::controller_reference("apps/v1", "Deployment", &before.metadata);
    let mut plan = Plan::default();
    let mut ours = Vec::new();
    for set in &snapshot.replica_sets {
        let matches = ownership::selects(&spec.selector, set.metadata.labels.as_ref());
        let target = ownership::object_ref("apps/v1", "ReplicaSet", &set.metadata);
        match ownership::claim(&owner, deleting, &set.metadata, matches, target) {
            Claim::Ours => ours.push(Arc::clone(set)),
            Claim::Adopt(action) | Claim::Release(action) => plan.actions.push(action),
            Claim::NotOurs => {}
        }
    }
    if !plan.actions.is_empty() {
        return plan;
    }
    ours.sort_by_key(|set| {
        (
            set.metadata.creation_timestamp.as_ref().map(|time| time.0),
            set.metadata.name.clone(),
        )
    });
    let new = ours.iter().position(|set| revision::same_template(before, set));
    let new = new.map(|index| ours.remove(index)).map(Set::from);
    let old = ours.into_iter().map(Set::from).collect();
    let mut work = Work {
        deployment: before.clone(),
        before,
        old,
        new,
        plan,
        now,
    };

    if deleting {
        work.sync_status(false);
    } else {
        work.check_paused();
        if spec.paused == Some(true) || work.is_scaling() {
            work.sync_revision(false);
            work.scale();
            if spec.paused == Some(true) {
                work.clean_up();
            }
            work.sync_status(false);
        } else if spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            work.recreate(&snapshot.pods);
        } else {
            work.roll();
        }
    }
    work.finish()
}

impl From<Arc<ReplicaSet>> for Set {
    fn from(set: Arc<ReplicaSet>) -> Self {
        Self {
            now: ReplicaSet::clone(&set),
            before: Some(set),
        }
    }
}

impl Work<'_> {
    fn name(&self) -> &str {
        self.before.metadata.name.as_deref().unwrap_or_default()
    }

    fn replicas(&self) -> i32 {
        self.before.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn note(&self, kind: EventKind, reason: &str, message: String) -> EventNote {
        EventNote {
            regarding: ownership::object_ref("apps/v1", "Deployment", &self.before.metadata),
            kind,
            reason: reason.into(),
            message,
        }
    }

    fn event(&mut self, reason: &str, message: String) {
        let note = self.note(EventKind::Normal, reason, message);
        self.plan.actions.push(Action::Event(note));
    }

    fn create(&self, set: &ReplicaSet) -> Action {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let failed = format!("Failed to create new replica set \"{name}\"");
        Action::Told {
            action: Box::new(Action::Create {
                object: to_value(set),
                exists_is_done: false,
            }),
            done: None,
            failed: Some(self.note(EventKind::Warning, "ReplicaSetCreateError", failed)),
        }
    }

    /// Old pods go before new ones come.
    fn recreate(&mut self, pods: &[CountedPod]) {
        self.sync_revision(false);
        let mut scaled = false;
        for index in 0..self.old.len() {
            if self.old[index].is_active() {
                scaled |= self.scale_old(index, 0);
            }
        }
        if scaled || self.old_pods_run(pods) {
            self.sync_status(true);
            return;
        }
        if self.new.is_none() {
            self.sync_revision(true);
        }
        let replicas = self.replicas();
        self.scale_new(replicas);
        if status::is_complete(self.before) {
            self.clean_up();
        }
        self.sync_status(true);
    }

    fn old_pods_run(&self, pods: &[CountedPod]) -> bool {
        pods.iter().filter(|pod| !pod.is_finished()).any(|pod| {
            let owner = ownership::controller_in(pod.header());
            owner.is_some_and(|owner| self.old.iter().any(|set| set.now.metadata.uid.as_deref() == Some(owner)))
        })
    }

    /// New pods come and old ones go within maxSurge and maxUnavailable.
    fn roll(&mut self) {
        self.sync_revision(true);
        if !self.scale_up_new() && !self.scale_down_old() && status::is_complete(self.before) {
            self.clean_up();
        }
        self.sync_status(true);
    }

    /// Deletes the oldest ReplicaSets beyond revisionHistoryLimit, only such as are empty and observed.
    fn clean_up(&mut self) {
        let Some(limit) = self.before.spec.as_ref().and_then(|spec| spec.revision_history_limit) else {
            return;
        };
        let mut alive: Vec<&Set> = self
            .old
            .iter()
            .filter(|set| set.now.metadata.deletion_timestamp.is_none())
            .collect();
        let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        alive.sort_by_key(|set| (revision::of(&set.now.metadata), set.created()));
        let actions: Vec<Action> = alive
            .into_iter()
            .take(excess)
            .filter(|set| {
                let status = set.status();
                status.replicas == 0
                    && set.replicas() == 0
                    && set.now.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0)
            })
            .map(|set| Action::Delete {
                target: ownership::object_ref("apps/v1", "ReplicaSet", &set.now.metadata),
                grace_period_seconds: None,
                propagation: Some("Background"),
            })
            .collect();
        self.plan.actions.extend(actions);
    }

    /// Writes ReplicaSets that differ from what they were, before the events and the status that speak of them.
    fn finish(self) -> Plan {
        let mut actions: Vec<Action> = Vec::new();
        for set in self.new.iter().chain(&self.old) {
            match &set.before {
                Some(before) if **before == set.now => {}
                Some(_) => actions.push(Action::Update {
                    object: to_value(&set.now),
                }),
                None => actions.push(self.create(&set.now)),
            }
        }
        actions.extend(self.plan.actions);
        if self.deployment != *self.before {
            actions.push(Action::UpdateStatus {
                object: to_value(&self.deployment),
            });
        }
        let requeue_after = if actions.is_empty() {
            status::check_progress_in(self.before, self.now)
        } else {
            None
        };
        Plan {
            actions,
            requeue_after: requeue_after.map(|left| left + Duration::from_secs(1)),
        }
    }
}

#[cfg(test)]
mod tests;
