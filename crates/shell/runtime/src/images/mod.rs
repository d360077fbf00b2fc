//! The image store: unpacked layers, image configurations and an index, shared by the running node and the command line.
//!
//! Invariants: a layer directory exists only complete and with the digest it is named by; the index is replaced
//! atomically under a file lock; layers that an image or a container needs are never collected.

mod archive;
mod config;
mod pull;
pub(crate) mod reference;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cri::{CriError, Image};
use crate::state::{self, ContainerRecord};
pub(crate) use config::ImageConfig;
use reference::Name;

/// Longest manifest or configuration.
const DOCUMENT_BYTES_MAX: u64 = 8 << 20;
/// Hexadecimal digits of a diff id that name its directory: short enough for a hundred of them in one mount option.
const LAYER_NAME_LENGTH: usize = 32;

/// An image as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: String,
    pub(crate) repo_tags: BTreeSet<String>,
    pub(crate) repo_digests: BTreeSet<String>,
    pub(crate) size: u64,
    pub(crate) pinned: bool,
    /// Lowest first.
    pub(crate) diff_ids: Vec<String>,
    pub(crate) config: ImageConfig,
}

impl ImageRecord {
    /// CRI's view.
    pub(crate) fn image(&self) -> Image {
        let user = self.config.user.split(':').next().unwrap_or("").to_owned();
        let uid = user.parse().ok();
        Image {
            id: self.id.clone(),
            repo_tags: self.repo_tags.iter().cloned().collect(),
            repo_digests: self.repo_digests.iter().cloned().collect(),
            size: self.size,
            uid,
            username: if uid.is_some() { String::new() } else { user },
            pinned: self.pinned,
        }
    }

    /// Layer directory names, lowest first.
    pub(crate) fn layers(&self) -> Vec<String> {
        self.diff_ids.iter().map(|diff_id| layer_name(diff_id)).collect()
    }

    /// The digest reference, or the id where there is none.
    pub(crate) fn reference(&self) -> String {
        self.repo_digests.first().unwrap_or(&self.id).clone()
    }
}

type Index = BTreeMap<String, ImageRecord>;

/// The store of one data directory. Calls block on disk.
#[derive(Clone, Debug)]
pub struct ImageStore {
    data: PathBuf,
}

/// Imports every image of an archive (OCI layout or `docker save`; tar, compressed or not, or a directory) and pins them.
pub fn import(data_dir: &Path, path: &Path) -> Result<Vec<Image>, CriError> {
    ImageStore::open(data_dir)?.import(path)
}

/// All images of a data directory.
pub fn list(data_dir: &Path) -> Result<Vec<Image>, CriError> {
    ImageStore::open(data_dir)?.list()
}

/// Removes an image by reference or id; `false` if there was none.
pub fn remove(data_dir: &Path, reference: &str) -> Result<bool, CriError> {
    ImageStore::open(data_dir)?.remove(reference)
}

impl ImageStore {
    /// Opens or makes the store in a data directory.
    pub fn open(data_dir: &Path) -> Result<Self, CriError> {
        let store = ImageStore {
            data: data_dir.to_owned(),
        };
        for directory in [store.images(), store.layers(), store.temporary()] {
            fs::create_dir_all(&directory).map_err(|error| other(&format!("cannot make {}", directory.display()), &error))?;
        }
        Ok(store)
    }

    fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Unpacked layers.
    pub(crate) fn layers(&self) -> PathBuf {
        self.data.join("layers")
    }

    fn temporary(&self) -> PathBuf {
        self.data.join("tmp")
    }

    /// A file or directory name that nobody else has.
    fn scratch(&self) -> PathBuf {
        self.temporary().join(uuid::Uuid::new_v4().simple().to_string())
    }

    fn lock(&self, name: &str, how: FlockArg) -> io::Result<Flock<File>> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.images().join(name))?;
        Flock::lock(file, how).map_err(|(_, error)| error.into())
    }

    /// Held while layers are added that no image names yet, so that none of them is collected.
    fn hold_layers(&self) -> io::Result<Flock<File>> {
        self.lock("layers.lock", FlockArg::LockShared)
    }

    fn read_index(&self) -> Result<Index, CriError> {
        let index = state::read_json(&self.images().join("index.json"));
        Ok(index
            .map_err(|error| other("cannot read the image index", &error))?
            .unwrap_or_default())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T, CriError> {
        let lock = self
            .lock("index.lock", FlockArg::LockExclusive)
            .map_err(|error| other("cannot lock the image index", &error))?;
        let mut index = self.read_index()?;
        let result = change(&mut index);
        state::write_json(&self.images().join("index.json"), &index)
            .map_err(|error| other("cannot write the image index", &error))?;
        drop(lock);
        Ok(result)
    }

    /// Imports and pins.
    pub fn import(&self, path: &Path) -> Result<Vec<Image>, CriError> {
        archive::import(self, path)
    }

    /// All images.
    pub fn list(&self) -> Result<Vec<Image>, CriError> {
        Ok(self.read_index()?.values().map(ImageRecord::image).collect())
    }

    /// The image of a reference, id or id prefix.
    pub(crate) fn find(&self, reference: &str) -> Result<Option<ImageRecord>, CriError> {
        let index = self.read_index()?;
        Ok(find_id(&index, reference)?.and_then(|id| index.get(&id).cloned()))
    }

    /// Removes a name, or the image with all names when given its id or its last name; `false` if there was none.
    pub fn remove(&self, reference: &str) -> Result<bool, CriError> {
        let removed = self.change(|index| -> Result<bool, CriError> {
            let Some(id) = find_id(index, reference)? else {
                return Ok(false);
            };
            let Some(record) = index.get_mut(&id) else { return Ok(false) };
            let by_id = id
                .trim_start_matches("sha256:")
                .starts_with(reference.trim_start_matches("sha256:"));
            if let (false, Ok(name)) = (by_id, Name::parse(reference)) {
                record.repo_tags.retain(|tag| name.tagged().as_ref() != Some(tag));
                record.repo_digests.retain(|digest| name.digested().as_ref() != Some(digest));
            }
            if by_id || record.repo_tags.is_empty() {
                index.remove(&id);
            }
            Ok(true)
        })??;
        self.collect()?;
        Ok(removed)
    }

    /// Adds an image; names move to it from others.
    fn add(&self, record: ImageRecord) -> Result<Image, CriError> {
        self.change(|index| {
            for other in index.values_mut().filter(|other| other.id != record.id) {
                other.repo_tags.retain(|tag| !record.repo_tags.contains(tag));
            }
            let entry = index.entry(record.id.clone()).or_insert_with(|| record.clone());
            entry.repo_tags.extend(record.repo_tags.iter().cloned());
            entry.repo_digests.extend(record.repo_digests.iter().cloned());
            entry.pinned |= record.pinned;
            entry.image()
        })
    }

    /// Unpacks a layer over those in `lower` (lowest first) if it is not there; the digest must be `diff_id`. Returns its bytes on disk.
    fn put_layer(&self, diff_id: &str, lower: &[PathBuf], reader: impl Read) -> io::Result<u64> {
        let name = layer_name(diff_id);
        let (directory, size) = (self.layers().join(&name), self.layers().join(format!("{name}.size")));
        if directory.is_dir() {
            return Ok(state::read_json(&size)?.unwrap_or(0));
        }
        let scratch = self.scratch();
        fs::create_dir(&scratch)?;
        fs::set_permissions(&scratch, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let put = || -> io::Result<u64> {
            let unpacked = unpack::layer(reader, &scratch, lower)?;
            if unpacked.diff_id != diff_id {
                let text = format!("layer has digest {} and should have {diff_id}", unpacked.diff_id);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            state::write_json(&size, &unpacked.bytes)?;
            nix::unistd::syncfs(File::open(&scratch)?)?;
            match fs::rename(&scratch, &directory) {
                // Somebody else was as fast.
                Err(_) if directory.is_dir() => {}
                result => result?,
            }
            Ok(unpacked.bytes)
        };
        let result = put();
        state::remove_all(&scratch)?;
        result
    }

    /// Makes a record from a configuration and layers given lowest first.
    fn record(&self, config: &[u8], mut open: impl FnMut(usize) -> io::Result<Box<dyn Read>>) -> io::Result<ImageRecord> {
        let id = format!("sha256:{}", hex::encode(Sha256::digest(config)));
        let (config_document, diff_ids) = config::parse(config)?;
        let mut size = config.len() as u64;
        let mut lower = Vec::new();
        for (index, diff_id) in diff_ids.iter().enumerate() {
            size += self.put_layer(diff_id, &lower, open(index)?)?;
            lower.push(self.layers().join(layer_name(diff_id)));
        }
        Ok(ImageRecord {
            id,
            repo_tags: BTreeSet::new(),
            repo_digests: BTreeSet::new(),
            size,
            pinned: false,
            diff_ids,
            config: config_document,
        })
    }

    /// Removes layers that neither an image nor a container needs, unless layers are being added just now.
    fn collect(&self) -> Result<(), CriError> {
        let lock = match self.lock("layers.lock", FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(other("cannot lock the layers", &error)),
        };
        let mut needed: BTreeSet<String> = self.read_index()?.values().flat_map(ImageRecord::layers).collect();
        let collect = || -> io::Result<()> {
            match fs::read_dir(self.data.join("containers")) {
                Ok(entries) => {
                    for entry in entries {
                        let record: Option<ContainerRecord> = state::read_json(&entry?.path().join("container.json"))?;
                        needed.extend(
                            record
                                .into_iter()
                                .flat_map(|record| record.layers.into_iter().chain(record.volume_layers)),
                        );
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            for entry in fs::read_dir(self.layers())? {
                let path = entry?.path();
                let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
                if !needed.contains(name) {
                    state::remove_all(&path)?;
                }
            }
            for entry in fs::read_dir(self.temporary())? {
                state::remove_all(&entry?.path())?;
            }
            Ok(())
        };
        let mut collect = collect;
        let result = collect().map_err(|error| other("cannot collect layers", &error));
        drop(lock);
        result
    }
}

/// Directory name of a layer.
fn layer_name(diff_id: &str) -> String {
    diff_id
        .trim_start_matches("sha256:")
        .chars()
        .take(LAYER_NAME_LENGTH)
        .collect()
}

/// The id that a reference, an id or a prefix of one means.
fn find_id(index: &Index, reference: &str) -> Result<Option<String>, CriError> {
    let bare = reference.trim_start_matches("sha256:");
    let hexadecimal = bare.len() >= 6 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
    if reference::is_sha256(bare) || hexadecimal {
        let mut matching = index.keys().filter(|id| id.trim_start_matches("sha256:").starts_with(bare));
        if let (Some(id), None) = (matching.next(), matching.next()) {
            return Ok(Some(id.clone()));
        }
        if reference::is_sha256(bare) {
            return Ok(None);
        }
    }
    let name = Name::parse(reference).map_err(CriError::InvalidImageName)?;
    let matches = |record: &&ImageRecord| match name.digested() {
        Some(digested) => record.repo_digests.contains(&digested),
        None => name.tagged().is_some_and(|tagged| record.repo_tags.contains(&tagged)),
    };
    Ok(index.values().find(matches).map(|record| record.id.clone()))
}

/// An internal failure with its circumstances.
fn other(what: &str, error: &dyn std::fmt::Display) -> CriError {
    CriError::Other(format!("{what}: {error}"))
}
