//! One change of one key, as history keeps it and watches deliver it.
//!
//! Invariant: an event is immutable but for its lazily encoded line, and exists once however many watch it.

use std::sync::OnceLock;

use bytes::Bytes;
use trireme_api::Object;

use crate::{Key, Revision};

/// One change of one key, shared by all who watch it.
#[derive(Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// The key.
    pub key: Key,
    /// Put or deleted.
    pub kind: EventKind,
    /// The object as of this revision; for a deletion its last state with the deletion's resourceVersion.
    pub object: Object,
    /// What the key held before; selectors need it to tell entering from leaving.
    pub previous: Option<Object>,
    /// The watch line of this event in JSON (`{"type":…,"object":…}\n`) where the plain type applies, encoded once for
    /// all watchers; filled by the API server.
    pub line: OnceLock<Bytes>,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was created or changed; `previous` tells which.
    Put,
    /// It was deleted.
    Delete,
}

impl Event {
    /// What history counts for this event, in bytes: the object (its watch line may come to live beside it), what only
    /// history keeps of the past, and the event itself.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 256;
        let previous = self.previous.as_ref().map_or(0, |object| object.bytes().len());
        self.object.bytes().len() + previous + OVERHEAD
    }
}
