//! The seam that admission plugs into.
//!
//! Invariant: mutation comes before defaulting, preparation and validation of an object, validation after them; a dry
//! run goes through both.

use serde_json::Value;
use trireme_api::{Object, Status};
use trireme_resources::Resource;
use trireme_store::Store;

use crate::keys;
use crate::user::UserInfo;

/// What is about to happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is created.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// A stream to it is opened.
    Connect,
}

impl Operation {
    /// Upstream's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// One request for admission.
pub struct Request<'a> {
    /// Row of the resource.
    pub row: &'static Resource,
    /// What happens.
    pub operation: Operation,
    /// Namespace, empty for cluster-scoped objects. For a namespace itself: its name.
    pub namespace: &'a str,
    /// Name; empty while `generateName` is still to be used.
    pub name: &'a str,
    /// Subresource, empty for the object itself.
    pub subresource: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The new object (or the body of a subresource such as `Binding`); `Null` for deletions.
    pub object: &'a mut Value,
    /// The object as it is now; `None` on creation.
    pub old_object: Option<&'a Value>,
    /// The request's options (`DeleteOptions` of a deletion, the kind's own options of a connect), else `Null`.
    pub options: &'a Value,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Read access to everything.
    pub view: View<'a>,
    /// Warnings for the client.
    pub warnings: &'a mut Vec<String>,
}

/// Read-only access to the store for decisions.
#[derive(Clone, Copy)]
pub struct View<'a>(&'a dyn Store);

impl<'a> View<'a> {
    /// A view of a store.
    #[must_use]
    pub fn new(store: &'a dyn Store) -> Self {
        Self(store)
    }

    /// One object as stored; `group` and `plural` are those of the storage row.
    #[must_use]
    pub fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Object> {
        self.0.get(&keys::object(group, plural, namespace, name))
    }

    /// All objects of a resource, in one namespace or (`None`) in all.
    #[must_use]
    pub fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Object> {
        let prefix = keys::prefix(group, plural, namespace);
        match self.0.range(&prefix, None, None, None) {
            Ok(page) => page.items.into_iter().map(|(_, object)| object).collect(),
            Err(error) => unreachable!("the present revision is always readable: {error}"),
        }
    }
}

/// Decides about, and changes, objects on their way into the store.
pub trait Admission: Send + Sync + 'static {
    /// May change the object or refuse.
    ///
    /// # Errors
    /// The refusal.
    fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status>;

    /// May refuse; the object is final.
    ///
    /// # Errors
    /// The refusal.
    fn validate(&self, request: &mut Request<'_>) -> Result<(), Status>;

    /// Objects as stored that change together with this one: what the namespace's quotas are charged. Asked last; a dry
    /// run stores none of it.
    ///
    /// # Errors
    /// The refusal.
    fn charge(&self, _request: &mut Request<'_>) -> Result<Vec<Value>, Status> {
        Ok(Vec::new())
    }
}

/// Admits everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn mutate(&self, _request: &mut Request<'_>) -> Result<(), Status> {
        Ok(())
    }

    fn validate(&self, _request: &mut Request<'_>) -> Result<(), Status> {
        Ok(())
    }
}
