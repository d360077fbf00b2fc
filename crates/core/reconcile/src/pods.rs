//! Questions that several controllers ask about pods (pkg/controller/controller_utils.go, pkg/api/v1/pod/util.go).

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, Taint, Toleration};
use trireme_api::fit;

/// A condition of a pod by type.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

/// Phase, empty where there is no status.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Not finished and not being deleted.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Succeeded or failed.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the Ready condition is True.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether the pod is available, or in how long it will be if it stays ready; `None` where it is not ready.
#[must_use]
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let since = ready.last_transition_time.as_ref()?.0;
    let at = since.as_second() + i64::from(min_ready_seconds);
    Some(Duration::from_secs(u64::try_from(at - now.as_second()).unwrap_or(0)))
}

/// Whether a toleration tolerates a taint, for however long.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let Toleration {
        key,
        operator,
        value,
        effect,
        ..
    } = toleration;
    fit::Toleration::of([key, operator, value, effect]).tolerates(&fit::Taint {
        key: &taint.key,
        value: taint.value.as_deref().unwrap_or_default(),
        effect: &taint.effect,
    })
}

/// Restarts of all containers together, sidecars included.
fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let regular = status
        .and_then(|status| status.container_statuses.as_ref())
        .into_iter()
        .flatten();
    regular.map(|container| container.restart_count).max().unwrap_or(0)
}

/// `controller.kubernetes.io/pod-deletion-cost`, 0 where absent or no number.
fn deletion_cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get("controller.kubernetes.io/pod-deletion-cost")?.parse().ok())
        .unwrap_or(0)
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .filter(|ready| ready.status == "True")?
        .last_transition_time
        .as_ref()
        .map(|time| time.0)
}

/// Buckets of age: powers of two of seconds, so that pods of nearly the same age count as equal.
fn age_rank(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let seconds = since.map_or(0, |since| now.as_second().saturating_sub(since.as_second()).max(0));
    u64::try_from(seconds).unwrap_or(0).checked_ilog2().map_or(0, |rank| rank + 1)
}

/// Which of two pods to delete first: `Less` is the first to go. `neighbours` counts the pods of the same owner on the
/// pod's node. The order is upstream's `ActivePodsWithRanks`.
#[must_use]
pub fn deletion_order(left: &Pod, right: &Pod, left_neighbours: usize, right_neighbours: usize, now: Timestamp) -> Ordering {
    let assigned = |pod: &Pod| {
        pod.spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.as_deref().is_some_and(|name| !name.is_empty()))
    };
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Running" => 2,
        "Pending" => 0,
        _ => 1,
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    assigned(left)
        .cmp(&assigned(right))
        .then_with(|| phase_rank(left).cmp(&phase_rank(right)))
        .then_with(|| is_ready(left).cmp(&is_ready(right)))
        .then_with(|| deletion_cost(left).cmp(&deletion_cost(right)))
        .then_with(|| right_neighbours.cmp(&left_neighbours))
        .then_with(|| match (is_ready(left), is_ready(right)) {
            (true, true) => age_rank(ready_since(left), now).cmp(&age_rank(ready_since(right), now)),
            _ => Ordering::Equal,
        })
        .then_with(|| restarts(right).cmp(&restarts(left)))
        .then_with(|| age_rank(created(left), now).cmp(&age_rank(created(right), now)))
        .then_with(|| left.metadata.uid.cmp(&right.metadata.uid))
}
