//! A container's root: overlayfs of its image's layers and its own writable layer. Files of it are only ever reached with
//! the root as the end of every path.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::sys;

/// Directory of a container with one directory for each of its image volumes.
pub(crate) const IMAGES: &str = "images";
/// Longest file read from a container's root (its user and group lists).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The user namespace of a pod, for what is mounted for it on the host.
pub(crate) struct Mapping {
    pub(crate) namespace: OwnedFd,
    /// Its root, as a user and a group of the host.
    pub(crate) root: u32,
    /// How many ids it has.
    pub(crate) length: u32,
}

/// Mounts the root at `directory/rootfs`; `names` are directories in `layers`, lowest first. Does nothing if it is mounted.
/// With a mapping, files of the layers appear as its, and so do those that are written; layers themselves never change.
pub(crate) fn mount_overlay(layers: &Path, names: &[String], directory: &Path, mapping: Option<&Mapping>) -> io::Result<()> {
    let target = directory.join("rootfs");
    for path in [&target, &directory.join("upper"), &directory.join("work")] {
        fs::create_dir_all(path)?;
    }
    if is_mounted(&target)? {
        return Ok(());
    }
    // The merged root has the writable layer's mode, whatever our umask is.
    fs::set_permissions(directory.join("upper"), fs::Permissions::from_mode(0o755))?;
    if let Some(mapping) = mapping {
        std::os::unix::fs::chown(directory.join("upper"), Some(mapping.root), Some(mapping.root))?;
    }
    // An image without layers still needs one lower directory.
    let empty = directory.join("empty");
    let lower = if names.is_empty() {
        fs::create_dir_all(&empty)?;
        empty.display().to_string()
    } else {
        names.iter().rev().cloned().collect::<Vec<_>>().join(":")
    };
    let options = format!("lowerdir={lower},upperdir={0}/upper,workdir={0}/work", directory.display());
    overlay(layers, &target, MsFlags::empty(), &options, mapping)
}

/// Mounts layers of an image to be read, below the same directory; programs there are not run. Does nothing if it is mounted.
pub(crate) fn mount_image(layers: &Path, names: &[String], directory: &Path, mapping: Option<&Mapping>) -> io::Result<PathBuf> {
    let (target, empty) = (directory.join("root"), directory.join("empty"));
    for path in [&target, &empty] {
        fs::create_dir_all(path)?;
    }
    if !is_mounted(&target)? {
        // Two directories at least, or it would have to be writable.
        let above = names.iter().rev().map(|name| format!("{name}:")).collect::<String>();
        let options = format!("lowerdir={above}{}", empty.display());
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        overlay(layers, &target, flags, &options, mapping)?;
    }
    Ok(target)
}

fn overlay(layers: &Path, target: &Path, flags: MsFlags, options: &str, mapping: Option<&Mapping>) -> io::Result<()> {
    let mount_it = || -> io::Result<()> {
        // Names relative to a working directory of this thread's own keep a hundred layers within the one page that options get.
        std::env::set_current_dir(layers)?;
        Ok(mount(Some("overlay"), target, Some("overlay"), flags, Some(options))?)
    };
    let work = || -> io::Result<Option<OwnedFd>> {
        let Some(mapping) = mapping else {
            unshare(CloneFlags::CLONE_FS)?;
            return mount_it().map(|()| None);
        };
        // In a mount namespace of this thread's own, the layers' directory is its own mapped view. The overlay keeps that.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let view = sys::clone_mount(layers, false)?;
        sys::map_ids(view.as_fd(), mapping.namespace.as_fd())
            .map_err(|error| io::Error::new(error.kind(), format!("failed to set MOUNT_ATTR_IDMAP on the layers: {error}")))?;
        sys::attach_mount(view.as_fd(), layers)?;
        mount_it()?;
        sys::clone_mount(target, false).map(Some)
    };
    let made =
        std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| io::Error::other("the mounting thread died"))??;
    match made {
        Some(overlay) => sys::attach_mount(overlay.as_fd(), target),
        None => Ok(()),
    }
}

/// Unmounts a container's root and its image volumes.
pub(crate) fn unmount_all(directory: &Path) -> io::Result<()> {
    unmount(&directory.join("rootfs"))?;
    match fs::read_dir(directory.join(IMAGES)) {
        Ok(entries) => entries.into_iter().try_for_each(|entry| unmount(&entry?.path().join("root"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
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

/// Whether a path is on a proc file system.
pub(crate) fn is_procfs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

/// Links followed on the way to one path.
const LINKS_MAX: usize = 40;

/// Where a path of the root leads once its links are followed, as a path of the root. What does not exist is no link.
pub(crate) fn resolve(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut rest: Vec<std::ffi::OsString> = Vec::new();
    let push = |rest: &mut Vec<std::ffi::OsString>, path: &Path| {
        rest.extend(path.components().rev().map(|part| part.as_os_str().to_owned()));
    };
    push(&mut rest, Path::new(path));
    let (mut known, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = rest.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => known = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                known.pop();
            }
            Some(Component::Normal(name)) => {
                let next = known.join(name);
                match fs::read_link(root.join(next.strip_prefix("/").unwrap_or(&next))) {
                    Ok(_) if links == LINKS_MAX => return Err(nix::errno::Errno::ELOOP.into()),
                    Ok(target) => {
                        links += 1;
                        push(&mut rest, &target);
                    }
                    Err(_) => known = next,
                }
            }
            _ => {}
        }
    }
    Ok(known)
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

/// Makes a directory in the root with its parents, where it is missing, for the root of the container, who is `owner` on the host;
/// what is no directory is left to fail later.
pub(crate) fn make_directory(root: &Path, path: &str, owner: u32) -> io::Result<()> {
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
            Ok(()) => {
                fchmodat(parent.as_fd(), part, mode, FchmodatFlags::FollowSymlink)?;
                if owner != 0 {
                    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
                    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
                    fchownat(parent.as_fd(), part, Some(user), Some(group), flags)?;
                }
            }
            Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        known.push(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_within_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("/proc", root.join("absolute")).unwrap();
        symlink("../../../../proc/sys", root.join("a/b/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/absolute/self/attr", "/proc/self/attr"),
            ("a/b/up/kernel", "/proc/sys/kernel"),
            ("/a/../proc//x/.", "/proc/x"),
            ("/not/there/../here", "/not/here"),
            ("/../../proc", "/proc"),
        ] {
            assert_eq!(resolve(root, path).unwrap(), Path::new(expected), "{path}");
        }
        assert!(resolve(root, "/loop/x").is_err());
    }
}
