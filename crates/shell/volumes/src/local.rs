//! Volumes that are directories of this machine: emptyDir, memory, hostPath; and taking mounts away.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use trireme_pod::quantity;

use crate::is_mount_point;

/// An empty directory that everyone may write to; on tmpfs where the medium says so, no larger than its own limit and what the
/// pod may use of the node's memory, `memory_max` bytes. Whether it is new.
pub(crate) fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, memory_max: Option<i64>) -> io::Result<bool> {
    let limit = source
        .size_limit
        .as_ref()
        .map(|limit| quantity::value(&limit.0))
        .filter(|limit| *limit > 0);
    let limit = limit.into_iter().chain(memory_max).min();
    let is_new = match source.medium.as_deref() {
        Some("Memory") => memory(path, limit, 0o777)?,
        None | Some("") => {
            let is_new = !path.exists();
            std::fs::create_dir_all(path)?;
            is_new
        }
        Some(other) => return Err(io::Error::other(format!("emptyDir medium \"{other}\" is not supported"))),
    };
    if is_new {
        // mkdir's mode is cut by the umask; this is not.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    Ok(is_new)
}

/// A tmpfs at a path, once. Whether it is new.
pub(crate) fn memory(path: &Path, size: Option<i64>, mode: u32) -> io::Result<bool> {
    std::fs::create_dir_all(path)?;
    if is_mount_point(path)? {
        return Ok(false);
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(true)
}

/// The path of the host after its type was checked, or made where the type says so.
pub(crate) fn host_path(source: &HostPathVolumeSource) -> io::Result<PathBuf> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "" => return Ok(path),
        "DirectoryOrCreate" if !path.exists() => {
            std::fs::create_dir_all(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
        "FileOrCreate" if !path.exists() => {
            std::fs::File::create(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        }
        _ => {}
    }
    let failed = |what: &str| io::Error::other(format!("hostPath type check failed: {} is not {what}", path.display()));
    let found = std::fs::metadata(&path).ok().map(|metadata| metadata.file_type());
    let (fits, what): (fn(&std::fs::FileType) -> bool, &str) = match kind {
        "Directory" | "DirectoryOrCreate" => (std::fs::FileType::is_dir, "a directory"),
        "File" | "FileOrCreate" => (std::fs::FileType::is_file, "a file"),
        "Socket" => (FileTypeExt::is_socket, "a socket file"),
        "CharDevice" => (FileTypeExt::is_char_device, "a character device"),
        "BlockDevice" => (FileTypeExt::is_block_device, "a block device"),
        other => return Err(io::Error::other(format!("{other} is an invalid volume type"))),
    };
    if found.as_ref().is_some_and(fits) {
        Ok(path)
    } else {
        Err(failed(what))
    }
}

/// What is mounted at or below a path, deepest first.
pub(crate) fn mount_points_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|point| point.starts_with(path))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    Ok(points)
}

/// Unmounts everything at or below a path, deepest first.
pub(crate) fn unmount_below(path: &Path) -> io::Result<()> {
    for point in mount_points_below(path)? {
        match umount2(&point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// mountinfo writes blanks and backslashes as octal numbers.
pub(crate) fn unescape(text: &str) -> PathBuf {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        result.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                result.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                result.push('\\');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    PathBuf::from(result)
}
