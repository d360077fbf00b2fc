//! Writing small files so that a crash leaves the old one or the new one, never half of one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};

/// Writes `content` to `path` with permission bits `mode`: temporary file, flush, rename, flush of the directory.
///
/// # Errors
/// Whatever the file system says.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path
        .parent()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file needs a directory"))?;
    fs::create_dir_all(directory)?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file needs a name"))?;
    let temporary = directory.join(format!(".{}.new", name.to_string_lossy()));
    if temporary.exists() {
        fs::remove_file(&temporary)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

/// Takes a data directory for this process alone, until the lock is dropped.
///
/// # Errors
/// One line, when another process has it.
pub fn lock(directory: &Path) -> anyhow::Result<Flock<fs::File>> {
    let file = fs::File::open(directory).with_context(|| format!("opening {}", directory.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => anyhow::anyhow!(
            "the data directory {} is in use by another process: stop that one, or choose another directory",
            directory.display()
        ),
        error => anyhow::anyhow!("locking {}: {error}", directory.display()),
    })
}

/// Makes a directory, and those above it, that only root can read.
///
/// # Errors
/// Whatever the file system says.
pub fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
