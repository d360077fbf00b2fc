//! Garbage collection by owner references, one object at a time: an object whose owners are all gone goes; an object
//! being deleted in the foreground waits for its blocking dependents; one being deleted as an orphan lets its dependents
//! go first.
//!
//! Invariant: an owner counts as absent only when the API was asked for it and does not have that UID.
//!
//! | being deleted | finalizers | owners | decision |
//! | --- | --- | --- | --- |
//! | yes | `orphan` | | take the reference off the dependents, then the finalizer off |
//! | yes | `foregroundDeletion` | | finalizer off once no dependent blocks |
//! | yes | others | | nothing |
//! | no | | none | nothing |
//! | no | | some solid | take the other references off |
//! | no | | some deleting in the foreground, and it has dependents | delete in the foreground |
//! | no | | none solid | delete |

use jiff::Timestamp;
use serde_json::{Value, json};
use trireme_api::{Object, Owner};

use crate::namespace::reference;
use crate::plan::{Action, EventKind, EventNote, Plan};

/// Finalizer of foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of orphaning deletion.
pub const ORPHAN: &str = "orphan";

/// An object with what stands above and below it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The object, read live.
    pub object: Object,
    /// State of its owners, in the order of its references.
    pub owners: Vec<OwnerState>,
    /// Objects that name it as an owner.
    pub dependents: Vec<Object>,
}

/// What became of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there.
    Solid,
    /// No object of that UID exists.
    Absent,
    /// It is there and waits for its dependents to go.
    DeletingDependents,
    /// A namespaced owner of a cluster-scoped object: never resolved, never collected.
    Invalid,
}

fn has(object: &Object, finalizer: &str) -> bool {
    object.header().finalizers.iter().any(|own| own == finalizer)
}

/// Whether an object waits for its dependents to go.
#[must_use]
pub fn deletes_dependents(object: &Object) -> bool {
    object.header().deleting && has(object, FOREGROUND)
}

/// Decides about the object.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let object = &snapshot.object;
    let uid = object.header().uid.as_str();
    let mut plan = Plan::default();
    if object.header().deleting {
        if has(object, ORPHAN) {
            let named = snapshot
                .dependents
                .iter()
                .filter(|dependent| owner_of(dependent, uid).is_some());
            plan.actions
                .extend(named.map(|dependent| keep_owners(dependent, |owner| owner["uid"] != uid)));
            plan.actions.push(without_finalizer(object, ORPHAN));
        } else if has(object, FOREGROUND) && !snapshot.dependents.iter().any(|dependent| blocks(dependent, uid)) {
            plan.actions.push(without_finalizer(object, FOREGROUND));
        }
        return plan;
    }
    let count = |state: OwnerState| snapshot.owners.iter().filter(|owner| **owner == state).count();
    if snapshot.owners.is_empty() {
        return plan;
    }
    if count(OwnerState::Invalid) > 0 {
        plan.actions.extend(invalid(snapshot));
        return plan;
    }
    if count(OwnerState::Solid) > 0 {
        if count(OwnerState::Solid) < snapshot.owners.len() {
            let mut at = 0;
            plan.actions.push(keep_owners(object, |_| {
                at += 1;
                snapshot.owners.get(at - 1) == Some(&OwnerState::Solid)
            }));
        }
        return plan;
    }
    let propagation = if count(OwnerState::DeletingDependents) > 0 && !snapshot.dependents.is_empty() {
        if snapshot.dependents.iter().any(deletes_dependents) {
            // Owner and dependent would wait for each other.
            plan.actions.push(unblock(object));
        }
        "Foreground"
    } else if has(object, ORPHAN) {
        "Orphan"
    } else if has(object, FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    plan.actions.push(Action::Delete {
        target: reference(object),
        grace_period_seconds: None,
        propagation: Some(propagation),
    });
    plan
}

fn owner_of<'a>(object: &'a Object, uid: &str) -> Option<&'a Owner> {
    object.header().owners.iter().find(|owner| owner.uid == uid)
}

fn blocks(dependent: &Object, uid: &str) -> bool {
    owner_of(dependent, uid).is_some_and(|owner| owner.block_owner_deletion)
}

fn owners(object: &Object) -> Vec<Value> {
    let mut value = object.value();
    match value["metadata"]["ownerReferences"].take() {
        Value::Array(owners) => owners,
        _ => Vec::new(),
    }
}

/// A patch of metadata that holds only at the object's resourceVersion.
fn patch(object: &Object, field: &str, value: &Value) -> Action {
    Action::Patch {
        target: reference(object),
        subresource: None,
        patch: json!({"metadata": {
            "uid": object.header().uid,
            "resourceVersion": object.header().resource_version.to_string(),
            field: value,
        }}),
    }
}

fn keep_owners(object: &Object, keep: impl FnMut(&Value) -> bool) -> Action {
    let mut kept = owners(object);
    kept.retain(keep);
    patch(object, "ownerReferences", &json!(kept))
}

fn unblock(object: &Object) -> Action {
    let mut owners = owners(object);
    for owner in &mut owners {
        owner["blockOwnerDeletion"] = false.into();
    }
    patch(object, "ownerReferences", &json!(owners))
}

fn without_finalizer(object: &Object, finalizer: &str) -> Action {
    let left: Vec<_> = object.header().finalizers.iter().filter(|own| *own != finalizer).collect();
    patch(object, "finalizers", &json!(left))
}

/// Tells about references that can never be resolved.
fn invalid(snapshot: &Snapshot) -> Option<Action> {
    let at = snapshot.owners.iter().position(|owner| *owner == OwnerState::Invalid)?;
    let owner = snapshot.object.header().owners.get(at)?;
    let Owner {
        api_version,
        kind,
        name,
        uid,
        ..
    } = owner;
    let namespace = &snapshot.object.header().namespace;
    Some(Action::Event(EventNote {
        regarding: reference(&snapshot.object),
        kind: EventKind::Warning,
        reason: "OwnerRefInvalidNamespace".into(),
        message: format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace \"{namespace}\""
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, owners: &[&str], finalizers: &[&str], deleting: bool) -> Object {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "Owner", "name": uid, "uid": uid, "blockOwnerDeletion": true}))
            .collect();
        let mut value = json!({
            "apiVersion": "v1", "kind": "Thing",
            "metadata": {"name": name, "uid": name, "resourceVersion": "7", "ownerReferences": owners, "finalizers": finalizers},
        });
        if deleting {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Object::from_value(&value).unwrap()
    }

    fn summary(snapshot: &Snapshot) -> Vec<String> {
        let plan = reconcile(snapshot, Timestamp::UNIX_EPOCH);
        plan.actions
            .iter()
            .map(|action| match action {
                Action::Delete { target, propagation, .. } => format!("delete {} {}", target.name, propagation.unwrap()),
                Action::Patch { target, patch, .. } => {
                    assert_eq!(patch["metadata"]["resourceVersion"], "7");
                    match &patch["metadata"]["ownerReferences"] {
                        Value::Array(owners) => {
                            let uids: Vec<_> = owners.iter().map(|owner| owner["uid"].as_str().unwrap()).collect();
                            format!(
                                "{} owned by {uids:?} blocking {}",
                                target.name,
                                owners.iter().any(|o| o["blockOwnerDeletion"] == true)
                            )
                        }
                        _ => format!("{} finalizers {}", target.name, patch["metadata"]["finalizers"]),
                    }
                }
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn decides_by_the_table() {
        use OwnerState::{Absent, DeletingDependents, Solid};
        let dependent = || object("d", &["x", "z"], &[], false);
        for (name, object, owners, dependents, expected) in [
            ("no owner", object("x", &[], &[], false), vec![], vec![], vec![]),
            ("solid", object("x", &["a"], &[], false), vec![Solid], vec![], vec![]),
            (
                "absent",
                object("x", &["a"], &[], false),
                vec![Absent],
                vec![],
                vec!["delete x Background"],
            ),
            (
                "one of two absent",
                object("x", &["a", "b"], &[], false),
                vec![Absent, Solid],
                vec![],
                vec!["x owned by [\"b\"] blocking true"],
            ),
            (
                "owner in the foreground, no dependents",
                object("x", &["a"], &[], false),
                vec![DeletingDependents],
                vec![],
                vec!["delete x Background"],
            ),
            (
                "owner in the foreground, dependents",
                object("x", &["a"], &[], false),
                vec![DeletingDependents],
                vec![dependent()],
                vec!["delete x Foreground"],
            ),
            (
                "a circle is opened",
                object("x", &["a"], &[], false),
                vec![DeletingDependents],
                vec![super::tests::object("d", &["x"], &[FOREGROUND], true)],
                vec!["x owned by [\"a\"] blocking false", "delete x Foreground"],
            ),
            (
                "held by another",
                object("x", &["a"], &["f"], true),
                vec![Absent],
                vec![],
                vec![],
            ),
            (
                "waits for what blocks",
                object("x", &[], &[FOREGROUND], true),
                vec![],
                vec![dependent()],
                vec![],
            ),
            (
                "nothing blocks any more",
                object("x", &[], &["f", FOREGROUND], true),
                vec![],
                vec![],
                vec!["x finalizers [\"f\"]"],
            ),
            (
                "orphans",
                object("x", &[], &[ORPHAN], true),
                vec![],
                vec![dependent()],
                vec!["d owned by [\"z\"] blocking true", "x finalizers []"],
            ),
        ] {
            let snapshot = Snapshot {
                object,
                owners,
                dependents,
            };
            assert_eq!(summary(&snapshot), expected, "{name}");
        }
    }
}
