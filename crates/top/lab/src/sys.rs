//! The system calls a lab needs that have no safe wrapper.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, Pid, fork};

/// Which process of a fork this is.
pub(crate) enum Side {
    /// The old one, with the new one's PID.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Leaves the machine's namespaces for new ones; children begin a new PID namespace.
pub(crate) fn leave() -> nix::Result<()> {
    unshare(
        CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
}

/// Forks. The caller must have one thread.
pub(crate) fn split() -> nix::Result<Side> {
    // SAFETY: `trireme lab-init` comes here before it starts any thread, so the child's memory is consistent.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(child)),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// Has the command run inside the given namespaces (all but the PID namespace, which the caller has entered itself).
pub(crate) fn enter_before_exec(command: &mut Command, namespaces: Vec<(OwnedFd, CloneFlags)>) {
    let enter = move || {
        for (namespace, flag) in &namespaces {
            setns(namespace.as_fd(), *flag)?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls on descriptors it owns and neither allocates nor takes locks.
    unsafe {
        command.pre_exec(enter);
    }
}

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, u32)`.
const FILE_SYSTEM_SHUTDOWN: libc::Ioctl = nix::request_code_read!(b'X', 125, size_of::<u32>());
/// Without a last flush of the journal.
const NO_LOG_FLUSH: u32 = 2;

/// Stops the file system that a descriptor is on, as if its disk had gone.
pub(crate) fn shut_file_system_down(descriptor: RawFd) -> io::Result<()> {
    let flags = NO_LOG_FLUSH;
    // SAFETY: the kernel reads one u32 behind the pointer, which outlives the call.
    let outcome = unsafe { libc::ioctl(descriptor, FILE_SYSTEM_SHUTDOWN, &raw const flags) };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
