//! An API object as its canonical JSON bytes with a small parsed header.
//!
//! Invariant: the bytes are never changed after construction; whoever needs another object makes another
//! `Object`. It will not interpret anything outside `metadata`, `apiVersion` and `kind`.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bulk::Spliced;
use crate::facts::{Facts, Held};
use crate::{decode, decoded, read, schema, splice, write};

/// A stored or transported API object. Cloning is a reference count; the bytes, the header and the typed decode that is
/// kept while somebody uses it are shared by every holder in the process.
#[derive(Clone)]
pub struct Object(Arc<Shared>);

/// A typed form of some type.
pub(crate) type Decode = Arc<dyn Any + Send + Sync>;

/// What was made of an object's bytes.
#[derive(Default)]
struct Kept {
    decode: Option<Decode>,
    facts: Option<Decode>,
}

/// What all holders of an object share.
pub(crate) struct Shared {
    bytes: Bytes,
    header: Header,
    kept: Mutex<Kept>,
    /// Whether the decode was asked for since somebody looked.
    used: AtomicBool,
    /// Where `apiVersion` and `kind` begin, in the upper and lower half; or that nobody asked; or that they do not stand so.
    type_members: AtomicU64,
    /// Where the members behind `metadata` begin; or that nobody asked; or that there are none.
    rest: AtomicU32,
}

/// The few fields of an object that the store, watches and garbage collection look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `apiVersion`, for example `apps/v1`.
    pub api_version: String,
    /// `kind`, for example `Deployment`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion` as a number; 0 where it is absent or not a number.
    pub resource_version: u64,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// `metadata.ownerReferences`.
    pub owners: Vec<Owner>,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// API version of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner.
    pub name: String,
    /// UID of the owner.
    pub uid: String,
    /// Whether the owner is the managing controller.
    #[serde(deserialize_with = "null_as_default")]
    pub controller: bool,
    /// Whether foreground deletion of the owner waits for this object.
    #[serde(deserialize_with = "null_as_default")]
    pub block_owner_deletion: bool,
}

/// How many bytes of memory a typed decode takes for each byte of JSON, beside the type itself. The client's test
/// `a_decode_weighs_about_what_is_counted` holds it.
const DECODE_FACTOR: usize = 8;

/// Nobody has asked yet where the type members are.
const NOT_SOUGHT: u64 = u64::MAX;
/// There are none that could be left out.
const NONE: u64 = u64::MAX - 1;
/// Nobody has asked yet where the members behind `metadata` are: none stands at the very beginning.
const REST_NOT_SOUGHT: u32 = 0;
/// There are none, or so far away that it is not kept.
const NO_REST: u32 = u32::MAX;

impl Shared {
    /// What was made of the bytes so far.
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the decode was asked for since the last time that this was.
    pub(crate) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Takes the decode out.
    pub(crate) fn forget(&self) -> Option<Decode> {
        self.kept().decode.take()
    }

    /// Bytes of `"apiVersion":"…",`.
    fn version_length(&self) -> usize {
        r#""apiVersion":"","#.len() + self.header.api_version.len()
    }

    /// Bytes of `"kind":"…",`.
    fn kind_length(&self) -> usize {
        r#""kind":"","#.len() + self.header.kind.len()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Envelope {
    #[serde(deserialize_with = "null_as_default")]
    api_version: String,
    #[serde(deserialize_with = "null_as_default")]
    kind: String,
    #[serde(deserialize_with = "null_as_default")]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    #[serde(deserialize_with = "null_as_default")]
    name: String,
    #[serde(deserialize_with = "null_as_default")]
    namespace: String,
    #[serde(deserialize_with = "null_as_default")]
    uid: String,
    #[serde(deserialize_with = "null_as_default")]
    resource_version: String,
    #[serde(deserialize_with = "null_as_default")]
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_as_default")]
    finalizers: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    owner_references: Vec<Owner>,
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Object {
    /// Takes canonical JSON bytes and parses the header out of them.
    ///
    /// # Errors
    /// When the bytes are not a JSON object or the header's fields have other types.
    pub fn parse(bytes: Bytes) -> Result<Self, serde_json::Error> {
        let envelope = serde_json::from_slice(&bytes)?;
        Ok(Self::from_parts(bytes, Self::header_of(envelope)))
    }

    fn header_of(envelope: Envelope) -> Header {
        let metadata = envelope.metadata;
        Header {
            api_version: envelope.api_version,
            kind: envelope.kind,
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version.parse().unwrap_or(0),
            labels: metadata.labels,
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers,
            owners: metadata.owner_references,
        }
    }

    /// Serialises a value and parses its header.
    ///
    /// # Errors
    /// When the value is not an object of the header's shape.
    pub fn from_value(value: &serde_json::Value) -> Result<Self, serde_json::Error> {
        // The header is in the value: what lies beside it is not read again.
        let header = Self::header_of(Envelope::deserialize(value)?);
        Ok(Self::from_parts(Bytes::from(serde_json::to_vec(value)?), header))
    }

    /// Likewise of a value that nobody needs any more, with another text in the place of one member, which is no part of the
    /// header.
    ///
    /// # Errors
    /// As [`Self::from_value`].
    pub fn from_spliced(value: serde_json::Value, with: Option<Spliced<'_>>) -> Result<Self, serde_json::Error> {
        let header = Self::header_of(Envelope::deserialize(&value)?);
        Ok(Self::from_parts(Bytes::from(write::spliced(value, with)), header))
    }

    /// Puts bytes and an already known header together. The caller vouches that they agree.
    #[must_use]
    pub fn from_parts(bytes: Bytes, header: Header) -> Self {
        Self(Arc::new(Shared {
            bytes,
            header,
            kept: Mutex::default(),
            used: AtomicBool::new(false),
            type_members: AtomicU64::new(NOT_SOUGHT),
            rest: AtomicU32::new(REST_NOT_SOUGHT),
        }))
    }

    /// The canonical JSON bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// The canonical JSON bytes without the top-level `apiVersion` and `kind`, which items of a list lack: parts to be
    /// joined. Where the two stand is found once per object.
    #[must_use]
    pub fn untyped(&self) -> [&[u8]; 3] {
        let bytes = &self.0.bytes[..];
        let mut known = self.0.type_members.load(Ordering::Relaxed);
        if known == NOT_SOUGHT {
            known = splice::type_members(bytes).map_or(NONE, |(version, kind)| {
                // Both ends follow from the header's texts, unless those are written with escapes.
                let usual = version.len() == self.0.version_length() && kind.len() == self.0.kind_length();
                match (usual, u32::try_from(version.start), u32::try_from(kind.start)) {
                    (true, Ok(version), Ok(kind)) => u64::from(version) << 32 | u64::from(kind),
                    _ => NONE,
                }
            });
            self.0.type_members.store(known, Ordering::Relaxed);
        }
        if known == NONE {
            return [bytes, &[], &[]];
        }
        let (version, kind) = ((known >> 32) as usize, (known & u64::from(u32::MAX)) as usize);
        [
            &bytes[..version],
            &bytes[version + self.0.version_length()..kind],
            &bytes[kind + self.0.kind_length()..],
        ]
    }

    /// The parsed header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// A fresh parse of the whole object, for those that mean to change it.
    ///
    /// # Panics
    /// Never for an object made by [`Object::parse`]: its bytes are valid JSON.
    #[must_use]
    pub fn value(&self) -> serde_json::Value {
        read::value(&self.0.bytes).expect("an Object holds valid JSON")
    }

    /// What a member holds, as its JSON stands in the bytes; found without parsing. `path` names members from the top down.
    #[must_use]
    pub fn raw_at(&self, path: &[&str]) -> Option<&[u8]> {
        let bytes = &self.0.bytes;
        if path.first().is_none_or(|first| *first <= "metadata") {
            return splice::value_at(bytes, path);
        }
        // Managers make metadata the longest way to go, and several ask at each event: it is gone once per object.
        let mut rest = self.0.rest.load(Ordering::Relaxed);
        if rest == REST_NOT_SOUGHT {
            let found = splice::behind_metadata(bytes);
            rest = found.and_then(|rest| u32::try_from(rest).ok()).unwrap_or(NO_REST);
            self.0.rest.store(rest, Ordering::Relaxed);
        }
        match rest {
            NO_REST => splice::value_at(bytes, path),
            rest => splice::value_behind(bytes, rest as usize, path),
        }
    }

    /// The text that a member holds; `None` where it is absent or no text. Found without parsing the rest.
    #[must_use]
    pub fn text_at(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        splice::text(self.raw_at(path)?)
    }

    /// Whether these bytes occur anywhere: a cheap "no" for those who look for something rare, before they decode.
    #[must_use]
    pub fn mentions(&self, bytes: &str) -> bool {
        memchr::memmem::find(&self.0.bytes, bytes.as_bytes()).is_some()
    }

    /// The typed form, without `metadata.managedFields` (the greater part of most decodes, which nobody reads; a write
    /// without them keeps those that are stored). The first type asked for is decoded once and shared by all holders
    /// while it is used ([`crate::decoded`]); another type for the same object is decoded anew at each call. What the API
    /// server stores and k8s-openapi does not take (a null or absent required time, null elements) is read as Go reads it:
    /// [`decode::complete`].
    ///
    /// # Errors
    /// When the bytes do not fit the type. The test `every_row_decodes` in the client holds that those of a stored object do.
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, serde_json::Error> {
        let known = self.0.kept().decode.clone();
        let is_known = known.is_some();
        if let Some(typed) = known.and_then(|known| known.downcast::<T>().ok()) {
            if !self.0.used.load(Ordering::Relaxed) {
                self.0.used.store(true, Ordering::Relaxed);
            }
            return Ok(typed);
        }
        let bytes = splice::without_managed_fields(&self.0.bytes);
        let typed: Arc<T> = match serde_json::from_slice(&bytes) {
            Ok(typed) => Arc::new(typed),
            Err(error) => Arc::new(self.completed(&bytes).ok_or(error)?),
        };
        // Another's decode stays: losing the race only means that two exist for a moment.
        if !is_known {
            self.0.kept().decode = Some(typed.clone());
            decoded::keep(Arc::downgrade(&self.0), size_of::<T>() + DECODE_FACTOR * bytes.len());
        }
        Ok(typed)
    }

    /// What some readers look at of a kind of objects, read from the bytes once and shared by all holders for as long as the
    /// object lives ([`crate::facts`]). A kind has one such record: another one is read anew at each call.
    ///
    /// # Errors
    /// When the bytes hold something else than the kind says.
    pub fn facts<F: Facts>(&self) -> Result<Arc<Held<F>>, serde_json::Error> {
        let known = self.0.kept().facts.clone();
        let is_known = known.is_some();
        if let Some(facts) = known.and_then(|known| known.downcast::<Held<F>>().ok()) {
            return Ok(facts);
        }
        let facts = Arc::new(Held::read(self)?);
        if is_known {
            return Ok(facts);
        }
        // Of two that read at once the first is kept.
        let kept = self.0.kept().facts.get_or_insert_with(|| facts.clone()).clone();
        Ok(kept.downcast().unwrap_or(facts))
    }

    /// Whether a decode is kept with it.
    #[cfg(test)]
    pub(crate) fn is_decoded(&self) -> bool {
        self.0.kept().decode.is_some()
    }

    /// What this object takes in memory, about, but for a decode: its bytes and its header.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// What the allocator and a reference count add to each text.
        const TEXT: usize = 16;
        /// A leaf of a map with room for eleven pairs of texts.
        const LEAF: usize = 11 * 2 * size_of::<String>() + 24;
        let header = &self.0.header;
        let own = [
            &header.api_version,
            &header.kind,
            &header.name,
            &header.namespace,
            &header.uid,
        ];
        let owners = header
            .owners
            .iter()
            .flat_map(|owner| [&owner.api_version, &owner.kind, &owner.name, &owner.uid]);
        let labels = header.labels.iter().flat_map(|(key, value)| [key, value]);
        let texts = own.into_iter().chain(&header.finalizers).chain(owners).chain(labels);
        let texts: usize = texts.map(|text| text.len() + TEXT).sum();
        let lists = size_of_val(&*header.finalizers) + size_of_val(&*header.owners) + LEAF * header.labels.len().div_ceil(8);
        self.0.bytes.len() + size_of::<Shared>() + texts + lists
    }

    /// The second try at a typed decode, for objects of the field table.
    fn completed<T: DeserializeOwned>(&self, bytes: &[u8]) -> Option<T> {
        let Header { api_version, kind, .. } = self.header();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let ty = schema::kind(group, version, kind)?;
        let mut value = serde_json::from_slice(bytes).ok()?;
        decode::complete(&mut value, ty);
        serde_json::from_value(value).ok()
    }

    /// Whether both are the same allocation: a cheap test for "nothing changed".
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header();
        write!(
            f,
            "{}/{} {}/{}@{}",
            header.api_version, header.kind, header.namespace, header.name, header.resource_version
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_holds_what_metadata_says_and_tolerates_nulls() {
        let object = Object::parse(Bytes::from_static(
            br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"b","uid":"u","resourceVersion":"7","labels":{"k":"v"},"creationTimestamp":null,"finalizers":null,"deletionTimestamp":"2026-01-01T00:00:00Z","ownerReferences":[{"kind":"ReplicaSet","uid":"o","controller":true}]}}"#,
        ))
        .unwrap();
        let header = object.header();
        assert_eq!(
            (header.name.as_str(), header.namespace.as_str(), header.resource_version),
            ("a", "b", 7)
        );
        assert!(header.deleting);
        assert!(header.owners[0].controller);
        assert_eq!(header.labels["k"], "v");
    }
}
