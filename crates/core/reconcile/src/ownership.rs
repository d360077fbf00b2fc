//! Who controls what: controller references, adoption of orphans and release of strays
//! (pkg/controller/controller_ref_manager.go).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use trireme_api::{Header, Object};

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

/// What [`claim`] looks at of an object.
struct Subject<'a> {
    uid: &'a str,
    /// UID of its controller.
    controller: Option<&'a str>,
    deleting: bool,
}

/// Decides about one object. `matches` tells whether the selector selects it; `target` names it.
#[must_use]
pub fn claim(owner: &OwnerReference, owner_deleting: bool, metadata: &ObjectMeta, matches: bool, target: ObjectRef) -> Claim {
    let subject = Subject {
        uid: metadata.uid.as_deref().unwrap_or_default(),
        controller: controller_of(metadata).map(|owner| owner.uid.as_str()),
        deleting: metadata.deletion_timestamp.is_some(),
    };
    let owners = || metadata.owner_references.iter().flatten().map(|owner| json!(owner)).collect();
    decide(owner, owner_deleting, (&subject, matches), || (target, owners()))
}

/// As [`claim`], of a pod that nobody decodes.
#[must_use]
pub fn claim_pod(owner: &OwnerReference, owner_deleting: bool, pod: &Object, matches: bool) -> Claim {
    let header = pod.header();
    let subject = Subject {
        uid: &header.uid,
        controller: controller_in(header),
        deleting: header.deleting,
    };
    let owners = || {
        let owners = pod.raw_at(&["metadata", "ownerReferences"]);
        owners
            .and_then(|owners| serde_json::from_slice(owners).ok())
            .unwrap_or_default()
    };
    decide(owner, owner_deleting, (&subject, matches), || (pod_ref(pod), owners()))
}

/// The decision. `named` gives the object's name and its owners, which only an action needs.
fn decide(
    owner: &OwnerReference,
    owner_deleting: bool,
    (subject, matches): (&Subject<'_>, bool),
    named: impl FnOnce() -> (ObjectRef, Vec<Value>),
) -> Claim {
    let patch = |target, owners: Value| {
        let patch = json!({"metadata": {"uid": subject.uid, "ownerReferences": owners}});
        Action::Patch {
            target,
            subresource: None,
            patch,
        }
    };
    match subject.controller {
        Some(controller) if controller != owner.uid => Claim::NotOurs,
        Some(_) if matches => Claim::Ours,
        Some(_) if owner_deleting => Claim::NotOurs,
        Some(_) => {
            let (target, mut kept) = named();
            kept.retain(|other| other["uid"] != owner.uid);
            let kept = if kept.is_empty() { Value::Null } else { Value::Array(kept) };
            Claim::Release(patch(target, kept))
        }
        None if !matches || owner_deleting || subject.deleting => Claim::NotOurs,
        None => {
            let (target, mut owners) = named();
            owners.push(json!(owner));
            Claim::Adopt(patch(target, Value::Array(owners)))
        }
    }
}

/// UID of an object's controller, by its header.
#[must_use]
pub fn controller_in(header: &Header) -> Option<&str> {
    let mut owners = header.owners.iter();
    owners.find(|owner| owner.controller).map(|owner| owner.uid.as_str())
}

/// Names a pod that nobody decodes for a plan.
#[must_use]
pub fn pod_ref(pod: &Object) -> ObjectRef {
    let header = pod.header();
    ObjectRef {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: header.namespace.clone(),
        name: header.name.clone(),
        uid: header.uid.clone(),
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
