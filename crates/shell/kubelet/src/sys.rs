//! The kubelet's one unsafe call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::inotify::{InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// An inotify instance that owns its descriptor.
pub(crate) struct Instance(Inotify);

impl Instance {
    pub(crate) fn get(&self) -> &Inotify {
        &self.0
    }
}

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Instance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A new inotify instance that tokio waits for.
pub(crate) fn inotify() -> io::Result<AsyncFd<Instance>> {
    let instance = Instance(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?);
    // SAFETY: `Instance` owns its descriptor, always names the same one, and gives nobody a way to close it or to take it
    // out; so the descriptor lives as long as the registration.
    unsafe { AsyncFd::register(instance) }.map_err(io::Error::from)
}
