//! The cells of volumes, claims and their kin.
//!
//! Invariant: objects are in their stored version; a missing field reads as its zero value.

use serde_json::Value;
use trireme_api::path;

use super::view::{View, joined};
use super::words::{access_modes, or_none};
use crate::rows::Resource;

pub(super) fn storage(row: &Resource, v: &View<'_>) -> Option<Vec<Value>> {
    let beta_class = |v: &View<'_>| match v.str(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
        "" => v.text(&["spec", "storageClassName"]),
        class => Value::from(class),
    };
    Some(match (row.group, row.plural) {
        ("", "persistentvolumes") => {
            let claim = v.get(&["spec", "claimRef"]).map_or(String::new(), |claim| {
                format!("{}/{}", path::str(claim, &["namespace"]), path::str(claim, &["name"]))
            });
            vec![
                v.name(),
                v.or(&["spec", "capacity", "storage"], "0"),
                Value::from(access_modes(v.list(&["spec", "accessModes"]))),
                v.text(&["spec", "persistentVolumeReclaimPolicy"]),
                v.phase(),
                Value::from(claim),
                beta_class(v),
                v.or(&["spec", "volumeAttributesClassName"], "<unset>"),
                v.text(&["status", "reason"]),
                v.age(),
                v.or(&["spec", "volumeMode"], "<unset>"),
            ]
        }
        ("", "persistentvolumeclaims") => {
            let bound = !v.str(&["spec", "volumeName"]).is_empty();
            let capacity = if bound {
                v.or(&["status", "capacity", "storage"], "0")
            } else {
                Value::from("")
            };
            let modes = if bound {
                access_modes(v.list(&["status", "accessModes"]))
            } else {
                String::new()
            };
            vec![
                v.name(),
                v.phase(),
                v.text(&["spec", "volumeName"]),
                capacity,
                Value::from(modes),
                beta_class(v),
                v.or(&["spec", "volumeAttributesClassName"], "<unset>"),
                v.age(),
                v.or(&["spec", "volumeMode"], "<unset>"),
            ]
        }
        ("storage.k8s.io", "storageclasses") => vec![
            v.default_class(&[
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ]),
            v.text(&["provisioner"]),
            v.or(&["reclaimPolicy"], "Delete"),
            v.or(&["volumeBindingMode"], "Immediate"),
            v.flag(&["allowVolumeExpansion"], false),
            v.age(),
        ],
        ("storage.k8s.io", "volumeattributesclasses") => vec![v.name(), v.text(&["driverName"]), v.age()],
        ("storage.k8s.io", "volumeattachments") => vec![
            v.name(),
            v.text(&["spec", "attacher"]),
            v.text(&["spec", "source", "persistentVolumeName"]),
            v.text(&["spec", "nodeName"]),
            v.flag(&["status", "attached"], false),
            v.age(),
        ],
        ("storage.k8s.io", "csinodes") => vec![v.name(), Value::from(v.len(&["spec", "drivers"])), v.age()],
        ("storage.k8s.io", "csidrivers") => {
            let tokens = match v.get(&["spec", "tokenRequests"]) {
                Some(Value::Array(requests)) => requests
                    .iter()
                    .map(|request| path::str(request, &["audience"]))
                    .collect::<Vec<_>>()
                    .join(","),
                _ => "<unset>".to_owned(),
            };
            vec![
                v.name(),
                v.flag(&["spec", "attachRequired"], true),
                v.flag(&["spec", "podInfoOnMount"], false),
                v.flag(&["spec", "storageCapacity"], false),
                Value::from(tokens),
                v.flag(&["spec", "requiresRepublish"], false),
                Value::from(or_none(&joined(v.list(&["spec", "volumeLifecycleModes"]), ","))),
                v.age(),
            ]
        }
        _ => return None,
    })
}
