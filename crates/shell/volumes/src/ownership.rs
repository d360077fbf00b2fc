//! Group ownership by fsGroup, and the owner of tokens.
//!
//! Invariant: links are never followed.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;

use crate::atomic::Files;

/// Gives a tree to the group: readable, writable unless read-only, directories set-gid.
pub(crate) fn apply(path: &Path, fs_group: Option<i64>, read_only: bool) -> io::Result<()> {
    let Some(group) = fs_group.and_then(|group| u32::try_from(group).ok()) else {
        return Ok(());
    };
    visit(path, group, read_only)
}

/// As [`apply`], for a volume's top directory alone.
pub(crate) fn apply_top(path: &Path, fs_group: Option<i64>) -> io::Result<()> {
    let Some(group) = fs_group.and_then(|group| u32::try_from(group).ok()) else {
        return Ok(());
    };
    own(path, group, true)
}

fn visit(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    own(path, group, read_only)?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            visit(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

fn own(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if metadata.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if metadata.is_symlink() {
        return Ok(());
    }
    let mut mode = metadata.permissions().mode() & 0o7777;
    mode |= if read_only { 0o440 } else { 0o660 };
    if metadata.is_dir() {
        mode |= 0o2110;
    }
    // Changing the group may have cleared set-gid, so the mode is always written.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Gives tokens to the user that the pod's containers run as.
pub(crate) fn own_tokens(directory: &Path, files: &Files, owner: (Option<u32>, bool)) -> io::Result<()> {
    let Some(user) = owner.0 else { return Ok(()) };
    for (path, _) in files.iter().filter(|(_, file)| file.token) {
        chown(directory.join(path), Some(user), None)?;
    }
    Ok(())
}
