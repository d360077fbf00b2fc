//! The one pipeline that serves every row: reading, listing, watching, and the four kinds of write.
//!
//! Invariant: nothing here knows HTTP; the in-process transport and the HTTP face call the same functions. A write reads
//! its preconditions once and commits them with the change.

pub mod continuation;
pub mod create;
pub mod delete;
pub mod list;
pub mod options;
pub mod owners;
pub mod patch;
pub mod read;
pub mod rules;
pub mod selection;
pub mod subresources;
pub mod update;
pub mod watch;

use std::sync::Arc;

use serde_json::Value;
use trireme_api::{Object, Status};
use trireme_resources::Resource;
use trireme_resources::custom::Served;
use trireme_store::Key;

use crate::keys;
use crate::user::UserInfo;

/// Which object or collection a request means, and who asks.
#[derive(Clone, Debug)]
pub struct Target {
    /// Row of the version asked for.
    pub row: &'static Resource,
    /// The version of a definition that is served, of a custom resource.
    pub custom: Option<Arc<Served>>,
    /// Namespace; empty for cluster-scoped resources, and for all namespaces.
    pub namespace: String,
    /// Name; empty for collections.
    pub name: String,
    /// Subresource, empty for the object.
    pub subresource: String,
    /// Who asks.
    pub user: Arc<UserInfo>,
}

impl Target {
    /// Row under which the objects are stored.
    #[must_use]
    pub fn stored(&self) -> &'static Resource {
        rules::stored(self.row)
    }

    /// The object itself, whatever the subresource.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self {
            subresource: String::new(),
            ..self.clone()
        }
    }

    /// Key of the object called `name`.
    #[must_use]
    pub fn key_of(&self, name: &str) -> Key {
        let stored = self.stored();
        keys::object(stored.group, stored.plural, &self.namespace, name)
    }

    /// Key of the object.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key_of(&self.name)
    }

    /// Prefix of the collection.
    #[must_use]
    pub fn prefix(&self) -> String {
        let stored = self.stored();
        let namespace = (self.row.namespaced && !self.namespace.is_empty()).then_some(self.namespace.as_str());
        if self.row.namespaced {
            keys::prefix(stored.group, stored.plural, namespace)
        } else {
            keys::prefix(stored.group, stored.plural, Some(""))
        }
    }

    /// 404 for this object.
    #[must_use]
    pub fn not_found(&self) -> Status {
        Status::not_found(self.row.group, self.row.plural, &self.name)
    }

    /// 409 for this object.
    #[must_use]
    pub fn conflict(&self, why: &str) -> Status {
        Status::conflict(self.row.group, self.row.plural, &self.name, why)
    }

    /// 409: somebody else changed the object.
    #[must_use]
    pub fn modified(&self) -> Status {
        self.conflict(MODIFIED)
    }

    /// 422 for this object, which is called by the kind in which it is stored.
    #[must_use]
    pub fn invalid(&self, name: &str, errors: &[trireme_api::field::FieldError]) -> Status {
        Status::invalid(self.stored().group, self.row.kind, name, errors)
    }

    /// The `apiVersion` of the row.
    #[must_use]
    pub fn api_version(&self) -> String {
        rules::api_version(self.row)
    }
}

/// What a lost race is called.
pub const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// Options of a write, resolved.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Field manager; never empty.
    pub manager: String,
    /// The field manager that the client named, if it did.
    pub sent_manager: Option<String>,
    /// `fieldValidation` as the client sent it, if it did.
    pub sent_validation: Option<&'static str>,
    /// `force` of server-side apply.
    pub force: bool,
    /// Store nothing.
    pub dry_run: bool,
    /// What becomes of unknown and duplicate fields.
    pub validation: rules::FieldValidation,
    /// Whether a new object's labels are its template's own ([`rules::shares_labels`]).
    pub shares_labels: bool,
    /// Whether the client sent a list or map empty: such a value is looked at more closely.
    pub empty: bool,
    /// Values of what the client sent at most, where decoding counted them.
    pub values: Option<usize>,
}

/// The answer to a write.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object, in the version asked for.
    pub object: Object,
    /// Whether it was created.
    pub created: bool,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// How often a write is tried again when others change the object meanwhile, where the client named no version.
pub const RETRIES_MAX: usize = 8;

/// Member access that makes missing objects.
pub(crate) fn metadata(value: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let object = value.as_object_mut().expect("made an object above");
    let metadata = object
        .entry("metadata")
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(serde_json::Map::new());
    }
    metadata.as_object_mut().expect("made an object above")
}

/// A text member of `metadata`, empty where absent.
pub(crate) fn meta_text<'a>(value: &'a Value, name: &str) -> &'a str {
    value["metadata"][name].as_str().unwrap_or_default()
}

/// Whether a list member of `metadata` has entries.
pub(crate) fn meta_list_len(value: &Value, name: &str) -> usize {
    value["metadata"][name].as_array().map_or(0, Vec::len)
}
