//! What a container with a user namespace of its own is built from: a mount namespace of the worker with a root that holds
//! nothing but what libcontainer needs, where every path can be walked by a user of no privileges, and the sources of its
//! mounts, the ids of their files mapped into the container's namespace.
//!
//! Invariant: nothing of it is seen outside; it ends with the last process of the container. libcontainer 0.7 maps no mounts
//! itself, and the directories that lead to a container's root are closed to the users that it runs as.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

use super::ShimConfig;
use crate::protocol::StartRequest;
use crate::sys;

/// A mount that has no place yet.
struct Piece {
    path: PathBuf,
    mount: OwnedFd,
    is_directory: bool,
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn piece(source: &Path, path: &Path) -> io::Result<Piece> {
    let take = || {
        Ok(Piece {
            path: path.to_owned(),
            mount: sys::clone_mount(source, true)?,
            is_directory: fs::metadata(source)?.is_dir(),
        })
    };
    take().map_err(|error| named(source, error))
}

/// Enters a mount namespace whose root holds the bundle and the sources of its mounts, at their names in the document.
pub(super) fn enter(config: &ShimConfig, request: &StartRequest, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )?;
    let mut pieces = Vec::new();
    let own = [&config.directory, &config.oci_root, &request.bundle];
    for path in ["/proc", "/sys", "/dev"]
        .map(Path::new)
        .into_iter()
        .chain(own.map(PathBuf::as_path))
    {
        pieces.push(piece(path, path)?);
    }
    for staged in &request.staged {
        let piece = piece(&staged.source, &staged.path)?;
        if staged.mapped {
            sys::map_ids(piece.mount.as_fd(), user_namespace).map_err(|error| {
                let text = format!(
                    "failed to set MOUNT_ATTR_IDMAP on {}: {error} (maybe its file system does not support idmapped mounts)",
                    staged.source.display()
                );
                io::Error::new(error.kind(), text)
            })?;
        }
        pieces.push(piece);
    }
    // Any directory will do for the new root to stand on: the bundle is reached by its piece from now on.
    let root = &request.bundle;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), root, Some("tmpfs"), flags, Some("mode=755,size=1m"))?;
    for piece in pieces {
        let at = root.join(piece.path.strip_prefix("/").unwrap_or(&piece.path));
        if piece.is_directory {
            fs::create_dir_all(&at)?;
        } else {
            if let Some(parent) = at.parent() {
                fs::create_dir_all(parent)?;
            }
            File::create(&at)?;
        }
        sys::attach_mount(piece.mount.as_fd(), &at).map_err(|error| named(&piece.path, error))?;
    }
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}
