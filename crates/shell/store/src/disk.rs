//! The few things the store asks of a file system, each durable when it returns.
//!
//! Invariant: a small file is replaced as a whole or not at all; a name is durable once its directory was flushed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};

use crate::OpenError;

/// Mode of every file.
const PRIVATE: u32 = 0o600;

/// Flushes a directory, so that names made or removed in it stay so.
pub(crate) fn flush_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a file anew that only its owner reads: the store holds secrets.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(PRIVATE)
        .open(path)
}

/// Replaces a file: written beside it, flushed, renamed.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    flush_dir(path.parent().unwrap_or(Path::new(".")))
}

/// A small file with a checksum behind its content; `None` where it does not exist.
pub(crate) fn read_checked(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(OpenError::Io { path, source });
        }
    }
    let Some((content, checksum)) = bytes.split_last_chunk::<4>() else {
        return Err(damaged(path, 0, "too short"));
    };
    if crc32c::crc32c(content).to_le_bytes() != *checksum {
        return Err(damaged(path, 0, "checksum mismatch"));
    }
    let content = content.len();
    bytes.truncate(content);
    Ok(Some(bytes))
}

/// Writes what [`read_checked`] reads.
pub(crate) fn replace_checked(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut bytes = content.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    replace(path, &bytes)
}

/// Opens a file for reading and writing with room for `length` bytes taken from the disk, all zeros if it is new.
pub(crate) fn open_with_room(path: &Path, length: u64) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(path)?;
    take_room(&file, length)?;
    Ok(file)
}

/// Makes sure that the first `length` bytes of a file can be written without asking for space again.
pub(crate) fn take_room(file: &File, length: u64) -> io::Result<()> {
    let signed = i64::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    match fallocate(file.as_fd(), FallocateFlags::empty(), 0, signed) {
        Ok(()) => {}
        Err(Errno::EOPNOTSUPP) => fill(file, length)?,
        Err(error) => return Err(error.into()),
    }
    file.sync_all()
}

/// Where the file system cannot reserve space, zeros are written behind the end.
fn fill(mut file: &File, length: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut at = file.seek(SeekFrom::End(0))?;
    let zeros = vec![0; 1 << 16];
    while at < length {
        let part = usize::try_from(length - at).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all(&zeros[..part])?;
        at += part as u64;
    }
    Ok(())
}

/// Takes the directory for this process, until the lock is dropped or the process ends.
pub(crate) fn lock(dir: &Path) -> Result<Flock<File>, OpenError> {
    let path = dir.join("lock");
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => OpenError::Locked { path: dir.to_owned() },
        error => io(error.into()),
    })
}

/// The error for a file that a crash cannot have left like this.
pub(crate) fn damaged(path: &Path, offset: u64, what: &'static str) -> OpenError {
    let path = path.to_owned();
    OpenError::Corrupt { path, offset, what }
}

/// The error for an operation on a path that the system refused.
pub(crate) fn refused(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::Full { path },
        _ => OpenError::Io { path, source },
    }
}
