//! Who owns the replicas of an object, as its `Scale` shows it, and back.
//!
//! Invariant: only ownership of `spec.replicas` passes; everything else of the object's owners stays as it was. What is
//! owned through a scale has the time that the object knows, which is none for new owners.

use serde_json::Value;

use super::managers::{self, Entry, Id, Managers};
use super::set::Set;

const SCALE: &str = "autoscaling/v1";

/// Where most objects have their replicas, and every scale.
pub const REPLICAS: &[&str] = &["spec", "replicas"];

fn only(at: &[&str]) -> Set {
    let elements: Vec<String> = at.iter().map(|name| format!("f:{name}")).collect();
    let mut out = Set::default();
    out.insert(&elements.iter().map(String::as_str).collect::<Vec<_>>());
    out
}

fn owns(fields: &Set, at: &[&str]) -> bool {
    !fields.intersection(&only(at)).is_empty()
}

fn in_version(id: &Id, api_version: &str) -> Id {
    Id {
        api_version: if id.apply { String::new() } else { api_version.to_owned() },
        ..id.clone()
    }
}

/// The managed fields of the scale of an object with these, whose replicas stand there.
///
/// # Errors
/// With the cause in words when an entry is malformed.
pub fn to_scale(object: Option<&Value>, at: &[&str]) -> Result<Option<Value>, String> {
    let owners = managers::read(object)?;
    let of_scale: Managers = owners
        .into_iter()
        .filter(|(_, entry)| owns(&entry.fields, at))
        .map(|(id, entry)| {
            let entry = Entry {
                api_version: SCALE.to_owned(),
                fields: only(REPLICAS),
                time: entry.time,
            };
            (in_version(&id, SCALE), entry)
        })
        .collect();
    Ok(managers::write(of_scale))
}

/// The managed fields of an object of that version whose scale has become one with these.
///
/// # Errors
/// With the cause in words when an entry is malformed.
pub fn to_object(object: Option<&Value>, scale: Option<&Value>, api_version: &str, at: &[&str]) -> Result<Option<Value>, String> {
    let before = managers::read(object)?;
    let mut of_scale = managers::read(scale)?;
    let mut out = Managers::new();
    for (id, entry) in &before {
        let mut entry = entry.clone();
        // An entry is found again by its identity, which of updates has the version in it: theirs moves to one of its own.
        if owns(&entry.fields, at) && of_scale.remove(id).is_none() {
            entry.fields.subtract(&only(at));
        }
        if !entry.fields.is_empty() {
            out.insert(id.clone(), entry);
        }
    }
    for (id, entry) in of_scale {
        if owns(&entry.fields, REPLICAS) {
            let time = before.get(&id).and_then(|entry| entry.time.clone());
            let entry = Entry {
                api_version: api_version.to_owned(),
                fields: only(at),
                time,
            };
            out.insert(id, entry);
        }
    }
    Ok(managers::write(out))
}
