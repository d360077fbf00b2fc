//! A queue of keys: no key waits twice, none is worked on by two workers, failures back off.
//!
//! Invariant: a key that is added while it is worked on is handed out again afterwards. The number of entries is bounded
//! by the number of keys.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::registration::Key;

/// First pause after a failure; it doubles with every further one.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Longest pause after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(1000);

/// The queue.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    waiting: HashSet<Key>,
    working: HashSet<Key>,
    timers: BTreeSet<(Instant, Key)>,
    deadlines: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
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
    fn add(&mut self, key: Key) {
        if self.waiting.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
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

    fn fire(&mut self, now: Instant) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
            && let Some((_, key)) = self.timers.pop_first()
        {
            self.deadlines.remove(&key);
            self.add(key);
        }
    }
}

impl Queue {
    /// Adds a key, to be worked on at once.
    pub fn add(&self, key: Key) {
        self.state.lock().add(key);
        self.filled.notify_one();
    }

    /// How many keys wait to be worked on.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// The next key; it must be given back by [`Queue::finish`].
    pub async fn next(&self) -> Key {
        loop {
            let deadline = {
                let mut state = self.state.lock();
                state.fire(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.working.insert(key.clone());
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
        let mut state = self.state.lock();
        state.working.remove(&key);
        state.disarm(&key);
        match outcome {
            Outcome::Done => {
                state.failures.remove(&key);
            }
            Outcome::Again(after) => {
                state.failures.remove(&key);
                state.arm(key.clone(), Instant::now() + after);
            }
            Outcome::Failed => {
                let count = state.failures.entry(key.clone()).or_default();
                let pause = backoff(*count);
                *count += 1;
                state.arm(key.clone(), Instant::now() + pause);
            }
        }
        if state.waiting.contains(&key) {
            state.ready.push_back(key);
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
        assert_eq!(queue.depth(), 0);
        queue.finish(key("a"), Outcome::Done);
        assert_eq!(queue.next().await, key("a"));
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
        assert_eq!(queue.state.lock().failures[&again], 1);
        queue.finish(again, Outcome::Again(Duration::from_secs(3600)));
        assert!(queue.state.lock().failures.is_empty());
        queue.add(key("a"));
        let taken = queue.next().await;
        queue.finish(taken, Outcome::Done);
        assert!(queue.state.lock().timers.is_empty());
    }
}
