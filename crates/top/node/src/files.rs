//! Writing small files so that a crash leaves the old one or the new one, never half of one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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

/// A data directory that is this process's alone until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    held: Flock<fs::File>,
}

impl DataDirectory {
    /// Takes a directory; makes it where there is none.
    ///
    /// # Errors
    /// One line, when another process has it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        private_directory(path).with_context(|| format!("making {}", path.display()))?;
        let file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            nix::errno::Errno::EWOULDBLOCK => anyhow::anyhow!(
                "the data directory {} is in use by another process: stop that one, or choose another directory",
                path.display()
            ),
            error => anyhow::anyhow!("locking {}: {error}", path.display()),
        })?;
        let path = path.to_owned();
        Ok(Self { path, held })
    }

    /// Whether its path still leads to the directory that was taken; where not, what has become of it. What is written by
    /// its path from then on lands elsewhere or nowhere, and would not be there at the next start.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let what = match (self.held.metadata(), fs::metadata(&self.path)) {
            (Ok(held), Ok(found)) if (held.dev(), held.ino()) == (found.dev(), found.ino()) => return None,
            (Ok(_), Ok(_)) => {
                "is not the one that it was at the start: it was replaced, or its disk was mounted or unmounted".to_owned()
            }
            (Ok(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => "was removed".to_owned(),
            (Err(error), _) | (_, Err(error)) => format!("cannot be looked at: {error}"),
        };
        Some(format!(
            "the data directory {} {what}; put it back, then restart",
            self.path.display()
        ))
    }
}

/// Makes a directory, and those above it, that only root can read.
///
/// # Errors
/// Whatever the file system says.
pub fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_one_process_alone_and_misses_its_place() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("data");
        let data = DataDirectory::open(&path).unwrap();
        let second = DataDirectory::open(&path).unwrap_err().to_string();
        assert!(second.contains("is in use by another process"), "{second}");
        fs::write(path.join("file"), "changes nothing").unwrap();
        assert_eq!(data.trouble(), None);
        let aside = above.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        assert!(data.trouble().unwrap().contains("was removed"));
        fs::create_dir(&path).unwrap();
        assert!(data.trouble().unwrap().contains("it was replaced"));
        // Somebody has put it back.
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        assert_eq!(data.trouble(), None);
    }
}
