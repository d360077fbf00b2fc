//! A container's root: overlayfs of its image's layers and its own writable layer. Files of it are only ever reached with
//! the root as the end of every path.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};

/// Longest file read from a container's root (its user and group lists).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Mounts the root at `directory/rootfs`; `names` are directories in `layers`, lowest first. Does nothing if it is mounted.
pub(crate) fn mount_overlay(layers: &Path, names: &[String], directory: &Path) -> io::Result<()> {
    let target = directory.join("rootfs");
    for path in [&target, &directory.join("upper"), &directory.join("work")] {
        fs::create_dir_all(path)?;
    }
    if is_mounted(&target)? {
        return Ok(());
    }
    // The merged root has the writable layer's mode, whatever our umask is.
    fs::set_permissions(directory.join("upper"), fs::Permissions::from_mode(0o755))?;
    // An image without layers still needs one lower directory.
    let empty = directory.join("empty");
    let lower = if names.is_empty() {
        fs::create_dir_all(&empty)?;
        empty.display().to_string()
    } else {
        names.iter().rev().cloned().collect::<Vec<_>>().join(":")
    };
    let options = format!("lowerdir={lower},upperdir={0}/upper,workdir={0}/work", directory.display());
    let layers = layers.to_owned();
    // Names relative to a working directory of this thread's own keep a hundred layers within the one page that options get.
    let thread = std::thread::spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        std::env::set_current_dir(&layers)?;
        Ok(mount(
            Some("overlay"),
            &target,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )?)
    });
    thread.join().map_err(|_| io::Error::other("the mounting thread died"))?
}

/// Mounts a small tmpfs. Does nothing if it is mounted.
pub(crate) fn mount_tmpfs(target: &Path, options: &str) -> io::Result<()> {
    fs::create_dir_all(target)?;
    if is_mounted(target)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("shm"), target, Some("tmpfs"), flags, Some(options))?)
}

/// Unmounts whatever is mounted at `target`.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether something is mounted exactly there.
fn is_mounted(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Text of a file in the root, empty where there is none.
pub(crate) fn read_text(root: &Path, path: &str) -> io::Result<String> {
    let root = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(root)?;
    let file = match openat2(
        root.as_fd(),
        path.trim_start_matches('/'),
        how(OFlag::O_RDONLY | OFlag::O_NONBLOCK),
    ) {
        Ok(file) => File::from(file),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes a directory in the root with its parents, where it is missing; what is no directory is left to fail later.
pub(crate) fn make_directory(root: &Path, path: &str) -> io::Result<()> {
    let root = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(root)?;
    let mut known = PathBuf::new();
    for component in Path::new(path).components() {
        let Component::Normal(part) = component else { continue };
        let parent = if known.as_os_str().is_empty() {
            root.as_fd().try_clone_to_owned()?
        } else {
            openat2(root.as_fd(), &known, how(OFlag::O_PATH | OFlag::O_DIRECTORY))?
        };
        let mode = Mode::from_bits_truncate(0o755);
        match mkdirat(parent.as_fd(), part, mode) {
            Ok(()) => fchmodat(parent.as_fd(), part, mode, FchmodatFlags::FollowSymlink)?,
            Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        known.push(part);
    }
    Ok(())
}
