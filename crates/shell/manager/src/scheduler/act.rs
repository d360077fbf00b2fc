//! What the scheduler writes: bindings, conditions, nominations and evictions by preemption.
//!
//! Invariant: a write names the UID that was decided about.

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trireme_api::{Object, Status};
use trireme_client::{Client, DeleteOptions, EventRecorder, EventType, Patch, Regarding};
use trireme_scheduling::PodRecord;

pub(super) fn regarding(pod: &PodRecord) -> Regarding {
    Regarding {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: pod.template.namespace.clone(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
        resource_version: pod.version.to_string(),
        ..Regarding::default()
    }
}

/// Binds a pod to a node and says so.
pub(super) async fn bind(client: &Client, events: &EventRecorder, pod: &PodRecord, node: &str) -> Result<(), Status> {
    let (namespace, name) = (pod.template.namespace.as_str(), &*pod.name);
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": &*pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    client.create_subresource::<Pod>(namespace, name, "binding", &body).await?;
    let message = format!("Successfully assigned {namespace}/{name} to {node}");
    events.record(regarding(pod), EventType::Normal, "Scheduled", message);
    Ok(())
}

/// Writes a patch of a pod's status; a pod that is gone is no error.
pub(super) async fn patch_status(client: &Client, pod: &PodRecord, patch: &Value) -> Result<(), Status> {
    let target = Client::target::<Pod>(&pod.template.namespace, &pod.name, Some("status"));
    let patch = Patch::Strategic(Bytes::from(patch.to_string()));
    match client.transport().patch(&target, &patch, &client.write_options()).await {
        Err(status) if !status.is_not_found() => Err(status),
        _ => Ok(()),
    }
}

/// The condition of a type that an object has.
fn condition(object: &Object, kind: &str) -> Option<Value> {
    let value: Value = serde_json::from_slice(object.bytes()).ok()?;
    let conditions = value["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind).cloned()
}

/// Reason of a pod that fits nowhere.
pub(super) const UNSCHEDULABLE: &str = "Unschedulable";
/// Reason of a pod that could not be bound.
pub(super) const ERROR: &str = "SchedulerError";

/// Why a pod has no node.
#[derive(Clone, Copy)]
pub(super) struct Condition<'a> {
    pub(super) reason: &'static str,
    pub(super) message: &'a str,
}

/// The patch that sets `PodScheduled` to False and the nomination, unless both are so already. `nominate` is the node to be
/// nominated, `Some(None)` where a nomination is to be taken back.
pub(super) fn refusal(
    pod: &PodRecord,
    object: &Object,
    Condition { reason, message }: Condition<'_>,
    nominate: Option<Option<&str>>,
    now: Timestamp,
) -> Option<Value> {
    let old = condition(object, "PodScheduled");
    let text = |field: &str| old.as_ref().and_then(|old| old[field].as_str()).unwrap_or_default();
    let same = text("status") == "False" && text("reason") == reason && text("message") == message;
    let nominate = nominate.filter(|node| *node != pod.nominated.as_deref());
    if same && nominate.is_none() {
        return None;
    }
    let since = text("lastTransitionTime");
    let since = match text("status") == "False" && !since.is_empty() {
        true => json!(since),
        false => json!(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now)),
    };
    let mut status = json!({"conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
        "lastTransitionTime": since,
        "observedGeneration": (pod.generation > 0).then_some(pod.generation),
    }]});
    if let Some(node) = nominate {
        status["nominatedNodeName"] = json!(node);
    }
    Some(json!({"metadata": {"uid": &*pod.uid}, "status": status}))
}

/// Takes a pod's nomination back.
pub(super) async fn clear_nomination(client: &Client, pod: &PodRecord) -> Result<(), Status> {
    let patch = json!({"metadata": {"uid": &*pod.uid}, "status": {"nominatedNodeName": null}});
    patch_status(client, pod, &patch).await
}

/// Removes a pod gracefully to make room for another one.
pub(super) async fn evict(
    client: &Client,
    events: &EventRecorder,
    victim: &PodRecord,
    (preemptor, node): (&PodRecord, &str),
    now: Timestamp,
) -> Result<(), Status> {
    let patch = json!({
        "metadata": {"uid": &*victim.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", preemptor.template.scheduler_name),
            "lastProbeTime": null,
            "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now),
            "observedGeneration": (victim.generation > 0).then_some(victim.generation),
        }]},
    });
    patch_status(client, victim, &patch).await?;
    let options = DeleteOptions {
        uid: Some(victim.uid.to_string()),
        ..DeleteOptions::default()
    };
    match client.delete::<Pod>(&victim.template.namespace, &victim.name, &options).await {
        // Another pod of that name is not the victim, which is gone.
        Err(status) if status.is_not_found() || status.is_conflict() => return Ok(()),
        Err(status) => return Err(status),
        Ok(_) => {}
    }
    let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
    events.record(regarding(victim), EventType::Normal, "Preempted", message);
    Ok(())
}
