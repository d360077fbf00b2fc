//! What a store's directory holds, in a record of the directory itself: so that a file which is not there is missed.
//!
//! Invariant: whatever the record names was durable before it was named, and stays until the record names something else
//! or newer. So, by where a crash came between, the directory may hold more or newer files than the record names, never
//! fewer or older ones. Whether the record itself must be there is in the directory's `member` file ([`crate::directory`]).

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::OpenError;
use crate::disk::{Disk, missing};
use crate::record::{Absence, Record};

/// The file.
pub(crate) const FILE: &str = "inventory";

/// The files that a directory must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    /// Index of the first entry of the newest segment of the log.
    pub(crate) segment: Option<u64>,
    /// Index of the last entry that the newest snapshot includes.
    pub(crate) snapshot: Option<u64>,
    /// Whether this member ever voted.
    pub(crate) voted: bool,
}

/// The record, and what it says now. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Inventory {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// None where an older directory had no room for one.
    record: Option<Record<Contents>>,
    contents: Contents,
}

impl Inventory {
    /// Opens the record, or makes it where absence is no loss. On a full disk an older directory goes on without.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, absence: Absence) -> Result<Self, OpenError> {
        let (record, contents) = match Record::open(disk, dir, FILE, absence) {
            Ok((_, None)) if absence == Absence::IsLoss => return Err(missing(&dir.join(FILE), "holds nothing")),
            Ok((record, contents)) => (Some(record), contents.unwrap_or_default()),
            Err(OpenError::Full { path }) => {
                tracing::warn!(path = %path.display(), "no room for the inventory: files that get lost go unnoticed");
                (None, Contents::default())
            }
            Err(error) => return Err(error),
        };
        let kept = Arc::new(Mutex::new(Kept { record, contents }));
        Ok(Self { kept })
    }

    /// What the directory must have.
    pub(crate) fn contents(&self) -> Contents {
        self.kept.lock().contents
    }

    /// Whether there is a record.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.lock().record.is_some()
    }

    /// The newest segment is now this one: called before others go, and after it came.
    pub(crate) fn set_segment(&self, first_index: u64) -> io::Result<()> {
        self.change(|contents| contents.segment = Some(first_index))
    }

    /// The newest snapshot is now this one.
    pub(crate) fn set_snapshot(&self, last_index: u64) -> io::Result<()> {
        self.change(|contents| contents.snapshot = Some(last_index))
    }

    /// A vote was kept.
    pub(crate) fn set_voted(&self) -> io::Result<()> {
        self.change(|contents| contents.voted = true)
    }

    /// Everything at once, as found.
    pub(crate) fn set(&self, found: Contents) -> io::Result<()> {
        self.change(|contents| *contents = found)
    }

    /// Returns once the change is durable.
    fn change(&self, change: impl FnOnce(&mut Contents)) -> io::Result<()> {
        let mut kept = self.kept.lock();
        let mut contents = kept.contents;
        change(&mut contents);
        if contents == kept.contents {
            return Ok(());
        }
        if let Some(record) = &mut kept.record {
            record.save(&contents)?;
        }
        kept.contents = contents;
        Ok(())
    }
}
