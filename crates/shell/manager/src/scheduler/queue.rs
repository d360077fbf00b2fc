//! Pods that wait for a node: ready ones by priority, those that back off, and those that fit nowhere until something
//! changes.
//!
//! Invariant: a pod is in exactly one of the three.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::metrics::SchedulerMetrics;

/// Pause after the first failure; it doubles.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
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

struct Entry {
    pod: Arc<Pod>,
    place: Place,
    attempts: u32,
    tried: Instant,
    arrived: Instant,
}

/// Why a pod comes into a queue, as upstream's metrics call it.
const ADDED: &str = "PodAdd";
const CHANGED: &str = "PodUpdate";
const FAILED: &str = "ScheduleAttemptFailure";
const ELSEWHERE: &str = "ClusterEvent";
const TIME: &str = "BackoffComplete";

/// The queue.
pub(super) struct PodQueue {
    metrics: SchedulerMetrics,
    entries: HashMap<String, Entry>,
    active: BTreeSet<(Rank, String)>,
    timers: BTreeSet<(Instant, String)>,
    arrivals: u64,
    /// How many back off, and how many fit nowhere.
    waiting: (usize, usize),
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Whether the change of a pod may change its fate; a new status does not.
fn matters(old: &Pod, new: &Pod) -> bool {
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || old.metadata.annotations != new.metadata.annotations
}

impl PodQueue {
    /// An empty queue that counts what it does.
    pub(super) fn new(metrics: SchedulerMetrics) -> Self {
        Self {
            metrics,
            entries: HashMap::new(),
            active: BTreeSet::new(),
            timers: BTreeSet::new(),
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

    /// A pod came or changed.
    pub(super) fn put(&mut self, pod: Arc<Pod>, now: Instant) {
        let uid = uid_of(&pod);
        let Some(entry) = self.entries.get_mut(&uid) else {
            let entry = Entry {
                pod,
                place: Place::Out,
                attempts: 0,
                tried: now,
                arrived: now,
            };
            self.entries.insert(uid.clone(), entry);
            self.activate(&uid, ADDED);
            return;
        };
        let again = matters(&entry.pod, &pod);
        entry.pod = pod;
        if again && matches!(entry.place, Place::Unschedulable(_)) {
            self.retry(&uid, now, CHANGED);
        }
    }

    /// A pod needs no node any more.
    pub(super) fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// The next pod to place. It stays known until it is removed.
    pub(super) fn pop(&mut self) -> Option<Arc<Pod>> {
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::Out;
        Some(Arc::clone(&entry.pod))
    }

    /// No node fits it.
    pub(super) fn give_up(&mut self, pod: Arc<Pod>, now: Instant) {
        self.failed(pod, now, |_| Place::Unschedulable(now + UNSCHEDULABLE_MAX));
    }

    /// It could not be bound; that may pass by itself.
    pub(super) fn back_off(&mut self, pod: Arc<Pod>, now: Instant) {
        self.failed(pod, now, |attempts| Place::Backoff(now + backoff(attempts)));
    }

    fn failed(&mut self, pod: Arc<Pod>, now: Instant, place: impl Fn(u32) -> Place) {
        let uid = uid_of(&pod);
        self.leave(&uid);
        // A pod that was removed meanwhile stays away.
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        entry.attempts += 1;
        entry.tried = now;
        let place = place(entry.attempts);
        self.wait(&uid, place, FAILED);
    }

    fn wait(&mut self, uid: &str, place: Place, event: &'static str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let (at, queue) = match place {
            Place::Backoff(at) => {
                self.waiting.0 += 1;
                (at, "backoff")
            }
            Place::Unschedulable(at) => {
                self.waiting.1 += 1;
                (at, "unschedulable")
            }
            Place::Active(_) | Place::Out => unreachable!("nobody waits there"),
        };
        entry.place = place;
        self.timers.insert((at, uid.to_owned()));
        self.metrics.incoming(queue, event);
    }

    /// Something changed that may make room.
    pub(super) fn retry_all(&mut self, now: Instant) {
        let waiting = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.place, Place::Unschedulable(_)));
        let waiting: Vec<String> = waiting.map(|(uid, _)| uid.clone()).collect();
        for uid in waiting {
            self.retry(&uid, now, ELSEWHERE);
        }
    }

    fn retry(&mut self, uid: &str, now: Instant, event: &'static str) {
        self.leave(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let at = entry.tried + backoff(entry.attempts);
        if at > now {
            self.wait(uid, Place::Backoff(at), event);
        } else {
            self.activate(uid, event);
        }
    }

    /// Moves those whose time has come.
    pub(super) fn flush(&mut self, now: Instant) {
        while let Some((at, uid)) = self.timers.first().cloned()
            && at <= now
        {
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
        let priority = entry.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
        let rank = (Reverse(priority), self.arrivals);
        entry.place = Place::Active(rank);
        self.active.insert((rank, uid.to_owned()));
        self.metrics.incoming("active", event);
    }

    fn leave(&mut self, uid: &str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        match std::mem::replace(&mut entry.place, Place::Out) {
            Place::Active(rank) => {
                self.active.remove(&(rank, uid.to_owned()));
            }
            Place::Backoff(at) => {
                self.waiting.0 -= 1;
                self.timers.remove(&(at, uid.to_owned()));
            }
            Place::Unschedulable(at) => {
                self.waiting.1 -= 1;
                self.timers.remove(&(at, uid.to_owned()));
            }
            Place::Out => {}
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use serde_json::json;

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "uid": name},
            "spec": {"containers": [], "priority": priority},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn names(queue: &mut PodQueue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|pod| uid_of(&pod)).collect()
    }

    #[test]
    fn priority_then_arrival() {
        let mut queue = PodQueue::new(Metrics::default().scheduler());
        let now = Instant::now();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.put(pod(name, priority), now);
        }
        queue.remove("d");
        assert_eq!(names(&mut queue), ["b", "a", "c"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_and_its_backoff() {
        let mut queue = PodQueue::new(Metrics::default().scheduler());
        let now = Instant::now();
        queue.put(pod("a", 0), now);
        let taken = queue.pop().unwrap();
        queue.give_up(taken, now);
        queue.flush(now + Duration::from_secs(60));
        assert!(queue.pop().is_none());
        // A new status is no reason to try again, a new spec is.
        queue.put(pod("a", 0), now);
        assert!(queue.pop().is_none());
        queue.retry_all(now);
        assert!(queue.pop().is_none(), "it backs off for a second");
        queue.flush(now + Duration::from_secs(1));
        let taken = queue.pop().unwrap();
        queue.give_up(taken, now);
        queue.put(pod("a", 1), now + Duration::from_secs(2));
        assert_eq!(names(&mut queue), ["a"]);
        assert_eq!([1, 2, 4, 5].map(|n| backoff(n).as_secs()), [1, 2, 8, 10]);
    }
}
