//! How many pods a Job has: what is missing is made, what is too much is deleted.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::{Backoff, FINALIZER, Look, backoff, count, indexes, is_terminating, is_tracked, make, policy, regarding, uid};
use crate::ownership;
use crate::plan::{Action, Plan};
use crate::pods;
use crate::replicaset;

/// Most pods made or deleted by one plan.
const BURST: usize = 500;

impl<'a> Look<'a> {
    /// Deletes all active pods of a Job that ends. They keep their finalizers until they are counted.
    pub(super) fn delete_active(&mut self) {
        for pod in self.active.clone() {
            self.delete(pod);
        }
    }

    fn delete(&mut self, pod: &Pod) {
        let target = ownership::object_ref("v1", "Pod", &pod.metadata);
        replicaset::delete_pod(&mut self.plan, &regarding(self.job), target);
        self.now_active -= 1;
        self.now_terminating += 1;
        self.now_ready -= i32::from(pods::is_ready(pod));
    }

    /// Deletes pods that are too many: they are not counted, whatever becomes of them.
    fn remove(&mut self, surplus: &[&Pod]) {
        for pod in surplus {
            if is_tracked(pod) {
                self.plan.actions.push(Action::RemoveFinalizer {
                    target: ownership::object_ref("v1", "Pod", &pod.metadata),
                    finalizer: FINALIZER,
                });
            }
            self.delete(pod);
        }
    }

    /// Deletes pods, or plans pods to be made; or says how long that has to wait.
    pub(super) fn manage(
        &mut self,
        creations: &mut Plan,
        backoff: &Backoff,
        suffix: &mut dyn FnMut() -> String,
    ) -> Option<Duration> {
        let active = self.active.len();
        if self.is_suspended() {
            let surplus = self.surplus(active);
            self.remove(&surplus);
            return None;
        }
        let parallelism = i64::from(self.spec.parallelism.unwrap_or(1));
        let have = i64::from(count(active));
        let wanted = match self.spec.completions {
            None if self.succeeded > 0 => have,
            None => parallelism,
            Some(completions) => (i64::from(completions) - self.succeeded).min(parallelism).max(0),
        };
        let mut surplus = self.surplus(usize::try_from(have - wanted).unwrap_or(0));
        if !surplus.is_empty() {
            surplus.truncate(BURST);
            self.remove(&surplus);
            return None; // Pods are made or deleted at one look, not both.
        }
        let going = if policy::replaces_only_failed(self.spec) {
            self.now_terminating
        } else {
            0
        };
        let missing = usize::try_from(wanted - i64::from(going) - have).unwrap_or(0);
        if missing == 0 {
            return None;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let wait = if per_index {
            Duration::ZERO
        } else {
            backoff.remaining(self.now)
        };
        if !wait.is_zero() {
            return Some(wait);
        }
        let missing = missing.min(BURST);
        if !self.is_indexed() {
            for _ in 0..missing {
                let pod = make::pod(self.job, self.spec, None, suffix);
                replicaset::create_pod(creations, &regarding(self.job), &pod);
            }
            return None;
        }
        let mut soonest: Option<Duration> = None;
        let mut made = false;
        for index in self.missing_indexes(missing) {
            let before = self.delayed.get(&index).copied();
            let wait = if per_index {
                backoff::remaining_of_index(before, self.now)
            } else {
                Duration::ZERO
            };
            if wait.is_zero() {
                let pod = make::pod(self.job, self.spec, Some((index, before)), suffix);
                replicaset::create_pod(creations, &regarding(self.job), &pod);
                made = true;
            } else {
                soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait)));
            }
        }
        soonest.filter(|_| !made)
    }

    /// The lowest indexes that nobody works on.
    fn missing_indexes(&self, count: usize) -> Vec<i64> {
        let mut taken = self.succeeded_indexes.with(&indexes_of(self.active.iter().copied()));
        if policy::replaces_only_failed(self.spec) {
            let going = self.pods.iter().copied().filter(|pod| is_terminating(pod));
            taken = taken.with(&indexes_of(going));
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.merge(failed);
        }
        taken.first_absent(count, self.completions())
    }

    /// Active pods to delete: those without an index of the Job or with one that another pod has, and as many more as
    /// make up `at_least`.
    fn surplus(&self, at_least: usize) -> Vec<&'a Pod> {
        let mut surplus = Vec::new();
        let mut left = self.active.clone();
        left.sort_by(|left, right| removal_order(left, right));
        if self.is_indexed() {
            let mut kept: BTreeMap<i64, &str> = BTreeMap::new();
            for pod in left.iter().copied() {
                if let Some(index) = self.index_of(pod) {
                    kept.insert(index, uid(pod)); // The last in the order of removal stays.
                }
            }
            let stays = |pod: &&Pod| self.index_of(pod).is_some_and(|index| kept.get(&index) == Some(&uid(pod)));
            (left, surplus) = left.into_iter().partition(stays);
            surplus.sort_by_key(|pod| self.index_of(pod));
        }
        let more = at_least.saturating_sub(surplus.len());
        surplus.extend(left.into_iter().take(more));
        surplus
    }
}

fn indexes_of<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeSet<i64> {
    pods.filter_map(indexes::index_of).collect()
}

/// Which of two pods goes first: the one in the earlier stage, else the one that lost less (upstream's `ActivePods`).
fn removal_order(left: &Pod, right: &Pod) -> Ordering {
    let assigned = |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        node.is_some_and(|node| !node.is_empty())
    };
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let ready_since = |pod: &Pod| {
        let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "True")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    assigned(left)
        .cmp(&assigned(right))
        .then_with(|| phase(left).cmp(&phase(right)))
        .then_with(|| pods::is_ready(left).cmp(&pods::is_ready(right)))
        .then_with(|| latest_first(ready_since(left), ready_since(right)))
        .then_with(|| restarts(right).cmp(&restarts(left)))
        .then_with(|| latest_first(created(left), created(right)))
}

/// No time, then the latest.
fn latest_first(left: Option<Timestamp>, right: Option<Timestamp>) -> Ordering {
    match (left, right) {
        (Some(left), Some(right)) => right.cmp(&left),
        _ => left.is_some().cmp(&right.is_some()),
    }
}

/// The most restarts of one container; sidecars after the others.
fn restarts(pod: &Pod) -> (i32, i32) {
    let most =
        |statuses: &mut dyn Iterator<Item = &ContainerStatus>| statuses.map(|status| status.restart_count).max().unwrap_or(0);
    let Some(status) = &pod.status else { return (0, 0) };
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: BTreeSet<_> = inits
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let inits = status.init_container_statuses.iter().flatten();
    (
        most(&mut status.container_statuses.iter().flatten()),
        most(&mut inits.filter(|status| sidecars.contains(status.name.as_str()))),
    )
}
