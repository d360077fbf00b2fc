//! What consensus is about here: a command goes in, what applying it gave comes out.
//!
//! Invariant: a command exists once in memory between its proposal and its application, however often openraft clones
//! the entry.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::OwnedSemaphorePermit;
use trireme_mvcc::{Applied, Command};

openraft::declare_raft_types!(
    /// The consensus group of the store.
    pub(crate) Group:
        D = Proposal,
        R = Answer,
        Node = crate::Member,
        // One leader per term: a term is what fences what its leader's controllers write.
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

/// An entry of the replicated log.
pub(crate) type Entry = openraft::alias::EntryOf<Group>;
/// Term and index of an entry.
pub(crate) type LogId = openraft::alias::LogIdOf<Group>;
/// Who this member voted for.
pub(crate) type Vote = openraft::alias::VoteOf<Group>;
/// The members, and the entry that made them so.
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Group>;
/// What a snapshot is of.
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Group>;

/// A log id of its parts.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: term.into(),
        index,
    }
}

/// A command on its way through the log, and the room in memory and on disk that was taken for it.
#[derive(Clone)]
pub(crate) struct Proposal {
    pub(crate) command: Arc<Command>,
    /// Given back when the last clone is gone, that is when the entry is on disk and applied.
    _room: Option<Arc<OwnedSemaphorePermit>>,
    /// Set when the entry was handed to the log: from then on it may be applied, whatever its proposer is told.
    appended: Arc<AtomicBool>,
}

impl Proposal {
    /// A new proposal that holds its room.
    pub(crate) fn new(command: Command, room: OwnedSemaphorePermit) -> Self {
        Self {
            command: Arc::new(command),
            _room: Some(Arc::new(room)),
            appended: Arc::default(),
        }
    }

    /// Notes that the log has it.
    pub(crate) fn set_appended(&self) {
        self.appended.store(true, Ordering::Release);
    }

    /// Tells later whether the log got it.
    pub(crate) fn appended(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.appended)
    }

    /// The command alone.
    pub(crate) fn into_command(self) -> Command {
        Arc::try_unwrap(self.command).unwrap_or_else(|shared| (*shared).clone())
    }
}

impl From<Command> for Proposal {
    /// A command that is already on disk.
    fn from(command: Command) -> Self {
        Self {
            command: Arc::new(command),
            _room: None,
            appended: Arc::default(),
        }
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.command {
            Command::Transaction { writes, .. } => write!(f, "transaction of {} writes", writes.len()),
            Command::Compact { revision } => write!(f, "compact to {revision}"),
            Command::Expire { now_ms } => write!(f, "expire at {now_ms}"),
        }
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.command.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Command::deserialize(deserializer).map(Self::from)
    }
}

/// What applying gave: for the proposer in this process. It never travels, though openraft asks for a serialisable type.
#[derive(Debug)]
pub(crate) struct Answer(pub(crate) Applied);

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("answers stay in their process"))
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("answers stay in their process"))
    }
}
