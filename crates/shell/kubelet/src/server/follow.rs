//! Waiting for a log file to grow, with one inotify instance for all followers (a machine has few of them).
//!
//! Invariant: a waiter may wake for nothing; it never misses a write that came after it asked to be told.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, WatchDescriptor};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::sys::{self, Instance};

#[derive(Default)]
pub(crate) struct Follower(OnceLock<Option<Arc<Inner>>>);

struct Inner {
    instance: AsyncFd<Instance>,
    /// Changes of each directory that someone follows, and how many do.
    directories: Mutex<HashMap<WatchDescriptor, (watch::Sender<u64>, usize)>>,
}

/// Changes of one directory, while it is held.
pub(crate) struct Watch {
    inner: Arc<Inner>,
    descriptor: WatchDescriptor,
    changes: watch::Receiver<u64>,
}

impl Follower {
    /// Watches the directory of a log. `None` where that is not possible; who follows then looks from time to time.
    pub(crate) fn watch(&self, directory: &Path) -> Option<Watch> {
        let inner = Arc::clone(
            self.0
                .get_or_init(|| Inner::start().map_err(|error| tracing::warn!("inotify: {error}")).ok())
                .as_ref()?,
        );
        let flags =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MOVED_FROM;
        let mut directories = inner.directories.lock();
        let descriptor = match inner.instance.get_ref().get().add_watch(directory, flags) {
            Ok(descriptor) => descriptor,
            Err(error) => {
                tracing::debug!("watching {}: {error}", directory.display());
                return None;
            }
        };
        let entry = directories.entry(descriptor).or_insert_with(|| (watch::channel(0).0, 0));
        entry.1 += 1;
        let changes = entry.0.subscribe();
        drop(directories);
        Some(Watch {
            inner,
            descriptor,
            changes,
        })
    }
}

impl Watch {
    /// Waits for the next change.
    pub(crate) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut directories = self.inner.directories.lock();
        if let Some(entry) = directories.get_mut(&self.descriptor) {
            entry.1 -= 1;
            if entry.1 == 0 {
                directories.remove(&self.descriptor);
                match self.inner.instance.get_ref().get().rm_watch(self.descriptor) {
                    // The directory went away, and its watch with it.
                    Ok(()) | Err(Errno::EINVAL) => {}
                    Err(error) => tracing::debug!("inotify: {error}"),
                }
            }
        }
    }
}

impl Inner {
    fn start() -> io::Result<Arc<Self>> {
        let inner = Arc::new(Self {
            instance: sys::inotify()?,
            directories: Mutex::default(),
        });
        let reader = Arc::clone(&inner);
        tokio::spawn(async move {
            if let Err(error) = reader.read().await {
                tracing::warn!("inotify: {error}");
            }
        });
        Ok(inner)
    }

    async fn read(&self) -> io::Result<()> {
        loop {
            let mut ready = self.instance.readable().await?;
            match self.instance.get_ref().get().read_events() {
                Ok(events) => {
                    let directories = self.directories.lock();
                    for event in events {
                        if let Some((changes, _)) = directories.get(&event.wd) {
                            changes.send_modify(|count| *count += 1);
                        }
                    }
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
