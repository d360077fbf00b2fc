//! What the store asks of a disk, and the real one.
//!
//! Invariant: a small file is replaced as a whole or not at all; a name is durable once its directory was flushed. Nobody
//! but this module and its kin calls the file system, so a simulated disk sees everything that a real one would.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};

use crate::OpenError;

/// Mode of every file: the store holds secrets.
const PRIVATE: u32 = 0o600;

/// A file system. Paths are absolute.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a directory with its parents, for its owner only.
    ///
    /// # Errors
    /// The system's.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes a directory for this process, until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` where another process has it.
    fn lock(&self, dir: &Path) -> io::Result<Lock>;

    /// Opens a file.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name; what had that name is gone.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The files of a directory, sorted.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Flushes a directory, so that names made, changed or removed in it stay so.
    ///
    /// # Errors
    /// The system's.
    fn flush_dir(&self, dir: &Path) -> io::Result<()>;

    /// Whether threads may wait for this disk. Where not, what uses it runs in the task that asked, and a seed decides
    /// the order of everything.
    fn threads(&self) -> bool {
        true
    }

    /// Where no threads may wait: how long the next work on the disk takes.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One that is there, to read and write.
    Existing,
    /// A new one, empty, also where there was one.
    Empty,
    /// One that is there, or a new one.
    Any,
}

/// What keeps a directory this process's.
pub type Lock = Arc<dyn Debug + Send + Sync>;

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills a buffer from an offset on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes at an offset; the file becomes as long as needed.
    ///
    /// # Errors
    /// The system's.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn length(&self) -> io::Result<u64>;

    /// Cuts it, or adds zeros.
    ///
    /// # Errors
    /// The system's.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Makes sure that its first bytes can be written without asking for space again, zeros where there was nothing.
    ///
    /// # Errors
    /// `StorageFull` where there is no room.
    fn take_room(&self, length: u64) -> io::Result<()>;

    /// Returns when all that was written is durable.
    ///
    /// # Errors
    /// The system's; what is durable then is unknown.
    fn flush(&self) -> io::Result<()>;
}

/// The machine's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Arc::new(lock)),
            Err((_, error)) => Err(error.into()),
        }
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(PRIVATE);
        match mode {
            Mode::Existing => &mut options,
            Mode::Empty => options.create(true).truncate(true),
            Mode::Any => options.create(true).truncate(false),
        };
        Ok(Arc::new(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
        let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn flush_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn take_room(&self, length: u64) -> io::Result<()> {
        let signed = i64::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        match fallocate(self.as_fd(), FallocateFlags::empty(), 0, signed) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => fill(self, length),
            Err(error) => Err(error.into()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        // Also flushes the length where it changed.
        self.sync_data()
    }
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

/// A file read or written from its beginning on.
#[derive(Debug)]
pub(crate) struct Sequential {
    file: Arc<dyn DiskFile>,
    at: u64,
    length: u64,
}

impl Sequential {
    /// Makes a file anew.
    pub(crate) fn create(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = disk.open(path, Mode::Empty)?;
        Ok(Self { file, at: 0, length: 0 })
    }

    /// Opens one to read.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = disk.open(path, Mode::Existing)?;
        let length = file.length()?;
        Ok(Self { file, at: 0, length })
    }

    /// Returns when all that was written is durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Read for Sequential {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.length - self.at).unwrap_or(usize::MAX);
        let part = rest.min(buffer.len());
        self.file.read_exact_at(&mut buffer[..part], self.at)?;
        self.at += part as u64;
        Ok(part)
    }
}

impl Write for Sequential {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(buffer, self.at)?;
        self.at += buffer.len() as u64;
        self.length = self.length.max(self.at);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs what waits for the disk where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(disk: &dyn Disk, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if disk.threads() {
        return tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    }
    let delay = disk.delay();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    Ok(work())
}

/// A whole file.
pub(crate) fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, Mode::Existing)?;
    let mut bytes = vec![0; usize::try_from(file.length()?).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces a file: written beside it, flushed, renamed.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let file = disk.open(&beside, Mode::Empty)?;
    file.write_all_at(bytes, 0)?;
    file.flush()?;
    disk.rename(&beside, path)?;
    disk.flush_dir(path.parent().unwrap_or(Path::new(".")))
}

/// A small file with a checksum behind its content; `None` where it does not exist.
pub(crate) fn read_checked(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let mut bytes = match read(disk, path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(OpenError::Io { path, source });
        }
    };
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
pub(crate) fn replace_checked(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut bytes = content.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    replace(disk, path, &bytes)
}

/// Opens a file with room for `length` bytes taken from the disk, all zeros if it is new, and flushes that.
pub(crate) fn open_with_room(disk: &dyn Disk, path: &Path, length: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.open(path, Mode::Any)?;
    take_room(&*file, length)?;
    Ok(file)
}

/// Takes room in a file and flushes that.
pub(crate) fn take_room(file: &dyn DiskFile, length: u64) -> io::Result<()> {
    file.take_room(length)?;
    file.flush()
}

/// Takes a directory for this process.
pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Lock, OpenError> {
    disk.lock(dir).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: dir.to_owned() },
        _ => OpenError::Io {
            path: dir.join("lock"),
            source,
        },
    })
}

/// The error for a file that a crash cannot have left like this.
pub(crate) fn damaged(path: &Path, offset: u64, what: &'static str) -> OpenError {
    let path = path.to_owned();
    OpenError::Corrupt { path, offset, what }
}

/// The error for a file that a directory which was in use lacks.
pub(crate) fn missing(path: &Path, what: &'static str) -> OpenError {
    let path = path.to_owned();
    OpenError::Missing { path, what }
}

/// The error for an operation on a path that the system refused.
pub(crate) fn refused(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::Full { path },
        _ => OpenError::Io { path, source },
    }
}
