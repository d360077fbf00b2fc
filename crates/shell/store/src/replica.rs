//! The local replica: the state machine behind a lock, and those who wait for it to change.
//!
//! Invariant: whoever is woken sees the change that woke him, because waking comes after the lock is given back. No
//! watcher has a queue: each has a place in the shared history and reads on from there.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use trireme_api::Object;
use trireme_mvcc::{Applied, Command, Event, Page, ReadError, Revision, State};

use crate::Watch;

/// How many events one `next` returns, but for keeping a revision whole.
const EVENTS_PER_READ: usize = 256;

/// The state with its readers and subscribers.
#[derive(Debug)]
pub(crate) struct Replica {
    state: RwLock<State>,
    revision: watch::Sender<Revision>,
    /// Wakes subscribers by `group/resource/`; those of wider prefixes wait under the empty name.
    wakers: Mutex<HashMap<Box<str>, Arc<Notify>>>,
}

impl Replica {
    pub(crate) fn new(state: State) -> Self {
        Self {
            revision: watch::Sender::new(state.revision()),
            state: RwLock::new(state),
            wakers: Mutex::new(HashMap::new()),
        }
    }

    /// Applies commands, each with the term of its entry, in order under one lock, then wakes who waits for what changed.
    pub(crate) fn apply<'a>(&self, commands: impl IntoIterator<Item = (&'a Command, u64)>) -> Vec<Applied> {
        let mut answers = Vec::new();
        let mut changed = Vec::new();
        let revision = {
            let mut state = self.state.write();
            for (command, term) in commands {
                let (applied, events) = state.apply(command, term);
                answers.push(applied);
                changed.extend(events);
            }
            state.revision()
        };
        self.wake(&changed, revision);
        answers
    }

    /// Puts another state in place of this one (a snapshot from a peer). Subscribers from before it are told to list.
    pub(crate) fn replace(&self, state: State) {
        let revision = state.revision();
        *self.state.write() = state;
        for waker in self.wakers.lock().values() {
            waker.notify_waiters();
        }
        self.revision.send_replace(revision);
    }

    fn wake(&self, changed: &[Arc<Event>], revision: Revision) {
        if changed.is_empty() {
            return;
        }
        self.revision.send_replace(revision);
        let wakers = self.wakers.lock();
        if let Some(all) = wakers.get("") {
            all.notify_waiters();
        }
        let mut last = "";
        for event in changed {
            let resource = resource_of(&event.key);
            if resource == last {
                continue;
            }
            last = resource;
            if let Some(waker) = wakers.get(resource) {
                waker.notify_waiters();
            }
        }
    }

    fn waker(&self, prefix: &str) -> Arc<Notify> {
        let resource = resource_of(prefix);
        let mut wakers = self.wakers.lock();
        if let Some(waker) = wakers.get(resource) {
            return Arc::clone(waker);
        }
        // Custom resources come and go: what nobody waits for any more is dropped when something new is waited for.
        wakers.retain(|_, waker| Arc::strong_count(waker) > 1);
        let waker = Arc::new(Notify::new());
        wakers.insert(resource.into(), Arc::clone(&waker));
        waker
    }

    /// Looks at the state under the read lock; keep it short.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    pub(crate) fn get(&self, key: &str) -> Option<Object> {
        self.state.read().get(key)
    }

    pub(crate) fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: Option<usize>,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        // The view is frozen; going through it holds up no write.
        let view = self.state.read().view(prefix, at)?;
        Ok(view.page(prefix, after, limit))
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.state.read().check(after)?;
        Ok(Box::new(Subscription {
            replica: Arc::clone(self),
            waker: self.waker(prefix),
            prefix: prefix.into(),
            cursor: after,
        }))
    }

    pub(crate) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    pub(crate) async fn reached(&self, revision: Revision) {
        let mut receiver = self.revision.subscribe();
        receiver
            .wait_for(|now| *now >= revision)
            .await
            .expect("the replica that is borrowed here holds the sender");
    }
}

/// `group/resource/` of a key or prefix; empty for a prefix that spans resources.
fn resource_of(key: &str) -> &str {
    let mut slashes = key.match_indices('/').map(|(at, _)| at);
    slashes.next().and_then(|_| slashes.next()).map_or("", |at| &key[..=at])
}

/// One watcher: a place in history.
struct Subscription {
    replica: Arc<Replica>,
    waker: Arc<Notify>,
    prefix: Box<str>,
    cursor: Revision,
}

#[async_trait]
impl Watch for Subscription {
    async fn next(&mut self) -> Result<Vec<Arc<Event>>, ReadError> {
        loop {
            let changed = self.waker.notified();
            tokio::pin!(changed);
            // Counts as waiting from here on, so that a change between the look and the wait is not missed.
            changed.as_mut().enable();
            let tail = self.replica.state.read().tail(&self.prefix, self.cursor, EVENTS_PER_READ)?;
            self.cursor = tail.through;
            if !tail.events.is_empty() {
                return Ok(tail.events);
            }
            changed.await;
        }
    }

    fn progress(&self) -> Revision {
        self.replica.state.read().quiet_through(&self.prefix, self.cursor)
    }
}
