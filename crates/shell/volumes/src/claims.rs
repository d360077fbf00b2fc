//! From a pod's claim to its volume: read from the API, with the checks that upstream's kubelet makes and in its words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use trireme_api::fit::{Requirement, term_matches};
use trireme_client::Client;
use trireme_pod::spec;

use crate::VolumeError;

/// Keeps a claim that is being deleted while pods use it.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// Name of the claim that a volume of a pod stands for; one that is the pod's own as a second member.
pub(crate) fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some((source.claim_name.clone(), false)),
        (None, Some(_)) => Some((format!("{}-{}", spec::name(pod), volume.name), true)),
        (None, None) => None,
    }
}

/// The volume behind a claim, checked.
///
/// # Errors
/// In upstream's words, as long as the pod has to wait for it.
pub(crate) async fn resolve(client: &Client, pod: &Pod, volume: &Volume) -> Result<PersistentVolume, VolumeError> {
    let Some((name, own)) = claim_of(pod, volume) else {
        return Err(VolumeError::SetUp {
            volume: volume.name.clone(),
            why: "no volume plugin matched".into(),
        });
    };
    let namespace = spec::namespace(pod);
    let failed = |why: String| VolumeError::Claim {
        volume: volume.name.clone(),
        why: format!("error processing PVC {namespace}/{name}: {why}"),
    };
    let claim = client.get::<PersistentVolumeClaim>(namespace, &name).await;
    let claim = claim.map_err(|status| failed(format!("failed to fetch PVC from API server: {}", status.message)))?;
    let bound = check_claim(&claim).map_err(|why| failed(why.to_owned()))?;
    if own && !is_for(pod, &claim) {
        let why = format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
            spec::name(pod)
        );
        return Err(VolumeError::Claim {
            volume: volume.name.clone(),
            why,
        });
    }
    let found = client.get::<PersistentVolume>("", bound).await;
    let found = found.map_err(|status| failed(format!("failed to fetch PV {bound} from API server: {}", status.message)))?;
    check_volume(&found, &claim).map_err(failed)?;
    check_mode(pod, volume, &found).map_err(|why| VolumeError::Claim {
        volume: volume.name.clone(),
        why,
    })?;
    let node = spec::of(pod).node_name.as_deref().unwrap_or_default();
    check_affinity(client, &found, node).await?;
    let options = found.spec.as_ref().and_then(|spec| spec.mount_options.as_ref());
    if options.is_some_and(|options| !options.is_empty()) {
        return Err(VolumeError::Check {
            check: "MountOptionSupport",
            volume: found.metadata.name.clone().unwrap_or_default(),
            why: "Mount options are not supported for this volume type".into(),
        });
    }
    Ok((*found).clone())
}

/// The name of the volume that a claim is bound to.
fn check_claim(claim: &PersistentVolumeClaim) -> Result<&str, &'static str> {
    let protected = claim.metadata.finalizers.iter().flatten().any(|name| name == PROTECTION);
    if claim.metadata.deletion_timestamp.is_some() && !protected {
        return Err("PVC is being deleted");
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound");
    }
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    name.filter(|name| !name.is_empty())
        .ok_or("PVC has empty pvc.Spec.VolumeName")
}

fn is_for(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.any(|owner| owner.uid == spec::uid(pod))
}

/// Whether the volume says the same of the claim.
fn check_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    if reference.uid != claim.metadata.uid {
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {} does not point to claim.UID {}",
            reference.uid.as_deref().unwrap_or_default(),
            claim.metadata.uid.as_deref().unwrap_or_default(),
        ));
    }
    Ok(())
}

/// Whether the containers use it as what it is: a file system, or a device.
fn check_mode(pod: &Pod, volume: &Volume, found: &PersistentVolume) -> Result<(), String> {
    let mode = found.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let mode = mode.unwrap_or("Filesystem");
    let spec = spec::of(pod);
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let mounted = containers().any(|container| {
        container
            .volume_mounts
            .iter()
            .flatten()
            .any(|mount| mount.name == volume.name)
    });
    let used_as_device = containers().any(|container| {
        let mut devices = container.volume_devices.iter().flatten();
        devices.any(|device| device.name == volume.name)
    });
    let unlike = |field: &str| format!("volume {} has volumeMode {mode}, but is specified in {field}", volume.name);
    if mounted && mode != "Filesystem" {
        return Err(unlike("volumeMounts"));
    }
    if used_as_device && mode != "Block" {
        return Err(unlike("volumeDevices"));
    }
    if mode == "Block" {
        return Err(format!(
            "volume {} has volumeMode Block, which this node cannot give to containers yet",
            volume.name
        ));
    }
    Ok(())
}

async fn check_affinity(client: &Client, volume: &PersistentVolume, node: &str) -> Result<(), VolumeError> {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else {
        return Ok(());
    };
    let failed = |why: String| VolumeError::Check {
        check: "NodeAffinity",
        volume: volume.metadata.name.clone().unwrap_or_default(),
        why,
    };
    let node = client.get::<Node>("", node).await.map_err(|status| failed(status.message))?;
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let reached = required.node_selector_terms.iter().any(|term| {
        let of = |list: &Option<Vec<k8s_openapi::api::core::v1::NodeSelectorRequirement>>| -> Vec<_> {
            list.iter().flatten().cloned().collect()
        };
        let (expressions, fields) = (of(&term.match_expressions), of(&term.match_fields));
        reaches(&expressions, &fields, &labels)
    });
    if reached {
        Ok(())
    } else {
        Err(failed("no matching NodeSelectorTerms".into()))
    }
}

fn reaches(
    expressions: &[k8s_openapi::api::core::v1::NodeSelectorRequirement],
    fields: &[k8s_openapi::api::core::v1::NodeSelectorRequirement],
    labels: &BTreeMap<String, String>,
) -> bool {
    term_matches(
        expressions
            .iter()
            .map(|one| Requirement::of(&one.key, &one.operator, &one.values)),
        fields.iter().map(|one| Requirement::of(&one.key, &one.operator, &one.values)),
        "",
        |key| labels.get(key).map(String::as_str),
    )
}

/// Why a kind of volume cannot be had on this node.
pub(crate) fn unsupported(volume: &PersistentVolume) -> String {
    let Some(spec) = &volume.spec else {
        return "no volume plugin matched".into();
    };
    if let Some(csi) = &spec.csi {
        return format!(
            "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: driver name {} not found in the list of registered CSI drivers",
            csi.driver
        );
    }
    if let Some(nfs) = &spec.nfs {
        return format!("NFS volumes are not supported by this node yet ({}:{})", nfs.server, nfs.path);
    }
    "no volume plugin matched".into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_claim_must_be_bound() {
        let check = |metadata: Value, volume: &str, phase: &str| {
            let claim: PersistentVolumeClaim =
                typed(json!({"metadata": metadata, "spec": {"volumeName": volume}, "status": {"phase": phase}}));
            check_claim(&claim).map(str::to_owned)
        };
        assert_eq!(check(json!({}), "v", "Bound"), Ok("v".into()));
        assert_eq!(check(json!({}), "v", "Pending"), Err("PVC is not bound"));
        assert_eq!(check(json!({}), "", "Bound"), Err("PVC has empty pvc.Spec.VolumeName"));
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(check(going.clone(), "v", "Bound"), Err("PVC is being deleted"));
        let mut held = going;
        held["finalizers"] = json!([PROTECTION]);
        assert!(check(held, "v", "Bound").is_ok());
    }

    #[test]
    fn the_volume_must_say_the_same() {
        let claim: PersistentVolumeClaim = typed(json!({"metadata": {"uid": "u"}}));
        let check = |spec: Value| check_volume(&typed(json!({"metadata": {"name": "v"}, "spec": spec})), &claim);
        assert_eq!(check(json!({"claimRef": {"uid": "u"}})), Ok(()));
        assert!(check(json!({})).unwrap_err().contains("not yet bound to the claim"));
        assert_eq!(
            check(json!({"claimRef": {"uid": "w"}})).unwrap_err(),
            "found PV object v but its pv.Spec.ClaimRef.UID w does not point to claim.UID u"
        );
    }

    #[test]
    fn a_volume_is_used_as_what_it_is() {
        let check = |mode: &str, container: Value| {
            let mut container = container;
            container["name"] = "c".into();
            let pod: Pod = typed(json!({"spec": {"containers": [container], "volumes": [{"name": "data"}]}}));
            let volume: Volume = typed(json!({"name": "data"}));
            check_mode(&pod, &volume, &typed(json!({"spec": {"volumeMode": mode}})))
        };
        let (mounts, devices) = (
            json!({"volumeMounts": [{"name": "data", "mountPath": "/d"}]}),
            json!({"volumeDevices": [{"name": "data", "devicePath": "/d"}]}),
        );
        assert_eq!(check("Filesystem", mounts.clone()), Ok(()));
        assert_eq!(
            check("Block", mounts).unwrap_err(),
            "volume data has volumeMode Block, but is specified in volumeMounts"
        );
        assert_eq!(
            check("Filesystem", devices.clone()).unwrap_err(),
            "volume data has volumeMode Filesystem, but is specified in volumeDevices"
        );
        assert!(check("Block", devices).is_err());
    }
}
