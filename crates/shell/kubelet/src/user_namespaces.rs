//! Which ids of the host belong to which pod with a user namespace (pkg/kubelet/userns).
//!
//! Invariant: two pods of this node never share an id. A pod's range is written to its directory before it is used, and belongs
//! to it until that directory is gone; a restart finds it there. It is upstream's file, `userns`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use trireme_runtime::cri::IdMapping;

/// Ids of one pod.
const LENGTH: u32 = 65_536;
/// Ranges there are, beginning with the second: the first is the host's own users.
const RANGES: u32 = 4096;
const FILE: &str = "userns";

/// Why a pod gets no range.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserNamespaceError {
    /// All ranges are taken.
    #[error("create user namespace: could not find an empty slot to allocate a user namespace")]
    Exhausted,
    /// The pod's file is not one of ours.
    #[error("user namespace: invalid user namespace mappings file: {path}")]
    Invalid {
        /// Which.
        path: PathBuf,
    },
    /// The disk does not do it.
    #[error("user namespace: {path}: {error}")]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    host_id: u32,
    container_id: u32,
    length: u32,
}

#[derive(Serialize, Deserialize)]
struct Mappings {
    #[serde(rename = "uidMappings")]
    users: Vec<Range>,
    #[serde(rename = "gidMappings")]
    groups: Vec<Range>,
}

/// Ranges by pod UID, as numbers from 1.
type Taken = BTreeMap<String, u32>;

/// The node's ranges.
pub(crate) struct UserNamespaces {
    /// Directory of the pods' directories.
    pods: PathBuf,
    /// `None` until the disk was read.
    taken: Mutex<Option<Taken>>,
}

fn mapping(range: u32) -> IdMapping {
    IdMapping {
        host_id: range * LENGTH,
        length: LENGTH,
    }
}

impl UserNamespaces {
    pub(crate) fn new(pods: PathBuf) -> Self {
        Self {
            pods,
            taken: Mutex::new(None),
        }
    }

    /// The range of a pod: the one it has, or a free one. Blocks on the disk.
    pub(crate) fn get_or_create(&self, uid: &str) -> Result<IdMapping, UserNamespaceError> {
        let mut taken = self.taken.lock();
        let taken = match &mut *taken {
            Some(taken) => taken,
            none => none.insert(self.read_all()?),
        };
        if let Some(range) = taken.get(uid) {
            return Ok(mapping(*range));
        }
        let range = (1..=RANGES).find(|range| !taken.values().any(|other| other == range));
        let range = range.ok_or(UserNamespaceError::Exhausted)?;
        self.write(uid, mapping(range))?;
        taken.insert(uid.to_owned(), range);
        Ok(mapping(range))
    }

    /// Gives a pod's range to others. Nothing of the pod may run any more, and its directory is gone.
    pub(crate) fn release(&self, uid: &str) {
        if let Some(taken) = &mut *self.taken.lock() {
            taken.remove(uid);
        }
    }

    fn read_all(&self) -> Result<Taken, UserNamespaceError> {
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |error| UserNamespaceError::Disk { path, error }
        };
        let mut taken = Taken::new();
        let entries = match fs::read_dir(&self.pods) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(taken),
            Err(error) => return Err(disk(&self.pods)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(disk(&self.pods))?;
            let path = entry.path().join(FILE);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(disk(&path)(error)),
            };
            let range = range_of(&bytes).ok_or(UserNamespaceError::Invalid { path })?;
            taken.insert(entry.file_name().to_string_lossy().into_owned(), range);
        }
        Ok(taken)
    }

    fn write(&self, uid: &str, ids: IdMapping) -> Result<(), UserNamespaceError> {
        let range = || Range {
            host_id: ids.host_id,
            container_id: 0,
            length: ids.length,
        };
        let (users, groups) = (vec![range()], vec![range()]);
        let directory = self.pods.join(uid);
        let (path, staged) = (directory.join(FILE), directory.join(".userns"));
        let write = || -> io::Result<()> {
            fs::create_dir_all(&directory)?;
            let mut file = File::create(&staged)?;
            file.write_all(&serde_json::to_vec(&Mappings { users, groups })?)?;
            file.sync_all()?;
            fs::rename(&staged, &path)?;
            File::open(&directory)?.sync_all()
        };
        write().map_err(|error| UserNamespaceError::Disk { path, error })
    }
}

/// The number of a range in a file of ours.
fn range_of(bytes: &[u8]) -> Option<u32> {
    let mappings: Mappings = serde_json::from_slice(bytes).ok()?;
    let number = |ranges: &[Range]| match ranges {
        [range] if range.container_id == 0 && range.length == LENGTH && range.host_id % LENGTH == 0 => {
            Some(range.host_id / LENGTH).filter(|number| (1..=RANGES).contains(number))
        }
        _ => None,
    };
    let users = number(&mappings.users)?;
    (number(&mappings.groups)? == users).then_some(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_unique_and_outlive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let open = || UserNamespaces::new(directory.path().to_owned());
        let ranges = open();
        let first = ranges.get_or_create("a").unwrap();
        assert_eq!((first.host_id, first.length), (65_536, 65_536));
        let second = ranges.get_or_create("b").unwrap();
        assert_eq!(second.host_id, 131_072);
        assert_eq!(ranges.get_or_create("a").unwrap(), first, "asking again gives the same");
        let written = fs::read_to_string(directory.path().join("b/userns")).unwrap();
        assert_eq!(
            written,
            r#"{"uidMappings":[{"hostId":131072,"containerId":0,"length":65536}],"gidMappings":[{"hostId":131072,"containerId":0,"length":65536}]}"#
        );
        let ranges = open();
        assert_eq!(ranges.get_or_create("c").unwrap().host_id, 196_608);
        assert_eq!(ranges.get_or_create("b").unwrap(), second);
        fs::remove_dir_all(directory.path().join("a")).unwrap();
        ranges.release("a");
        assert_eq!(ranges.get_or_create("d").unwrap(), first);
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_and_ranges_end() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("x")).unwrap();
        let zero = r#"{"uidMappings":[{"hostId":0,"containerId":0,"length":65536}],"gidMappings":[{"hostId":0,"containerId":0,"length":65536}]}"#;
        for text in ["", "{}", zero] {
            fs::write(directory.path().join("x/userns"), text).unwrap();
            let ranges = UserNamespaces::new(directory.path().to_owned());
            assert!(
                matches!(ranges.get_or_create("a"), Err(UserNamespaceError::Invalid { .. })),
                "{text}"
            );
        }
        fs::remove_file(directory.path().join("x/userns")).unwrap();
        let ranges = UserNamespaces::new(directory.path().to_owned());
        *ranges.taken.lock() = Some((1..=RANGES).map(|range| (format!("p{range}"), range)).collect());
        assert!(matches!(ranges.get_or_create("a"), Err(UserNamespaceError::Exhausted)));
    }
}
