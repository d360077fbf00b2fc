//! What the controllers of Jobs and CronJobs count, by upstream's names: `job_controller_*`, `cronjob_controller_*` and
//! `ttl_after_finished_controller_*`.
//!
//! Invariant: labels come from closed sets, never from what a client may choose; so upstream's metrics by namespace, name or
//! `managedBy` are not here. Only what was carried out counts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use trireme_api::Object;
use trireme_client::{Cache, Change, ResourceRef};
use trireme_reconcile::plan::Action;
use trireme_reconcile::{cron_job, job, pods};

/// One reconciliation that came to its end.
pub(crate) struct Reconciled<'a> {
    pub(crate) cache: &'a Cache,
    /// The object of the key as it was before.
    pub(crate) before: &'a Object,
    /// What was carried out.
    pub(crate) done: &'a [Action],
    /// What the plan stopped at, if it did.
    pub(crate) failed: Option<&'a Action>,
    pub(crate) took: Duration,
    pub(crate) now: Timestamp,
}

/// Counts one reconciliation.
pub(crate) type Measure = fn(&WorkloadMetrics, &Reconciled<'_>);
/// Counts one change of a watched resource.
pub(crate) type Tally = fn(&WorkloadMetrics, &Cache, &Change);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SyncLabels {
    completion_mode: &'static str,
    result: &'static str,
    action: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct JobLabels {
    completion_mode: &'static str,
    result: &'static str,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PodLabels {
    completion_mode: &'static str,
    result: &'static str,
}

#[allow(non_snake_case, reason = "upstream's label is called so")]
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IndexLabels {
    status: &'static str,
    backoffLimit: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CreationLabels {
    reason: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
}

type MakeHistogram = fn() -> Histogram;

/// 4 ms to 65 s, doubling.
fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.004, 2.0, 15))
}

/// The counters.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadMetrics {
    syncs: Family<SyncLabels, Counter>,
    sync_durations: Family<SyncLabels, Histogram, MakeHistogram>,
    jobs_finished: Family<JobLabels, Counter>,
    pods_finished: Family<PodLabels, Counter>,
    indexes_finished: Family<IndexLabels, Counter>,
    pods_created: Family<CreationLabels, Counter>,
    tracked: Family<EventLabels, Counter>,
    cron_skew: Histogram,
    deletion: Histogram,
}

impl WorkloadMetrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let this = Self {
            syncs: Family::default(),
            sync_durations: Family::new_with_constructor(sync_histogram),
            jobs_finished: Family::default(),
            pods_finished: Family::default(),
            indexes_finished: Family::default(),
            pods_created: Family::default(),
            tracked: Family::default(),
            // 1 s to 512 s, and 0.1 s to 819 s, both doubling.
            cron_skew: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            deletion: Histogram::new(exponential_buckets(0.1, 2.0, 14)),
        };
        let jobs = registry.sub_registry_with_prefix("job_controller");
        // The encoder appends `_total` to a counter's name.
        jobs.register("job_syncs", "Reconciliations of Jobs", this.syncs.clone());
        jobs.register(
            "job_sync_duration_seconds",
            "Time of a reconciliation of a Job",
            this.sync_durations.clone(),
        );
        jobs.register("jobs_finished", "Jobs that are over", this.jobs_finished.clone());
        jobs.register(
            "job_pods_finished",
            "Pods of Jobs that have ended and are counted",
            this.pods_finished.clone(),
        );
        jobs.register("job_finished_indexes", "Indexes that are over", this.indexes_finished.clone());
        jobs.register(
            "job_pods_creation",
            "Pods made for Jobs, by why and whether it succeeded",
            this.pods_created.clone(),
        );
        jobs.register(
            "terminated_pods_tracking_finalizer",
            "Pods that have ended, by whether they got or lost the finalizer with which Jobs count",
            this.tracked.clone(),
        );
        registry.register(
            "cronjob_controller_job_creation_skew_duration_seconds",
            "Time from when a CronJob was due until its Job was made",
            this.cron_skew.clone(),
        );
        registry.register(
            "ttl_after_finished_controller_job_deletion_duration_seconds",
            "Time from when a finished Job was to be deleted until it was",
            this.deletion.clone(),
        );
        this
    }

    /// Counts a look at a Job.
    pub(crate) fn job(&self, look: &Reconciled<'_>) {
        let Some(before) = look.cache.typed::<Job>(look.before) else {
            return;
        };
        let mode = match before.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) {
            Some("Indexed") => "Indexed",
            _ => "NonIndexed",
        };
        let labels = SyncLabels {
            completion_mode: mode,
            result: if look.failed.is_some() { "error" } else { "success" },
            action: action(look),
        };
        self.syncs.get_or_create(&labels).inc();
        self.sync_durations.get_or_create(&labels).observe(look.took.as_secs_f64());
        self.creations(&before, look);
        let written = look.done.iter().rev().find_map(|action| match action.effect() {
            Action::UpdateStatus { object } => serde_json::from_value::<JobStatus>(object["status"].clone()).ok(),
            _ => None,
        });
        if let Some(after) = written {
            self.status(&before, mode, &after);
        }
    }

    fn creations(&self, before: &Job, look: &Reconciled<'_>) {
        let only_failed = before.spec.as_ref().and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed");
        let status = before.status.clone().unwrap_or_default();
        let failed = status.failed.unwrap_or(0) > 0;
        let reason = match (only_failed, failed, status.terminating.unwrap_or(0) > 0) {
            (true, true, _) => "recreate_failed",
            (_, true, _) | (_, _, true) => "recreate_terminating_or_failed",
            _ => "new",
        };
        let made = look.done.iter().filter(|action| is_creation(action)).count();
        let refused = look.failed.into_iter().filter(|action| is_creation(action)).count();
        for (status, count) in [("succeeded", made), ("failed", refused)] {
            add(&self.pods_created, &CreationLabels { reason, status }, count);
        }
    }

    fn status(&self, before: &Job, mode: &'static str, after: &JobStatus) {
        let stored = before.status.clone().unwrap_or_default();
        let more = |new: Option<i32>, old: Option<i32>| usize::try_from(new.unwrap_or(0) - old.unwrap_or(0)).unwrap_or(0);
        let succeeded = more(after.succeeded, stored.succeeded);
        let failed = more(after.failed, stored.failed);
        for (result, count) in [("succeeded", succeeded), ("failed", failed)] {
            let labels = PodLabels {
                completion_mode: mode,
                result,
            };
            add(&self.pods_finished, &labels, count);
        }
        if mode == "Indexed" {
            let per_index = before
                .spec
                .as_ref()
                .is_some_and(|spec| spec.backoff_limit_per_index.is_some());
            let count = |status: &JobStatus| indexes(status.failed_indexes.as_deref().unwrap_or_default());
            let failed = count(after).saturating_sub(count(&stored));
            let limit = if per_index { "perIndex" } else { "global" };
            for (status, count) in [("succeeded", succeeded), ("failed", failed)] {
                let labels = IndexLabels {
                    status,
                    backoffLimit: limit,
                };
                add(&self.indexes_finished, &labels, count);
            }
        }
        let over = after.conditions.iter().flatten().find_map(|condition| {
            let result = match condition.type_.as_str() {
                "Complete" => "succeeded",
                "Failed" => "failed",
                _ => return None,
            };
            (condition.status == "True").then(|| (result, condition.reason.clone().unwrap_or_default()))
        });
        if let Some((result, reason)) = over {
            let labels = JobLabels {
                completion_mode: mode,
                result,
                reason,
            };
            add(&self.jobs_finished, &labels, 1);
        }
    }

    /// Counts the Jobs that a CronJob's look made.
    pub(crate) fn cron_job(&self, look: &Reconciled<'_>) {
        for action in look.done {
            let Action::Create { object, .. } = action.effect() else {
                continue;
            };
            let annotations = &object["metadata"]["annotations"];
            let due = annotations[cron_job::SCHEDULED_AT].as_str();
            if let Some(due) = due.and_then(|due| due.parse::<Timestamp>().ok()) {
                self.cron_skew.observe(look.now.duration_since(due).as_secs_f64().max(0.0));
            }
        }
    }

    /// Counts a Job that was deleted after its time.
    pub(crate) fn expired(&self, look: &Reconciled<'_>) {
        let Some(job) = look.cache.typed::<Job>(look.before) else {
            return;
        };
        let deleted = look
            .done
            .iter()
            .any(|action| matches!(action.effect(), Action::Delete { .. }));
        let after = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        let over = job::finished(&job).and_then(|condition| condition.last_transition_time.as_ref());
        if let (true, Some(after), Some(over)) = (deleted, after, over) {
            let since = look.now.duration_since(over.0).as_secs_f64();
            self.deletion.observe((since - f64::from(after)).max(0.0));
        }
    }

    /// Counts pods that have ended as they get or lose the finalizer with which Jobs count.
    pub(crate) fn tracking(&self, cache: &Cache, change: &Change) {
        if *change.resource != ResourceRef::of::<Pod>() {
            return;
        }
        let held = |object: &Option<Object>| {
            let pod = object
                .as_ref()
                .filter(|object| object.header().finalizers.iter().any(|name| name == job::FINALIZER));
            let pod: Option<Arc<Pod>> = pod.and_then(|object| cache.typed(object));
            pod.is_some_and(|pod| pods::is_finished(&pod))
        };
        let event = match (held(&change.old), held(&change.new)) {
            (false, true) => "add",
            (true, false) => "delete",
            _ => return,
        };
        self.tracked.get_or_create(&EventLabels { event }).inc();
    }
}

fn add<L>(family: &Family<L, Counter>, labels: &L, count: usize)
where
    L: Clone + std::hash::Hash + Eq,
{
    if count > 0 {
        family.get_or_create(labels).inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

fn is_creation(action: &Action) -> bool {
    matches!(action.effect(), Action::Create { object, .. } if object["kind"] == "Pod")
}

/// What a look at a Job did with pods, by upstream's words.
fn action(look: &Reconciled<'_>) -> &'static str {
    let mut all = look.done.iter().chain(look.failed);
    if all.clone().any(is_creation) {
        "pods_created"
    } else if all.any(|action| matches!(action.effect(), Action::Delete { .. })) {
        "pods_deleted"
    } else {
        "tracking"
    }
}

/// How many indexes `1,3-5` are.
fn indexes(text: &str) -> usize {
    let ranges = text.split(',').filter(|range| !range.is_empty());
    let counts = ranges.filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some((last + 1).saturating_sub(first))
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_status_that_is_written_counts_what_is_new_in_it() {
        let mut registry = Registry::default();
        let metrics = WorkloadMetrics::new(&mut registry);
        let job =
            |spec: Value, status: Value| -> Job { serde_json::from_value(json!({"spec": spec, "status": status})).unwrap() };
        let after = |status: Value| -> JobStatus { serde_json::from_value(status).unwrap() };
        let template = json!({"spec": {"containers": []}});
        let plain = job(json!({"template": template}), json!({"succeeded": 2, "failed": 1}));
        let condition = json!([{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]);
        let written = after(json!({"succeeded": 3, "failed": 3, "conditions": condition}));
        metrics.status(&plain, "NonIndexed", &written);
        let indexed = job(
            json!({"template": template, "backoffLimitPerIndex": 1}),
            json!({"succeeded": 1, "failedIndexes": "0"}),
        );
        metrics.status(&indexed, "Indexed", &after(json!({"succeeded": 3, "failedIndexes": "0,2-3"})));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "job_controller_job_pods_finished_total{completion_mode=\"NonIndexed\",result=\"succeeded\"} 1",
            "job_controller_job_pods_finished_total{completion_mode=\"NonIndexed\",result=\"failed\"} 2",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"succeeded\"} 2",
            "job_controller_job_finished_indexes_total{status=\"succeeded\",backoffLimit=\"perIndex\"} 2",
            "job_controller_job_finished_indexes_total{status=\"failed\",backoffLimit=\"perIndex\"} 2",
            "job_controller_jobs_finished_total{completion_mode=\"NonIndexed\",result=\"failed\",reason=\"BackoffLimitExceeded\"} 1",
        ] {
            assert!(text.lines().any(|held| held == line), "{line}\n{text}");
        }
    }

    #[test]
    fn indexes_are_counted() {
        for (text, count) in [("", 0), ("4", 1), ("0-2", 3), ("1,3-5,7", 5)] {
            assert_eq!(indexes(text), count, "{text}");
        }
    }
}
