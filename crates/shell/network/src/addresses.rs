//! Which sandbox has which pod address, on disk.
//!
//! Invariant: one file per address, named after it, holding the sandbox's id. It is written whole and flushed before the
//! address is given out, and linked into place so that two can never have it. Whatever crashes, an address that a sandbox
//! uses stays its own. Freed addresses rest until the range has been gone round.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::{Ipv4Range, NetworkError};

const STAGING: &str = ".new";

pub(crate) struct Addresses {
    directory: PathBuf,
    range: Ipv4Range,
    first: Ipv4Addr,
    last: Ipv4Addr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    owners: BTreeMap<Ipv4Addr, String>,
    by_sandbox: HashMap<String, Ipv4Addr>,
    /// The address given out last.
    cursor: Option<Ipv4Addr>,
}

impl Addresses {
    /// Opens the directory, making it if needed, and reads what was given out before.
    pub(crate) fn open(directory: &Path, range: Ipv4Range) -> Result<Self, NetworkError> {
        let (first, last) = range.pods().ok_or(NetworkError::TooSmall(range))?;
        fs::create_dir_all(directory).map_err(NetworkError::file(directory))?;
        let mut state = State::default();
        let mut newest = None;
        for entry in fs::read_dir(directory).map_err(NetworkError::file(directory))? {
            let entry = entry.map_err(NetworkError::file(directory))?;
            let Ok(address) = entry.file_name().to_string_lossy().parse::<Ipv4Addr>() else {
                continue;
            };
            let path = entry.path();
            let owner = fs::read_to_string(&path).map_err(NetworkError::file(&path))?;
            let changed = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .map_err(NetworkError::file(&path))?;
            if newest.is_none_or(|newest| changed > newest) {
                newest = Some(changed);
                state.cursor = Some(address);
            }
            let owner = owner.trim().to_owned();
            state.by_sandbox.insert(owner.clone(), address);
            state.owners.insert(address, owner);
        }
        Ok(Self {
            directory: directory.to_owned(),
            range,
            first,
            last,
            state: Mutex::new(state),
        })
    }

    /// The sandbox's address: the one it has, or the next free one. Blocks on the disk.
    pub(crate) fn allocate(&self, sandbox: &str) -> Result<Ipv4Addr, NetworkError> {
        let mut state = self.state.lock();
        if let Some(address) = state.by_sandbox.get(sandbox) {
            return Ok(*address);
        }
        let address = self.free(&state).ok_or(NetworkError::Exhausted(self.range))?;
        let path = self.directory.join(address.to_string());
        self.write(&path, sandbox).map_err(NetworkError::file(&path))?;
        state.cursor = Some(address);
        state.owners.insert(address, sandbox.to_owned());
        state.by_sandbox.insert(sandbox.to_owned(), address);
        Ok(address)
    }

    fn free(&self, state: &State) -> Option<Ipv4Addr> {
        let (first, last) = (self.first.to_bits(), self.last.to_bits());
        let start = state
            .cursor
            .map(Ipv4Addr::to_bits)
            .filter(|at| (first..last).contains(at))
            .map_or(first, |at| at + 1);
        let round = (start..=last).chain(first..start).map(Ipv4Addr::from_bits);
        round.into_iter().find(|address| !state.owners.contains_key(address))
    }

    fn write(&self, path: &Path, sandbox: &str) -> io::Result<()> {
        let staged = self.directory.join(STAGING);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&staged)?;
        writeln!(file, "{sandbox}")?;
        file.sync_all()?;
        drop(file);
        fs::hard_link(&staged, path)?;
        fs::remove_file(&staged)?;
        File::open(&self.directory)?.sync_all()
    }

    /// The sandbox's address, if it has one.
    pub(crate) fn of(&self, sandbox: &str) -> Option<Ipv4Addr> {
        self.state.lock().by_sandbox.get(sandbox).copied()
    }

    /// Gives a sandbox's address back. Idempotent. Blocks on the disk.
    pub(crate) fn release(&self, sandbox: &str) -> Result<(), NetworkError> {
        let mut state = self.state.lock();
        let Some(address) = state.by_sandbox.get(sandbox).copied() else {
            return Ok(());
        };
        let path = self.directory.join(address.to_string());
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(NetworkError::file(path)(error)),
        }
        state.by_sandbox.remove(sandbox);
        state.owners.remove(&address);
        Ok(())
    }

    /// Who has which address.
    pub(crate) fn all(&self) -> BTreeMap<String, Ipv4Addr> {
        let state = self.state.lock();
        state
            .by_sandbox
            .iter()
            .map(|(sandbox, address)| (sandbox.clone(), *address))
            .collect()
    }

    /// Everyone who has an address.
    pub(crate) fn sandboxes(&self) -> BTreeSet<String> {
        self.state.lock().by_sandbox.keys().cloned().collect()
    }

    /// Removes the directory and all it knows.
    pub(crate) fn remove(&self) -> Result<(), NetworkError> {
        let mut state = self.state.lock();
        match fs::remove_dir_all(&self.directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(NetworkError::file(&self.directory)(error)),
        }
        *state = State::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Addresses {
        Addresses::open(directory, "10.42.0.0/29".parse().unwrap()).unwrap()
    }

    #[test]
    fn addresses_are_never_given_twice_and_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = open(directory.path());
        let given: Vec<Ipv4Addr> = ["a", "b", "c", "d", "e"]
            .iter()
            .map(|id| addresses.allocate(id).unwrap())
            .collect();
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 5);
        assert!(matches!(addresses.allocate("f"), Err(NetworkError::Exhausted(_))));
        assert_eq!(addresses.allocate("c").unwrap(), given[2], "asking again gives the same");
        drop(addresses);
        // As after a crash in the middle of giving out: a staged file that nobody owns.
        fs::write(directory.path().join(STAGING), "half").unwrap();
        let addresses = open(directory.path());
        assert_eq!(addresses.allocate("c").unwrap(), given[2]);
        assert!(matches!(addresses.allocate("f"), Err(NetworkError::Exhausted(_))));
        addresses.release("b").unwrap();
        addresses.release("b").unwrap();
        assert_eq!(addresses.of("b"), None);
        assert_eq!(addresses.allocate("f").unwrap(), given[1]);
    }

    #[test]
    fn a_freed_address_rests_until_the_range_was_gone_round() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = open(directory.path());
        let first = addresses.allocate("a").unwrap();
        addresses.release("a").unwrap();
        for id in ["b", "c", "d", "e"] {
            assert_ne!(addresses.allocate(id).unwrap(), first);
        }
        assert_eq!(addresses.allocate("f").unwrap(), first);
    }

    #[test]
    fn a_range_without_room_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = Addresses::open(directory.path(), "10.42.0.0/31".parse().unwrap())
            .err()
            .unwrap();
        assert!(error.to_string().contains("/30"), "{error}");
    }
}
