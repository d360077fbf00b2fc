//! The data directory of a store: whose it is, and what is read from it before consensus starts.
//!
//! Invariant: nothing is changed in a directory that belongs to another member or is damaged.

use std::path::Path;
use std::sync::Arc;

use trireme_mvcc::State;

use crate::disk::{Disk, Lock, damaged, lock, read_checked, refused, replace_checked};
use crate::log::Log;
use crate::snapshot::{self, SnapshotFile};
use crate::{OpenError, Start, StoreConfig};

/// What a directory holds.
pub(crate) struct Opened {
    pub(crate) log: Log,
    pub(crate) snapshot: Option<SnapshotFile>,
    pub(crate) state: State,
    pub(crate) lock: Lock,
    /// Whether its server noticed that it was removed from the cluster.
    pub(crate) removed: bool,
}

/// The file that says so.
const REMOVED: &str = "removed";

/// Takes a directory and reads it; makes it where there is none.
pub(crate) fn open(config: &StoreConfig) -> Result<Opened, OpenError> {
    let (disk, dir) = (&*config.disk, config.data_dir.as_path());
    disk.make_dir(dir).map_err(|source| refused(dir, source))?;
    let lock = lock(disk, dir)?;
    identify(disk, dir, config.start.member().id)?;
    remove_unfinished(disk, dir)?;
    // A name that the process before made may not be durable yet.
    disk.flush_dir(dir).map_err(|source| refused(dir, source))?;
    let (snapshot, state) = match snapshot::load_newest(disk, dir)? {
        Some((file, state)) => (Some(file), state),
        None => (None, State::new()),
    };
    let from = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id);
    let joins = matches!(config.start, Start::Join(_));
    let log = Log::open(
        Arc::clone(&config.disk),
        dir,
        config.segment_bytes,
        Arc::clone(&lock),
        from,
        joins,
    )?;
    Ok(Opened {
        log,
        snapshot,
        state,
        lock,
        removed: read_checked(disk, &dir.join(REMOVED))?.is_some(),
    })
}

/// Notes in the directory that its server was removed from the cluster.
pub(crate) fn note_removed(disk: &dyn Disk, dir: &Path) -> std::io::Result<()> {
    replace_checked(disk, &dir.join(REMOVED), b"removed from the cluster")
}

/// Writes or compares whose directory it is.
fn identify(disk: &dyn Disk, dir: &Path, wanted: u64) -> Result<(), OpenError> {
    let path = dir.join("member");
    let Some(content) = read_checked(disk, &path)? else {
        return replace_checked(disk, &path, wanted.to_string().as_bytes()).map_err(|source| refused(&path, source));
    };
    let found = std::str::from_utf8(&content).ok().and_then(|number| number.parse().ok());
    match found.ok_or_else(|| damaged(&path, 0, "not a member's number"))? {
        found if found == wanted => Ok(()),
        found => Err(OpenError::Member {
            path: dir.to_owned(),
            found,
            wanted,
        }),
    }
}

/// Removes files that a crash left before they got their names.
fn remove_unfinished(disk: &dyn Disk, dir: &Path) -> Result<(), OpenError> {
    for path in disk.list(dir).map_err(|source| refused(dir, source))? {
        if path.extension().is_some_and(|extension| extension == "new") {
            disk.remove(&path).map_err(|source| refused(&path, source))?;
        }
    }
    Ok(())
}
