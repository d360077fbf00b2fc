//! Nodes that stop reporting: conditions become Unknown, taints keep pods away and drive them off, the pods are marked
//! not ready.
//!
//! Invariant: a node's silence is counted from when this process last saw a sign of life, not from the node's clock.
//!
//! | Ready | NoSchedule taint | NoExecute taint, unless every node is unready |
//! | --- | --- | --- |
//! | True | none | none |
//! | False | not-ready | not-ready |
//! | Unknown | unreachable | unreachable |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::ownership::object_ref;
use crate::plan::{Action, EventKind, EventNote, ObjectRef, Plan};
use crate::pod_gc::with_condition;

/// Silence after which a node that reported before is unknown, unless another time is asked for.
pub const GRACE: SignedDuration = SignedDuration::from_secs(50);
/// Silence after which a node that never reported is unknown.
pub const STARTUP_GRACE: SignedDuration = SignedDuration::from_secs(60);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, its status and the taint that it brings.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
/// Conditions that a silent node loses.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// The stable label and the old one that follows it.
const LABELS: [(&str, &str); 2] = [
    ("kubernetes.io/os", "beta.kubernetes.io/os"),
    ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
];

/// A node, or what is left to say about one.
#[derive(Clone, Debug)]
pub enum Snapshot {
    /// The node exists.
    Present(Box<Present>),
    /// The node was known and is gone.
    Removed {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
}

/// A node and its surroundings.
#[derive(Clone, Debug)]
pub struct Present {
    /// The node.
    pub node: Arc<Node>,
    /// Pods on it.
    pub pods: Vec<Arc<Pod>>,
    /// When this process last saw a sign of life: a new heartbeat or a renewed Lease.
    pub alive_at: Timestamp,
    /// Whether this process sees the node for the first time.
    pub is_new: bool,
    /// Silence after which a node that reported before is unknown.
    pub grace: SignedDuration,
    /// Whether no node of the cluster is ready: then the fault is likely ours, and no pod is driven off.
    pub all_unready: bool,
}

/// Decides about the node.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    match snapshot {
        Snapshot::Present(present) => judge(present, now),
        Snapshot::Removed { name, uid } => Plan {
            actions: vec![node_event(
                ObjectRef {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    namespace: String::new(),
                    name: name.clone(),
                    uid: uid.clone(),
                },
                "RemovingNode",
                format!("Node {name} event: Removing Node {name} from Controller"),
            )],
            requeue_after: None,
        },
    }
}

fn node_event(node: ObjectRef, reason: &str, message: String) -> Action {
    Action::Event(EventNote {
        regarding: node,
        kind: EventKind::Normal,
        reason: reason.into(),
        message,
    })
}

/// A condition of a node by type.
#[must_use]
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn judge(present: &Present, now: Timestamp) -> Plan {
    let node = &*present.node;
    let own_ref = object_ref("v1", "Node", &node.metadata);
    let name = own_ref.name.clone();
    let mut plan = Plan::default();
    if present.is_new {
        let message = format!("Node {name} event: Registered Node {name} in Controller");
        plan.actions.push(node_event(own_ref.clone(), "RegisteredNode", message));
    }
    let ready = condition(node, "Ready");
    let grace = if ready.is_some() { present.grace } else { STARTUP_GRACE };
    let due = present.alive_at.saturating_add(grace).unwrap_or(Timestamp::MAX);
    if now <= due {
        // Strictly after the grace period, as timers may fire early by a little.
        let wait = due.duration_since(now) + SignedDuration::from_millis(10);
        plan.requeue_after = Some(Duration::try_from(wait).unwrap_or_default());
    } else if ready.is_none_or(|ready| ready.status != "Unknown") {
        plan.actions.push(unknown(node, now));
        if ready.is_some_and(|ready| ready.status == "True") {
            plan.actions.push(status_event(&own_ref));
        }
        // The change of the conditions brings the rest.
        return plan;
    }
    plan.actions.extend(repair(present, &own_ref, now));
    plan.actions.extend(unready_pods(present, now));
    plan
}

fn status_event(node: &ObjectRef) -> Action {
    let message = format!("Node {} status is now: NodeNotReady", node.name);
    node_event(node.clone(), "NodeNotReady", message)
}

fn unknown(node: &Node, now: Timestamp) -> Action {
    let mut conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    let mut object: Value = serde_json::to_value(node).expect("a Node serialises");
    object["status"]["conditions"] = serde_json::to_value(conditions).expect("conditions serialise");
    Action::UpdateStatus { object }
}

/// Taints and labels as the conditions want them.
fn repair(present: &Present, own_ref: &ObjectRef, now: Timestamp) -> Vec<Action> {
    let node = &*present.node;
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = wanted_taints(present);
    let mut taints: Vec<Taint> = old
        .iter()
        .filter(|taint| !is_ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    let mut patch = json!({"metadata": {"uid": own_ref.uid, "resourceVersion": node.metadata.resource_version}});
    let labels = labels_to_set(node);
    if taints == old && labels.is_empty() {
        return Vec::new();
    }
    if !labels.is_empty() {
        patch["metadata"]["labels"] = json!(labels);
    }
    if taints != old {
        patch["spec"]["taints"] = json!(taints);
    }
    let mut actions = vec![Action::Patch {
        target: own_ref.clone(),
        subresource: None,
        patch,
    }];
    // The kubelet itself said that it is not ready.
    let kept_away = |taint: &&Taint| taint.key == NOT_READY || taint.key == UNREACHABLE;
    let says_unready = condition(node, "Ready").is_some_and(|ready| ready.status == "False");
    if says_unready && !present.is_new && !old.iter().any(|taint| kept_away(&taint)) {
        actions.push(status_event(own_ref));
    }
    actions
}

/// Whether this controller alone decides about a taint.
fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoSchedule" => taint.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key),
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

fn wanted_taints(present: &Present) -> Vec<(&'static str, &'static str)> {
    let node = &*present.node;
    let mut wanted = Vec::new();
    for (kind, status, key) in CONDITION_TAINTS {
        if condition(node, kind).is_some_and(|condition| condition.status == status) {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" && !present.all_unready {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    // A node that never reported keeps the taint that it was admitted with.
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let admitted = |taint: &Taint| taint.key == NOT_READY && taint.effect == "NoSchedule";
    if condition(node, "Ready").is_none() && taints.iter().any(admitted) {
        wanted.push((NOT_READY, "NoSchedule"));
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

fn labels_to_set(node: &Node) -> BTreeMap<&'static str, String> {
    let labels = node.metadata.labels.as_ref();
    let look = |key: &str| labels.and_then(|labels| labels.get(key));
    let stale = LABELS.iter().filter_map(|(stable, old)| {
        let value = look(stable)?;
        (look(old) != Some(value)).then(|| (*old, value.clone()))
    });
    stale.collect()
}

/// Pods that were ready before their node ceased to be.
fn unready_pods(present: &Present, now: Timestamp) -> Vec<Action> {
    let Some(ready) = condition(&present.node, "Ready").filter(|ready| ready.status != "True") else {
        return Vec::new();
    };
    let mut actions = Vec::new();
    for pod in &present.pods {
        let conditions = pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let Some(was) = conditions
            .iter()
            .find(|condition| condition.type_ == "Ready" && condition.status == "True")
        else {
            continue;
        };
        if was.last_transition_time > ready.last_transition_time {
            // A kubelet that is alive says so since; it knows better.
            continue;
        }
        let mut condition = serde_json::to_value(was).expect("a condition serialises");
        condition["status"] = "False".into();
        condition["lastTransitionTime"] = json!(Time(now));
        let target = object_ref("v1", "Pod", &pod.metadata);
        actions.push(Action::Patch {
            target: target.clone(),
            subresource: Some("status"),
            patch: json!({
                "metadata": {"uid": target.uid, "resourceVersion": pod.metadata.resource_version},
                "status": {"conditions": with_condition(pod, condition)},
            }),
        });
        actions.push(Action::Event(EventNote {
            regarding: target,
            kind: EventKind::Warning,
            reason: "NodeNotReady".into(),
            message: "Node is not ready".into(),
        }));
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn present(ready: Option<&str>, taints: &Value) -> Present {
        let conditions: Vec<_> = ready
            .iter()
            .map(|status| json!({"type": "Ready", "status": status, "lastTransitionTime": "1970-01-01T00:00:10Z"}))
            .collect();
        let node = json!({
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "3"},
            "spec": {"taints": taints},
            "status": {"conditions": conditions},
        });
        Present {
            node: Arc::new(serde_json::from_value(node).unwrap()),
            pods: Vec::new(),
            alive_at: at(0),
            is_new: false,
            grace: GRACE,
            all_unready: false,
        }
    }

    fn taints(present: Present, now: i64) -> Option<Vec<String>> {
        let plan = reconcile(&Snapshot::Present(Box::new(present)), at(now));
        plan.actions.iter().find_map(|action| match action {
            Action::Patch { patch, .. } => {
                let taints = patch["spec"]["taints"].as_array()?;
                let short = taints.iter().map(|taint| {
                    let key = taint["key"].as_str().unwrap();
                    format!("{}:{}", key.rsplit('/').next().unwrap(), taint["effect"].as_str().unwrap())
                });
                Some(short.collect())
            }
            _ => None,
        })
    }

    #[test]
    fn silence_makes_conditions_unknown_after_the_grace_period() {
        for (ready, now, reason) in [
            (Some("True"), 50, None),
            (Some("True"), 51, Some("NodeStatusUnknown")),
            (None, 60, None),
            (None, 61, Some("NodeStatusNeverUpdated")),
            (Some("Unknown"), 90, None),
        ] {
            let plan = reconcile(&Snapshot::Present(Box::new(present(ready, &json!([])))), at(now));
            let status = plan.actions.iter().find_map(|action| match action {
                Action::UpdateStatus { object } => Some(object),
                _ => None,
            });
            assert_eq!(status.is_some(), reason.is_some(), "{ready:?} {now}");
            if let Some(status) = status {
                let conditions = status["status"]["conditions"].as_array().unwrap();
                assert_eq!(conditions.len(), 4);
                assert_eq!(conditions[0]["reason"], reason.unwrap());
                assert!(conditions.iter().all(|condition| condition["status"] == "Unknown"));
            }
        }
    }

    #[test]
    fn taints_follow_the_conditions() {
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
        let (away, off) = (taint(NOT_READY, "NoSchedule"), taint(NOT_READY, "NoExecute"));
        let other = taint("mine", "NoSchedule");
        for (name, ready, has, all_unready, expected) in [
            ("ready", Some("True"), json!([]), false, None),
            (
                "ready again",
                Some("True"),
                json!([away, off, other]),
                false,
                Some(vec!["mine:NoSchedule"]),
            ),
            (
                "not ready",
                Some("False"),
                json!([other]),
                false,
                Some(vec!["mine:NoSchedule", "not-ready:NoSchedule", "not-ready:NoExecute"]),
            ),
            ("not ready, known", Some("False"), json!([away, off]), false, None),
            (
                "unreachable",
                Some("Unknown"),
                json!([away, off]),
                false,
                Some(vec!["unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            (
                "all nodes are unready",
                Some("Unknown"),
                json!([]),
                true,
                Some(vec!["unreachable:NoSchedule"]),
            ),
            ("never reported", None, json!([away]), false, None),
        ] {
            let mut present = present(ready, &has);
            present.all_unready = all_unready;
            let expected = expected.map(|list| list.into_iter().map(String::from).collect::<Vec<_>>());
            assert_eq!(taints(present, 1), expected, "{name}");
        }
    }

    #[test]
    fn pods_that_were_ready_are_not_any_more() {
        let pod = |ready: &str, since: &str| -> Arc<Pod> {
            let pod = json!({
                "metadata": {"name": "p", "uid": "p"}, "spec": {"containers": []},
                "status": {"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]},
            });
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let mut present = present(Some("Unknown"), &json!([]));
        present.all_unready = true;
        present.pods = vec![
            pod("True", "1970-01-01T00:00:05Z"),
            pod("False", "1970-01-01T00:00:05Z"),
            pod("True", "1970-01-01T00:00:15Z"),
        ];
        assert_eq!(unready_pods(&present, at(20)).len(), 2);
    }

    #[test]
    fn events_of_coming_and_going() {
        let mut present = present(Some("True"), &json!([]));
        present.is_new = true;
        for (snapshot, message) in [
            (
                Snapshot::Present(Box::new(present)),
                "Node n event: Registered Node n in Controller",
            ),
            (
                Snapshot::Removed {
                    name: "n".into(),
                    uid: "u".into(),
                },
                "Node n event: Removing Node n from Controller",
            ),
        ] {
            let plan = reconcile(&snapshot, at(1));
            assert!(matches!(&plan.actions[..], [Action::Event(note)] if note.message == message));
        }
    }
}
