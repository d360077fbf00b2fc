//! Questions that several controllers ask about pods (pkg/controller/controller_utils.go, pkg/api/v1/pod/util.go).

mod counted;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, Taint, Toleration};
use trireme_api::fit;

pub use counted::{CountedPod, NamedPort, Phase, PodFacts, deletion_order};

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
    available_since(ready.last_transition_time.as_ref().map(|time| time.0), min_ready_seconds, now)
}

/// In how long what is ready since then is available.
fn available_since(since: Option<Timestamp>, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let at = since?.as_second() + i64::from(min_ready_seconds);
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
