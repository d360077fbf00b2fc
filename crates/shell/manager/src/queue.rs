//! A queue of keys: no key waits twice, none is worked on by two workers, failures back off, and a key may be left to rest.
//!
//! Invariant: a key that is added while it is worked on is handed out again afterwards. The number of entries is bounded
//! by the number of keys.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::ControllerMetrics;
use crate::registration::Key;

/// First pause after a failure; it doubles with every further one.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Longest pause after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(1000);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    filled: Notify,
    metrics: Arc<ControllerMetrics>,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Key>,
    /// Since when.
    waiting: HashMap<Key, Instant>,
    /// Since when.
    working: HashMap<Key, Instant>,
    timers: BTreeSet<(Instant, Key)>,
    deadlines: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
    /// Until when.
    resting: HashMap<Key, Instant>,
}

/// How busy a queue is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Keys that wait to be worked on.
    pub depth: usize,
    /// Time spent so far on the keys that are being worked on, all together.
    pub unfinished: Duration,
    /// Time spent so far on the one of them that was begun first.
    pub longest: Duration,
}

/// What came of working on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more until something changes.
    Done,
    /// Again after this time.
    Again(Duration),
    /// Again after the back-off.
    Failed,
}

impl State {
    /// Whether it was not waiting already.
    fn add(&mut self, key: Key, now: Instant) -> bool {
        if self.waiting.contains_key(&key) {
            return false;
        }
        if let Some(until) = self.resting.get(&key).copied() {
            if until > now {
                self.arm_by(key, until);
                return false;
            }
            self.resting.remove(&key);
        }
        self.waiting.insert(key.clone(), now);
        if !self.working.contains_key(&key) {
            self.ready.push_back(key);
        }
        true
    }

    fn disarm(&mut self, key: &Key) {
        if let Some(at) = self.deadlines.remove(key) {
            self.timers.remove(&(at, key.clone()));
        }
    }

    fn arm(&mut self, key: Key, at: Instant) {
        self.disarm(&key);
        self.deadlines.insert(key.clone(), at);
        self.timers.insert((at, key));
    }

    /// As [`Self::arm`], unless its time comes sooner.
    fn arm_by(&mut self, key: Key, at: Instant) {
        if self.deadlines.get(&key).is_none_or(|armed| *armed > at) {
            self.arm(key, at);
        }
    }

    /// Adds keys whose time has come; how many.
    fn fire(&mut self, now: Instant) -> u64 {
        let mut added = 0;
        while let Some((at, _)) = self.timers.first()
            && *at <= now
            && let Some((_, key)) = self.timers.pop_first()
        {
            self.deadlines.remove(&key);
            added += u64::from(self.add(key, now));
        }
        added
    }
}

impl Queue {
    /// An empty queue that counts what it does.
    #[must_use]
    pub fn new(metrics: Arc<ControllerMetrics>) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    /// Adds a key, to be worked on at once.
    pub fn add(&self, key: Key) {
        if self.state.lock().add(key, Instant::now()) {
            self.metrics.added.inc();
        }
        self.filled.notify_one();
    }

    /// How often in a row a key has failed.
    #[must_use]
    pub fn failures(&self, key: &Key) -> u32 {
        self.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// How busy it is.
    #[must_use]
    pub fn load(&self) -> Load {
        let now = Instant::now();
        let state = self.state.lock();
        let spent = state.working.values().map(|since| now.duration_since(*since));
        Load {
            depth: state.ready.len(),
            unfinished: spent.clone().sum(),
            longest: spent.max().unwrap_or_default(),
        }
    }

    /// The next key; it must be given back by [`Queue::finish`].
    pub async fn next(&self) -> Key {
        loop {
            let deadline = {
                let mut state = self.state.lock();
                let now = Instant::now();
                self.metrics.added.inc_by(state.fire(now));
                if let Some(key) = state.ready.pop_front() {
                    if let Some(since) = state.waiting.remove(&key) {
                        self.metrics.waited.observe(now.duration_since(since).as_secs_f64());
                    }
                    state.working.insert(key.clone(), now);
                    let more = !state.ready.is_empty() || !state.timers.is_empty();
                    drop(state);
                    if more {
                        // Another worker takes over the watch on the next key or timer.
                        self.filled.notify_one();
                    }
                    return key;
                }
                state.timers.first().map(|(at, _)| *at)
            };
            match deadline {
                Some(at) => tokio::select! {
                    () = self.filled.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.filled.notified().await,
            }
        }
    }

    /// Gives a key back.
    pub fn finish(&self, key: Key, outcome: Outcome) {
        self.finish_and_rest(key, outcome, Duration::ZERO);
    }

    /// Gives a key back, which is not handed out again before it has rested for so long.
    pub fn finish_and_rest(&self, key: Key, outcome: Outcome, rest: Duration) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(since) = state.working.remove(&key) {
            self.metrics.worked.observe(now.duration_since(since).as_secs_f64());
        }
        if outcome != Outcome::Done {
            self.metrics.retried.inc();
        }
        state.disarm(&key);
        match outcome {
            Outcome::Done => {
                state.failures.remove(&key);
            }
            Outcome::Again(after) => {
                state.failures.remove(&key);
                state.arm(key.clone(), now + after);
            }
            Outcome::Failed => {
                let count = state.failures.entry(key.clone()).or_default();
                let pause = backoff(*count);
                *count += 1;
                state.arm(key.clone(), now + pause);
            }
        }
        let waits = state.waiting.contains_key(&key);
        if rest.is_zero() {
            if waits {
                state.ready.push_back(key);
            }
        } else {
            // Whoever rested before, and was not asked for since, is forgotten.
            state.resting.retain(|_, until| *until > now);
            state.resting.insert(key.clone(), now + rest);
            if waits {
                state.waiting.remove(&key);
                state.arm_by(key, now + rest);
            }
        }
        drop(state);
        self.filled.notify_one();
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN
        .saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX))
        .min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[tokio::test]
    async fn a_key_waits_once_and_is_worked_on_by_one() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("b"));
        assert_eq!(queue.load().depth, 0);
        queue.finish(key("a"), Outcome::Done);
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_rests_comes_when_it_has_rested_if_it_was_asked_for() {
        let (queue, rest) = (Queue::default(), Duration::from_millis(300));
        let again = Duration::from_millis(100);
        let begun = Instant::now();
        queue.add(key("a"));
        let taken = queue.next().await;
        // Asked for while it is worked on, and by its own wish: it comes once.
        queue.add(key("a"));
        queue.finish_and_rest(taken, Outcome::Again(again), rest);
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("b"));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let taken = queue.next().await;
        assert_eq!((taken.clone(), begun.elapsed()), (key("a"), rest));
        // Asked for while it rests.
        queue.finish_and_rest(taken, Outcome::Done, rest);
        queue.add(key("a"));
        queue.add(key("a"));
        let taken = queue.next().await;
        assert_eq!(begun.elapsed(), 2 * rest);
        queue.finish_and_rest(taken, Outcome::Done, rest);
        let nothing = tokio::time::timeout(Duration::from_secs(5), queue.next()).await;
        assert!(nothing.is_err(), "nobody asked for it");
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        assert!(queue.state.lock().resting.is_empty());
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> = (0..4).map(|failures| backoff(failures).as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40]);
        assert_eq!(backoff(40), BACKOFF_MAX);
    }

    #[tokio::test]
    async fn a_failed_key_comes_again_and_a_finished_one_loses_its_timer() {
        let queue = Queue::default();
        queue.add(key("a"));
        let taken = queue.next().await;
        queue.finish(taken, Outcome::Failed);
        let again = queue.next().await;
        assert_eq!(queue.failures(&again), 1);
        queue.finish(again, Outcome::Again(Duration::from_secs(3600)));
        assert!(queue.state.lock().failures.is_empty());
        queue.add(key("a"));
        let taken = queue.next().await;
        queue.finish(taken, Outcome::Done);
        assert!(queue.state.lock().timers.is_empty());
    }
}
