//! The data directory of a store: whose it is, and what is read from it before consensus starts.
//!
//! Invariant: nothing is changed in a directory that belongs to another member, is damaged, or lacks something. A file that
//! is not there is new only as long as the `member` file does not say that everything was made:
//!
//! | `member` | anything else there | meaning                                                     |
//! | -------- | ------------------- | ----------------------------------------------------------- |
//! | absent   | no                  | new, unless whoever opens it knows better                   |
//! | absent   | yes                 | lost: it is written before all else                         |
//! | a number |                     | being made when the process ended, or older than this table |
//! | complete |                     | in use: what the inventory names must be there              |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use trireme_mvcc::State;

use crate::disk::{Disk, Lock, RealDisk, damaged, lock, missing, read_checked, refused, replace_checked};
use crate::inventory::{self, Contents, Inventory};
use crate::log::{self, Log, Opening};
use crate::record::Absence;
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
/// The file that says whose directory it is.
const MEMBER: &str = "member";
/// What stands behind the number in it once everything was made.
const COMPLETE: &str = " complete";

/// Takes a directory and reads it; makes it where there is none.
pub(crate) fn open(config: &StoreConfig) -> Result<Opened, OpenError> {
    let (disk, dir) = (&*config.disk, config.data_dir.as_path());
    let member = config.start.member().id;
    if config.established {
        let path = dir.join(MEMBER);
        if read_checked(disk, &path)?.is_none() {
            return Err(missing(&path, "is missing"));
        }
    }
    disk.make_dir(dir).map_err(|source| refused(dir, source))?;
    let lock = lock(disk, dir)?;
    let absence = identify(disk, dir, member)?;
    let inventory = Inventory::open(disk, dir, absence)?;
    remove_unfinished(disk, dir)?;
    // A name that the process before made may not be durable yet.
    disk.flush_dir(dir).map_err(|source| refused(dir, source))?;
    let (snapshot, state) = match snapshot::load_newest(disk, dir, inventory.contents().snapshot)? {
        Some((file, state)) => (Some(file), state),
        None => (None, State::new()),
    };
    let from = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id);
    let joins = matches!(config.start, Start::Join(_));
    let log = Log::open(Opening {
        disk: Arc::clone(&config.disk),
        dir,
        lock: Arc::clone(&lock),
        segment_bytes: config.segment_bytes,
        snapshot: from,
        joins,
        inventory: inventory.clone(),
        absence,
    })?;
    let found = Contents {
        segment: log.newest_segment(),
        snapshot: snapshot.as_ref().map(|snapshot| snapshot::last_index(&snapshot.meta)),
        voted: log.has_voted(),
    };
    inventory
        .set(found)
        .map_err(|source| refused(&dir.join(inventory::FILE), source))?;
    if absence == Absence::IsNew && inventory.is_kept() {
        complete(disk, dir, member)?;
    }
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

/// The id of the member that a directory of the machine's disk belongs to; none where there is no such directory, or it was
/// never begun.
///
/// # Errors
/// When it cannot be read, or does not say.
pub fn owner(dir: &Path) -> Result<Option<u64>, OpenError> {
    let path = dir.join(MEMBER);
    let content = read_checked(&RealDisk, &path)?;
    content
        .map(|content| parse(&path, &content).map(|(member, _)| member))
        .transpose()
}

/// Whose directory it is, and what it means that a file is not there.
fn parse(path: &Path, content: &[u8]) -> Result<(u64, Absence), OpenError> {
    let text = std::str::from_utf8(content).unwrap_or_default();
    let (number, absence) = match text.strip_suffix(COMPLETE) {
        Some(number) => (number, Absence::IsLoss),
        None => (text, Absence::IsNew),
    };
    let number = number.parse().map_err(|_| damaged(path, 0, "not a member's number"))?;
    Ok((number, absence))
}

/// Writes or compares whose directory it is. Tells what it means that a file is not there.
fn identify(disk: &dyn Disk, dir: &Path, wanted: u64) -> Result<Absence, OpenError> {
    let path = dir.join(MEMBER);
    let Some(content) = read_checked(disk, &path)? else {
        if let Some(other) = others(disk, dir)?.first() {
            tracing::error!(path = %other.display(), "belongs to a member, but it is not known to which");
            return Err(missing(&path, "is missing"));
        }
        replace_checked(disk, &path, wanted.to_string().as_bytes()).map_err(|source| refused(&path, source))?;
        return Ok(Absence::IsNew);
    };
    match parse(&path, &content)? {
        (found, absence) if found == wanted => Ok(absence),
        (found, _) => Err(OpenError::Member {
            path: dir.to_owned(),
            found,
            wanted,
        }),
    }
}

/// Notes that everything was made: from now on what is not there was lost.
fn complete(disk: &dyn Disk, dir: &Path, member: u64) -> Result<(), OpenError> {
    let path = dir.join(MEMBER);
    let content = format!("{member}{COMPLETE}");
    match replace_checked(disk, &path, content.as_bytes()).map_err(|source| refused(&path, source)) {
        // An older directory on a full disk; the next start tries again.
        Err(OpenError::Full { path }) => {
            tracing::warn!(path = %path.display(), "no room to note that everything is there: files that get lost may go unnoticed");
            Ok(())
        }
        other => other,
    }
}

/// Files that only a member's directory has.
fn others(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let mut paths = disk.list(dir).map_err(|source| refused(dir, source))?;
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        [log::VOTE, inventory::FILE].contains(&name) || name.starts_with("log-") || name.starts_with("snapshot-")
    });
    Ok(paths)
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
