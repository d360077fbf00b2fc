//! A volume: available, or given back by its claim and reclaimed.

use jiff::Timestamp;
use serde_json::Value;
use trireme_api::volume::{Claim, Volume, annotation};

use super::{LOOK_AGAIN_AFTER, annotated, event, name, phase, uid, with_migration, with_phase};
use crate::plan::{Action, EventKind, Plan};

/// A volume and the claim that it is for.
#[derive(Clone, Debug)]
pub struct VolumeSnapshot {
    /// The volume, whole.
    pub volume: Value,
    /// The claim of the name that `spec.claimRef` gives. Absent, or of another uid, only if the API said so, and not some
    /// view of it that may be late: what follows is the end of the data.
    pub claim: Option<Value>,
}

/// Sets the phase of a volume that is not bound, and does with one that was what its policy says.
#[must_use]
pub fn reconcile(snapshot: &VolumeSnapshot, _now: Timestamp) -> Plan {
    let volume = &snapshot.volume;
    if let Some(object) = with_migration(volume, annotated(volume, annotation::PROVISIONED_BY)) {
        return plan([Action::Update { object }]);
    }
    let seen = Volume::read(volume);
    let Some(reference) = seen.claim.as_ref().filter(|reference| !reference.uid.is_empty()) else {
        // Nobody's, or kept for a claim that has not taken it yet.
        return plan(with_phase(volume, "Available", ""));
    };
    let Some(claim) = snapshot.claim.as_ref().filter(|claim| uid(claim) == reference.uid) else {
        return released(volume);
    };
    let bound_to = claim["spec"]["volumeName"].as_str().unwrap_or_default();
    if bound_to.is_empty() {
        return Plan {
            actions: unlike(volume, claim),
            requeue_after: Some(LOOK_AGAIN_AFTER),
        };
    }
    if bound_to == seen.name {
        // The claim's own reconciler writes the rest.
        return Plan::default();
    }
    // Its claim has another volume.
    if annotated(volume, annotation::PROVISIONED_BY).is_some() && policy(volume) == "Delete" {
        return released(volume);
    }
    plan([Action::Update { object: unbound(volume) }])
}

fn plan(actions: impl IntoIterator<Item = Action>) -> Plan {
    Plan {
        actions: actions.into_iter().collect(),
        requeue_after: None,
    }
}

fn policy(volume: &Value) -> &str {
    volume["spec"]["persistentVolumeReclaimPolicy"].as_str().unwrap_or_default()
}

/// Says on both sides that one is a device and the other is none: the claim's search passes over such a volume silently.
fn unlike(volume: &Value, claim: &Value) -> Vec<Action> {
    if Volume::read(volume).block == Claim::read(claim).block {
        return Vec::new();
    }
    let own = format!(
        "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" due to incompatible volumeMode.",
        name(claim)
    );
    let theirs = format!(
        "Cannot bind PersistentVolume \"{}\" to requested PersistentVolumeClaim due to incompatible volumeMode.",
        name(volume)
    );
    vec![
        Action::Event(event(volume, EventKind::Warning, "VolumeMismatch", own)),
        Action::Event(event(claim, EventKind::Warning, "VolumeMismatch", theirs)),
    ]
}

/// The volume without its claim; one that a user meant for the claim's name stays meant for it.
fn unbound(volume: &Value) -> Value {
    let mut object = volume.clone();
    if annotated(volume, annotation::BOUND_BY_CONTROLLER).is_some() {
        object["spec"].as_object_mut().map(|spec| spec.remove("claimRef"));
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
            annotations.remove(annotation::BOUND_BY_CONTROLLER);
        }
    } else {
        object["spec"]["claimRef"]["uid"] = "".into();
    }
    object
}

/// Its claim is gone.
fn released(volume: &Value) -> Plan {
    if !matches!(phase(volume), "Released" | "Failed") {
        return plan(with_phase(volume, "Released", ""));
    }
    if annotated(volume, annotation::MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return Plan::default();
    }
    let (reason, message) = match policy(volume) {
        "Retain" => return Plan::default(),
        // Upstream's recyclers wipe what any pod of the cluster may have linked elsewhere; none is built.
        "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        "Delete" => match undeletable(volume) {
            None => return Plan::default(),
            Some(why) => ("VolumeFailedDelete", why),
        },
        _ => (
            "VolumeUnknownReclaimPolicy",
            "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned(),
        ),
    };
    let failed = with_phase(volume, "Failed", &message);
    plan(failed.map(|action| Action::Told {
        action: Box::new(action),
        done: Some(event(volume, EventKind::Warning, reason, message)),
        failed: None,
    }))
}

/// Why nobody will delete it: none of the built-in kinds can be deleted, and a provisioner is not to be expected.
fn undeletable(volume: &Value) -> Option<String> {
    match annotated(volume, annotation::PROVISIONED_BY) {
        Some(plugin) if !plugin.is_empty() && !plugin.starts_with("kubernetes.io/") => return None,
        Some(plugin) if !plugin.is_empty() => return Some(format!("no volume plugin matched name: {plugin}")),
        _ => {}
    }
    if volume["spec"]["csi"].is_object() {
        return None;
    }
    Some(format!(
        "error getting deleter volume plugin for volume \"{}\": no deletable volume plugin matched",
        name(volume)
    ))
}
