//! Pods that wait for a node: ready ones by priority, those that back off, and those that fit nowhere until something
//! changes that may help them.
//!
//! Invariant: a pod is in exactly one of the three. A change is judged once for all like pods that were turned down alike.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trireme_scheduling::configuration::Backoff;
use trireme_scheduling::{Plugins, PodRecord, Template};

use crate::metrics::SchedulerMetrics;

/// After this long a pod is tried again though nothing changed.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    /// Backing off until then.
    Backoff(Instant),
    /// Fits nowhere; tried again then at the latest.
    Unschedulable(Instant),
    /// Handed out.
    Out,
}

/// Higher priority first, then who came first.
type Rank = (Reverse<i32>, u64);

/// Like pods that were turned down by the same plugins.
type Group = (Arc<Template>, u64);

struct Entry {
    pod: Arc<PodRecord>,
    place: Place,
    attempts: u32,
    tried: Instant,
    arrived: Instant,
    /// Whose filters turned it down last.
    failed: Plugins,
}

/// Why a pod comes into a queue, as upstream's metrics call it.
const ADDED: &str = "PodAdd";
const CHANGED: &str = "PodUpdate";
const FAILED: &str = "ScheduleAttemptFailure";
const ELSEWHERE: &str = "ClusterEvent";
const TIME: &str = "BackoffComplete";

type Uid = Arc<str>;

/// The queue.
pub(super) struct PodQueue {
    metrics: SchedulerMetrics,
    backoff: Backoff,
    entries: HashMap<Uid, Entry>,
    active: BTreeSet<(Rank, Uid)>,
    timers: BTreeSet<(Instant, Uid)>,
    /// Who fits nowhere, by group.
    stuck: HashMap<Group, BTreeSet<Uid>>,
    arrivals: u64,
    /// How many back off, and how many fit nowhere.
    waiting: (usize, usize),
}

/// Whether the change of a pod may change its fate; a new status does not, a lost nomination does.
fn matters(old: &PodRecord, new: &PodRecord) -> bool {
    old.template != new.template || (old.nominated.is_some() && new.nominated.is_none())
}

impl Entry {
    fn group(&self) -> Group {
        (Arc::clone(&self.pod.template), self.failed.bits())
    }
}

impl PodQueue {
    /// An empty queue that counts what it does.
    pub(super) fn new(metrics: SchedulerMetrics, backoff: Backoff) -> Self {
        Self {
            metrics,
            backoff,
            entries: HashMap::new(),
            active: BTreeSet::new(),
            timers: BTreeSet::new(),
            stuck: HashMap::new(),
            arrivals: 0,
            waiting: (0, 0),
        }
    }

    /// Tells how many pods wait where.
    pub(super) fn measure(&self) {
        let (backoff, unschedulable) = self.waiting;
        self.metrics.pending(self.active.len(), backoff, unschedulable);
    }

    /// Failed attempts of a pod, and since when it is here.
    pub(super) fn history(&self, uid: &str) -> Option<(u32, Instant)> {
        self.entries.get(uid).map(|entry| (entry.attempts, entry.arrived))
    }

    /// A pod as it was last put here.
    pub(super) fn known(&self, uid: &str) -> Option<&Arc<PodRecord>> {
        self.entries.get(uid).map(|entry| &entry.pod)
    }

    /// A pod came or changed.
    pub(super) fn put(&mut self, pod: Arc<PodRecord>, now: Instant) {
        let uid = Arc::clone(&pod.uid);
        let Some(entry) = self.entries.get(&uid) else {
            let entry = Entry {
                pod,
                place: Place::Out,
                attempts: 0,
                tried: now,
                arrived: now,
                failed: Plugins::default(),
            };
            self.entries.insert(Arc::clone(&uid), entry);
            self.activate(&uid, ADDED);
            return;
        };
        let again = matters(&entry.pod, &pod);
        let stuck = matches!(entry.place, Place::Unschedulable(_));
        if again && stuck {
            self.leave(&uid);
        }
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.pod = pod;
        }
        if again && stuck {
            self.retry(&uid, now, CHANGED);
        }
    }

    /// A pod needs no node any more.
    pub(super) fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// The next pod to place. It stays known until it is removed.
    pub(super) fn pop(&mut self) -> Option<Arc<PodRecord>> {
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::Out;
        Some(Arc::clone(&entry.pod))
    }

    /// No node fits it: these plugins turned them down.
    pub(super) fn give_up(&mut self, uid: &str, failed: Plugins, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.failed = failed;
        }
        self.failed(uid, now, |_| Place::Unschedulable(now + UNSCHEDULABLE_MAX));
    }

    /// It could not be bound; that may pass by itself.
    pub(super) fn back_off(&mut self, uid: &str, now: Instant) {
        let pauses = self.backoff;
        self.failed(uid, now, |attempts| Place::Backoff(now + backoff(pauses, attempts)));
    }

    fn failed(&mut self, uid: &str, now: Instant, place: impl Fn(u32) -> Place) {
        self.leave(uid);
        // A pod that was removed meanwhile stays away.
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.attempts += 1;
        entry.tried = now;
        let place = place(entry.attempts);
        self.wait(uid, place, FAILED);
    }

    fn wait(&mut self, uid: &str, place: Place, event: &'static str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let uid = Arc::clone(&entry.pod.uid);
        let (at, queue) = match place {
            Place::Backoff(at) => {
                self.waiting.0 += 1;
                (at, "backoff")
            }
            Place::Unschedulable(at) => {
                self.waiting.1 += 1;
                self.stuck.entry(entry.group()).or_default().insert(Arc::clone(&uid));
                (at, "unschedulable")
            }
            Place::Active(_) | Place::Out => unreachable!("nobody waits there"),
        };
        entry.place = place;
        self.timers.insert((at, uid));
        self.metrics.incoming(queue, event);
    }

    /// Something changed that may help those of whom `helps` says so.
    pub(super) fn wake(&mut self, now: Instant, helps: impl Fn(&Template, Plugins) -> bool) {
        if self.stuck.is_empty() {
            return;
        }
        let woken = self
            .stuck
            .iter()
            .filter(|((template, failed), _)| helps(template, Plugins::of_bits(*failed)));
        let woken: Vec<Uid> = woken.flat_map(|(_, uids)| uids.iter().map(Arc::clone)).collect();
        for uid in woken {
            self.leave(&uid);
            self.retry(&uid, now, ELSEWHERE);
        }
    }

    /// Tries a pod again that waits nowhere.
    fn retry(&mut self, uid: &str, now: Instant, event: &'static str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let at = entry.tried + backoff(self.backoff, entry.attempts);
        if at > now {
            self.wait(uid, Place::Backoff(at), event);
        } else {
            self.activate(uid, event);
        }
    }

    /// Moves those whose time has come.
    pub(super) fn flush(&mut self, now: Instant) {
        while let Some((at, uid)) = self.timers.first()
            && *at <= now
        {
            let uid = Arc::clone(uid);
            self.leave(&uid);
            self.activate(&uid, TIME);
        }
    }

    /// When [`Self::flush`] has something to do next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn activate(&mut self, uid: &str, event: &'static str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        self.arrivals += 1;
        let rank = (Reverse(entry.pod.template.priority), self.arrivals);
        entry.place = Place::Active(rank);
        self.active.insert((rank, Arc::clone(&entry.pod.uid)));
        self.metrics.incoming("active", event);
    }

    fn leave(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let key = Arc::clone(&entry.pod.uid);
        match std::mem::replace(&mut entry.place, Place::Out) {
            Place::Active(rank) => {
                self.active.remove(&(rank, key));
            }
            Place::Backoff(at) => {
                self.waiting.0 -= 1;
                self.timers.remove(&(at, key));
            }
            Place::Unschedulable(at) => {
                self.waiting.1 -= 1;
                let group = entry.group();
                if let Some(uids) = self.stuck.get_mut(&group) {
                    uids.remove(&key);
                    if uids.is_empty() {
                        self.stuck.remove(&group);
                    }
                }
                self.timers.remove(&(at, key));
            }
            Place::Out => {}
        }
    }
}

fn backoff(pauses: Backoff, attempts: u32) -> Duration {
    let times = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    pauses.least.saturating_mul(times).min(pauses.most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn pod(name: &str, priority: i32) -> Arc<PodRecord> {
        Arc::new(PodRecord {
            uid: name.into(),
            template: Arc::new(Template {
                priority,
                ..Template::default()
            }),
            ..PodRecord::default()
        })
    }

    fn names(queue: &mut PodQueue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|pod| pod.uid.to_string()).collect()
    }

    #[test]
    fn priority_then_arrival() {
        let mut queue = PodQueue::new(Metrics::default().scheduler(), Backoff::default());
        let now = Instant::now();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.put(pod(name, priority), now);
        }
        queue.remove("d");
        assert_eq!(names(&mut queue), ["b", "a", "c"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_that_may_help_and_its_backoff() {
        let mut queue = PodQueue::new(Metrics::default().scheduler(), Backoff::default());
        let now = Instant::now();
        queue.put(pod("a", 0), now);
        queue.pop().unwrap();
        queue.give_up("a", Plugins::FIT, now);
        queue.flush(now + Duration::from_secs(60));
        assert!(queue.pop().is_none());
        // A new status is no reason to try again, a new spec is.
        queue.put(pod("a", 0), now);
        assert!(queue.pop().is_none());
        queue.wake(now + Duration::from_secs(2), |_, failed| failed.has(Plugins::TAINTS));
        assert!(queue.pop().is_none(), "no help for it");
        queue.wake(now, |_, failed| failed == Plugins::FIT);
        assert!(queue.pop().is_none(), "it backs off for a second");
        queue.flush(now + Duration::from_secs(1));
        queue.pop().unwrap();
        queue.give_up("a", Plugins::FIT, now);
        queue.put(pod("a", 1), now + Duration::from_secs(2));
        assert_eq!(names(&mut queue), ["a"]);
        queue.give_up("a", Plugins::FIT, now);
        queue.flush(now + Duration::from_secs(301));
        assert_eq!(names(&mut queue), ["a"], "after five minutes in any case");
        assert!(queue.stuck.is_empty());
        assert_eq!([1, 2, 4, 5].map(|n| backoff(Backoff::default(), n).as_secs()), [1, 2, 8, 10]);
    }
}
