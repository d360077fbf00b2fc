//! Pods that nobody else would remove: those of nodes that are gone, those deleted before they were placed, those that
//! finished beyond a threshold, and those stuck on nodes declared out of service.
//!
//! Invariant: a pod still said to run is marked Failed before it goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::ownership::object_ref;
use crate::plan::{Action, Plan};
use crate::pods::is_finished;

/// How many finished pods may stay.
pub const TERMINATED_MAX: usize = 12_500;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// All pods and what is known of their nodes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All pods.
    pub pods: Vec<Arc<Pod>>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Nodes that were missing for the quarantine time and that the API, asked for them, does not have.
    pub nodes_gone: BTreeSet<String>,
    /// How many finished pods may stay.
    pub terminated_max: usize,
}

/// Removes what nobody else would.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let out_of_service: BTreeSet<_> = snapshot
        .nodes
        .iter()
        .filter(|node| !is_ready(node) && has_taint(node, OUT_OF_SERVICE))
        .filter_map(|node| node.metadata.name.as_deref())
        .collect();
    for pod in &snapshot.pods {
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or_default();
        let deleting = pod.metadata.deletion_timestamp.is_some();
        if snapshot.nodes_gone.contains(node) {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": Time(now),
                "observedGeneration": pod.metadata.generation,
            });
            remove(&mut plan, pod, Some(condition));
        } else if deleting && (node.is_empty() || out_of_service.contains(node)) {
            remove(&mut plan, pod, None);
        }
    }
    let mut finished: Vec<_> = snapshot.pods.iter().filter(|pod| is_finished(pod)).collect();
    if finished.len() > snapshot.terminated_max {
        finished.sort_by_key(|pod| {
            let evicted = pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
            (!evicted, pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone())
        });
        let extra = finished.len() - snapshot.terminated_max;
        for pod in &finished[..extra] {
            remove(&mut plan, pod, None);
        }
    }
    plan
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn has_taint(node: &Node, key: &str) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == key)
}

fn remove(plan: &mut Plan, pod: &Pod, condition: Option<Value>) {
    let target = object_ref("v1", "Pod", &pod.metadata);
    if !is_finished(pod) {
        let mut status = json!({"phase": "Failed", "observedGeneration": pod.metadata.generation});
        if let Some(condition) = condition {
            status["conditions"] = with_condition(pod, condition);
        }
        plan.actions.push(Action::Patch {
            target: target.clone(),
            subresource: Some("status"),
            patch: json!({"metadata": {"uid": target.uid}, "status": status}),
        });
    }
    plan.actions.push(Action::Delete {
        target,
        grace_period_seconds: Some(0),
        propagation: None,
    });
}

/// The pod's conditions with one of them set.
pub(crate) fn with_condition(pod: &Pod, condition: Value) -> Value {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut all = match serde_json::to_value(conditions) {
        Ok(Value::Array(all)) => all,
        _ => Vec::new(),
    };
    match all.iter_mut().find(|old| old["type"] == condition["type"]) {
        Some(old) => *old = condition,
        None => all.push(condition),
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, deleting: bool) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": format!("2026-01-{:02}T00:00:00Z", name.len())},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn removes_orphans_strays_and_the_oldest_finished() {
        let snapshot = Snapshot {
            pods: vec![
                pod("orphan", "gone", "Running", false),
                pod("quarantined", "missing", "Running", false),
                pod("stray", "", "Pending", true),
                pod("pending", "", "Pending", false),
                pod("aaa", "n", "Succeeded", false),
                pod("a", "n", "Failed", false),
                pod("aa", "n", "Succeeded", false),
            ],
            nodes: Vec::new(),
            nodes_gone: BTreeSet::from(["gone".to_owned()]),
            terminated_max: 1,
        };
        let plan = reconcile(&snapshot, Timestamp::UNIX_EPOCH);
        let done: Vec<_> = plan
            .actions
            .iter()
            .map(|action| match action {
                Action::Delete { target, .. } => format!("delete {}", target.name),
                Action::Patch { target, patch, .. } => {
                    let conditions = patch["status"]["conditions"].as_array().map_or(0, Vec::len);
                    format!("{} {} {conditions}", target.name, patch["status"]["phase"])
                }
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            done,
            [
                "orphan \"Failed\" 2",
                "delete orphan",
                "stray \"Failed\" 0",
                "delete stray",
                "delete a",
                "delete aa"
            ]
        );
    }
}
