//! The typed decodes that are kept: those used lately, up to a number of bytes.
//!
//! Invariant: a decode belongs to its object and lives no longer than that; how many there are is bounded by bytes, not by
//! the number of objects. A decode that was given up costs its next reader a decode and nothing else.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, Weak};

use crate::object::Shared;

/// What the kept decodes of the process may weigh together.
pub const DECODED_BYTES_MAX: usize = 16 << 20;

/// How many decodes that were used since the last look are passed over when room is needed.
const SECOND_CHANCES: usize = 8;

/// Room for one decode.
struct Kept {
    object: Weak<Shared>,
    weight: usize,
}

/// The kept ones, those that came first in front.
#[derive(Default)]
struct Clock {
    kept: VecDeque<Kept>,
    bytes: usize,
}

static CLOCK: Mutex<Clock> = Mutex::new(Clock {
    kept: VecDeque::new(),
    bytes: 0,
});

impl Clock {
    /// Makes room. What is given up is returned, to be dropped outside the lock.
    fn shrink(&mut self, most: usize) -> Vec<crate::object::Decode> {
        let mut given_up = Vec::new();
        let mut chances = SECOND_CHANCES;
        while self.bytes > most {
            let Some(first) = self.kept.pop_front() else { break };
            let Some(object) = first.object.upgrade() else {
                self.bytes -= first.weight;
                continue;
            };
            if chances > 0 && object.was_used() {
                chances -= 1;
                self.kept.push_back(first);
                continue;
            }
            self.bytes -= first.weight;
            given_up.extend(object.forget());
        }
        given_up
    }

    /// Gives up what was not used since the last time.
    fn age(&mut self) -> Vec<crate::object::Decode> {
        let mut given_up = Vec::new();
        for _ in 0..self.kept.len() {
            let Some(first) = self.kept.pop_front() else { break };
            match first.object.upgrade() {
                Some(object) if object.was_used() => self.kept.push_back(first),
                Some(object) => {
                    self.bytes -= first.weight;
                    given_up.extend(object.forget());
                }
                None => self.bytes -= first.weight,
            }
        }
        self.kept.shrink_to(2 * self.kept.len());
        given_up
    }
}

/// Counts a decode that its object now holds.
pub(crate) fn keep(object: Weak<Shared>, weight: usize) {
    let given_up = {
        let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
        clock.bytes += weight;
        clock.kept.push_back(Kept { object, weight });
        clock.shrink(DECODED_BYTES_MAX)
    };
    drop(given_up);
}

/// Gives up the decodes that nobody used since the last call. Whoever runs the process calls it every few seconds.
pub fn age() {
    let given_up = CLOCK.lock().unwrap_or_else(PoisonError::into_inner).age();
    drop(given_up);
}

/// What the kept decodes weigh, about.
#[must_use]
pub fn weight() -> usize {
    CLOCK.lock().unwrap_or_else(PoisonError::into_inner).bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use serde::Deserialize;

    use super::*;
    use crate::Object;

    #[derive(Deserialize)]
    struct Named {
        kind: String,
    }

    fn object(number: usize, filling: usize) -> Object {
        let text = format!(
            r#"{{"apiVersion":"v1","data":"{}","kind":"K{number}","metadata":{{}}}}"#,
            "x".repeat(filling)
        );
        Object::parse(Bytes::from(text)).unwrap()
    }

    /// One test, since the clock is the process'.
    #[test]
    fn decodes_are_shared_while_used_and_bounded_in_bytes() {
        let used = object(0, 10);
        let first: Arc<Named> = used.typed().unwrap();
        assert!(Arc::ptr_eq(&first, &used.typed().unwrap()), "the decode is shared");
        // More than there is room for: the bound holds, and what is asked for all the time stays.
        let many: Vec<Object> = (1..600).map(|number| object(number, 100_000)).collect();
        for object in &many {
            assert!(object.typed::<Named>().unwrap().kind.starts_with('K'));
            assert!(Arc::ptr_eq(&first, &used.typed().unwrap()));
            assert!(weight() <= DECODED_BYTES_MAX);
        }
        assert!(!many.first().unwrap().is_decoded(), "the first ones were given up");
        assert!(many.last().unwrap().is_decoded());
        // Twice: what was used since the last time has a second one.
        age();
        age();
        assert_eq!(weight(), 0);
        assert!(!used.is_decoded());
        assert_eq!(used.typed::<Named>().unwrap().kind, "K0", "it is decoded again");
        // Objects that are gone cost nothing.
        drop((many, used));
        age();
        assert_eq!(weight(), 0);
    }
}
