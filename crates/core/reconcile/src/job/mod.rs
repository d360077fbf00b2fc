//! The Job controller: pods until enough have succeeded or too many failed (pkg/controller/job).
//!
//! Invariant: a pod that ends is counted once. It is made with a finalizer; when it has ended, its UID (or its index) is
//! written into the status first, then the finalizer is taken off, and only when it is gone does the UID become one of
//! a count. A look that finds half of this done goes on from there. Held by `tests::every_pod_is_counted_once`.

mod backoff;
mod indexes;
mod make;
mod manage;
pub mod orphans;
mod policy;
mod tracking;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use serde_json::json;

pub use backoff::Backoff;

use crate::ownership::{self, Claim};
use crate::plan::{Action, EventKind, EventNote, ObjectRef, Plan};
use crate::pods;
use crate::replicaset::to_value;
use indexes::Intervals;

/// Holds a pod until it is counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// `spec.managedBy` of Jobs that are this controller's.
pub const MANAGER: &str = "kubernetes.io/job-controller";
/// Shortest pause before a Job is looked at again because of time.
const BATCH: Duration = Duration::from_secs(1);

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub job: Arc<Job>,
    /// Pods that the Job controls, and those of its namespace that nobody controls.
    pub pods: Vec<Arc<Pod>>,
    /// What the last look said of failures.
    pub backoff: Backoff,
    /// Whether the last plan failed because a pod could not be made.
    pub creation_failed: bool,
}

/// Whether a Job is left to another controller.
#[must_use]
pub fn is_managed_elsewhere(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != MANAGER)
}

/// The condition that says that a Job is over, `Complete` or `Failed`.
#[must_use]
pub fn finished(job: &Job) -> Option<&JobCondition> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")
}

/// Whether a pod waits to be counted.
#[must_use]
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER)
}

/// Plans one step, and says what to remember of failures. `suffix` gives five fresh letters for a name at each call.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp, suffix: &mut dyn FnMut() -> String) -> (Plan, Backoff) {
    let job = &snapshot.job;
    let nothing = || (Plan::default(), Backoff::default());
    let Some(spec) = &job.spec else { return nothing() };
    if is_managed_elsewhere(job) || finished(job).is_some() {
        return nothing();
    }
    if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
        let mut plan = Plan::default();
        let message = "Skipped Job sync because completion mode is unknown";
        plan.actions
            .push(event(job, EventKind::Warning, "UnknownCompletionMode", message));
        return (plan, Backoff::default());
    }
    let (ours, claims) = claim(job, spec, &snapshot.pods);
    if !claims.is_empty() {
        let plan = Plan {
            actions: claims, // What was adopted or released is seen at the next look.
            requeue_after: None,
        };
        return (plan, snapshot.backoff.clone());
    }
    let mut look = Look::new(job, spec, ours, now);
    let backoff = look.count(&snapshot.backoff);
    look.judge();
    look.act(snapshot.creation_failed, &backoff, suffix);
    (look.plan, backoff)
}

/// The Job's pods; and what takes in orphans and lets strays go, if there are any.
fn claim<'a>(job: &Job, spec: &JobSpec, pods: &'a [Arc<Pod>]) -> (Vec<&'a Pod>, Vec<Action>) {
    let owner = ownership::controller_reference("batch/v1", "Job", &job.metadata);
    let deleting = job.metadata.deletion_timestamp.is_some();
    let (mut ours, mut claims) = (Vec::new(), Vec::new());
    let everything = LabelSelector::default();
    let selector = spec.selector.as_ref().unwrap_or(&everything);
    for pod in pods {
        let metadata = &pod.metadata;
        let matches = ownership::selects(selector, metadata.labels.as_ref());
        let target = ownership::object_ref("v1", "Pod", metadata);
        match ownership::claim(&owner, deleting, metadata, matches, target) {
            Claim::Ours => ours.push(&**pod),
            Claim::Adopt(action) => claims.push(with_finalizers(action, metadata, true)),
            Claim::Release(action) => claims.push(with_finalizers(action, metadata, false)),
            Claim::NotOurs => {}
        }
    }
    (ours, claims)
}

/// A pod that becomes the Job's gets the finalizer with it, and one that goes leaves it.
fn with_finalizers(mut action: Action, metadata: &ObjectMeta, tracked: bool) -> Action {
    let held = metadata.finalizers.iter().flatten().map(String::as_str);
    let mut finalizers: Vec<_> = held.filter(|name| *name != FINALIZER).collect();
    if tracked {
        finalizers.push(FINALIZER);
    }
    if let Action::Patch { patch, .. } = &mut action {
        patch["metadata"]["finalizers"] = json!(finalizers);
        // The list is written whole, so it must be the one that was looked at.
        patch["metadata"]["resourceVersion"] = json!(metadata.resource_version);
    }
    action
}

fn regarding(job: &Job) -> ObjectRef {
    ownership::object_ref("batch/v1", "Job", &job.metadata)
}

fn event(job: &Job, kind: EventKind, reason: &str, message: &str) -> Action {
    Action::Event(EventNote {
        regarding: regarding(job),
        kind,
        reason: reason.into(),
        message: message.into(),
    })
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

/// A count as the API writes it: 0 is absent.
fn nonzero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// One look at a Job: what was found, and the status and the plan that come of it.
struct Look<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    now: Timestamp,
    pods: Vec<&'a Pod>,
    active: Vec<&'a Pod>,
    /// As it was, and as it will be written.
    stored: JobStatus,
    status: JobStatus,
    /// Counts with what has ended and is not in the status yet.
    succeeded: i64,
    failed: i64,
    /// What the counts of pods will be once the plan is carried out.
    now_active: i32,
    now_ready: i32,
    now_terminating: i32,
    succeeded_before: Intervals,
    succeeded_indexes: Intervals,
    failed_indexes: Option<Intervals>,
    /// Failed pods that stay until their successors are made, which take over how often the index failed.
    delayed: BTreeMap<i64, &'a Pod>,
    /// Why the Job ends, once it does.
    verdict: Option<JobCondition>,
    /// What is told once the status is written.
    told: Vec<Action>,
    plan: Plan,
}

impl<'a> Look<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: Vec<&'a Pod>, now: Timestamp) -> Self {
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now); // As finely as the API writes it.
        let stored = job.status.clone().unwrap_or_default();
        let mut status = stored.clone();
        status.uncounted_terminated_pods.get_or_insert_default();
        if status.start_time.is_none() && spec.suspend != Some(true) {
            status.start_time = Some(Time(now));
        }
        let active: Vec<_> = pods.iter().copied().filter(|pod| pods::is_active(pod)).collect();
        let ready = active.iter().filter(|pod| pods::is_ready(pod));
        let terminating = pods.iter().filter(|pod| is_terminating(pod));
        Self {
            now_active: count(active.len()),
            now_ready: count(ready.count()),
            now_terminating: count(terminating.count()),
            job,
            spec,
            now,
            pods,
            active,
            stored,
            status,
            succeeded: 0,
            failed: 0,
            succeeded_before: Intervals::default(),
            succeeded_indexes: Intervals::default(),
            failed_indexes: None,
            delayed: BTreeMap::new(),
            verdict: None,
            told: Vec::new(),
            plan: Plan::default(),
        }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn completions(&self) -> i64 {
        i64::from(self.spec.completions.unwrap_or(0))
    }

    /// A pod's index, if it is one of this Job's.
    fn index_of(&self, pod: &Pod) -> Option<i64> {
        indexes::index_of(pod).filter(|index| *index < self.completions())
    }

    /// Pods that have not been counted and are not about to be.
    fn uncounted(&self, listed: &BTreeSet<&str>, wanted: impl Fn(&Pod) -> bool) -> Vec<&'a Pod> {
        let pods = self.pods.iter().copied();
        pods.filter(|pod| {
            let valid = !self.is_indexed() || self.index_of(pod).is_some();
            is_tracked(pod) && !listed.contains(uid(pod)) && valid && wanted(pod)
        })
        .collect()
    }

    fn listed(stored: &JobStatus, failed: bool) -> BTreeSet<&str> {
        let lists = stored.uncounted_terminated_pods.as_ref();
        let list = lists.and_then(|lists| {
            if failed {
                lists.failed.as_ref()
            } else {
                lists.succeeded.as_ref()
            }
        });
        list.into_iter().flatten().map(String::as_str).collect()
    }

    /// Counts what has succeeded and failed by now.
    fn count(&mut self, backoff: &Backoff) -> Backoff {
        let listed_succeeded = Self::listed(&self.stored, false);
        let listed_failed = Self::listed(&self.stored, true);
        let succeeded = self.uncounted(&listed_succeeded, |pod| pods::phase(pod) == "Succeeded");
        let failed = self.uncounted(&listed_failed, |pod| policy::is_failed(pod, self.spec));
        let policy = self.spec.pod_failure_policy.as_ref();
        let counting = failed.iter().filter(|pod| policy::verdict(policy, pod).counts).count();
        let sum =
            |stored: Option<i32>, listed: usize, new: usize| i64::from(stored.unwrap_or(0)) + i64::from(count(listed + new));
        self.succeeded = sum(self.stored.succeeded, listed_succeeded.len(), succeeded.len());
        self.failed = sum(self.stored.failed, listed_failed.len(), counting);
        let backoff = backoff.with(&succeeded, &failed);
        if self.is_indexed() {
            self.count_indexes();
        }
        backoff
    }

    fn count_indexes(&mut self) {
        let completions = self.completions();
        let tracked = |wanted: &dyn Fn(&Pod) -> bool| -> BTreeSet<i64> {
            let pods = self.pods.iter().filter(|pod| is_tracked(pod) && wanted(pod));
            pods.filter_map(|pod| self.index_of(pod)).collect()
        };
        let new = tracked(&|pod| pods::phase(pod) == "Succeeded");
        let before = Intervals::parse(self.stored.completed_indexes.as_deref().unwrap_or_default(), completions);
        let succeeded = before.with(&new);
        let failed = self.spec.backoff_limit_per_index.map(|limit| {
            let new = tracked(&|pod| self.fails_index(pod, limit));
            let before = self.stored.failed_indexes.as_deref().unwrap_or_default();
            Intervals::parse(before, completions).with(&new)
        });
        self.succeeded = succeeded.total();
        self.succeeded_before = before;
        self.succeeded_indexes = succeeded;
        self.delayed = failed.as_ref().map(|failed| self.delayed(failed)).unwrap_or_default();
        self.failed_indexes = failed;
    }

    /// Whether a pod's index is failed by it.
    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        if !policy::is_failed(pod, self.spec) {
            return false;
        }
        let verdict = policy::verdict(self.spec.pod_failure_policy.as_ref(), pod);
        verdict.fails_index || (verdict.counts && indexes::failures(pod) >= limit)
    }

    fn delayed(&self, failed: &Intervals) -> BTreeMap<i64, &'a Pod> {
        let active: BTreeSet<_> = self.active.iter().filter_map(|pod| indexes::index_of(pod)).collect();
        let mut delayed: BTreeMap<i64, &'a Pod> = BTreeMap::new();
        for pod in self.uncounted(&BTreeSet::new(), |pod| policy::is_failed(pod, self.spec)) {
            let Some(index) = self.index_of(pod) else { continue };
            if self.succeeded_indexes.has(index) || failed.has(index) || active.contains(&index) {
                continue;
            }
            let failures = |pod: &Pod| indexes::failures(pod).saturating_add(indexes::ignored_failures(pod));
            let later = |held: &&Pod| failures(held) <= failures(pod) && backoff::finished_at(held) <= backoff::finished_at(pod);
            if delayed.get(&index).is_none_or(later) {
                delayed.insert(index, pod);
            }
        }
        delayed
    }

    fn stored_condition(&self, kind: &str) -> Option<&JobCondition> {
        let mut conditions = self.stored.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == kind && condition.status == "True")
    }

    fn fails(&self, reason: &str, message: &str) -> Option<JobCondition> {
        Some(condition("FailureTarget", "True", reason, message, self.now))
    }

    /// Decides whether the Job ends other than by its completions.
    fn judge(&mut self) {
        self.verdict = if let Some(met) = self.stored_condition("SuccessCriteriaMet") {
            Some(met.clone())
        } else if let Some(target) = self.stored_condition("FailureTarget") {
            Some(target.clone())
        } else {
            self.failure_by_policy()
                .or_else(|| self.failure_by_limit())
                .or_else(|| self.end_by_indexes())
        };
    }

    fn failure_by_policy(&self) -> Option<JobCondition> {
        let policy = self.spec.pod_failure_policy.as_ref()?;
        let mut failed = self.pods.iter().filter(|pod| policy::is_failed(pod, self.spec));
        let message = failed.find_map(|pod| policy::verdict(Some(policy), pod).fails_job)?;
        self.fails("PodFailurePolicy", &message)
    }

    fn failure_by_limit(&self) -> Option<JobCondition> {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed > i64::from(limit) || self.restarted_too_often(limit) {
            return self.fails("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.deadline_in().is_some_and(|left| !left.is_positive()) {
            return self.fails("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        None
    }

    /// Restarts of the containers of live pods count where failed containers are restarted in place.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let live = self
            .pods
            .iter()
            .filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let statuses = live.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
            let inits = status.init_container_statuses.iter().flatten();
            inits.chain(status.container_statuses.iter().flatten())
        });
        let restarts: i64 = statuses.map(|status| i64::from(status.restart_count)).sum();
        restarts >= i64::from(limit.max(1))
    }

    /// How long the Job may still be active.
    fn deadline_in(&self) -> Option<SignedDuration> {
        let deadline = self.spec.active_deadline_seconds.filter(|_| !self.is_suspended())?;
        let started = self.status.start_time.as_ref()?.0;
        Some(SignedDuration::from_secs(deadline).saturating_sub(self.now.duration_since(started)))
    }

    fn end_by_indexes(&self) -> Option<JobCondition> {
        if !self.is_indexed() {
            return None;
        }
        if let Some(failed) = &self.failed_indexes {
            let most = self.spec.max_failed_indexes;
            if most.is_some_and(|most| failed.total() > i64::from(most)) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return self.fails("MaxFailedIndexesExceeded", message);
            }
            if !failed.is_empty() && failed.total() + self.succeeded_indexes.total() >= self.completions() {
                return self.fails("FailedIndexes", "Job has failed indexes");
            }
        }
        let policy = self.spec.success_policy.as_ref();
        let message = policy::success(policy, self.completions(), &self.succeeded_indexes)?;
        Some(condition("SuccessCriteriaMet", "True", "SuccessPolicy", &message, self.now))
    }

    /// Makes and deletes pods, writes the status, and lets pods go that are counted.
    fn act(&mut self, creation_failed: bool, backoff: &Backoff, suffix: &mut dyn FnMut() -> String) {
        let mut again = Vec::new();
        if let Some(left) = self.deadline_in().filter(SignedDuration::is_positive) {
            again.extend(Duration::try_from(left).ok());
        }
        let mut creations = Plan::default();
        if self.verdict.is_some() {
            self.delete_active();
        } else {
            let managed = self.job.metadata.deletion_timestamp.is_none();
            if managed {
                let waits = self.manage(&mut creations, backoff, suffix);
                again.extend(waits.map(|wait| wait.max(BATCH)));
            }
            let enough = match self.spec.completions {
                None => self.succeeded > 0,
                Some(completions) => self.succeeded >= i64::from(completions),
            };
            if enough && self.now_active == 0 {
                let message = "Reached expected number of succeeded pods";
                self.verdict = Some(condition(
                    "SuccessCriteriaMet",
                    "True",
                    "CompletionsReached",
                    message,
                    self.now,
                ));
            } else if managed {
                self.suspend_or_resume();
            }
        }
        let made = count(creations.actions.len());
        if creation_failed {
            // What could not be made last time may not be made now: the status says what there is.
            self.write(0);
            self.plan.actions.append(&mut creations.actions);
        } else {
            self.plan.actions.append(&mut creations.actions);
            self.write(made);
        }
        self.plan.requeue_after = again.into_iter().min();
    }

    fn suspend_or_resume(&mut self) {
        let (status, reason, message, told) = if self.is_suspended() {
            ("True", "JobSuspended", "Job suspended", "Suspended")
        } else {
            ("False", "JobResumed", "Job resumed", "Resumed")
        };
        let conditions = self.status.conditions.get_or_insert_default();
        let new = condition("Suspended", status, reason, message, self.now);
        match conditions.iter_mut().find(|condition| condition.type_ == "Suspended") {
            Some(held) if (&held.status, &held.reason, &held.message) == (&new.status, &new.reason, &new.message) => return,
            Some(held) => *held = new,
            None if self.spec.suspend == Some(true) => conditions.push(new),
            None => return,
        }
        // The time of a deadline runs only while the Job is active.
        self.status.start_time = (!self.is_suspended()).then_some(Time(self.now));
        self.told.push(event(self.job, EventKind::Normal, told, message));
    }

    /// Writes the status if it is another one, with pods that are made by then; then takes finalizers off.
    fn write(&mut self, made: i32) {
        let release = self.track();
        self.status.active = nonzero(self.now_active + made);
        self.status.ready = Some(self.now_ready);
        self.status.terminating = Some(self.now_terminating);
        self.conclude(release.is_empty());
        if self.status.conditions.as_ref().is_some_and(Vec::is_empty) {
            self.status.conditions = None;
        }
        let mut stored = self.stored.clone();
        stored.uncounted_terminated_pods.get_or_insert_default();
        if self.status != stored {
            let mut changed = self.job.clone();
            changed.status = Some(self.status.clone());
            self.plan.actions.push(Action::UpdateStatus {
                object: to_value(&changed),
            });
            self.plan.actions.append(&mut self.told);
        }
        for pod in release {
            self.plan.actions.push(Action::RemoveFinalizer {
                target: ownership::object_ref("v1", "Pod", &pod.metadata),
                finalizer: FINALIZER,
            });
        }
    }
}

/// Whether a pod is going and has not ended.
fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pods::is_finished(pod)
}

#[cfg(test)]
mod tests;
