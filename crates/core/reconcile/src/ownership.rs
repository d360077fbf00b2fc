//! Who controls what: controller references, adoption of orphans and release of strays
//! (pkg/controller/controller_ref_manager.go).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::json;

use crate::plan::{Action, ObjectRef};

/// The reference that a controller puts on what it makes.
#[must_use]
pub fn controller_reference(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.into(),
        kind: kind.into(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controlling owner, if there is one.
#[must_use]
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// Whether labels satisfy a selector. An empty selector matches everything, an invalid operator nothing.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, wanted)| value(key) == Some(wanted));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let held = value(&requirement.key);
            let among = || held.is_some_and(|held| requirement.values.iter().flatten().any(|wanted| wanted == held));
            match requirement.operator.as_str() {
                "In" => among(),
                "NotIn" => held.is_none() || !among(),
                "Exists" => held.is_some(),
                "DoesNotExist" => held.is_none(),
                _ => false,
            }
        })
}

/// What a controller should do about one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// It is ours.
    Ours,
    /// It is nobody's and matches: make it ours. It counts from the next look on.
    Adopt(Action),
    /// It is ours and no longer matches: let it go.
    Release(Action),
    /// It is none of our business.
    NotOurs,
}

/// Decides about one object. `matches` tells whether the selector selects it; `target` names it.
#[must_use]
pub fn claim(owner: &OwnerReference, owner_deleting: bool, metadata: &ObjectMeta, matches: bool, target: ObjectRef) -> Claim {
    let uid = metadata.uid.clone().unwrap_or_default();
    match controller_of(metadata) {
        Some(controller) if controller.uid != owner.uid => Claim::NotOurs,
        Some(_) if matches => Claim::Ours,
        Some(_) if owner_deleting => Claim::NotOurs,
        Some(_) => {
            let kept: Vec<_> = metadata
                .owner_references
                .iter()
                .flatten()
                .filter(|other| other.uid != owner.uid)
                .collect();
            let kept = if kept.is_empty() { json!(null) } else { json!(kept) };
            let patch = json!({"metadata": {"uid": uid, "ownerReferences": kept}});
            Claim::Release(Action::Patch {
                target,
                subresource: None,
                patch,
            })
        }
        None if !matches || owner_deleting || metadata.deletion_timestamp.is_some() => Claim::NotOurs,
        None => {
            let mut owners: Vec<_> = metadata.owner_references.iter().flatten().cloned().collect();
            owners.push(owner.clone());
            let patch = json!({"metadata": {"uid": uid, "ownerReferences": owners}});
            Claim::Adopt(Action::Patch {
                target,
                subresource: None,
                patch,
            })
        }
    }
}

/// A name as the API server would generate it from `{base}-`: cut so that the whole stays within 63 characters.
#[must_use]
pub fn generated_name(base: &str, suffix: &mut dyn FnMut() -> String) -> String {
    let base: String = format!("{base}-").chars().take(58).collect();
    format!("{base}{}", suffix())
}

/// Names an object for a plan.
#[must_use]
pub fn object_ref(api_version: &str, kind: &str, metadata: &ObjectMeta) -> ObjectRef {
    ObjectRef {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
    }
}
