//! What a stored object is by the schemas of today: pruned, and with defaults, as upstream reads it.
//!
//! Invariant: what was stored after a version's schema came to be what it is was pruned and given defaults by it when it was
//! stored, so that its bytes are served as they are: only what is older is looked into. A schema whose words or rules
//! change and that prunes and defaults as before makes nothing older ([`Form::after`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde_json::Value;
use trireme_api::field::FieldError;
use trireme_structural::Structural;

use super::Served;
use crate::Resource;

/// Nobody read an object that may differ.
const UNASKED: u8 = 0;
/// Somebody did.
const ASKED: u8 = 1;
/// Somebody looks, or has looked, which objects differ.
const LOOKED: u8 = 2;

/// A version in which objects of a definition may be stored.
#[derive(Debug)]
pub struct Form {
    version: Box<str>,
    structural: Option<Arc<Structural>>,
    /// What was stored at this revision or before may differ from what the schema makes of it.
    since: AtomicU64,
    /// Whether such an object was read, and whether somebody looked how new the newest is that differs.
    looked: AtomicU8,
}

impl Form {
    /// The form of a version whose schema was first seen at a revision. `before` is what is known of it from then.
    pub(super) fn after(before: Option<&Self>, version: &str, structural: Option<Arc<Structural>>, revision: u64) -> Self {
        let same = before.filter(|before| match (&before.structural, &structural) {
            (None, None) => true,
            (Some(before), Some(now)) => before.reads_like(now),
            _ => false,
        });
        Self {
            version: version.into(),
            structural,
            since: AtomicU64::new(same.map_or(revision, Self::since)),
            looked: AtomicU8::new(UNASKED),
        }
    }

    /// Its version's name.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its schema, if it has one that is structural.
    #[must_use]
    pub fn structural(&self) -> Option<&Arc<Structural>> {
        self.structural.as_ref()
    }

    fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    /// Whether what was stored at that revision may differ from what the schema makes of it.
    fn is_older(&self, revision: u64) -> bool {
        self.structural.is_some() && revision <= self.since()
    }

    /// Whether the caller should look which objects differ: some were read that may, and nobody looks yet.
    #[must_use]
    pub fn asks(&self) -> bool {
        let taken = self
            .looked
            .compare_exchange(ASKED, LOOKED, Ordering::Relaxed, Ordering::Relaxed);
        taken.is_ok()
    }

    /// That who looked could not see all: it is asked anew.
    pub fn not_seen(&self) {
        self.looked.store(UNASKED, Ordering::Relaxed);
    }

    /// That nothing that was stored after that revision differs from what the schema makes of it.
    pub fn settled_after(&self, revision: u64) {
        self.since.fetch_min(revision, Ordering::Relaxed);
    }

    /// Makes of a value that was stored at that revision what the schema of today makes of it; whether that may be another.
    pub fn read(&self, value: &mut Value, revision: u64) -> bool {
        let Some(schema) = self.structural.as_ref().filter(|_| self.is_older(revision)) else {
            return false;
        };
        if self.looked.load(Ordering::Relaxed) == UNASKED {
            self.looked.store(ASKED, Ordering::Relaxed);
        }
        fit(schema, value);
        true
    }
}

/// Prunes a value that was stored, drops malformed metadata of resources within it, and fills in defaults.
fn fit(schema: &Structural, value: &mut Value) {
    schema.prune(value, None);
    // What is malformed is dropped, so there is no error.
    let _coerced = schema.coerce_metadata(value, true, None);
    schema.default(value);
}

impl Served {
    /// How objects that are stored in a version are read.
    #[must_use]
    pub fn form(&self, version: &str) -> Option<&Form> {
        self.forms.iter().find(|form| &*form.version == version)
    }

    /// Its compiled schema; none where there is none that is structural: then nothing is pruned, defaulted or judged.
    #[must_use]
    pub fn structural(&self) -> Option<&Structural> {
        self.structural.as_deref()
    }

    /// Whether the bytes of an object that was stored at that revision are what this version shows.
    #[must_use]
    pub fn shows(&self, api_version: &str, revision: u64) -> bool {
        let version = version_of(api_version);
        version == self.row.version && !self.form(version).is_some_and(|form| form.is_older(revision))
    }

    /// Makes of a value that was stored at that revision what this version shows; where a webhook converts, what its own version
    /// does, for it to be converted.
    ///
    /// # Errors
    /// Where metadata of a resource within it is none by this version's schema.
    pub fn show(&self, value: &mut Value, revision: u64) -> Result<(), FieldError> {
        let version = value["apiVersion"].as_str().map_or("", version_of);
        let is_own = version == self.row.version;
        if let Some(form) = self.form(version) {
            form.read(value, revision);
        }
        if is_own || self.webhook.is_some() {
            return Ok(());
        }
        self.convert(value, self.row)
    }

    /// Makes of a value of this version what is stored of it. Upstream gives it the stored version's defaults whenever it is read.
    ///
    /// # Errors
    /// Where metadata of a resource within it is none by the stored version's schema.
    pub fn store(&self, value: &mut Value, stored: &Resource) -> Result<(), FieldError> {
        if stored.version == self.row.version {
            return Ok(());
        }
        self.convert(value, stored)?;
        self.default_stored(value, stored);
        Ok(())
    }

    /// Likewise of what a webhook made of it.
    ///
    /// # Errors
    /// As [`Self::store`].
    pub fn fit_stored(&self, value: &mut Value, stored: &Resource) -> Result<(), FieldError> {
        self.fit(value, stored)?;
        self.default_stored(value, stored);
        Ok(())
    }

    fn default_stored(&self, value: &mut Value, stored: &Resource) {
        if let Some(schema) = self.form(stored.version).and_then(Form::structural) {
            schema.default(value);
        }
    }

    /// Makes of a value one of another version: without conversion but for what that one's schema does not know.
    fn convert(&self, value: &mut Value, to: &Resource) -> Result<(), FieldError> {
        value["apiVersion"] = to.api_version().into();
        value["kind"] = to.kind.into();
        self.fit(value, to)
    }

    /// Prunes a value of a version by that version's schema.
    ///
    /// # Errors
    /// Where metadata of a resource within it is none.
    pub fn fit(&self, value: &mut Value, to: &Resource) -> Result<(), FieldError> {
        if let Some(schema) = self.form(to.version).and_then(Form::structural) {
            schema.prune(value, None);
            schema.coerce_metadata(value, false, None)?;
        }
        Ok(())
    }
}

fn version_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or(api_version, |(_, version)| version)
}
