//! Sub-paths of volumes, opened so that no link leads out of the volume (CVE-2017-1002101, CVE-2021-25741).
//!
//! Invariant: what is bound is the very file that was resolved beneath the volume, by its descriptor, not by its name.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat};

/// Which sub-path for whom.
pub struct SubPathRequest<'a> {
    /// UID of the pod.
    pub pod_uid: &'a str,
    /// Volume name.
    pub volume: &'a str,
    /// Where the volume is on the host.
    pub volume_path: &'a Path,
    /// Relative path in the volume, variables already expanded.
    pub sub_path: &'a str,
    /// Container that mounts it.
    pub container: &'a str,
    /// Index of the mount in the container.
    pub index: usize,
}

pub(crate) fn bind(request: &SubPathRequest<'_>, target: &Path) -> io::Result<()> {
    let parts: Vec<_> = Path::new(request.sub_path).components().collect();
    if parts
        .iter()
        .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("subPath \"{}\" must be relative and without '..'", request.sub_path),
        ));
    }
    let root = open(
        request.volume_path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let found = resolve(&root, request.sub_path)?;
    let is_directory = SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    // The mount of an earlier run of the container; bind anew, as the file may be another now.
    crate::local::unmount_below(target)?;
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if is_directory {
        std::fs::create_dir_all(target)?;
    } else if !target.exists() {
        std::fs::File::create(target)?;
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    mount(
        Some(source.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(io::Error::from)
}

fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// Opens the path; what is missing at its end is made as directories.
fn resolve(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let whole = Path::new(path);
    match beneath(root, whole) {
        Err(Errno::ENOENT) => {}
        done => return done.map_err(io::Error::from),
    }
    let mode = Mode::from_bits_truncate(fstat(root)?.st_mode & 0o777);
    let mut so_far = std::path::PathBuf::new();
    for part in whole.components() {
        let parent = beneath(
            root,
            if so_far.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &so_far
            },
        )?;
        so_far.push(part);
        match beneath(root, &so_far) {
            Err(Errno::ENOENT) => {
                match mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
                let made = openat2(&parent, part.as_os_str(), how)?;
                fchmod(&made, mode)?;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
    }
    beneath(root, whole).map_err(io::Error::from)
}
