//! Volumes on this node's own disk, made for claims: each a file system of its own in a file, so that it cannot grow beyond
//! its size, or a plain directory where its class says that it may.
//!
//! Invariant: a volume's blocks are its own from the beginning, so a full disk is met when it is made and not when it is
//! written to; nothing is removed while anything is mounted below. Everything here blocks: it is called on a thread that may.
//! Layout below the root: `NAME/image` with its mount point `NAME/mount`, whose `data` is the volume; or `NAME/data` alone.
//! What begins with a dot is being made or removed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;

use crate::local::mount_points_below;
use crate::{Mounted, is_mount_point};

/// Smallest file system that is made: below it ext4 has no journal.
const IMAGE_BYTES_MIN: u64 = 16 << 20;
/// What stays free on the disk for all else: one part in so many, and no more than so many bytes.
const KEPT_PART: u64 = 10;
const KEPT_BYTES_MAX: u64 = 1 << 30;
/// How often, and in which intervals, it is looked whether a loop device has let go of its file.
const RELEASE_LOOKS: u32 = 100;
const RELEASE_LOOK_EVERY: Duration = Duration::from_millis(5);
const IMAGE: &str = "image";
const MOUNT: &str = "mount";
const DATA: &str = "data";
/// Where tools of file systems are, which the path of a daemon may lack.
const TOOL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a volume cannot be had, or cannot go.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Not a name of a volume.
    #[error("\"{0}\" is no name of a volume")]
    Name(String),
    /// The disk has not so much room.
    #[error("{wanted} bytes are asked for; {free} are free on the node's disk, of which {kept} stay free")]
    Room {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes free.
        free: u64,
        /// Of them not to be had.
        kept: u64,
    },
    /// A tool is missing or failed.
    #[error("{tool}: {why}")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// What it or the system said.
        why: String,
    },
    /// Something is mounted below it still.
    #[error("the volume is still in use: {0} is mounted")]
    InUse(PathBuf),
    /// The system refused.
    #[error("{path}: {error}")]
    System {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// The volumes of one directory.
pub struct Disk {
    root: PathBuf,
    /// What pods have of it.
    mounted: Mounted,
    /// One change at a time: two orders for one volume may come at once.
    changing: Mutex<()>,
}

fn at<T>(path: &Path, done: io::Result<T>) -> Result<T, DiskError> {
    done.map_err(|error| DiskError::System {
        path: path.to_owned(),
        error,
    })
}

impl Disk {
    /// Volumes below a directory, which is made with the first.
    #[must_use]
    pub(crate) fn new(root: PathBuf, mounted: Mounted) -> Self {
        // A volume's path is written into its object.
        let root = std::path::absolute(&root).unwrap_or(root);
        Self {
            root,
            mounted,
            changing: Mutex::default(),
        }
    }

    fn directory(&self, name: &str) -> Result<PathBuf, DiskError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
            return Err(DiskError::Name(name.to_owned()));
        }
        Ok(self.root.join(name))
    }

    /// Makes a volume of at least so many bytes, or makes one that is there larger; it is mounted afterwards. Its path.
    ///
    /// # Errors
    /// Why not; what was half made is gone or is made anew by the next call.
    pub fn ensure(&self, name: &str, bytes: u64, enforced: bool) -> Result<PathBuf, DiskError> {
        let directory = self.directory(name)?;
        let _one = self.changing.lock();
        let bytes = bytes.max(IMAGE_BYTES_MIN);
        let is_new = !directory.exists();
        if is_new {
            self.make(&directory, name, bytes, enforced)?;
        }
        let path = self.activate_at(&directory)?;
        if !is_new && directory.join(IMAGE).exists() {
            self.grow(&directory, bytes)?;
        }
        Ok(path)
    }

    fn make(&self, directory: &Path, name: &str, bytes: u64, enforced: bool) -> Result<(), DiskError> {
        let making = self.root.join(format!(".making-{name}"));
        at(&self.root, fs::create_dir_all(&self.root))?;
        clear(&making)?;
        at(&making, fs::create_dir(&making))?;
        at(&making, fs::set_permissions(&making, fs::Permissions::from_mode(0o711)))?;
        let made = if enforced {
            self.make_image(&making, bytes)
        } else {
            open_to_all(&making.join(DATA))
        };
        made.and_then(|()| at(directory, fs::rename(&making, directory)))
            .or_else(|error| {
                clear(&making)?;
                Err(error)
            })
    }

    fn make_image(&self, making: &Path, bytes: u64) -> Result<(), DiskError> {
        let image = making.join(IMAGE);
        self.check_room(bytes)?;
        let file = at(&image, File::create_new(&image))?;
        at(&image, file.set_permissions(fs::Permissions::from_mode(0o600)))?;
        reserve(&file, &image, bytes)?;
        at(&image, file.sync_all())?;
        at(making, fs::create_dir(making.join(MOUNT)))?;
        let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
        tool("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", options, &image.to_string_lossy()])
    }

    /// What is to be taken must leave a part of the disk free.
    fn check_room(&self, wanted: u64) -> Result<(), DiskError> {
        let disk = at(&self.root, statvfs(&self.root).map_err(io::Error::from))?;
        let block = disk.fragment_size();
        let (free, all) = (disk.blocks_available() * block, disk.blocks() * block);
        let kept = (all / KEPT_PART).min(KEPT_BYTES_MAX);
        if wanted > free.saturating_sub(kept) {
            return Err(DiskError::Room { wanted, free, kept });
        }
        Ok(())
    }

    fn grow(&self, directory: &Path, bytes: u64) -> Result<(), DiskError> {
        let image = directory.join(IMAGE);
        let file = at(&image, File::options().write(true).open(&image))?;
        let held = at(&image, file.metadata())?.len();
        if bytes > held {
            self.check_room(bytes - held)?;
            reserve(&file, &image, bytes)?;
            at(&image, file.sync_all())?;
        }
        // A growth that was cut short goes on: the tools do nothing where nothing is left to do. None makes it smaller.
        let Some(device) = loop_device(&directory.join(MOUNT))?.filter(|_| bytes >= held) else {
            return Ok(());
        };
        let device = format!("/dev/{device}");
        tool("losetup", &["--set-capacity", &device])?;
        // A kernel may allow that to the host's own root alone; then it grows while nobody uses it.
        tool("resize2fs", &[&device]).or_else(|error| self.grow_unused(directory, error))
    }

    /// Where a pod has something of a volume.
    fn user(&self, directory: &Path) -> Option<PathBuf> {
        let mounted = self.mounted.lock();
        mounted.values().find(|path| path.starts_with(directory)).cloned()
    }

    /// Makes a file system larger that was just unmounted; `error` where it is in use.
    fn grow_unused(&self, directory: &Path, error: DiskError) -> Result<(), DiskError> {
        let (image, mount) = (directory.join(IMAGE), directory.join(MOUNT));
        if self.user(directory).is_some() || umount2(&mount, MntFlags::UMOUNT_NOFOLLOW).is_err() {
            return Err(error);
        }
        let grown = if matches!(is_released(&image), Ok(true)) {
            let image = image.to_string_lossy();
            tool("e2fsck", &["-f", "-p", &image]).and_then(|()| tool("resize2fs", &[&image]))
        } else {
            Err(error)
        };
        self.activate_at(directory).and(grown)
    }

    /// Mounts the volume that lies at a path, if it is one of these.
    ///
    /// # Errors
    /// When it is, and cannot be mounted.
    pub fn activate(&self, path: &Path) -> Result<(), DiskError> {
        let Ok(below) = path.strip_prefix(&self.root) else {
            return Ok(());
        };
        let name = below.components().next().and_then(|part| part.as_os_str().to_str());
        let directory = self.directory(name.unwrap_or_default())?;
        if !directory.exists() {
            return Ok(());
        }
        let _one = self.changing.lock();
        self.activate_at(&directory).map(drop)
    }

    fn activate_at(&self, directory: &Path) -> Result<PathBuf, DiskError> {
        let (image, mount) = (directory.join(IMAGE), directory.join(MOUNT));
        if !image.exists() {
            return Ok(directory.join(DATA));
        }
        if !at(&mount, is_mount_point(&mount))? {
            tool(
                "mount",
                &[
                    "-t",
                    "ext4",
                    "-o",
                    "loop,nodev",
                    &image.to_string_lossy(),
                    &mount.to_string_lossy(),
                ],
            )?;
        }
        let data = mount.join(DATA);
        if !data.exists() {
            open_to_all(&data)?;
        }
        Ok(data)
    }

    /// Unmounts and removes a volume with all that is in it. One that is not there is done.
    ///
    /// # Errors
    /// When it is in use, or cannot be removed; then it is whole, or hidden and removed by the next call.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        let directory = self.directory(name)?;
        let _one = self.changing.lock();
        let removing = self.root.join(format!(".removing-{name}"));
        if let Some(path) = self.user(&directory) {
            return Err(DiskError::InUse(path));
        }
        if directory.exists() {
            let mount = directory.join(MOUNT);
            match umount2(&mount, MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(Errno::EBUSY) => return Err(DiskError::InUse(mount)),
                Err(error) => return at(&mount, Err(error.into())),
            }
            unused(&directory)?;
            clear(&removing)?;
            at(&directory, fs::rename(&directory, &removing))?;
        }
        clear(&removing)?;
        clear(&self.root.join(format!(".making-{name}")))
    }
}

/// An error where anything is mounted at or below a path.
fn unused(path: &Path) -> Result<(), DiskError> {
    match at(path, mount_points_below(path))?.into_iter().next() {
        Some(point) => Err(DiskError::InUse(point)),
        None => Ok(()),
    }
}

/// Removes a directory that nothing is mounted below.
fn clear(path: &Path) -> Result<(), DiskError> {
    if !path.exists() {
        return Ok(());
    }
    unused(path)?;
    at(path, fs::remove_dir_all(path))
}

/// A directory that every user may write to, as the users of containers differ.
fn open_to_all(path: &Path) -> Result<(), DiskError> {
    at(path, fs::create_dir(path))?;
    at(path, fs::set_permissions(path, fs::Permissions::from_mode(0o777)))
}

/// Gives a file so many bytes of the disk.
fn reserve(file: &File, path: &Path, bytes: u64) -> Result<(), DiskError> {
    let length = at(path, i64::try_from(bytes).map_err(io::Error::other))?;
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        // Where blocks cannot be reserved they are taken as they are written.
        Err(Errno::EOPNOTSUPP) => at(path, file.set_len(bytes)),
        Err(error) => at(path, Err(error.into())),
    }
}

/// Whether no loop device holds a file any more. It is let go of a moment after the last mount.
fn is_released(image: &Path) -> io::Result<bool> {
    for _ in 0..RELEASE_LOOKS {
        let mut held = false;
        for device in fs::read_dir("/sys/block")? {
            let file = fs::read_to_string(device?.path().join("loop/backing_file")).unwrap_or_default();
            // A host in a root of its own is told the path as the machine sees it.
            held |= !file.is_empty() && file.trim_end().ends_with(&*image.to_string_lossy());
        }
        if !held {
            return Ok(true);
        }
        std::thread::sleep(RELEASE_LOOK_EVERY);
    }
    Ok(false)
}

/// The loop device behind a mount point.
fn loop_device(mount: &Path) -> Result<Option<String>, DiskError> {
    let table = at(mount, fs::read_to_string("/proc/self/mountinfo"))?;
    let line = table.lines().rev().find(|line| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        crate::local::unescape(point) == mount
    });
    let source = line
        .and_then(|line| line.split(" - ").nth(1))
        .and_then(|rest| rest.split(' ').nth(1));
    Ok(source
        .and_then(|source| source.strip_prefix("/dev/"))
        .filter(|device| device.starts_with("loop"))
        .map(str::to_owned))
}

fn tool(name: &'static str, arguments: &[&str]) -> Result<(), DiskError> {
    let failed = |why: String| DiskError::Tool { tool: name, why };
    let path = std::env::var("PATH").map_or_else(|_| TOOL_PATH.to_owned(), |path| format!("{path}:{TOOL_PATH}"));
    let run = Command::new(name)
        .args(arguments)
        .env("PATH", path)
        .env("LC_ALL", "C")
        .output();
    let output = run.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed("it is not installed on the node".into()),
        _ => failed(error.to_string()),
    })?;
    // A check of a file system says 1 where it has mended something.
    if output.status.success() || (name == "e2fsck" && output.status.code() == Some(1)) {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let disk = Disk::new("/nowhere".into(), Mounted::default());
        for name in ["", ".", "..", "a/b", "../x", ".making-x", "A", "a.b"] {
            assert!(matches!(disk.ensure(name, 1, false), Err(DiskError::Name(_))), "{name}");
            assert!(matches!(disk.remove(name), Err(DiskError::Name(_))), "{name}");
        }
        assert!(disk.activate(Path::new("/somewhere/else")).is_ok());
        assert!(matches!(disk.activate(Path::new("/nowhere/../etc")), Err(DiskError::Name(_))));
    }

    #[test]
    fn a_plain_directory_comes_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path().join("volumes"), Mounted::default());
        let path = disk.ensure("pvc-1", 1, false).unwrap();
        assert_eq!(path, root.path().join("volumes/pvc-1/data"));
        fs::write(path.join("file"), "kept").unwrap();
        assert_eq!(disk.ensure("pvc-1", 2, false).unwrap(), path);
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "kept");
        disk.remove("pvc-1").unwrap();
        disk.remove("pvc-1").unwrap();
        assert_eq!(fs::read_dir(root.path().join("volumes")).unwrap().count(), 0);
    }

    /// Takes mounts away also where a test fails.
    struct Cleanup(PathBuf);

    impl Drop for Cleanup {
        fn drop(&mut self) {
            if let Err(error) = crate::local::unmount_below(&self.0) {
                eprintln!("{}: {error}", self.0.display());
            }
        }
    }

    #[test]
    fn a_volume_ends_at_its_size_grows_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path().to_owned(), Mounted::default());
        let _cleanup = Cleanup(root.path().to_owned());
        let path = disk.ensure("pvc-1", 16 << 20, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        fs::write(path.join("kept"), "x").unwrap();
        let large = vec![7; 24 << 20];
        let full = fs::write(path.join("large"), &large).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        fs::remove_file(path.join("large")).unwrap();

        assert_eq!(disk.ensure("pvc-1", 64 << 20, true).unwrap(), path);
        fs::write(path.join("large"), &large).unwrap();
        assert_eq!(
            disk.ensure("pvc-1", 1 << 20, true).unwrap(),
            path,
            "it does not shrink, nor fail"
        );

        // As after a restart of the machine.
        crate::local::unmount_below(root.path()).unwrap();
        assert!(!path.exists());
        disk.activate(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("kept")).unwrap(), "x");

        // What a pod has is not removed.
        let pod = ("u".to_owned(), "data".to_owned());
        disk.mounted.lock().insert(pod.clone(), path.clone());
        assert!(matches!(disk.remove("pvc-1"), Err(DiskError::InUse(_))));
        disk.mounted.lock().remove(&pod);
        // What somebody mounted below it is not removed with it.
        let inner = path.join("inner");
        fs::create_dir(&inner).unwrap();
        crate::local::memory(&inner, None, 0o755).unwrap();
        assert!(matches!(disk.remove("pvc-1"), Err(DiskError::InUse(_))));
        umount2(&inner, MntFlags::empty()).unwrap();
        disk.remove("pvc-1").unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn more_than_the_disk_has_is_refused_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path().to_owned(), Mounted::default());
        assert!(matches!(disk.ensure("pvc-1", 1 << 60, true), Err(DiskError::Room { .. })));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
