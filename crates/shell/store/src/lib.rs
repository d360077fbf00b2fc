//! The replicated store: the one place where objects live. Reads and watches come from the local replica, writes go
//! through consensus and are acknowledged only when they are durable.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use trireme_api::Object;
pub use trireme_mvcc::{Applied, Body, Command, Key, Operation, Precondition, Revision, Write};

/// Why a write did not happen, one variant per decision of the caller.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no leader, or no quorum: try again later. The write was not applied.
    #[error("the store has no leader")]
    Unavailable,
    /// The outcome is unknown (leadership was lost midway): read before trying again.
    #[error("the outcome of the write is unknown")]
    Unknown,
    /// The disk is full or refuses: nothing can be written until that is mended.
    #[error("the store's disk does not accept writes: {0}")]
    Disk(String),
}

/// Why a read or a watch from a revision cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// History before `oldest` is gone.
    #[error("revision {asked} was compacted, the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What is still there.
        oldest: Revision,
    },
    /// The revision lies in the future of this replica.
    #[error("revision {asked} is ahead of {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// What this replica has.
        current: Revision,
    },
}

/// A part of a sorted range, all of one revision.
#[derive(Debug, Clone)]
pub struct Page {
    /// The revision that the items are of.
    pub revision: Revision,
    /// Objects in key order, with their keys.
    pub items: Vec<(Key, Object)>,
    /// How many keys of the range come after the last item.
    pub remaining: usize,
}

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

/// A gapless ordered subscription.
#[async_trait]
pub trait Watch: Send {
    /// The next events in order, at least one, all that are there up to a bound; waits for one. `Err` ends the watch:
    /// this subscriber fell behind further than history reaches, and the client must list again.
    ///
    /// Cancel-safe: an event is either returned or still to come.
    async fn next(&mut self) -> Result<Vec<Arc<Event>>, ReadError>;

    /// Every event of the prefix up to this revision has been returned: what a bookmark may say.
    fn progress(&self) -> Revision;
}

/// The store's narrow face. Prefixes and keys are as [`Key`] says.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Replicates a command and applies it. Returns when it is durable and applied here.
    async fn commit(&self, command: Command) -> Result<Applied, WriteError>;

    /// Waits until this replica has everything that was acknowledged anywhere before the call.
    async fn barrier(&self) -> Result<Revision, WriteError>;

    /// The object at a key, from the local replica.
    fn get(&self, key: &str) -> Option<Object>;

    /// Objects whose key begins with `prefix`, after key `after` if given, at most `limit`, at revision `at` or now.
    fn range(&self, prefix: &str, after: Option<&str>, limit: Option<usize>, at: Option<Revision>) -> Result<Page, ReadError>;

    /// Changes of keys that begin with `prefix`, strictly after revision `after`.
    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError>;

    /// The revision of the local replica.
    fn revision(&self) -> Revision;

    /// Resolves when the local replica has reached `revision`.
    async fn reached(&self, revision: Revision);
}
