//! Claims of a pod's generic ephemeral volumes: made for the pod and owned by it (pkg/controller/volume/ephemeral).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use crate::ownership::{controller_of, object_ref};
use crate::plan::{Action, EventKind, EventNote, Plan};

/// A pod and the claims of its namespace that have the names of its ephemeral volumes' claims.
#[derive(Clone, Debug)]
pub struct EphemeralSnapshot {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Claims by name.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
}

/// Name of the claim of a pod's ephemeral volume.
#[must_use]
pub fn claim_name(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.metadata.name.as_deref().unwrap_or_default())
}

/// Makes the claims that are missing. A claim of such a name that is not the pod's is told of, and left alone.
#[must_use]
pub fn reconcile(snapshot: &EphemeralSnapshot, _now: Timestamp) -> Plan {
    let pod = &snapshot.pod;
    if pod.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let note = |volume: &str, why: String| EventNote {
        regarding: object_ref("v1", "Pod", &pod.metadata),
        kind: EventKind::Warning,
        reason: "FailedBinding".into(),
        message: format!("ephemeral volume {volume}: {why}"),
    };
    let mut actions = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(template) = volume
            .ephemeral
            .as_ref()
            .and_then(|source| source.volume_claim_template.as_ref())
        else {
            continue;
        };
        let name = claim_name(pod, &volume.name);
        if let Some(claim) = snapshot.claims.get(&name) {
            let owner = controller_of(&claim.metadata).map(|owner| owner.uid.as_str());
            if owner != pod.metadata.uid.as_deref() {
                let why = format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod_name} (pod is not owner)");
                actions.push(Action::Event(note(&volume.name, why)));
                break;
            }
            continue;
        }
        let metadata = template.metadata.as_ref();
        let mut object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace, "ownerReferences": [{"apiVersion": "v1", "kind": "Pod",
                "name": pod_name, "uid": pod.metadata.uid, "controller": true, "blockOwnerDeletion": true}]},
            "spec": serde_json::to_value(&template.spec).unwrap_or(Value::Null)});
        for (field, value) in [
            ("labels", metadata.and_then(|metadata| metadata.labels.as_ref())),
            ("annotations", metadata.and_then(|metadata| metadata.annotations.as_ref())),
        ] {
            if let Some(value) = value {
                object["metadata"][field] = json!(value);
            }
        }
        let failed = note(&volume.name, format!("create PVC {name}"));
        actions.push(Action::Told {
            action: Box::new(Action::Create {
                object,
                exists_is_done: false,
            }),
            done: None,
            failed: Some(failed),
        });
    }
    Plan {
        actions,
        requeue_after: None,
    }
}
