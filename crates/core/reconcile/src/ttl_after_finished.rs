//! Jobs with `ttlSecondsAfterFinished` go that long after they ended (pkg/controller/ttlafterfinished).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::plan::{Action, Plan};
use crate::{job, ownership};

/// How long a Job that has ended may still stay; nothing where it stays for good or is going already.
#[must_use]
pub fn remaining(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let over = job::finished(job)?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ended = over.last_transition_time.as_ref()?.0;
    let left = SignedDuration::from_secs(ttl.into()) - now.duration_since(ended);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

/// Deletes the Job with its pods once its time is over.
#[must_use]
pub fn reconcile(job: &Job, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    match remaining(job, now) {
        None => {}
        Some(left) if left.is_zero() => plan.actions.push(Action::Delete {
            target: ownership::object_ref("batch/v1", "Job", &job.metadata),
            grace_period_seconds: None,
            propagation: Some("Foreground"),
        }),
        left => plan.requeue_after = left,
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_goes_when_its_time_is_over() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        // ttl, condition, its status, deleting, seconds left
        let table = [
            (json!(30), "Complete", "True", false, Some(0)),
            (json!(0), "Failed", "True", false, Some(0)),
            (json!(100), "Complete", "True", false, Some(40)),
            (json!(null), "Complete", "True", false, None),
            (json!(30), "Complete", "False", false, None),
            (json!(30), "FailureTarget", "True", false, None),
            (json!(30), "Complete", "True", true, None),
        ];
        for (ttl, kind, status, deleting, left) in table {
            let job = json!({
                "metadata": {"name": "j", "namespace": "ns", "uid": "u", "deletionTimestamp": deleting.then_some("2026-01-01T00:00:30Z")},
                "spec": {"template": {}, "ttlSecondsAfterFinished": ttl},
                "status": {"conditions": [{"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            });
            let job: Job = serde_json::from_value(job).unwrap();
            let plan = reconcile(&job, now);
            assert_eq!(plan.actions.len(), usize::from(left == Some(0)), "{ttl} {kind}");
            let again = left.filter(|left| *left > 0).map(Duration::from_secs);
            assert_eq!(plan.requeue_after, again, "{ttl} {kind}");
        }
    }
}
