//! Names of objects in the store.
//!
//! Invariant: a key is `group/plural/namespace/name` with the storage row's group and plural; the API server's own
//! records live under the group `~`, which no API group can be called.

use trireme_store::Key;

/// Key of an object.
#[must_use]
pub fn object(group: &str, plural: &str, namespace: &str, name: &str) -> Key {
    let mut key = String::with_capacity(group.len() + plural.len() + namespace.len() + name.len() + 3);
    for (at, part) in [group, plural, namespace, name].into_iter().enumerate() {
        if at > 0 {
            key.push('/');
        }
        key.push_str(part);
    }
    key.into()
}

/// Prefix of all keys of a resource, in one namespace or in all.
#[must_use]
pub fn prefix(group: &str, plural: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("{group}/{plural}/{namespace}/"),
        None => format!("{group}/{plural}/"),
    }
}

/// Key of one of the API server's own records, such as a node port's reservation.
#[must_use]
pub fn internal(kind: &str, name: &str) -> Key {
    object("~", kind, "", name)
}
