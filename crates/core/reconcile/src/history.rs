//! The history of what a workload was: one ControllerRevision per template, as StatefulSets and DaemonSets keep it
//! (pkg/controller/history/controller_history.go).
//!
//! A revision's `data` is the patch that brings the template back. Two revisions with equal data are one and the same
//! state, whatever their numbers; the highest number is the present one. Held by this file's tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::ownership::{self, Claim};
use crate::plan::Action;
use crate::replicaset::to_value;

/// The label of a revision that holds the hash of its data, where a StatefulSet made it.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// The label of a pod that tells its revision (of a StatefulSet by name, of a DaemonSet by hash); a DaemonSet's revisions
/// have it in place of [`HASH_LABEL`].
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// Longest part of a revision's name that is its owner's.
const PREFIX_MAX: usize = 223;

/// Whose history it is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Its metadata: name, namespace and the annotations that its revisions take over.
    pub metadata: &'a ObjectMeta,
    /// The controller reference on its revisions.
    pub reference: &'a OwnerReference,
    /// The label of its revisions that holds their hash.
    pub hash_label: &'static str,
}

/// A revision that is to be made, or that is there already with the same data.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The revision.
    pub revision: ControllerRevision,
    /// Whether one of that name and with that data is there.
    pub exists: bool,
    /// The collision count that its name came from: more than before if other data had the name.
    pub collision_count: i32,
}

/// The data of a revision: the patch that replaces a workload's template by this one.
#[must_use]
pub fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = to_value(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision brings back; nothing if its data holds none.
#[must_use]
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The hash of a revision's data and the count of collisions: 32 bits of FNV-1 over the JSON as Go writes it, in letters
/// that spell no word.
#[must_use]
pub fn hash(data: &Value, collision_count: Option<i32>) -> String {
    let mut text = String::new();
    write_as_go(data, &mut text);
    if let Some(count) = collision_count {
        text.push_str(&count.to_string());
    }
    spelled(fnv1(&text))
}

fn fnv1(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| {
        hash.wrapping_mul(0x0100_0193) ^ u32::from(byte)
    })
}

/// A number's digits as letters and digits that spell no word.
fn spelled(number: u32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let letter = |digit: u8| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]);
    number.to_string().bytes().map(letter).collect()
}

/// JSON with sorted keys and with `<`, `>`, `&` and two line separators escaped, as Go's encoder writes a map.
fn write_as_go(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            out.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_as_go(&Value::String(key.clone()), out);
                out.push(':');
                write_as_go(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_as_go(item, out);
            }
            out.push(']');
        }
        Value::String(_) => {
            for letter in value.to_string().chars() {
                match letter {
                    '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
                    other => out.push(other),
                }
            }
        }
        other => out.push_str(&other.to_string()),
    }
}

/// The name of a revision.
#[must_use]
pub fn name(owner: &str, hash: &str) -> String {
    let prefix: String = owner.chars().take(PREFIX_MAX).collect();
    format!("{prefix}-{hash}")
}

/// A revision of this number for a template. Its name is new: where one of the `present` revisions of the namespace has
/// it with other data, the collision count goes up until it is free.
#[must_use]
pub fn make(
    owner: Owner<'_>,
    template: &PodTemplateSpec,
    number: i64,
    collision_count: i32,
    present: &[Arc<ControllerRevision>],
) -> Made {
    let data = data_of(template);
    let owner_name = owner.metadata.name.as_deref().unwrap_or_default();
    let mut count = collision_count;
    loop {
        let hash = hash(&data, Some(count));
        let name = name(owner_name, &hash);
        match present.iter().find(|held| held.metadata.name.as_deref() == Some(&name)) {
            Some(held) if holds(held, &data) => {
                return Made {
                    revision: ControllerRevision::clone(held),
                    exists: true,
                    collision_count: count,
                };
            }
            Some(_) => count += 1,
            None => {
                let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
                let mut labels = labels.unwrap_or_default();
                labels.insert(owner.hash_label.into(), hash);
                let revision = ControllerRevision {
                    metadata: ObjectMeta {
                        name: Some(name),
                        namespace: owner.metadata.namespace.clone(),
                        labels: Some(labels),
                        annotations: owner.metadata.annotations.clone(),
                        owner_references: Some(vec![owner.reference.clone()]),
                        ..ObjectMeta::default()
                    },
                    data: Some(RawExtension(data)),
                    revision: number,
                };
                return Made {
                    revision,
                    exists: false,
                    collision_count: count,
                };
            }
        }
    }
}

/// The action that creates a revision.
#[must_use]
pub fn create(revision: &ControllerRevision) -> Action {
    Action::Create {
        object: to_value(revision),
        exists_is_done: false,
    }
}

/// Sorts by number, then by age, then by name: the last is the present one.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|left, right| {
        let key = |revision: &ControllerRevision| {
            let created = revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (revision.revision, created)
        };
        key(left)
            .cmp(&key(right))
            .then_with(|| left.metadata.name.cmp(&right.metadata.name))
    });
}

/// The number of the revision after all these, which are sorted.
#[must_use]
pub fn next(revisions: &[Arc<ControllerRevision>]) -> i64 {
    revisions.last().map_or(1, |last| last.revision + 1)
}

/// Of sorted revisions, those that hold this template, in their order.
#[must_use]
pub fn find_equal<'a>(revisions: &'a [Arc<ControllerRevision>], template: &PodTemplateSpec) -> Vec<&'a Arc<ControllerRevision>> {
    let data = data_of(template);
    revisions.iter().filter(|revision| holds(revision, &data)).collect()
}

fn holds(revision: &ControllerRevision, data: &Value) -> bool {
    revision.data.as_ref().is_some_and(|held| held.0 == *data)
}

/// Whether a revision means this template though it is written otherwise: with absent fields as null or empty.
#[must_use]
pub fn means(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    template_of(revision).is_some_and(|held| without_nothing(to_value(&held)) == without_nothing(to_value(template)))
}

/// Absent, null and empty are the same in a template.
pub(crate) fn without_nothing(value: Value) -> Value {
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(key, value)| (key, without_nothing(value)));
            Value::Object(kept.filter(|(_, value)| !is_nothing(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nothing).collect()),
        other => other,
    }
}

/// The revision with another number, and the action that writes it: how a rollback is told.
#[must_use]
pub fn renumber(revision: &ControllerRevision, number: i64) -> (ControllerRevision, Action) {
    let changed = ControllerRevision {
        revision: number,
        ..revision.clone()
    };
    let action = Action::Update {
        object: to_value(&changed),
    };
    (changed, action)
}

/// Decides about one revision: ours, to adopt, to release, or none of our business.
#[must_use]
pub fn claim(owner: &OwnerReference, owner_deleting: bool, revision: &ControllerRevision, matches: bool) -> Claim {
    let target = ownership::object_ref("apps/v1", "ControllerRevision", &revision.metadata);
    ownership::claim(owner, owner_deleting, &revision.metadata, matches, target)
}

/// The action that deletes a revision.
#[must_use]
pub fn delete(revision: &ControllerRevision) -> Action {
    Action::Delete {
        target: ownership::object_ref("apps/v1", "ControllerRevision", &revision.metadata),
        grace_period_seconds: None,
        propagation: None,
    }
}

/// Deletes the oldest of the sorted revisions that nobody needs, until no more than `limit` of those are left. `live` are
/// those that are needed, by name for a StatefulSet, by whatever `key` gives for others.
#[must_use]
pub fn truncate<'a>(
    revisions: &'a [Arc<ControllerRevision>],
    live: &BTreeSet<&str>,
    key: impl Fn(&'a ControllerRevision) -> &'a str,
    limit: i32,
) -> Vec<Action> {
    let Ok(limit) = usize::try_from(limit) else {
        return Vec::new();
    };
    let old: Vec<_> = revisions.iter().filter(|revision| !live.contains(key(revision))).collect();
    let excess = old.len().saturating_sub(limit);
    old.into_iter().take(excess).map(|revision| delete(revision)).collect()
}

/// A revision's name.
#[must_use]
pub fn name_of(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
