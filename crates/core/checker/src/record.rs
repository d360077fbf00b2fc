//! The lines that processes write: one record each, as JSON.
//!
//! Invariant: every time in a history comes from one clock that all recorders share (any unit, never going back); an
//! operation is `invoked` before anything of it left the client and `returned` after its answer was complete.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// What a client asked for and was told.
    Operation(Operation),
    /// Something that happened to a watch.
    Watch(WatchStep),
    /// The whole content under a prefix, as one server showed it.
    Listing(Listing),
}

/// One operation on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its number, once per history.
    pub id: u64,
    /// Who asked. A client asks one thing after another.
    pub client: u64,
    /// Who was asked.
    pub server: String,
    /// On which key.
    pub key: String,
    /// When it began.
    pub invoked: u64,
    /// When it was answered or given up. Of no meaning for an unknown outcome, which may come true at any later time.
    pub returned: u64,
    /// What was asked.
    pub kind: Kind,
    /// What came of it.
    pub outcome: Outcome,
}

/// What an operation asks for. Values should be unique per history: it makes checks sharper, though none relies on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A linearizable read.
    Read,
    /// A read that may be old (from a replica, without asking for a quorum).
    StaleRead,
    /// Puts a value whatever is there.
    Write {
        /// The value.
        value: String,
    },
    /// Puts a value where nothing is.
    Create {
        /// The value.
        value: String,
    },
    /// Puts a value where the key was last changed at a revision.
    Cas {
        /// That revision.
        expected: u64,
        /// The value.
        value: String,
    },
    /// Removes the key, if it was last changed at a revision where one is given.
    Delete {
        /// That revision.
        expected: Option<u64>,
    },
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A change was applied and acknowledged.
    Applied {
        /// At this revision.
        revision: u64,
    },
    /// A read was answered.
    Saw(Seen),
    /// The condition of the change did not hold (or there was nothing to delete or write to): nothing was applied.
    Refused {
        /// What the key held, where that was told.
        seen: Option<Seen>,
    },
    /// Certainly not applied, for a reason that says nothing about the key.
    Failed,
    /// Nobody knows: it may take effect at any time after its invocation, or never.
    Unknown,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Nothing.
    Absent,
    /// A value, last changed at a revision.
    Present {
        /// The value.
        value: String,
        /// The revision.
        revision: u64,
    },
}

/// Something that happened to a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStep {
    /// The watch's number, the same over all connections that it resumed on.
    pub watch: u64,
    /// Who served it at that time.
    pub server: String,
    /// When it was seen.
    pub at: u64,
    /// What.
    pub step: Step,
}

/// What may happen to a watch, in the order in which its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It begins, or begins anew after a list: everything after this revision is to come.
    Opened {
        /// Keys that begin with this.
        prefix: String,
        /// The revision that is known.
        after: u64,
    },
    /// A change.
    Event {
        /// Its revision.
        revision: u64,
        /// Its key.
        key: String,
        /// What happened.
        change: Change,
        /// The value put, or the last one of what was deleted.
        value: String,
    },
    /// Everything up to this revision has been delivered.
    Bookmark {
        /// The revision.
        revision: u64,
    },
    /// The connection was lost and another one goes on behind this revision.
    Resumed {
        /// The highest revision that an event or a bookmark told.
        after: u64,
    },
    /// The server said that it cannot go on from there (410 `Expired`): the client has to list again.
    Expired,
    /// The client ended it, having waited until everything up to this revision must have come.
    Ended {
        /// The revision; 0 where it did not wait.
        through: u64,
    },
}

/// What an event says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was not there before.
    Added,
    /// It was there before.
    Modified,
    /// It is gone.
    Deleted,
}

/// The whole content under a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Who showed it.
    pub server: String,
    /// Keys that begin with this.
    pub prefix: String,
    /// When it was asked for.
    pub invoked: u64,
    /// When it was answered.
    pub returned: u64,
    /// Of which revision it is.
    pub revision: u64,
    /// Whether it must show everything that was acknowledged before it was asked for.
    pub linearizable: bool,
    /// Value and revision by key.
    pub objects: BTreeMap<String, (String, u64)>,
}

impl Kind {
    /// The value that is put, if one is.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Write { value } | Self::Create { value } | Self::Cas { value, .. } => Some(value),
            Self::Read | Self::StaleRead | Self::Delete { .. } => None,
        }
    }

    /// Whether it changes the key when it succeeds.
    #[must_use]
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Read | Self::StaleRead)
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::Present { value, revision } => write!(f, "{value:?} of revision {revision}"),
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, client, server, .. } = self;
        write!(f, "operation {id} (client {client} at {server}, {}..", self.invoked)?;
        match self.outcome {
            Outcome::Unknown => write!(f, "?)"),
            _ => write!(f, "{})", self.returned),
        }?;
        match &self.kind {
            Kind::Read => write!(f, " read"),
            Kind::StaleRead => write!(f, " stale read"),
            Kind::Write { value } => write!(f, " write {value:?}"),
            Kind::Create { value } => write!(f, " create {value:?}"),
            Kind::Cas { expected, value } => write!(f, " write {value:?} over revision {expected}"),
            Kind::Delete { expected: None } => write!(f, " delete"),
            Kind::Delete {
                expected: Some(expected),
            } => write!(f, " delete revision {expected}"),
        }?;
        write!(f, " of {:?}: ", self.key)?;
        match &self.outcome {
            Outcome::Applied { revision } => write!(f, "applied at revision {revision}"),
            Outcome::Saw(seen) => write!(f, "saw {seen}"),
            Outcome::Refused { seen: None } => write!(f, "refused"),
            Outcome::Refused { seen: Some(seen) } => write!(f, "refused, there is {seen}"),
            Outcome::Failed => write!(f, "failed"),
            Outcome::Unknown => write!(f, "outcome unknown"),
        }
    }
}
