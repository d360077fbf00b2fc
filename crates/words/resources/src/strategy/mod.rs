//! What clients may not set, and what the server sets instead.
//!
//! Invariant: functions here never refuse anything: they bring an object into the shape in which it is validated and
//! stored. They expect canonical values (`trireme_api::decode`). Order of a write: decode, defaults, [`normalize`],
//! `apply::update_managers`, mutating admission, `prepare_create` or `prepare_update`, validation: what the server sets
//! in the later steps has no owner.

mod gates;
mod kinds;
mod normal;
mod qos;
mod rules;

use serde_json::{Map, Value};
use trireme_api::path;

use crate::apply::blank;
use crate::rows::Resource;

pub use gates::pod_spec_of;
pub use kinds::{app_armor_annotation, app_armor_profile, fill_stored, set_requester, share_labels, shares_labels};
pub use normal::{hide_twins, normalize};
pub use qos::pod_qos;
pub use rules::{allow_create_on_update, allow_unconditional_update, reset_fields, status_apply_creates};

/// Takes out of an object to create what only the server says: uid, times of creation and deletion. The first thing after
/// decoding; the uid and the time of creation are set then.
pub fn wipe_system_fields(value: &mut Value) {
    let Some(Value::Object(meta)) = value.get_mut("metadata") else {
        return;
    };
    for name in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
    ] {
        meta.remove(name);
    }
}

/// Prepares an object for creation. Its name and uid are already set; `now` is RFC 3339 in seconds. What the client is
/// warned of comes back.
pub fn prepare_create(row: &Resource, value: &mut Value, now: &str) -> Vec<String> {
    if row.is_custom() {
        if row.has_status() {
            put(value, "status", None);
        }
        path::set(value, &["metadata", "generation"], 1);
        return Vec::new();
    }
    normalize(row, value);
    // A node comes with the status that its kubelet found; a pod's begins by what is peculiar to pods.
    if rules::clears_status(row) && !matches!((row.group, row.plural), ("", "nodes" | "pods")) {
        put(value, "status", blank(row).get("status"));
    }
    if !matches!(rules::generation(row), None | Some(rules::Generation::SpecLater)) {
        path::set(value, &["metadata", "generation"], 1);
    }
    gates::drop_disabled(row, value, None);
    kinds::create(row, value, now)
}

/// Prepares an object that replaces `old`. `subresource` says through which door it comes; `now` is RFC 3339; `same_spec` whether
/// the specs are known to be the same or not, and nothing is put into them here.
pub fn prepare_update(
    row: &Resource,
    new: &mut Value,
    old: &Value,
    subresource: Option<&str>,
    now: &str,
    same_spec: Option<bool>,
) {
    if row.is_custom() {
        update_custom(row, new, old, subresource);
        return;
    }
    normalize(row, new);
    copy(new, old, &["metadata", "generation"]);
    match subresource {
        None | Some("scale") => {
            if rules::clears_status(row) {
                put(new, "status", old.get("status"));
            }
            let early = rules::counts_dropped(row);
            if early {
                bump_generation(row, new, old, same_spec);
            }
            gates::drop_disabled(row, new, Some(old));
            kinds::update(row, new, old, now);
            if !early {
                bump_generation(row, new, old, same_spec);
            }
        }
        Some("status") => {
            put(new, "spec", old.get("spec"));
            if rules::status_keeps_metadata(row) {
                keep_metadata(new, old);
            }
            gates::drop_disabled_status(row, new, Some(old));
            kinds::update_status(row, new, old, now);
        }
        Some(other) => {
            kinds::update_subresource(row, new, old, other, now);
            bump_generation(row, new, old, same_spec);
        }
    }
    keep_identity(new, old);
}

/// Of a custom resource the status alone is apart from the rest, where it is a subresource; and then nothing but it is changed
/// through it.
fn update_custom(row: &Resource, new: &mut Value, old: &Value, subresource: Option<&str>) {
    if subresource == Some("status") {
        let status = new.get("status").cloned();
        let managers = path::get(new, &["metadata", "managedFields"]).cloned();
        *new = old.clone();
        match managers {
            Some(managers) => path::set(new, &["metadata", "managedFields"], managers),
            None => drop(path::remove(new, &["metadata", "managedFields"])),
        }
        put(new, "status", status.as_ref());
        return;
    }
    copy(new, old, &["metadata", "generation"]);
    if row.has_status() {
        put(new, "status", old.get("status"));
    }
    bump_generation(row, new, old, None);
    keep_identity(new, old);
}

fn keep_identity(new: &mut Value, old: &Value) {
    if path::str(new, &["metadata", "uid"]).is_empty() {
        copy(new, old, &["metadata", "uid"]);
    }
    for name in ["creationTimestamp", "deletionTimestamp"] {
        if path::get(old, &["metadata", name]).is_some_and(|time| !time.is_null()) {
            copy(new, old, &["metadata", name]);
        }
    }
    let grace = ["metadata", "deletionGracePeriodSeconds"];
    if path::get(new, &grace).is_none() {
        copy(new, old, &grace);
    }
}

/// The status door of some kinds leaves labels and the like alone.
fn keep_metadata(new: &mut Value, old: &Value) {
    for name in [
        "deletionTimestamp",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        copy(new, old, &["metadata", name]);
    }
}

fn bump_generation(row: &Resource, new: &mut Value, old: &Value, same_spec: Option<bool>) {
    let changed = match rules::generation(row) {
        None | Some(rules::Generation::CreateOnly) => false,
        Some(rules::Generation::Spec | rules::Generation::SpecLater) => {
            let same = || new.get("spec") == old.get("spec");
            debug_assert!(same_spec.is_none_or(|known| known == same()), "the specs were compared");
            !same_spec.unwrap_or_else(same)
        }
        Some(rules::Generation::Field(name)) => new.get(name) != old.get(name),
        Some(rules::Generation::SpecAndAnnotations) => {
            let annotations = |value| path::get(value, &["metadata", "annotations"]).cloned();
            new.get("spec") != old.get("spec") || annotations(new) != annotations(old)
        }
        Some(rules::Generation::AllButMetadata) => {
            let rest = |value: &Value| -> Map<String, Value> {
                let mut members = value.as_object().cloned().unwrap_or_default();
                for name in ["apiVersion", "kind", "metadata"] {
                    members.remove(name);
                }
                members
            };
            rest(new) != rest(old)
        }
        Some(rules::Generation::AllAndLabels) => {
            let rest = |value: &Value| -> Map<String, Value> {
                let mut members = value.as_object().cloned().unwrap_or_default();
                members.remove("metadata");
                members
            };
            let labels = |value| path::get(value, &["metadata", "labels"]).cloned();
            rest(new) != rest(old) || labels(new) != labels(old)
        }
    };
    if changed {
        let generation = path::i64(old, &["metadata", "generation"]).unwrap_or(0);
        path::set(new, &["metadata", "generation"], generation + 1);
    }
}

/// Sets a top-level member, or takes it out.
fn put(value: &mut Value, name: &str, new: Option<&Value>) {
    let Some(object) = value.as_object_mut() else { return };
    match new {
        Some(new) => object.insert(name.to_owned(), new.clone()),
        None => object.remove(name),
    };
}

/// Makes `new` at a path what `old` is there, absence included.
fn copy(new: &mut Value, old: &Value, at: &[&str]) {
    match path::get(old, at) {
        Some(value) => path::set(new, at, value.clone()),
        None => drop(path::remove(new, at)),
    }
}

#[cfg(test)]
mod tests;
