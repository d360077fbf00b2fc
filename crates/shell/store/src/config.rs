//! What a store needs to know to open, and why it may refuse.
//!
//! Invariant: every `OpenError` names the path it is about and says what to do; nothing on disk was changed by then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Disk, PeerDialer, RealDisk, Start};

/// The time of day in Unix milliseconds. It may jump.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

fn system_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// How to open a store.
#[derive(Clone)]
pub struct StoreConfig {
    /// Directory of the log, the vote and the snapshots; made if absent. One process at a time.
    pub data_dir: PathBuf,
    /// Who this server is, and how it begins in an empty directory.
    pub start: Start,
    /// Whether the directory is known to have been in use: then one that is absent or empty was lost, and is refused.
    pub established: bool,
    /// How it reaches others; without one it is alone for ever.
    pub dialer: Option<Arc<dyn PeerDialer>>,
    /// How often the leader shows that it lives, in milliseconds.
    pub heartbeat_ms: u64,
    /// A follower that has not heard from the leader for longer than this asks for votes: a random time between the two,
    /// in milliseconds. The greater one is also how long it refuses others its vote after it heard from the leader.
    pub election_ms: (u64, u64),
    /// The disk that `data_dir` is on.
    pub disk: Arc<dyn Disk>,
    /// The time of day.
    pub clock: Clock,
    /// Where the random numbers of this crate begin.
    pub seed: u64,
    /// Length of one log segment in bytes; the room for one is taken from the disk in advance.
    pub segment_bytes: u64,
    /// A snapshot is written once the log behind the last one is this long, in bytes.
    pub snapshot_log_bytes: u64,
    /// How many log entries stay behind a snapshot, for peers that are a little behind: they need no snapshot.
    pub entries_behind_snapshot: u64,
    /// History reaches back at least this far (if its bounds on count and bytes allow), in milliseconds.
    pub history_ms: u64,
}

/// Default of [`StoreConfig::segment_bytes`].
pub const SEGMENT_BYTES: u64 = 8 << 20;

/// Default of [`StoreConfig::snapshot_log_bytes`].
pub const SNAPSHOT_LOG_BYTES: u64 = 16 << 20;

/// Default of [`StoreConfig::entries_behind_snapshot`].
pub const ENTRIES_BEHIND_SNAPSHOT: u64 = 1000;

/// Default of [`StoreConfig::history_ms`]: five minutes.
pub const HISTORY_MS: u64 = 5 * 60 * 1000;

/// Default of [`StoreConfig::heartbeat_ms`].
pub const HEARTBEAT_MS: u64 = 100;

/// Default of [`StoreConfig::election_ms`].
pub const ELECTION_MS: (u64, u64) = (300, 500);

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("data_dir", &self.data_dir)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

impl StoreConfig {
    /// The defaults for everything that need not be chosen.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, start: Start) -> Self {
        Self {
            data_dir: data_dir.into(),
            seed: start.member().id ^ u64::from(std::process::id()),
            start,
            established: false,
            dialer: None,
            disk: Arc::new(RealDisk),
            clock: Arc::new(system_clock),
            heartbeat_ms: HEARTBEAT_MS,
            election_ms: ELECTION_MS,
            segment_bytes: SEGMENT_BYTES,
            snapshot_log_bytes: SNAPSHOT_LOG_BYTES,
            entries_behind_snapshot: ENTRIES_BEHIND_SNAPSHOT,
            history_ms: HISTORY_MS,
        }
    }
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory.
    #[error("the data directory {} is in use by another process: stop that one, or choose another directory", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another member.
    #[error("the data directory {} belongs to member {found}, not to member {wanted}: start with the right one", path.display())]
    Member {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who asked.
        wanted: u64,
    },
    /// A file is damaged where a crash cannot have damaged it.
    #[error(
        "{} is damaged at offset {offset} ({what}): the disk may be failing; restore the data directory from a backup, or \
         move it away to begin empty",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A file that must be there is not, or holds nothing: absence is not taken for a new beginning.
    #[error(
        "{} {what}, though its data directory was in use: restore the data directory from a backup; or, if other servers of the \
         cluster live, take this one out there (`trireme member remove NAME`), remove its data directory and start it with \
         --join and a token; a new cluster begins in another --data-dir",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The disk is full.
    #[error("no space for the store in {}: free some and start again", path.display())]
    Full {
        /// The file or directory that could not be written.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error("cannot open the store's {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// Consensus does not start on what the disk holds.
    #[error("the store in {} does not start: {reason}", path.display())]
    Consensus {
        /// The directory.
        path: PathBuf,
        /// What openraft says.
        reason: String,
    },
}
