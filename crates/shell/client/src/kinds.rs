//! Which resource a kind is served as: what a plan's objects (which name kinds) need to become requests.
//!
//! Invariant: one kind of one API version maps to one resource. It holds no schema.

use std::collections::{BTreeSet, HashMap};

use parking_lot::RwLock;

use crate::transport::{ResourceRef, ScopeName};

/// The kinds that are known; rows may be added and removed at run time (CRDs).
#[derive(Debug, Default)]
pub struct Kinds(RwLock<HashMap<(String, String), Row>>);

#[derive(Clone, Debug)]
struct Row {
    resource: ResourceRef,
    collectable: bool,
}

impl Kinds {
    /// No kinds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind by hand. `collectable` says that it can be listed, watched and deleted, so the garbage collector
    /// and the namespace controller look at it.
    pub fn insert(&self, kind: &str, resource: ResourceRef, collectable: bool) {
        self.0
            .write()
            .insert((api_version(&resource), kind.to_owned()), Row { resource, collectable });
    }

    /// Adds a kind of k8s-openapi.
    #[must_use]
    pub fn with<K: k8s_openapi::Resource>(self) -> Self
    where
        K::Scope: ScopeName,
    {
        self.insert(K::KIND, ResourceRef::of::<K>(), true);
        self
    }

    /// Forgets a kind.
    pub fn remove(&self, api_version: &str, kind: &str) {
        self.0.write().remove(&(api_version.to_owned(), kind.to_owned()));
    }

    /// The resource of a kind.
    #[must_use]
    pub fn resource(&self, api_version: &str, kind: &str) -> Option<ResourceRef> {
        let rows = self.0.read();
        let found = rows.get(&(api_version.to_owned(), kind.to_owned()))?;
        Some(found.resource.clone())
    }

    /// The kind of a resource.
    #[must_use]
    pub fn kind(&self, resource: &ResourceRef) -> Option<String> {
        let rows = self.0.read();
        rows.iter()
            .find(|(_, row)| row.resource == *resource)
            .map(|((_, kind), _)| kind.clone())
    }

    /// All resources that can be listed, watched and deleted, sorted.
    #[must_use]
    pub fn collectable(&self) -> Vec<ResourceRef> {
        let rows = self.0.read();
        let sorted: BTreeSet<_> = rows.values().filter(|row| row.collectable).map(|row| &row.resource).collect();
        sorted.into_iter().cloned().collect()
    }
}

/// `apps/v1`, or `v1` for the core group.
#[must_use]
pub fn api_version(resource: &ResourceRef) -> String {
    if resource.group.is_empty() {
        resource.version.to_string()
    } else {
        format!("{}/{}", resource.group, resource.version)
    }
}
