//! The root directory of a host: a file system of its own, on which the machine's directories are mounted.
//!
//! Invariant: no mount of a host hangs on a directory that the machine can remove, since that would take the mount away
//! silently (a lab test removes one): every mount point lies in the host's own root. What is the host's own covers nothing of
//! the machine's; what it shares with the machine is mounted as a whole, or linked to where that is mounted.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::{disk, switch};

/// Directories that a host has for itself.
const OWN_DIRECTORIES: [&str; 3] = ["/var/lib/trireme", "/etc/trireme", "/var/log/pods"];
/// Those that stay in the machine's file system also where the host has a disk: the machine reads the kubeconfig there.
const NEVER_ON_DISK: [&str; 1] = ["/etc/trireme"];
/// Of the machine's directories, those in which a host's own lie: made anew, with links to what else is there.
const MIRRORED: [&str; 2] = ["etc", "var"];
/// Those that are a host's own altogether.
const FRESH: [&str; 2] = ["proc", "run"];
/// Where the mirrored directories are mounted in a host's root.
const MACHINE: &str = "/.lab/machine";
/// Where the host's disk is mounted in its root.
pub(crate) const DISK: &str = "/.lab/disk";
/// Where the machine's root is while it is left.
const OLD: &str = "/.lab/old";
/// Where the root is made: below a directory that every machine has and no host shares.
const STAGE: &str = "/run/root";

const NOTHING: Option<&str> = None;

/// Leaves the machine's root for one that is made here. The caller has a mount namespace and a PID namespace of its own.
pub(crate) fn enter(data: &Path, image: Option<&Path>) -> io::Result<()> {
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)?;
    switch::release_all()?;
    tmpfs(Path::new("/run"))?;
    let stage = Path::new(STAGE);
    fs::create_dir(stage)?;
    tmpfs(stage)?;
    share(stage)?;
    let on_disk = match image {
        Some(image) => {
            let target = inside(stage, DISK);
            fs::create_dir_all(&target)?;
            disk::mount(image, &target)?;
            target
        }
        None => data.to_owned(),
    };
    for directory in OWN_DIRECTORIES {
        let below = if NEVER_ON_DISK.contains(&directory) { data } else { &on_disk };
        let (own, target) = (inside(below, directory), inside(stage, directory));
        fs::create_dir_all(&own)?;
        fs::create_dir_all(&target)?;
        bind(&own, &target, MsFlags::empty())?;
    }
    // Names are resolved by nobody beyond the host: an empty file keeps the machine's resolver out of the pods.
    fs::write(stage.join("etc/resolv.conf"), "")?;
    let old = inside(stage, OLD);
    fs::create_dir_all(&old)?;
    pivot_root(stage, &old)?;
    chdir("/")?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        NOTHING,
    )?;
    tmpfs(Path::new("/run"))?;
    umount2(OLD, MntFlags::MNT_DETACH)?;
    fs::remove_dir(OLD)
}

fn tmpfs(target: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some("mode=755"))?)
}

fn bind(from: &Path, to: &Path, also: MsFlags) -> io::Result<()> {
    Ok(mount(Some(from), to, NOTHING, MsFlags::MS_BIND | also, NOTHING)?)
}

/// An absolute path below a directory.
fn inside(directory: &Path, path: &str) -> PathBuf {
    directory.join(path.trim_start_matches('/'))
}

/// Puts the machine's directories into a root.
fn share(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir("/")? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let target = root.join(&name);
        let is = |names: &[&str]| names.iter().any(|other| OsStr::new(other) == name);
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, target)?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            if is(&MIRRORED) {
                let whole = inside(root, MACHINE).join(&name);
                fs::create_dir_all(&whole)?;
                bind(&entry.path(), &whole, MsFlags::MS_REC)?;
                mirror(&entry.path(), &target)?;
            } else if !is(&FRESH) {
                bind(&entry.path(), &target, MsFlags::MS_REC)?;
            }
        }
    }
    Ok(())
}

/// Fills a directory with links to what is in one of the machine's, but for what leads to the host's own.
fn mirror(machine: &Path, target: &Path) -> io::Result<()> {
    for entry in fs::read_dir(machine)? {
        let entry = entry?;
        let (path, target) = (entry.path(), target.join(entry.file_name()));
        if OWN_DIRECTORIES.iter().any(|own| Path::new(own) == path) {
            continue; // Mounted there.
        }
        if OWN_DIRECTORIES.iter().any(|own| Path::new(own).starts_with(&path)) {
            fs::create_dir(&target)?;
            mirror(&path, &target)?;
        } else if path == Path::new("/etc/resolv.conf") {
            continue; // The host has its own.
        } else if entry.file_type()?.is_symlink() {
            // A relative one leads to the host's.
            symlink(fs::read_link(&path)?, target)?;
        } else {
            symlink(inside(Path::new(MACHINE), &path.to_string_lossy()), target)?;
        }
    }
    Ok(())
}
