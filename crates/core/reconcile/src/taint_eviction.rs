//! Pods on nodes with NoExecute taints: those that do not tolerate them go, at once or when their toleration's time is
//! over.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::ownership::object_ref;
use crate::plan::{Action, EventKind, EventNote, Plan};
use crate::pod_gc::with_condition;
use crate::pods::tolerates;

/// A pod and the NoExecute taints of its node.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The pod.
    pub pod: Arc<Pod>,
    /// NoExecute taints, each with the time since which it is known.
    pub taints: Vec<(Taint, Timestamp)>,
}

/// Deletes the pod or says when to look again.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let pod = &*snapshot.pod;
    let mut plan = Plan::default();
    if pod.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(due) = due(pod, &snapshot.taints) else { return plan };
    if due > now {
        let wait = due.duration_since(now);
        plan.requeue_after = Some(Duration::try_from(wait).unwrap_or_default());
        return plan;
    }
    let target = object_ref("v1", "Pod", &pod.metadata);
    plan.actions.push(Action::Event(EventNote {
        regarding: target.clone(),
        kind: EventKind::Normal,
        reason: "TaintManagerEviction".into(),
        message: format!("Marking for deletion Pod {}/{}", target.namespace, target.name),
    }));
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": Time(now),
        "observedGeneration": pod.metadata.generation,
    });
    plan.actions.push(Action::Patch {
        target: target.clone(),
        subresource: Some("status"),
        patch: json!({"metadata": {"uid": target.uid}, "status": {"conditions": with_condition(pod, condition)}}),
    });
    plan.actions.push(Action::Delete {
        target,
        grace_period_seconds: None,
        propagation: None,
    });
    plan
}

/// When the pod has to go; `None` for never.
fn due(pod: &Pod, taints: &[(Taint, Timestamp)]) -> Option<Timestamp> {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let mut first: Option<Timestamp> = None;
    for (taint, since) in taints {
        let mut matching = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .peekable();
        if matching.peek().is_none() {
            return Some(Timestamp::MIN);
        }
        // Several tolerations of one taint: the shortest time counts.
        let seconds = matching.filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(seconds) = seconds {
            let at = since
                .saturating_add(SignedDuration::from_secs(seconds.max(0)))
                .unwrap_or(Timestamp::MAX);
            first = Some(first.map_or(at, |first| first.min(at)));
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_at_once_later_or_never() {
        let taint = |key: &str| Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            ..Taint::default()
        };
        let exists = |key: &str, seconds: Option<i64>| {
            let mut value = json!({"key": key, "operator": "Exists", "effect": "NoExecute"});
            if let Some(seconds) = seconds {
                value["tolerationSeconds"] = seconds.into();
            }
            value
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        for (name, tolerations, taints, expected) in [
            ("no taint", vec![], vec![], None),
            ("not tolerated", vec![], vec!["a"], Some(Timestamp::MIN)),
            ("tolerated", vec![exists("a", None)], vec!["a"], None),
            ("for a time", vec![exists("a", Some(300))], vec!["a"], Some(at(400))),
            (
                "the shorter of two",
                vec![exists("a", Some(300)), exists("b", Some(10))],
                vec!["a", "b"],
                Some(at(110)),
            ),
            ("one of two", vec![exists("a", None)], vec!["a", "b"], Some(Timestamp::MIN)),
        ] {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}})).unwrap();
            let taints: Vec<_> = taints.into_iter().map(|key| (taint(key), at(100))).collect();
            assert_eq!(due(&pod, &taints), expected, "{name}");
            let snapshot = Snapshot {
                pod: Arc::new(pod),
                taints,
            };
            let plan = reconcile(&snapshot, at(200));
            let goes = expected.is_some_and(|due| due <= at(200));
            assert_eq!(plan.actions.len(), if goes { 3 } else { 0 }, "{name}");
            assert_eq!(plan.requeue_after.is_some(), expected.is_some() && !goes, "{name}");
        }
    }
}
