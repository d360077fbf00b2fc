//! The replicated store: the one place where objects live. Reads and watches come from the local replica, writes go
//! through consensus and are acknowledged only when they are durable.

use std::sync::Arc;

use async_trait::async_trait;
use trireme_api::Object;
pub use trireme_mvcc::{
    Applied, Body, Command, Event, EventKind, Key, Operation, Page, Precondition, ReadError, Revision, Write, topic,
};

mod codec;
mod config;
mod directory;
mod disk;
mod group;
mod inventory;
mod log;
mod machine;
mod member;
mod memory;
mod network;
mod peer;
mod raft;
mod record;
mod replica;
mod snapshot;
mod types;
mod upkeep;

pub use config::{
    Clock, ELECTION_MS, ENTRIES_BEHIND_SNAPSHOT, HEARTBEAT_MS, HISTORY_MS, OpenError, SEGMENT_BYTES, SNAPSHOT_LOG_BYTES,
    StoreConfig,
};
pub use directory::owner;
pub use disk::{Disk, DiskFile, Lock, Mode, RealDisk};
pub use member::{ClusterStatus, Leadership, Member, MemberError, MemberStatus, Role, Start};
pub use memory::MemoryStore;
pub use peer::{PeerDialer, Stream};
pub use raft::{RaftStore, Statistics};

/// Why a write did not happen, one variant per decision of the caller.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no leader, or no quorum: try again later. The write was not applied.
    #[error("the store has no leader")]
    Unavailable,
    /// The outcome is unknown (leadership was lost midway): read before trying again.
    #[error("the outcome of the write is unknown")]
    Unknown,
    /// The disk is full or refuses: nothing can be written until that is mended. The write was not applied.
    #[error("the store's disk does not accept writes: {0}")]
    Disk(String),
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

    /// As [`Store::watch`], for who wants the changes of one [`topic`] of the prefix's resource alone; more may be told. It
    /// costs nothing for the changes of other topics.
    fn watch_topic(&self, prefix: &str, topic: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        debug_assert!(!topic.is_empty(), "a topic has a name");
        self.watch(prefix, after)
    }

    /// The revision of the local replica.
    fn revision(&self) -> Revision;

    /// Resolves when the local replica has reached `revision`.
    async fn reached(&self, revision: Revision);
}
