//! Storage that is in use stays: a deleted claim, volume or class of attributes goes when nobody uses it any more
//! (pkg/controller/volume/{pvcprotection,pvprotection,vacprotection}).
//!
//! Invariant: the finalizer is taken away only from what is being deleted, and only onto the version that was looked at.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use crate::ownership::controller_of;
use crate::plan::{Action, Plan};

/// What is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A claim, used by pods that have a node.
    Claim,
    /// A volume, used while it is bound.
    Volume,
    /// A class of volume attributes, used by claims and volumes.
    Class,
}

impl Kind {
    fn finalizer(self) -> &'static str {
        match self {
            Self::Claim => "kubernetes.io/pvc-protection",
            Self::Volume => "kubernetes.io/pv-protection",
            Self::Class => "kubernetes.io/vac-protection",
        }
    }
}

/// One object and whether somebody uses it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What it is.
    pub kind: Kind,
    /// The whole of it: the roles of these controllers have `update`, not `patch`.
    pub object: Value,
    /// Whether it is used.
    pub in_use: bool,
}

/// Whether a pod uses a claim. One without a node cannot start any more, so it does not count.
#[must_use]
pub fn uses_claim(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = pod
        .spec
        .as_ref()
        .filter(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()))
    else {
        return false;
    };
    let wanted = claim.metadata.name.as_deref().unwrap_or_default();
    let made_for = controller_of(&claim.metadata).is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    spec.volumes.iter().flatten().any(|volume| {
        let named = volume
            .persistent_volume_claim
            .as_ref()
            .is_some_and(|source| source.claim_name == wanted);
        named || (volume.ephemeral.is_some() && made_for && format!("{pod_name}-{}", volume.name) == wanted)
    })
}

/// Whether a volume is bound.
#[must_use]
pub fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Whether a claim has, or is getting, that class of attributes.
#[must_use]
pub fn claim_has_class(claim: &PersistentVolumeClaim, class: &str) -> bool {
    let wanted = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let modifying = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = modifying.and_then(|status| status.target_volume_attributes_class_name.as_deref());
    [wanted, current, target].contains(&Some(class))
}

/// Whether a volume has that class of attributes.
#[must_use]
pub fn volume_has_class(volume: &PersistentVolume, class: &str) -> bool {
    volume
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_attributes_class_name.as_deref())
        == Some(class)
}

/// Takes the finalizer from what goes unused, and gives it to what was made without.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let finalizer = snapshot.kind.finalizer();
    let metadata = &snapshot.object["metadata"];
    let held = metadata["finalizers"].as_array().cloned().unwrap_or_default();
    let protected = held.iter().any(|name| name == finalizer);
    let deleting = metadata["deletionTimestamp"].is_string();
    let wanted: Vec<Value> = match (deleting, protected) {
        (true, true) if !snapshot.in_use => held.into_iter().filter(|name| name != finalizer).collect(),
        (false, false) => held.into_iter().chain([json!(finalizer)]).collect(),
        _ => return Plan::default(),
    };
    let mut object = snapshot.object.clone();
    object["metadata"]["finalizers"] = json!(wanted);
    Plan {
        actions: vec![Action::Update { object }],
        requeue_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finalizers(deleting: bool, held: &[&str], in_use: bool) -> Option<Value> {
        let mut metadata = json!({"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "7", "finalizers": held});
        if deleting {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {"a": 1}});
        let kind = Kind::Claim;
        let plan = reconcile(&Snapshot { kind, object, in_use }, Timestamp::UNIX_EPOCH);
        plan.actions.into_iter().next().map(|action| match action {
            Action::Update { object } => {
                let metadata = &object["metadata"];
                assert_eq!((&metadata["uid"], &metadata["resourceVersion"]), (&json!("u"), &json!("7")));
                assert_eq!(object["spec"]["a"], 1);
                metadata["finalizers"].clone()
            }
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn only_what_goes_unused_loses_its_finalizer() {
        let own = "kubernetes.io/pvc-protection";
        for (deleting, held, in_use, wanted) in [
            (false, vec![own], false, None),
            (false, vec!["x"], true, Some(json!(["x", own]))),
            (true, vec!["x", own], true, None),
            (true, vec!["x", own], false, Some(json!(["x"]))),
            (true, vec!["x"], false, None),
        ] {
            assert_eq!(finalizers(deleting, &held, in_use), wanted);
        }
    }

    #[test]
    fn a_pod_with_a_node_uses_its_claims() {
        let claim = |name: &str, owner: &str| -> PersistentVolumeClaim {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true});
            serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": [owner]}})).unwrap()
        };
        let pod = |node: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": node, "containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "b", "ephemeral": {}}]}}),
            )
            .unwrap()
        };
        assert!(uses_claim(&pod("n"), &claim("c", "x")));
        assert!(!uses_claim(&pod(""), &claim("c", "x")));
        assert!(uses_claim(&pod("n"), &claim("p-b", "u")));
        assert!(!uses_claim(&pod("n"), &claim("p-b", "x")));
    }

    #[test]
    fn classes_are_used_by_claims_that_have_or_get_them() {
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {}, "spec": {"volumeAttributesClassName": "a"},
            "status": {"currentVolumeAttributesClassName": "b"}}))
            .unwrap();
        assert!(claim_has_class(&claim, "a") && claim_has_class(&claim, "b") && !claim_has_class(&claim, "c"));
    }
}
