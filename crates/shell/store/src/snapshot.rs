//! Snapshots of the state machine as files, and reading them back.
//!
//! Invariant: a file that bears a snapshot's name is whole and on disk. Each chunk has its checksum, and the end is
//! marked, so damage is found and named. A snapshot is written from a frozen state and holds up nobody.
//!
//! Form: magic, then chunks of `length u32, checksum u32, bytes`: first openraft's metadata, then the state's chunks,
//! then one of length 0.

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use trireme_mvcc::{Frozen, Loader, State};

use crate::OpenError;
use crate::disk::{Disk, Sequential, damaged, missing, refused};
use crate::inventory::Inventory;
use crate::types::SnapshotMeta;

const MAGIC: [u8; 8] = *b"TRISNAP\x02";

/// Longer chunks than this are damage: one chunk is at most a full one and one object.
const CHUNK_BYTES_MAX: usize = 64 << 20;

/// The disk is flushed this often while a snapshot is written, so that its last flush does not hold up the log's.
const FLUSH_EVERY_BYTES: usize = 4 << 20;

/// A snapshot on disk.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) meta: SnapshotMeta,
}

/// Index of the last entry that a snapshot includes.
pub(crate) fn last_index(meta: &SnapshotMeta) -> u64 {
    meta.last_log_id.map_or(0, |id| id.index)
}

fn name(last_index: u64) -> String {
    format!("snapshot-{last_index:020}")
}

/// Writes a snapshot of a frozen state beside the others.
pub(crate) fn write(disk: &dyn Disk, beside: PathBuf, meta: SnapshotMeta, frozen: &Frozen) -> io::Result<SnapshotFile> {
    let written = write_to(disk, &beside, &meta, frozen);
    if written.is_err()
        && let Err(error) = disk.remove(&beside)
    {
        tracing::debug!(%error, "nothing of the failed snapshot to remove");
    }
    written?;
    Ok(SnapshotFile { path: beside, meta })
}

/// Gives a whole and flushed snapshot its name and removes the older ones.
pub(crate) fn adopt(disk: &dyn Disk, dir: &Path, inventory: &Inventory, file: SnapshotFile) -> io::Result<SnapshotFile> {
    let SnapshotFile { path: beside, meta } = file;
    let path = dir.join(name(last_index(&meta)));
    disk.rename(&beside, &path)?;
    disk.flush_dir(dir)?;
    inventory.set_snapshot(last_index(&meta))?;
    for old in list(disk, dir)? {
        if old != path {
            disk.remove(&old)?;
        }
    }
    Ok(SnapshotFile { path, meta })
}

fn write_to(disk: &dyn Disk, path: &Path, meta: &SnapshotMeta, frozen: &Frozen) -> io::Result<()> {
    let mut file = Sequential::create(disk, path)?;
    file.write_all(&MAGIC)?;
    put_chunk(&mut file, &serde_json::to_vec(meta)?)?;
    let mut unflushed = 0;
    for chunk in frozen.chunks() {
        put_chunk(&mut file, &chunk)?;
        unflushed += chunk.len();
        if unflushed >= FLUSH_EVERY_BYTES {
            file.sync()?;
            unflushed = 0;
        }
    }
    put_chunk(&mut file, &[])?;
    file.sync()
}

fn put_chunk(file: &mut Sequential, chunk: &[u8]) -> io::Result<()> {
    let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&crc32c::crc32c(chunk).to_le_bytes())?;
    file.write_all(chunk)
}

/// Snapshot files of a directory, oldest first.
fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = disk.list(dir)?;
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("snapshot-") && !name.ends_with(".new"))
    });
    Ok(paths)
}

/// The newest snapshot of a directory and the state in it. `newest` is the last index of one that must be there, or a later
/// one.
pub(crate) fn load_newest(disk: &dyn Disk, dir: &Path, newest: Option<u64>) -> Result<Option<(SnapshotFile, State)>, OpenError> {
    let found = list(disk, dir).map_err(|source| refused(dir, source))?.pop();
    if let Some(newest) = newest.map(|last_index| dir.join(name(last_index)))
        && found.as_ref().is_none_or(|found| *found < newest)
    {
        return Err(missing(&newest, "is missing"));
    }
    found.map(|path| load(disk, path)).transpose()
}

/// Reads one snapshot.
pub(crate) fn load(disk: &dyn Disk, path: PathBuf) -> Result<(SnapshotFile, State), OpenError> {
    let file = Sequential::open(disk, &path).map_err(|source| refused(&path, source))?;
    let mut reader = Chunks {
        file: BufReader::with_capacity(1 << 16, file),
        offset: 0,
        path: &path,
    };
    let mut magic = [0; MAGIC.len()];
    reader.fill(&mut magic)?;
    if magic != MAGIC {
        return Err(damaged(&path, 0, "not a snapshot of this version"));
    }
    let meta = serde_json::from_slice(&reader.next()?).map_err(|_| damaged(&path, MAGIC.len() as u64, "no metadata"))?;
    let mut loader = Loader::new();
    loop {
        let offset = reader.offset;
        let chunk = reader.next()?;
        if chunk.is_empty() {
            let state = loader.finish().map_err(|_| damaged(&path, offset, "objects are missing"))?;
            return Ok((SnapshotFile { path, meta }, state));
        }
        loader
            .feed(&chunk)
            .map_err(|_| damaged(&path, offset, "a record that cannot be read"))?;
    }
}

struct Chunks<'a> {
    file: BufReader<Sequential>,
    offset: u64,
    path: &'a Path,
}

impl Chunks<'_> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), OpenError> {
        self.file.read_exact(bytes).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => damaged(self.path, self.offset, "the file ends too early"),
            _ => refused(self.path, source),
        })?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn next(&mut self) -> Result<Vec<u8>, OpenError> {
        let offset = self.offset;
        let (mut length, mut checksum) = ([0; 4], [0; 4]);
        self.fill(&mut length)?;
        self.fill(&mut checksum)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > CHUNK_BYTES_MAX {
            return Err(damaged(self.path, offset, "a chunk of impossible length"));
        }
        let mut chunk = vec![0; length];
        self.fill(&mut chunk)?;
        if crc32c::crc32c(&chunk) != u32::from_le_bytes(checksum) {
            return Err(damaged(self.path, offset, "checksum mismatch"));
        }
        Ok(chunk)
    }
}
