//! The members of the group: who they are, what is known of them, and why a change of them may be refused.
//!
//! Invariant: an id belongs to one data directory for ever. Names, addresses and URLs may change; they are replicated
//! with the membership.

use serde::{Deserialize, Serialize};

/// One server of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// A number that no other member has or had.
    pub id: u64,
    /// The server's name, unique among the members.
    pub name: String,
    /// `host:port` where it answers peers.
    pub peer: String,
    /// URL of its API, `https://host:port`.
    pub api: String,
    /// Version of what it runs, for people; empty where it is not known.
    #[serde(default)]
    pub version: String,
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} at {})", self.name, self.id, self.peer)
    }
}

/// How a server begins when its directory is empty. Otherwise it goes on as what the directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Makes a new group whose only member it is.
    Cluster(Member),
    /// Waits for a leader to add it.
    Join(Member),
}

impl Start {
    /// The server itself.
    #[must_use]
    pub fn member(&self) -> &Member {
        match self {
            Self::Cluster(member) | Self::Join(member) => member,
        }
    }
}

/// Who leads, as this server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Nobody that this server knows of.
    Unknown,
    /// Another server.
    Follower {
        /// Its term.
        term: u64,
        /// The server.
        leader: Member,
    },
    /// This server, and everything that earlier leaders had committed is applied here.
    Leader {
        /// The term, which no other leader has or had.
        term: u64,
    },
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Counts for quorum.
    Voter,
    /// Receives the log only.
    Learner,
}

/// What is known of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Who it is.
    pub member: Member,
    /// What it may do.
    pub role: Role,
    /// How many log entries it lacks, as far as the leader knows; absent when the leader could not be asked, or does not
    /// know yet.
    pub lag_entries: Option<u64>,
    /// How long ago the leader heard from it, in milliseconds; absent when it has not since it leads, and when the leader
    /// could not be asked.
    pub last_heard_ms: Option<u64>,
}

impl MemberStatus {
    /// Whether it was added but never came.
    #[must_use]
    pub fn never_heard(&self) -> bool {
        self.role == Role::Learner && self.last_heard_ms.is_none()
    }
}

/// The group as a server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The server that was asked.
    pub id: u64,
    /// Its term.
    pub term: u64,
    /// The leader that it knows.
    pub leader: Option<u64>,
    /// Index of the last log entry that is applied here.
    pub last_applied: u64,
    /// Index of the last log entry that is known to be committed.
    pub committed: u64,
    /// Whether a quorum was reached a moment ago.
    pub quorum: bool,
    /// Members by id.
    pub members: Vec<MemberStatus>,
}

/// Why the members are not changed, one variant per decision of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MemberError {
    /// There is no leader, or no quorum: try again later. Nothing was changed.
    #[error("the cluster has no leader at the moment: try again when a majority of its servers runs")]
    Unavailable,
    /// The outcome is unknown: look at the members before trying again.
    #[error("the outcome is unknown: look at the members before trying again")]
    Unknown,
    /// No member has this id.
    #[error("there is no member {0}")]
    NoSuchMember(u64),
    /// Another member has this name.
    #[error("a server named \"{0}\" is a member already")]
    NameTaken(String),
    /// Another member has this address for peers.
    #[error("another member has the peer address {0}")]
    AddressTaken(String),
    /// A member has this id already.
    #[error("the member id {0} is taken")]
    IdTaken(u64),
    /// Without this one, nobody could vote.
    #[error("the last voting server cannot be removed")]
    LastVoter,
    /// Too few voters would be left that are alive.
    #[error("without this server, too few of the others are alive for a majority")]
    QuorumAtRisk,
    /// It must receive the log first.
    #[error("the server is {lag_entries} log entries behind; it can vote once it has caught up")]
    NotCaughtUp {
        /// How many entries it lacks.
        lag_entries: u64,
    },
    /// Only a voter that is alive can lead.
    #[error("member {0} cannot lead: it has no vote, or does not answer")]
    CannotLead(u64),
    /// There is no other voter to lead.
    #[error("no other voting server is there to lead")]
    NobodyElse,
}
