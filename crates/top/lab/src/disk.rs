//! A host's disk: an ext4 file system in a file of the machine, on a loop device that goes with its mount. So that it
//! can really fill up, and really lose power.
//!
//! Invariant: an image is attached to one loop device at a time.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::error::{HostError, during};
use crate::{root, sys, tools};

/// Size of a disk unless one is asked for. The file is sparse.
pub const DISK_BYTES_DEFAULT: u64 = 2 << 30;
/// The file that fills a disk, on it.
const FILLER: &str = "filler";
/// Longest wait for the kernel to let go of a loop device whose mount has just gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(20);
/// Pieces that a disk is filled with, from large to small.
const FILL_STEPS: [i64; 4] = [256 << 20, 16 << 20, 1 << 20, 4 << 10];

/// Why this machine cannot give hosts disks of their own; none if it can.
pub(crate) fn obstacle() -> Option<String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/loop-control") {
        return Some(format!("/dev/loop-control: {error}"));
    }
    match tools::run("mkfs.ext4", &["-V"]) {
        Err(HostError::MissingTool { tool }) => Some(format!("{tool} is not installed (on Debian: apt-get install e2fsprogs)")),
        _ => None,
    }
}

/// Makes an empty disk.
pub(crate) fn make(image: &Path, bytes: u64) -> Result<(), HostError> {
    let file = during(image.display().to_string(), File::create(image))?;
    during("sizing the disk's file", file.set_len(bytes))?;
    // No blocks are kept back for root: the server is root, and would never see a full disk.
    tools::run(
        "mkfs.ext4",
        &[
            "-q",
            "-F",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
            &image.to_string_lossy(),
        ],
    )
    .map(drop)
}

/// Mounts a disk in the mount namespace of the caller.
pub(crate) fn mount(image: &Path, target: &Path) -> io::Result<()> {
    tools::run(
        "mount",
        &[
            "-t",
            "ext4",
            "-o",
            "loop,noatime",
            &image.to_string_lossy(),
            &target.to_string_lossy(),
        ],
    )
    .map(drop)
    .map_err(io::Error::other)
}

/// Waits until no loop device holds the disk. A second one would mix two views of the same file.
pub(crate) fn await_release(image: &Path) -> Result<(), HostError> {
    let deadline = Instant::now() + RELEASE_LIMIT;
    while during("looking at loop devices", is_attached(image))? {
        if Instant::now() > deadline {
            return Err(HostError::DiskBusy(image.display().to_string()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn is_attached(image: &Path) -> io::Result<bool> {
    let image = image.to_string_lossy();
    for device in fs::read_dir("/sys/block")? {
        let backing = device?.path().join("loop/backing_file");
        // Absent where the device is not attached. Its path may be told as seen from the host, which had the machine's root below
        // its own.
        if fs::read_to_string(backing).is_ok_and(|file| file.trim_end().ends_with(&*image)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A host's disk as the machine sees it, through the host's first process.
pub(crate) fn seen_from_machine(init: i32) -> PathBuf {
    format!("/proc/{init}/root{}", root::DISK).into()
}

/// Leaves not one free block.
pub(crate) fn fill(disk: &Path) -> Result<(), HostError> {
    let mut filler = during(
        "filling the disk",
        File::options().create(true).append(true).open(disk.join(FILLER)),
    )?;
    for step in FILL_STEPS {
        loop {
            let length = during("filling the disk", filler.metadata())?.len();
            let offset = i64::try_from(length).expect("a file's length fits");
            match fallocate(&filler, FallocateFlags::empty(), offset, step) {
                Ok(()) => {}
                Err(nix::Error::ENOSPC) => break,
                Err(error) => return during("filling the disk", Err(error.into())),
            }
        }
    }
    // What allocation in pieces leaves over.
    loop {
        match filler.write(&[0; 4096]).and_then(|_| filler.sync_data()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return during("filling the disk", Err(error)),
        }
    }
}

/// Gives a filled disk its space back.
pub(crate) fn free(disk: &Path) -> Result<(), HostError> {
    during(
        "freeing the disk",
        crate::error::unless_absent(fs::remove_file(disk.join(FILLER))),
    )
}

/// From now on nothing reaches the disk any more, not even what its journal holds.
pub(crate) fn cut_power(disk: &Path) -> Result<(), HostError> {
    let root = during("opening the disk", File::open(disk))?;
    during("cutting the disk's power", sys::shut_file_system_down(root.as_raw_fd()))
}
