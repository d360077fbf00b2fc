//! What a store needs to know to open, and why it may refuse.
//!
//! Invariant: every `OpenError` names the path it is about and says what to do; nothing on disk was changed by then.

use std::path::PathBuf;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Directory of the log, the vote and the snapshots; made if absent. One process at a time.
    pub data_dir: PathBuf,
    /// This server's number in the group, never reused by another.
    pub member_id: u64,
    /// Length of one log segment in bytes; the room for one is taken from the disk in advance.
    pub segment_bytes: u64,
    /// A snapshot is written once the log behind the last one is this long, in bytes.
    pub snapshot_log_bytes: u64,
    /// History reaches back at least this far (if its bounds on count and bytes allow), in milliseconds.
    pub history_ms: u64,
}

/// Default of [`StoreConfig::segment_bytes`].
pub const SEGMENT_BYTES: u64 = 8 << 20;

/// Default of [`StoreConfig::snapshot_log_bytes`].
pub const SNAPSHOT_LOG_BYTES: u64 = 16 << 20;

/// Default of [`StoreConfig::history_ms`]: five minutes.
pub const HISTORY_MS: u64 = 5 * 60 * 1000;

impl StoreConfig {
    /// The defaults for everything that need not be chosen.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, member_id: u64) -> Self {
        Self {
            data_dir: data_dir.into(),
            member_id,
            segment_bytes: SEGMENT_BYTES,
            snapshot_log_bytes: SNAPSHOT_LOG_BYTES,
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
