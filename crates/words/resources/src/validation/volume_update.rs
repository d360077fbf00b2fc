//! What may not change about a persistent volume (pkg/apis/core/validation).
//!
//! Invariant: an update is first checked as a whole, as if it were a creation.

use serde_json::Value;

use super::errors::Errors;
use super::node::{IMMUTABLE, Node, same};
use super::{diff, show, storage};

/// A change of a persistent volume.
pub(super) fn update(errors: &mut Errors, root: &Node<'_>, old: &Node<'_>) {
    storage::volume(errors, root);
    let (spec, before) = (root.at("spec"), old.at("spec"));
    let sources = |spec: &Node<'_>| -> Value {
        let names = storage::SOURCES.iter().map(|(name, ..)| *name).filter(|name| spec.has(name));
        names.map(|name| (name.to_owned(), spec.at(name).value.clone())).collect()
    };
    let (mut new, was) = (sources(&spec), sources(&before));
    if before.has("csi")
        && !before.at("csi").has("controllerExpandSecretRef")
        && let Some(Value::Object(csi)) = new.get_mut("csi")
    {
        csi.remove("controllerExpandSecretRef");
    }
    if new != was {
        let was = diff::as_stored("api/core/v1", "PersistentVolumeSource", &was);
        let text = diff::unified("api/core/v1", "PersistentVolumeSource", &was, &new);
        errors.push(
            spec.child("persistentvolumesource")
                .forbidden(format!("spec.persistentvolumesource is immutable after creation\n{text}")),
        );
    }
    spec.at("volumeMode")
        .moved("volumeMode")
        .immutable(errors, &before.at("volumeMode"));
    if before.has("nodeAffinity") && !same(spec.at("nodeAffinity").value, &relabelled(&before, &spec)) {
        let shown = show::internal("api/core/v1", "VolumeNodeAffinity", spec.at("nodeAffinity").value);
        errors.push(
            spec.at("nodeAffinity")
                .moved("nodeAffinity")
                .invalid_as(shown, format!("{IMMUTABLE}, except for updating from beta label to GA")),
        );
    }
    if before.has("volumeAttributesClassName") && !spec.has("volumeAttributesClassName") {
        errors.push(
            spec.at("volumeAttributesClassName")
                .forbidden("update from non-nil value to nil is forbidden"),
        );
    }
}

/// The affinity before, where a requirement may have been given the new name of its label. Upstream looks the new name up in
/// a map, in which a label without one has an empty name: so a key may be emptied, too, which is refused for other reasons.
fn relabelled(before: &Node<'_>, new: &Node<'_>) -> Value {
    const LABELS: &[(&str, &str)] = &[
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ];
    let mut affinity = before.at("nodeAffinity").value.clone();
    let terms = affinity
        .pointer_mut("/required/nodeSelectorTerms")
        .and_then(Value::as_array_mut);
    let new_terms = new.get("nodeAffinity.required.nodeSelectorTerms");
    for (index, term) in terms.into_iter().flatten().enumerate() {
        for list in ["matchExpressions", "matchFields"] {
            let others = new_terms.index(index).at(list);
            let requirements = term.get_mut(list).and_then(Value::as_array_mut);
            for (index, requirement) in requirements.into_iter().flatten().enumerate() {
                let (key, wanted) = (requirement["key"].as_str().unwrap_or_default(), others.index(index));
                let renamed = LABELS.iter().find(|(old, _)| *old == key).map_or("", |(_, new)| new);
                let Some(members) = requirement.as_object_mut().filter(|_| wanted.text("key") == renamed) else {
                    continue;
                };
                match wanted.value.get("key") {
                    Some(key) => drop(members.insert("key".to_owned(), key.clone())),
                    None => drop(members.remove("key")),
                }
            }
        }
    }
    affinity
}
