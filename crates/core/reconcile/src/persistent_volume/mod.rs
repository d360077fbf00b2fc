//! Claims and volumes find each other (pkg/controller/volume/persistentvolume).
//!
//! The two sides of a binding are written in rounds, the specs first and then the status, the volume before the claim each
//! time, so that every write carries the version that was looked at; whatever was cut short goes on from what is there.
//! Phases `Bound` are the claim's to set, all other phases of a volume are the volume's: the two never race for one.
//! Invariant: a volume is released only if the snapshot's claim was read live ([`VolumeSnapshot::claim`]).

mod claim;
mod ephemeral;
mod expand;
mod volume;

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::{Value, json};
use trireme_api::volume::annotation;

pub use claim::{ClaimSnapshot, Class, default_class, reconcile as reconcile_claim};
pub use ephemeral::{EphemeralSnapshot, claim_name as ephemeral_claim_name, reconcile as reconcile_ephemeral};
pub use expand::{ExpandSnapshot, reconcile as reconcile_expand};
pub use volume::{VolumeSnapshot, reconcile as reconcile_volume};

use crate::plan::{Action, EventKind, EventNote, ObjectRef};

/// What a pending claim waits for is told again after this time, so that the event does not expire.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(300);
/// A volume whose claim has not been bound to it yet is looked at again after this time.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(15);

/// Built-in plugins whose work CSI drivers have taken over, and those drivers.
const MIGRATED: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

fn migrated(provisioner: &str) -> Option<&'static str> {
    MIGRATED
        .iter()
        .find(|(plugin, _)| *plugin == provisioner)
        .map(|(_, driver)| *driver)
}

fn annotated<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][name].as_str()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or_default()
}

fn event(object: &Value, kind: EventKind, reason: &str, message: String) -> EventNote {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    EventNote {
        regarding: ObjectRef {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: text(&object["metadata"]["namespace"]),
            name: name(object).to_owned(),
            uid: uid(object).to_owned(),
        },
        kind,
        reason: reason.to_owned(),
        message,
    }
}

fn set_annotation(object: &mut Value, key: &str, value: &str) {
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[key] = value.into();
}

/// The object with the note of which CSI driver has taken over from the plugin that it names, where that is not right yet.
fn with_migration(object: &Value, plugin: Option<&str>) -> Option<Value> {
    let wanted = migrated(plugin?);
    if annotated(object, annotation::MIGRATED_TO).unwrap_or_default() == wanted.unwrap_or_default() {
        return None;
    }
    let mut object = object.clone();
    match wanted {
        Some(driver) => set_annotation(&mut object, annotation::MIGRATED_TO, driver),
        None => {
            object["metadata"]["annotations"]
                .as_object_mut()
                .map(|annotations| annotations.remove(annotation::MIGRATED_TO));
        }
    }
    Some(object)
}

/// The volume with its phase, where it has another.
fn with_phase(volume: &Value, wanted: &str, message: &str) -> Option<Action> {
    if phase(volume) == wanted {
        return None;
    }
    let mut object = volume.clone();
    object["status"]["phase"] = wanted.into();
    if message.is_empty() {
        object["status"].as_object_mut().map(|status| status.remove("message"));
    } else {
        object["status"]["message"] = message.into();
    }
    Some(Action::UpdateStatus { object })
}
