//! The state and the only way to change it: [`State::apply`].
//!
//! Invariant: two replicas that applied the same commands hold the same objects at the same revisions. It never reads a
//! clock: time comes in commands. It will not decide when to compact or expire; whoever leads proposes that.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use im::{OrdMap, OrdSet};
use trireme_api::{Header, Object};

use crate::event::{Event, EventKind};
use crate::history::History;
use crate::{Applied, Body, Command, Key, Operation, Precondition, Revision, Write, topic};

/// How many keys one `Expire` command deletes at most; the proposer asks again while some are due.
pub const EXPIRE_KEYS_MAX: usize = 1000;

/// Why a read or a watch from a revision cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// History before `oldest` is gone.
    #[error("revision {asked} was compacted, the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What is still there.
        oldest: Revision,
    },
    /// The revision lies in the future of this replica.
    #[error("revision {asked} is ahead of {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// What this replica has.
        current: Revision,
    },
}

/// A part of a sorted range, all of one revision.
#[derive(Debug, Clone)]
pub struct Page {
    /// The revision that the items are of.
    pub revision: Revision,
    /// Objects in key order, with their keys.
    pub items: Vec<(Key, Object)>,
    /// How many keys of the range come after the last item.
    pub remaining: usize,
}

/// What a subscriber gets next: events in order, and up to where it now knows everything.
#[derive(Debug)]
pub struct Tail {
    /// Events of the prefix.
    pub events: Vec<Arc<Event>>,
    /// Every event of the prefix up to this revision was in `events` or an earlier tail.
    pub through: Revision,
}

/// The state machine.
#[derive(Debug)]
pub struct State {
    pub(crate) revision: Revision,
    pub(crate) objects: OrdMap<Key, Object>,
    /// What keys and objects weigh.
    bytes: usize,
    /// When keys with a TTL expire, in Unix milliseconds.
    pub(crate) expiries: OrdMap<Key, u64>,
    /// The same in the order of time.
    due: OrdSet<(u64, Key)>,
    pub(crate) history: History,
}

/// A frozen state for reading: taking it costs nothing that grows with the number of objects, and it keeps no lock.
#[derive(Debug)]
pub struct View {
    revision: Revision,
    objects: OrdMap<Key, Object>,
    /// Where the past of the asked revision differs from `objects`.
    past: BTreeMap<Key, Option<Object>>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The empty state at revision 1.
    #[must_use]
    pub fn new() -> Self {
        Self::from_parts(1, OrdMap::new(), OrdMap::new(), 1)
    }

    /// A state as a snapshot had it, with history beginning at `oldest`.
    pub(crate) fn from_parts(
        revision: Revision,
        objects: OrdMap<Key, Object>,
        expiries: OrdMap<Key, u64>,
        oldest: Revision,
    ) -> Self {
        let due = expiries.iter().map(|(key, at)| (*at, Arc::clone(key))).collect();
        Self {
            revision,
            bytes: objects.iter().map(|(key, object)| key.len() + object.weight()).sum(),
            objects,
            expiries,
            due,
            history: History::new(oldest),
        }
    }

    /// The revision of the last change; 1 when nothing ever changed.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can be read and watched from.
    #[must_use]
    pub fn oldest(&self) -> Revision {
        self.history.oldest()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// What the objects take in memory with their keys, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// A place in the map of objects.
        const PLACE: usize = 64;
        self.bytes + PLACE * self.objects.len()
    }

    /// What history takes in memory beside the objects, about.
    #[must_use]
    pub fn history_bytes(&self) -> usize {
        self.history.bytes()
    }

    /// How many events history holds.
    #[must_use]
    pub fn history_len(&self) -> usize {
        self.history.len()
    }

    /// When the next key expires, in Unix milliseconds.
    #[must_use]
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.due.get_min().map(|(at, _)| *at)
    }

    /// The object at a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Object> {
        self.objects.get(key).cloned()
    }

    /// Applies one command, which the leader of `term` put into the log; gives the answer for its proposer and the events
    /// in order.
    pub fn apply(&mut self, command: &Command, term: u64) -> (Applied, Vec<Arc<Event>>) {
        let outcome = match command {
            Command::Transaction { fence: Some(fence), .. } if *fence != term => (Applied::Fenced { term }, Vec::new()),
            Command::Transaction {
                writes, now_ms, guards, ..
            } => match guards.iter().position(|key| !self.lives(key)) {
                Some(guard) => (Applied::Unguarded { guard }, Vec::new()),
                None => self.transact(writes, *now_ms),
            },
            Command::Compact { revision } => {
                self.history.compact((*revision).min(self.revision));
                (Applied::Done, Vec::new())
            }
            Command::Expire { now_ms } => (Applied::Done, self.expire(*now_ms)),
        };
        self.history.trim();
        outcome
    }

    /// Whether there is an object that is not being deleted.
    fn lives(&self, key: &str) -> bool {
        self.objects.get(key).is_some_and(|object| !object.header().deleting)
    }

    fn transact(&mut self, writes: &[Write], now_ms: u64) -> (Applied, Vec<Arc<Event>>) {
        for (index, write) in writes.iter().enumerate() {
            let current = self.objects.get(&*write.key);
            if !holds(write.precondition, current) {
                let current = current.cloned();
                return (Applied::Conflict { write: index, current }, Vec::new());
            }
        }
        if writes.is_empty() {
            let revision = self.revision;
            return (
                Applied::Committed {
                    revision,
                    objects: Vec::new(),
                },
                Vec::new(),
            );
        }
        self.revision += 1;
        let mut objects = Vec::with_capacity(writes.len());
        let mut events = Vec::with_capacity(writes.len());
        for write in writes {
            let (object, event) = match &write.operation {
                Operation::Put { body, ttl_seconds } => {
                    let expiry = ttl_seconds.map(|seconds| now_ms.saturating_add(u64::from(seconds) * 1000));
                    let object = stored(&write.key, body, self.revision);
                    (object.clone(), Some(self.put(&write.key, object, expiry)))
                }
                Operation::Delete { last } => {
                    let object = stored(&write.key, last, self.revision);
                    (object.clone(), self.remove(&write.key, object))
                }
            };
            objects.push(object);
            events.extend(event);
        }
        let revision = self.revision;
        (Applied::Committed { revision, objects }, events)
    }

    fn put(&mut self, key: &Key, object: Object, expiry: Option<u64>) -> Arc<Event> {
        let previous = self.objects.insert(Arc::clone(key), object.clone());
        self.bytes += object.weight();
        match &previous {
            Some(previous) => {
                self.bytes -= previous.weight();
                self.forget_expiry(key);
            }
            None => self.bytes += key.len(),
        }
        if let Some(at) = expiry {
            self.expiries.insert(Arc::clone(key), at);
            self.due.insert((at, Arc::clone(key)));
        }
        self.record(key, EventKind::Put, object, previous)
    }

    fn remove(&mut self, key: &Key, last: Object) -> Option<Arc<Event>> {
        let previous = self.objects.remove(&**key)?;
        self.bytes -= key.len() + previous.weight();
        self.forget_expiry(key);
        Some(self.record(key, EventKind::Delete, last, Some(previous)))
    }

    fn record(&mut self, key: &Key, kind: EventKind, object: Object, previous: Option<Object>) -> Arc<Event> {
        let topics = topic::topics(&mut self.history, key, &object, previous.as_ref());
        let event = Arc::new(Event {
            revision: self.revision,
            key: Arc::clone(key),
            kind,
            object,
            previous,
            topics,
        });
        self.history.push(Arc::clone(&event));
        event
    }

    fn forget_expiry(&mut self, key: &Key) {
        if self.expiries.is_empty() {
            return;
        }
        if let Some(at) = self.expiries.remove(&**key) {
            self.due.remove(&(at, Arc::clone(key)));
        }
    }

    fn expire(&mut self, now_ms: u64) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        while events.len() < EXPIRE_KEYS_MAX {
            let Some((at, key)) = self.due.get_min().cloned() else { break };
            if at > now_ms {
                break;
            }
            let object = self.objects.get(&*key).cloned().expect("a key with a TTL exists");
            self.revision += 1;
            let body = Body::from_object(&object);
            let last = stored(&key, &body, self.revision);
            events.extend(self.remove(&key, last));
        }
        events
    }

    /// Freezes the state for reading keys that begin with `prefix`, at a revision or now.
    ///
    /// # Errors
    /// When the revision was compacted or has not come yet.
    pub fn view(&self, prefix: &str, at: Option<Revision>) -> Result<View, ReadError> {
        let revision = at.unwrap_or(self.revision);
        self.check(revision)?;
        let past = if revision == self.revision {
            BTreeMap::new()
        } else {
            self.history.undo(prefix, revision)
        };
        Ok(View {
            revision,
            objects: self.objects.clone(),
            past,
        })
    }

    /// Whether reads at and watches from this revision can be served.
    ///
    /// # Errors
    /// When the revision was compacted or has not come yet.
    pub fn check(&self, revision: Revision) -> Result<(), ReadError> {
        let (oldest, current) = (self.history.oldest(), self.revision);
        if revision > current {
            return Err(ReadError::Future {
                asked: revision,
                current,
            });
        }
        if revision < oldest {
            return Err(ReadError::Compacted { asked: revision, oldest });
        }
        Ok(())
    }

    /// The next events of a subscriber that knows everything of `prefix`, or of a topic in it ([`crate::topic`]), up to
    /// `after`: about `limit` of them, more only to keep a revision whole.
    ///
    /// # Errors
    /// When an event of the prefix's resource or of the topic after `after` was dropped.
    pub fn tail(&self, prefix: &str, topic: Option<&str>, after: Revision, limit: usize) -> Result<Tail, ReadError> {
        let (candidates, missed) = self.history.since(prefix, topic, after);
        if missed {
            let oldest = self.history.oldest();
            return Err(ReadError::Compacted { asked: after, oldest });
        }
        let mut events: Vec<Arc<Event>> = Vec::new();
        for event in candidates {
            if !event.key.starts_with(prefix) {
                continue;
            }
            if events.len() >= limit && events.last().is_some_and(|last| last.revision < event.revision) {
                let through = event.revision - 1;
                return Ok(Tail { events, through });
            }
            events.push(Arc::clone(event));
        }
        let through = self.revision.max(after);
        Ok(Tail { events, through })
    }

    /// Up to where a subscriber that knows everything of `prefix`, or of a topic in it, up to `after` has missed nothing.
    #[must_use]
    pub fn quiet_through(&self, prefix: &str, topic: Option<&str>, after: Revision) -> Revision {
        let (mut candidates, missed) = self.history.since(prefix, topic, after);
        if missed {
            return after;
        }
        match candidates.find(|event| event.key.starts_with(prefix)) {
            Some(event) => event.revision - 1,
            None => self.revision.max(after),
        }
    }
}

impl View {
    /// The revision that this shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Objects whose key begins with `prefix`, after key `after` if given, at most `limit`. For a revision in the past,
    /// `prefix` must begin with the prefix that the view was taken for.
    #[must_use]
    pub fn page(&self, prefix: &str, after: Option<&str>, limit: Option<usize>) -> Page {
        let limit = limit.unwrap_or(usize::MAX);
        let mut items = Vec::new();
        let mut remaining = 0;
        let mut take = |key: &Key, object: &Object| {
            if items.len() < limit {
                items.push((Arc::clone(key), object.clone()));
            } else {
                remaining += 1;
            }
        };
        let start: Bound<&str> = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range: (Bound<&str>, Bound<&str>) = (start, Bound::Unbounded);
        let mut past = self
            .past
            .range::<str, _>(range)
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        for (key, object) in self
            .objects
            .range::<_, str>(range)
            .take_while(|(key, _)| key.starts_with(prefix))
        {
            while let Some((gone, was)) = past.next_if(|(other, _)| *other < key) {
                if let Some(was) = was {
                    take(gone, was);
                }
            }
            match past.next_if(|(other, _)| *other == key) {
                Some((_, Some(was))) => take(key, was),
                Some((_, None)) => {}
                None => take(key, object),
            }
        }
        for (gone, was) in past {
            if let Some(was) = was {
                take(gone, was);
            }
        }
        Page {
            revision: self.revision,
            items,
            remaining,
        }
    }
}

fn holds(precondition: Precondition, current: Option<&Object>) -> bool {
    match precondition {
        Precondition::None => true,
        Precondition::Absent => current.is_none(),
        Precondition::Revision(revision) => current.is_some_and(|object| object.header().resource_version == revision),
    }
}

/// The object that a body becomes at a revision. A body whose metadata has not the shape of a header (no validated
/// write makes one) still applies, alike on every replica, with what the key says for a header.
fn stored(key: &str, body: &Body, revision: Revision) -> Object {
    let bytes = body.at(revision);
    Object::parse(bytes.clone()).unwrap_or_else(|_| {
        let mut parts = key.splitn(4, '/').skip(2);
        let namespace = parts.next().unwrap_or_default().to_owned();
        let name = parts.next().unwrap_or_default().to_owned();
        let header = Header {
            namespace,
            name,
            resource_version: revision,
            ..Header::default()
        };
        Object::from_parts(bytes, header)
    })
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
