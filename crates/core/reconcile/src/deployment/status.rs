//! Status: counts, and whether a rollout progresses, is complete or has timed out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Set, Work};

const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const COMPLETE: &str = "NewReplicaSetAvailable";

/// Deadline of a Deployment in seconds; the largest number stands for none.
fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment
        .spec
        .as_ref()?
        .progress_deadline_seconds
        .filter(|seconds| *seconds != i32::MAX)
}

fn condition_of<'a>(deployment: &'a Deployment, kind: &str) -> Option<&'a DeploymentCondition> {
    deployment
        .status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

/// Whether all pods are new, available, and as many as asked for.
pub(super) fn is_complete(deployment: &Deployment) -> bool {
    deployment
        .status
        .as_ref()
        .is_some_and(|status| is_complete_with(deployment, status))
}

fn is_complete_with(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

/// When to look whether a rollout is stuck; `None` where none runs or it has timed out already.
pub(super) fn check_progress_in(deployment: &Deployment, now: Timestamp) -> Option<Duration> {
    let condition = condition_of(deployment, "Progressing")?;
    let seconds = deadline(deployment)?;
    if is_complete(deployment) || condition.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let at = condition.last_update_time.as_ref()?.0.as_second() + i64::from(seconds);
    Some(Duration::from_secs(u64::try_from(at - now.as_second()).unwrap_or(0)))
}

impl Work<'_> {
    pub(super) fn has_deadline(&self) -> bool {
        deadline(self.before).is_some()
    }

    pub(super) fn condition(&self, kind: &str) -> Option<&DeploymentCondition> {
        condition_of(&self.deployment, kind)
    }

    /// Sets a condition unless status and reason are the same; the transition time stays where the status stays.
    pub(super) fn set_condition(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let now = self.now;
        let conditions = self
            .deployment
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default();
        let held = conditions.iter().find(|condition| condition.type_ == kind);
        if held.is_some_and(|held| held.status == status && held.reason.as_deref() == Some(reason)) {
            return;
        }
        let since = held
            .filter(|held| held.status == status)
            .and_then(|held| held.last_transition_time.clone());
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(DeploymentCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(Time(now)),
            last_transition_time: Some(since.unwrap_or(Time(now))),
        });
    }

    fn remove_condition(&mut self, kind: &str) {
        if let Some(conditions) = self.deployment.status.as_mut().and_then(|status| status.conditions.as_mut()) {
            conditions.retain(|condition| condition.type_ != kind);
        }
    }

    /// Notes that a rollout was paused or resumed: the deadline does not run meanwhile.
    pub(super) fn check_paused(&mut self) {
        if !self.has_deadline() {
            return;
        }
        let paused = self.before.spec.as_ref().is_some_and(|spec| spec.paused == Some(true));
        let reason = self
            .condition("Progressing")
            .and_then(|condition| condition.reason.clone())
            .unwrap_or_default();
        match (paused, reason.as_str()) {
            (_, TIMED_OUT) => {}
            (true, "DeploymentPaused") => {}
            (true, _) => self.set_condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".into()),
            (false, "DeploymentPaused") => {
                self.set_condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".into());
            }
            (false, _) => {}
        }
    }

    /// Counts and conditions; with `rollout`, progress too.
    pub(super) fn sync_status(&mut self, rollout: bool) {
        let old = self.deployment.status.clone().unwrap_or_default();
        let status = self.counts(&old);
        let available = status.available_replicas.unwrap_or(0);
        self.deployment.status = Some(status.clone());
        if available >= self.replicas() - self.max_unavailable() {
            self.set_condition(
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.".into(),
            );
        } else {
            let message = "Deployment does not have minimum availability.";
            self.set_condition("Available", "False", "MinimumReplicasUnavailable", message.into());
        }
        if rollout {
            self.sync_progress(&old, &status);
        }
        if self
            .deployment
            .status
            .as_ref()
            .is_some_and(|status| status.conditions.as_ref().is_some_and(Vec::is_empty))
        {
            self.deployment.status.get_or_insert_default().conditions = None;
        }
    }

    fn counts(&self, old: &DeploymentStatus) -> DeploymentStatus {
        let all = || self.old.iter().chain(self.new.iter());
        let sum = |count: fn(&Set) -> i32| all().map(count).sum::<i32>();
        let available = sum(Set::available);
        let nonzero = |count: i32| Some(count).filter(|count| *count != 0);
        let terminating: Vec<_> = all().map(|set| set.status().terminating_replicas).collect();
        DeploymentStatus {
            observed_generation: self.before.metadata.generation,
            replicas: nonzero(sum(|set| set.status().replicas)),
            updated_replicas: nonzero(self.new.as_ref().map_or(0, |set| set.status().replicas)),
            ready_replicas: nonzero(sum(|set| set.status().ready_replicas.unwrap_or(0))),
            available_replicas: nonzero(available),
            unavailable_replicas: nonzero((sum(Set::replicas) - available).max(0)),
            terminating_replicas: terminating.into_iter().sum::<Option<i32>>(),
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
        }
    }

    fn sync_progress(&mut self, old: &DeploymentStatus, status: &DeploymentStatus) {
        if !self.has_deadline() {
            self.remove_condition("Progressing");
        }
        let current = self.condition("Progressing").cloned();
        let settled = status.replicas == status.updated_replicas
            && current
                .as_ref()
                .is_some_and(|current| current.reason.as_deref() == Some(COMPLETE));
        if self.has_deadline() && !settled {
            let subject = match &self.new {
                Some(new) => format!("ReplicaSet \"{}\"", new.name()),
                None => format!("Deployment \"{}\"", self.name()),
            };
            if is_complete_with(self.before, status) {
                self.set_condition(
                    "Progressing",
                    "True",
                    COMPLETE,
                    format!("{subject} has successfully progressed."),
                );
            } else if progressed(old, status) {
                // The same reason again moves the update time: that is what the deadline counts from.
                self.remove_condition("Progressing");
                self.set_condition(
                    "Progressing",
                    "True",
                    "ReplicaSetUpdated",
                    format!("{subject} is progressing."),
                );
                if let Some(current) = current.filter(|current| current.status == "True") {
                    let conditions = self
                        .deployment
                        .status
                        .get_or_insert_default()
                        .conditions
                        .get_or_insert_default();
                    if let Some(condition) = conditions.iter_mut().find(|condition| condition.type_ == "Progressing") {
                        condition.last_transition_time = current.last_transition_time;
                    }
                }
            } else if self.timed_out(current.as_ref()) {
                self.set_condition(
                    "Progressing",
                    "False",
                    TIMED_OUT,
                    format!("{subject} has timed out progressing."),
                );
            }
        }
        self.sync_failure();
    }

    fn timed_out(&self, current: Option<&DeploymentCondition>) -> bool {
        let (Some(current), Some(seconds)) = (current, deadline(self.before)) else {
            return false;
        };
        match current.reason.as_deref() {
            Some(COMPLETE) => return false,
            Some(TIMED_OUT) => return true,
            _ => {}
        }
        current
            .last_update_time
            .as_ref()
            .is_some_and(|time| time.0.as_second() + i64::from(seconds) < self.now.as_second())
    }

    /// Shows one ReplicaSet's failure to make pods, the new one's before the others'.
    fn sync_failure(&mut self) {
        let failure = self.new.iter().chain(&self.old).find_map(|set| {
            set.status()
                .conditions
                .into_iter()
                .flatten()
                .find(|condition| condition.type_ == "ReplicaFailure")
        });
        match failure {
            None => self.remove_condition("ReplicaFailure"),
            Some(failure) => self.set_condition(
                "ReplicaFailure",
                &failure.status,
                &failure.reason.unwrap_or_default(),
                failure.message.unwrap_or_default(),
            ),
        }
    }
}

/// Whether anything moved towards completion.
fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let zero = |count: Option<i32>| count.unwrap_or(0);
    let old_replicas = |status: &DeploymentStatus| zero(status.replicas) - zero(status.updated_replicas);
    zero(new.updated_replicas) > zero(old.updated_replicas)
        || old_replicas(new) < old_replicas(old)
        || zero(new.ready_replicas) > zero(old.ready_replicas)
        || zero(new.available_replicas) > zero(old.available_replicas)
}
