//! One change of one key, as history keeps it and watches deliver it.
//!
//! Invariant: an event is immutable and exists once however many watch it.

use std::sync::Arc;

use trireme_api::Object;

use crate::topic::Topics;
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
    /// Where it is told beside its resource.
    pub(crate) topics: Topics,
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
    /// The topics ([`crate::topic`]) that it is told in.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.topics.iter().flatten()
    }

    /// What history takes in memory for this event, about: the event, its places, and the objects that live for it alone.
    /// Those are the one before, and of a deletion its last state; what a key holds now is the state's.
    pub(crate) fn weight(&self) -> usize {
        /// An event, two reference counts, its places in some rings, and its key.
        const OWN: usize = size_of::<Event>() + 80;
        let last = match self.kind {
            EventKind::Put => 0,
            EventKind::Delete => self.object.weight(),
        };
        OWN + self.key.len() + last + self.previous.as_ref().map_or(0, Object::weight)
    }
}
