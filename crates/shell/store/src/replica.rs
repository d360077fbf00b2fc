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
/// Fewest names of wakers among which it is looked for those that nobody waits for.
const SWEEP_AT_LEAST: usize = 64;

/// The state with its readers and subscribers.
#[derive(Debug)]
pub(crate) struct Replica {
    state: RwLock<State>,
    revision: watch::Sender<Revision>,
    wakers: Mutex<Wakers>,
}

/// Wakes subscribers by topic or `group/resource/`; those of wider prefixes wait under the empty name.
#[derive(Debug, Default)]
struct Wakers {
    by_name: HashMap<Box<str>, Arc<Notify>>,
    /// At how many names it is looked whether somebody waits for each.
    sweep_at: usize,
}

impl Wakers {
    fn wake(&self, name: &str) {
        if let Some(waker) = self.by_name.get(name) {
            waker.notify_waiters();
        }
    }
}

impl Replica {
    pub(crate) fn new(state: State) -> Self {
        Self {
            revision: watch::Sender::new(state.revision()),
            state: RwLock::new(state),
            wakers: Mutex::default(),
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
        for waker in self.wakers.lock().by_name.values() {
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
        wakers.wake("");
        let mut last = "";
        for event in changed {
            event.topics().for_each(|topic| wakers.wake(topic));
            let resource = resource_of(&event.key);
            if resource != last {
                wakers.wake(resource);
            }
            last = resource;
        }
    }

    fn waker(&self, name: &str) -> Arc<Notify> {
        let mut wakers = self.wakers.lock();
        if let Some(waker) = wakers.by_name.get(name) {
            return Arc::clone(waker);
        }
        // Custom resources and nodes come and go: what nobody waits for any more is dropped once there may be as much of it as
        // of what is waited for.
        if wakers.by_name.len() >= wakers.sweep_at {
            wakers.by_name.retain(|_, waker| Arc::strong_count(waker) > 1);
            wakers.sweep_at = 2 * wakers.by_name.len().max(SWEEP_AT_LEAST);
        }
        let waker = Arc::new(Notify::new());
        wakers.by_name.insert(name.into(), Arc::clone(&waker));
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

    pub(crate) fn watch(
        self: &Arc<Self>,
        prefix: &str,
        topic: Option<&str>,
        after: Revision,
    ) -> Result<Box<dyn Watch>, ReadError> {
        self.state.read().check(after)?;
        Ok(Box::new(Subscription {
            replica: Arc::clone(self),
            waker: self.waker(topic.unwrap_or_else(|| resource_of(prefix))),
            prefix: prefix.into(),
            topic: topic.map(Into::into),
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
    topic: Option<Box<str>>,
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
            let topic = self.topic.as_deref();
            let tail = self
                .replica
                .state
                .read()
                .tail(&self.prefix, topic, self.cursor, EVENTS_PER_READ)?;
            self.cursor = tail.through;
            if !tail.events.is_empty() {
                return Ok(tail.events);
            }
            changed.await;
        }
    }

    fn progress(&self) -> Revision {
        let topic = self.topic.as_deref();
        self.replica.state.read().quiet_through(&self.prefix, topic, self.cursor)
    }
}
