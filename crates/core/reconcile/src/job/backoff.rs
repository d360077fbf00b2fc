//! How long to wait before a failed pod is replaced: 10 s, doubled by every failure since the last success, 10 minutes
//! at most.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes;
use crate::pods;

/// The pause after the first failure.
const FIRST_SECONDS: i64 = 10;
/// The longest pause.
const LONGEST_SECONDS: i64 = 600;

/// What is remembered of a Job's failures from look to look. It is not written anywhere: a new leader begins anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures_after_last_success: i32,
    last_failure: Option<Timestamp>,
    /// Finished pods that were taken in and may be seen again, since the plan that counts them may have failed.
    taken_in: BTreeSet<String>,
}

impl Backoff {
    /// The record with newly finished pods taken in.
    #[must_use]
    pub fn with(&self, succeeded: &[&Pod], failed: &[&Pod]) -> Self {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        let fresh = |pods: &[&Pod]| {
            let mut times: Vec<_> = pods
                .iter()
                .filter(|pod| !self.taken_in.contains(&uid(pod)))
                .map(|pod| finished_at(pod))
                .collect();
            times.sort_unstable();
            times
        };
        let mut next = Self {
            taken_in: succeeded.iter().chain(failed).map(|pod| uid(pod)).collect(),
            ..self.clone()
        };
        let mut failures = fresh(failed);
        if let Some(success) = fresh(succeeded).last() {
            next.failures_after_last_success = 0;
            next.last_failure = None;
            failures.retain(|failure| failure > success);
        }
        if let Some(last) = failures.last() {
            let more = i32::try_from(failures.len()).unwrap_or(i32::MAX);
            next.failures_after_last_success = next.failures_after_last_success.saturating_add(more);
            next.last_failure = Some(*last);
        }
        next
    }

    /// How long to wait before pods are made.
    #[must_use]
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.last_failure
            .map_or(Duration::ZERO, |last| remaining(self.failures_after_last_success, last, now))
    }
}

/// How long to wait before the successor of an index' last failed pod is made.
#[must_use]
pub fn remaining_of_index(last_failed: Option<&Pod>, now: Timestamp) -> Duration {
    last_failed.map_or(Duration::ZERO, |pod| {
        let failures = indexes::failures(pod)
            .saturating_add(indexes::ignored_failures(pod))
            .saturating_add(1);
        remaining(failures, finished_at(pod), now)
    })
}

fn remaining(failures: i32, last: Timestamp, now: Timestamp) -> Duration {
    if failures <= 0 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(10);
    let pause = SignedDuration::from_secs((FIRST_SECONDS << doublings).min(LONGEST_SECONDS));
    Duration::try_from(pause - now.duration_since(last)).unwrap_or(Duration::ZERO)
}

/// When a pod ended: when its last container did, else when it became unready, else when it was deleted, else when it
/// was made.
#[must_use]
pub fn finished_at(pod: &Pod) -> Timestamp {
    let unready = || {
        let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        Some(ready.last_transition_time.as_ref()?.0)
    };
    let deleted = || {
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        at.checked_sub(SignedDuration::from_secs(grace)).ok()
    };
    containers_ended(pod)
        .or_else(unready)
        .or_else(deleted)
        .or_else(|| Some(pod.metadata.creation_timestamp.as_ref()?.0))
        .unwrap_or_default()
}

fn containers_ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let latest = last_end(None, status.container_statuses.iter().flatten());
    let sidecars: BTreeSet<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let inits = status.init_container_statuses.iter().flatten();
    last_end(latest, inits.filter(|status| sidecars.contains(status.name.as_str())))
}

/// The latest end of all, and of what came before; nothing if one has not ended.
fn last_end<'a>(before: Option<Timestamp>, all: impl Iterator<Item = &'a ContainerStatus>) -> Option<Timestamp> {
    let mut latest = before;
    for status in all {
        let ended = status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0;
        latest = latest.max(Some(ended));
    }
    latest
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    fn pod(uid: &str, finished: i64) -> Pod {
        let finished = at(finished).to_string();
        serde_json::from_value(json!({
            "metadata": {"uid": uid},
            "status": {"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 1, "finishedAt": finished}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn pauses_double_from_ten_seconds_to_ten_minutes() {
        let table = [
            (0, 0, 0),
            (1, 0, 10),
            (1, 4, 6),
            (1, 10, 0),
            (2, 0, 20),
            (3, 0, 40),
            (6, 0, 320),
            (7, 0, 600),
            (i32::MAX, 0, 600),
            (i32::MAX, 601, 0),
        ];
        for (failures, passed, expected) in table {
            assert_eq!(
                remaining(failures, at(0), at(passed)).as_secs(),
                expected,
                "{failures} {passed}"
            );
        }
    }

    #[test]
    fn failures_count_since_the_last_success_and_each_once() {
        let (first, second, third) = (pod("a", 1), pod("b", 5), pod("c", 9));
        let one = Backoff::default().with(&[], &[&first]);
        assert_eq!((one.failures_after_last_success, one.last_failure), (1, Some(at(1))));
        assert_eq!(
            one.with(&[], &[&first]),
            one,
            "the plan that counts it failed, and it is looked at again"
        );
        let two = one.with(&[], &[&second]);
        assert_eq!((two.failures_after_last_success, two.last_failure), (2, Some(at(5))));
        let after = two.with(&[&pod("s", 6)], &[&third, &second]);
        assert_eq!((after.failures_after_last_success, after.last_failure), (1, Some(at(9))));
        let none = two.with(&[&pod("s", 6)], &[]);
        assert_eq!((none.failures_after_last_success, none.last_failure), (0, None));
        assert!(none.remaining(at(6)).is_zero());
    }

    #[test]
    fn a_pod_ended_when_the_first_of_these_says_so() {
        let status =
            |value: Value| json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": value});
        let ended = |second: i64| json!({"terminated": {"exitCode": 0, "finishedAt": at(second).to_string()}});
        let mut whole = json!({
            "metadata": {"creationTimestamp": at(1).to_string(), "deletionTimestamp": at(40).to_string(), "deletionGracePeriodSeconds": 30},
            "spec": {"containers": [], "initContainers": [{"name": "a", "restartPolicy": "Always"}]},
            "status": {
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at(20).to_string()}],
                "containerStatuses": [status(ended(3)), status(ended(5))],
                "initContainerStatuses": [status(ended(7))],
            },
        });
        let second = |value: &Value| finished_at(&serde_json::from_value(value.clone()).unwrap()).as_second() - at(0).as_second();
        assert_eq!(second(&whole), 7, "a sidecar ends last");
        whole["status"]["initContainerStatuses"] = json!([]);
        assert_eq!(second(&whole), 5);
        whole["status"]["containerStatuses"][0] = status(json!({"running": {}}));
        assert_eq!(second(&whole), 20);
        whole["status"] = json!({});
        assert_eq!(second(&whole), 10);
        whole["metadata"]["deletionTimestamp"] = json!(null);
        assert_eq!(second(&whole), 1);
    }
}
