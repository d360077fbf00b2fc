//! The events of the last revisions, in order, for watches and for reads in the past.
//!
//! Invariant: every event with a revision above `oldest` is here, in the one order of all, in the ring of its resource and
//! in those of its topics. Bounded by count and by bytes, and the bound depends on the commands alone, so that all replicas agree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::event::Event;
use crate::{Key, Revision};

/// How many events history holds at most.
pub const HISTORY_EVENTS_MAX: usize = 100_000;

/// How many bytes of memory history may take at most, beside what is current.
pub const HISTORY_BYTES_MAX: usize = 64 << 20;

/// So many topics without an event are remembered at least: up to where each was forgotten.
const QUIET_TOPICS: usize = 4096;

/// The ring of events, by resource, by topic and altogether.
#[derive(Debug)]
pub(crate) struct History {
    order: VecDeque<Arc<Event>>,
    resources: BTreeMap<Arc<str>, Ring>,
    topics: BTreeMap<Arc<str>, Ring>,
    /// How many topics have no event.
    quiet: usize,
    /// Revision of the newest event that was dropped from a topic that is not remembered.
    forgotten: Revision,
    oldest: Revision,
    /// Where this history began; nothing is known of what was before.
    floor: Revision,
    bytes: usize,
}

/// The events of one resource or topic.
#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// Revision of the newest event that was dropped from this ring.
    dropped: Revision,
}

/// `group/resource/` of a key or a prefix; `None` for a prefix that spans resources.
pub(crate) fn resource_of(key: &str) -> Option<&str> {
    let mut slashes = key.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
    slashes.next()?;
    slashes.next().map(|at| &key[..=at])
}

impl History {
    /// No events; everything up to and including `oldest` is as good as forgotten.
    pub(crate) fn new(oldest: Revision) -> Self {
        Self {
            order: VecDeque::new(),
            resources: BTreeMap::new(),
            topics: BTreeMap::new(),
            quiet: 0,
            forgotten: 0,
            oldest,
            floor: oldest,
            bytes: 0,
        }
    }

    /// The oldest revision from which the present can be told: all later events are here.
    pub(crate) fn oldest(&self) -> Revision {
        self.oldest
    }

    /// How many events there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// What it takes in memory beside what is current, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The topic of this name, as its events share it.
    pub(crate) fn topic(&mut self, name: &str) -> Arc<str> {
        if let Some((topic, _)) = self.topics.get_key_value(name) {
            return Arc::clone(topic);
        }
        let topic: Arc<str> = Arc::from(name);
        let ring = Ring {
            dropped: self.forgotten,
            ..Ring::default()
        };
        self.topics.insert(Arc::clone(&topic), ring);
        self.quiet += 1;
        topic
    }

    /// Adds an event, whose revision is at or above that of the last.
    pub(crate) fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.weight();
        if let Some(resource) = resource_of(&event.key) {
            if !self.resources.contains_key(resource) {
                self.resources.insert(Arc::from(resource), Ring::default());
            }
            let ring = self.resources.get_mut(resource).expect("the ring was just put there");
            ring.events.push_back(Arc::clone(&event));
        }
        for topic in event.topics() {
            let ring = self.topics.get_mut(topic).expect("an event's topics are known");
            self.quiet -= usize::from(ring.events.is_empty());
            ring.events.push_back(Arc::clone(&event));
        }
        self.order.push_back(event);
    }

    /// Drops the oldest revisions until the bounds hold. Call it between transactions only: a revision stays whole.
    pub(crate) fn trim(&mut self) {
        while self.order.len() > HISTORY_EVENTS_MAX || self.bytes > HISTORY_BYTES_MAX {
            let Some(first) = self.order.front() else { return };
            self.compact(first.revision);
        }
    }

    /// Forgets the events up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while self.order.front().is_some_and(|event| event.revision <= revision) {
            let Some(event) = self.order.pop_front() else { break };
            self.bytes -= event.weight();
            if let Some(ring) = resource_of(&event.key).and_then(|resource| self.resources.get_mut(resource)) {
                ring.events.pop_front();
                ring.dropped = event.revision;
            }
            for topic in event.topics() {
                let Some(ring) = self.topics.get_mut(topic) else { continue };
                ring.events.pop_front();
                ring.dropped = event.revision;
                self.quiet += usize::from(ring.events.is_empty());
            }
        }
        self.oldest = self.oldest.max(revision);
        if self.quiet > QUIET_TOPICS && self.quiet > self.topics.len() / 2 {
            self.forget_quiet();
        }
    }

    /// Forgets the topics that have no event: nodes come and go.
    fn forget_quiet(&mut self) {
        let forgotten = &mut self.forgotten;
        self.topics.retain(|_, ring| {
            let stays = !ring.events.is_empty();
            if !stays {
                *forgotten = (*forgotten).max(ring.dropped);
            }
            stays
        });
        self.quiet = 0;
    }

    /// The events of the prefix's resource after a revision (those of other prefixes in it too), or of one topic of it, and
    /// whether one that the caller should have seen was dropped. A subscriber of a quiet resource or topic is not behind
    /// because others are busy.
    pub(crate) fn since(
        &self,
        prefix: &str,
        topic: Option<&str>,
        after: Revision,
    ) -> (std::collections::vec_deque::Iter<'_, Arc<Event>>, bool) {
        let (events, dropped) = match (topic, resource_of(prefix)) {
            (Some(topic), _) => match self.topics.get(topic) {
                Some(ring) => (&ring.events, ring.dropped.max(self.floor)),
                None => return (self.order.range(0..0), self.forgotten.max(self.floor) > after),
            },
            (None, None) => (&self.order, self.oldest),
            (None, Some(resource)) => match self.resources.get(resource) {
                Some(ring) => (&ring.events, ring.dropped.max(self.floor)),
                None => return (self.order.range(0..0), self.floor > after),
            },
        };
        let first = events.partition_point(|event| event.revision <= after);
        (events.range(first..), dropped > after)
    }

    /// What keys of the prefix held at a revision, where that differs from the present.
    pub(crate) fn undo(&self, prefix: &str, at: Revision) -> BTreeMap<Key, Option<trireme_api::Object>> {
        let mut past = BTreeMap::new();
        for event in self.since(prefix, None, at).0.rev() {
            if event.key.starts_with(prefix) {
                past.insert(Arc::clone(&event.key), event.previous.clone());
            }
        }
        past
    }
}
