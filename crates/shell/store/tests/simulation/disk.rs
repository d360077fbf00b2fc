//! A disk in memory that does what real ones may: what was not flushed is lost at a crash, or stays in part, sector by
//! sector; names that were not flushed go back to an earlier state; it can be full, slow, or fail to flush.
//!
//! Invariant: what a successful flush covered survives every crash.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use trireme_store::{Disk, DiskFile, Lock, Mode};

use crate::chance::Chance;

/// What is written at once, or not at all.
const SECTOR: usize = 512;

/// One host's disk, which outlives its processes.
#[derive(Debug)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts crashes: handles from before one are dead.
    life: AtomicU64,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last flush of a directory, in order.
    pending_names: Vec<NameChange>,
    faults: Faults,
}

/// What is wrong with a disk at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// No new space is given.
    pub full: bool,
    /// The next flush fails.
    pub flush_fails: bool,
    /// How long each piece of work takes at most, in milliseconds.
    pub slow_ms: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(PathBuf, u64),
    Remove(PathBuf),
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unflushed: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("simulated files fit into memory")
}

fn write_into(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let offset = length(offset);
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Content {
    fn apply(content: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write(offset, bytes) => write_into(content, *offset, bytes),
            Change::Length(to) => content.resize(length(*to), 0),
        }
    }

    fn change(&mut self, change: Change) {
        Self::apply(&mut self.now, &change);
        self.unflushed.push(change);
    }

    fn flush(&mut self) {
        for change in self.unflushed.drain(..) {
            Self::apply(&mut self.durable, &change);
        }
    }

    /// What a crash leaves: of the unflushed changes, any may be there, whole or some sectors of it.
    fn crash(&mut self, chance: &mut Chance) {
        for change in std::mem::take(&mut self.unflushed) {
            match (chance.below(3), &change) {
                (0, _) => {}
                (1, _) => Self::apply(&mut self.durable, &change),
                (_, Change::Length(_)) => {}
                (_, Change::Write(offset, bytes)) => {
                    // Sectors lie at fixed places, wherever the write begins.
                    let (mut at, mut rest) = (*offset, bytes.as_slice());
                    while !rest.is_empty() {
                        let (sector, after) = rest.split_at(rest.len().min(SECTOR - length(at) % SECTOR));
                        if chance.one_in(2) {
                            write_into(&mut self.durable, at, sector);
                        }
                        at += sector.len() as u64;
                        rest = after;
                    }
                }
            }
        }
        self.now.clone_from(&self.durable);
    }
}

impl State {
    fn name(&mut self, change: NameChange) {
        Self::apply(&mut self.names, &change);
        self.pending_names.push(change);
    }

    fn apply(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
        match change {
            NameChange::Put(path, file) => drop(names.insert(path.clone(), *file)),
            NameChange::Remove(path) => drop(names.remove(path)),
        }
    }

    fn forget_unnamed(&mut self) {
        let Self {
            files,
            names,
            durable_names,
            pending_names,
            ..
        } = self;
        let pending = |file: &u64| {
            pending_names
                .iter()
                .any(|change| matches!(change, NameChange::Put(_, put) if put == file))
        };
        let named = |file: &u64| names.values().chain(durable_names.values()).any(|other| other == file);
        files.retain(|file, _| named(file) || pending(file));
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new(chance: Chance) -> Self {
        let state = State {
            chance,
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            faults: Faults::default(),
        };
        let shared = Shared {
            state: Mutex::new(state),
            life: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The power goes, or with `keep` only the process: then the kernel still has what was written.
    pub fn crash(&self, keep: bool) {
        self.shared.life.fetch_add(1, Ordering::Relaxed);
        if keep {
            return;
        }
        let mut state = self.shared.state.lock();
        let mut chance = state.chance.fork();
        for content in state.files.values_mut() {
            content.crash(&mut chance);
        }
        // A journal: changes of names stay in order, but the last ones may be missing.
        let pending = std::mem::take(&mut state.pending_names);
        let stay = length(chance.below(pending.len() as u64 + 1));
        for change in &pending[..stay] {
            State::apply(&mut state.durable_names, change);
        }
        state.names = state.durable_names.clone();
        state.forget_unnamed();
    }

    /// Everything is gone: another disk is in its place.
    pub fn wipe(&self) {
        self.shared.life.fetch_add(1, Ordering::Relaxed);
        let mut state = self.shared.state.lock();
        state.files.clear();
        state.names.clear();
        state.durable_names.clear();
        state.pending_names.clear();
        state.faults = Faults::default();
    }

    /// Changes what is wrong with it.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.state.lock().faults);
    }

    /// Flips a bit of the durable content of a file whose name begins so, for tests of what must be found.
    pub fn damage(&self, prefix: &str, offset: u64) -> bool {
        let mut state = self.shared.state.lock();
        let named = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        };
        let Some(file) = state.names.iter().find(|(path, _)| named(path)).map(|(_, file)| *file) else {
            return false;
        };
        let Some(content) = state.files.get_mut(&file) else {
            return false;
        };
        let Some(byte) = content.durable.get_mut(length(offset)) else {
            return false;
        };
        *byte ^= 1;
        content.now.clone_from(&content.durable);
        true
    }
}

/// An open file of one life of a host.
#[derive(Debug)]
struct SimFile {
    shared: Arc<Shared>,
    life: u64,
    file: u64,
}

fn dead() -> io::Error {
    io::Error::other("this process is dead")
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut Content, &mut Faults) -> io::Result<T>) -> io::Result<T> {
        if self.shared.life.load(Ordering::Relaxed) != self.life {
            return Err(dead());
        }
        let mut state = self.shared.state.lock();
        let State { files, faults, .. } = &mut *state;
        work(files.entry(self.file).or_default(), faults)
    }
}

impl DiskFile for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|content, _| {
            let from = content.now.get(length(offset)..).and_then(|rest| rest.get(..buffer.len()));
            buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|content, faults| {
            if faults.full && offset + bytes.len() as u64 > content.now.len() as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.change(Change::Write(offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn length(&self) -> io::Result<u64> {
        self.with(|content, _| Ok(content.now.len() as u64))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.with(|content, _| {
            content.change(Change::Length(length));
            Ok(())
        })
    }

    fn take_room(&self, length: u64) -> io::Result<()> {
        self.with(|content, faults| {
            if content.now.len() as u64 >= length {
                return Ok(());
            }
            if faults.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.change(Change::Length(length));
            Ok(())
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.with(|content, faults| {
            if std::mem::take(&mut faults.flush_fails) {
                // As Linux does: what could not be written is forgotten, and the next flush says nothing of it.
                let lost = content.unflushed.len() / 2;
                content.unflushed.drain(..lost);
                return Err(io::Error::other("the simulated disk failed to flush"));
            }
            content.flush();
            Ok(())
        })
    }
}

/// A host's disk as one process sees it.
#[derive(Debug)]
pub struct Mounted {
    shared: Arc<Shared>,
    life: u64,
}

impl SimDisk {
    /// The disk for a process that starts now.
    pub fn mount(&self) -> Arc<Mounted> {
        let shared = Arc::clone(&self.shared);
        let life = shared.life.load(Ordering::Relaxed);
        Arc::new(Mounted { shared, life })
    }

    /// Whether a mount is one of the present life.
    pub fn serves(&self, mounted: &Mounted) -> bool {
        self.shared.life.load(Ordering::Relaxed) == mounted.life
    }
}

impl Mounted {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        if self.shared.life.load(Ordering::Relaxed) != self.life {
            return Err(dead());
        }
        work(&mut self.shared.state.lock())
    }
}

impl Disk for Mounted {
    fn make_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Lock> {
        Ok(Arc::new(()))
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.with(|state| match (state.names.get(path).copied(), mode) {
            (Some(file), Mode::Existing | Mode::Any) => Ok(file),
            (Some(file), Mode::Empty) => {
                let content = state.files.entry(file).or_default();
                content.change(Change::Length(0));
                Ok(file)
            }
            (None, Mode::Existing) => Err(io::ErrorKind::NotFound.into()),
            (None, _) => {
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, Content::default());
                state.name(NameChange::Put(path.to_owned(), file));
                Ok(file)
            }
        })?;
        let (shared, life) = (Arc::clone(&self.shared), self.life);
        Ok(Arc::new(SimFile { shared, life, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|state| {
            let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            // One step of the journal: the new name appears before the old one goes.
            state.name(NameChange::Put(to.to_owned(), file));
            state.name(NameChange::Remove(from.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
            state.name(NameChange::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.with(|state| {
            Ok(state
                .names
                .keys()
                .filter(|path| path.parent() == Some(dir))
                .cloned()
                .collect())
        })
    }

    fn flush_dir(&self, _: &Path) -> io::Result<()> {
        self.with(|state| {
            for change in std::mem::take(&mut state.pending_names) {
                State::apply(&mut state.durable_names, &change);
            }
            Ok(())
        })
    }

    fn threads(&self) -> bool {
        false
    }

    fn delay(&self) -> Duration {
        let mut state = self.shared.state.lock();
        let slow_ms = state.faults.slow_ms;
        match slow_ms {
            0 => Duration::ZERO,
            _ => Duration::from_millis(state.chance.between(1, slow_ms)),
        }
    }
}
