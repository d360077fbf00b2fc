//! File systems of a test's own: a small tmpfs, and an ext4 whose power can be cut.
//!
//! Invariant: nothing outlives the test, even one that is killed: mounts live in a mount namespace of the test's thread
//! (and the threads it starts), and a loop device goes with its mount.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a mount namespace of its own. `false` where that is not allowed; the test then says so and does nothing.
pub fn in_own_mounts<F: Future<Output = ()>>(test: F) -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .expect("private mounts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test);
    true
}

/// A mount that ends with its holder.
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// A tmpfs of this many bytes.
    pub fn tmpfs(path: &Path, bytes: u64) -> Self {
        let options = format!("size={bytes}");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("a tmpfs");
        Self { path: path.to_owned() }
    }

    /// The ext4 in an image file.
    pub fn ext4(image: &Path, path: &Path) -> Self {
        let status = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .arg(image)
            .arg(path)
            .status();
        assert!(status.expect("mount runs").success(), "the image mounts");
        Self { path: path.to_owned() }
    }

    /// Unmounts, waiting for those who still close their files.
    pub fn unmount(self) {
        for _ in 0..500 {
            match umount2(&self.path, MntFlags::empty()) {
                Ok(()) => {
                    std::mem::forget(self);
                    return;
                }
                Err(nix::errno::Errno::EBUSY) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{}: {error}", self.path.display()),
            }
        }
        panic!("{} stays busy", self.path.display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}

/// An ext4 image of this many bytes.
pub fn make_ext4(image: &Path, bytes: u64) -> io::Result<()> {
    std::fs::File::create(image)?.set_len(bytes)?;
    let status = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image).status()?;
    assert!(status.success(), "mkfs.ext4 makes the image");
    Ok(())
}

/// Cuts the power of the ext4 that holds this path: nothing that was not flushed will ever be there.
pub fn cut_power(path: &Path) -> io::Result<()> {
    sys::shut_down(&std::fs::File::open(path)?)
}

mod sys {
    //! The one system call that nothing wraps.

    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    /// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`.
    const SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
    /// Without flushing the journal.
    const NO_LOG_FLUSH: u32 = 2;

    pub(super) fn shut_down(file: &File) -> io::Result<()> {
        let flags: u32 = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open for the length of the call, and the kernel only reads the integer behind the
        // pointer, which lives until then.
        let status = unsafe { libc::ioctl(file.as_raw_fd(), SHUTDOWN, &raw const flags) };
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
