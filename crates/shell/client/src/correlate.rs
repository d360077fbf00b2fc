//! Which events become new objects, which raise a count and which are dropped: the correlator of upstream's client-go
//! (tools/record/events_cache.go), as a state machine that is given the time.
//!
//! Invariant: memory is bounded by [`ENTRIES_MAX`] per table.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use jiff::Timestamp;

/// Entries kept per table.
const ENTRIES_MAX: usize = 4096;
/// Distinct messages of one group after which they are combined.
const SIMILAR_MAX: usize = 10;
/// A group is forgotten after this long without an event.
const GROUP_SECONDS: i64 = 600;
/// Burst and refill of the token bucket of one source and object.
const SPAM_BURST: f64 = 25.0;
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// What the message of a combined event begins with.
const COMBINED: &str = "(combined from similar events): ";

/// What makes two events alike apart from their message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub(crate) source: String,
    /// Kind, namespace, name, UID, API version and field path of the object.
    pub(crate) object: [String; 6],
    pub(crate) event_type: &'static str,
    pub(crate) reason: String,
}

/// What is known of an event that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) name: String,
    pub(crate) count: i32,
    pub(crate) first: Timestamp,
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// POST it, with this message.
    Create { message: String },
    /// Raise the count of an earlier one.
    Raise { message: String, earlier: Written },
    /// Its object has had too many.
    Drop,
}

/// An event's identity in the table of written events.
pub(crate) type Identity = (Group, Option<String>);

struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

#[derive(Default)]
pub(crate) struct Correlator {
    groups: HashMap<Group, Similar>,
    written: HashMap<Identity, (Written, Timestamp)>,
    buckets: HashMap<(String, [String; 6]), Bucket>,
}

impl Correlator {
    /// Judges an event. A [`Verdict::Create`] or [`Verdict::Raise`] that succeeded is reported by [`Self::note`].
    pub(crate) fn judge(&mut self, group: &Group, message: &str, now: Timestamp) -> (Verdict, Identity) {
        bound(&mut self.groups, |similar| similar.last);
        let similar = self.groups.entry(group.clone()).or_insert_with(|| Similar {
            messages: BTreeSet::new(),
            last: now,
        });
        if now.as_second() - similar.last.as_second() > GROUP_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        similar.messages.insert(message.to_owned());
        let (identity, message) = if similar.messages.len() < SIMILAR_MAX {
            ((group.clone(), Some(message.to_owned())), message.to_owned())
        } else {
            similar.messages.pop_first();
            ((group.clone(), None), format!("{COMBINED}{message}"))
        };
        let verdict = if !self.allow(group, now) {
            Verdict::Drop
        } else if let Some((earlier, _)) = self.written.get(&identity) {
            Verdict::Raise {
                message,
                earlier: earlier.clone(),
            }
        } else {
            Verdict::Create { message }
        };
        (verdict, identity)
    }

    fn allow(&mut self, group: &Group, now: Timestamp) -> bool {
        bound(&mut self.buckets, |bucket| bucket.filled);
        let bucket = self
            .buckets
            .entry((group.source.clone(), group.object.clone()))
            .or_insert(Bucket {
                tokens: SPAM_BURST,
                filled: now,
            });
        let passed = now.duration_since(bucket.filled).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed * SPAM_PER_SECOND).min(SPAM_BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Remembers what was written.
    pub(crate) fn note(&mut self, identity: Identity, written: Written, now: Timestamp) {
        bound(&mut self.written, |(_, at)| *at);
        self.written.insert(identity, (written, now));
    }
}

/// Throws away the older half of a full table.
fn bound<K: Clone + Eq + Hash, V>(table: &mut HashMap<K, V>, at: impl Fn(&V) -> Timestamp) {
    if table.len() < ENTRIES_MAX {
        return;
    }
    let mut times: Vec<_> = table.values().map(&at).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    table.retain(|_, value| at(value) > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group {
            source: "kubelet".into(),
            object: ["Pod", "default", "a", "u", "v1", ""].map(String::from),
            event_type: "Warning",
            reason: "BackOff".into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn written(name: &str) -> Written {
        Written {
            name: name.into(),
            count: 1,
            first: at(0),
        }
    }

    #[test]
    fn a_repeat_raises_the_count() {
        let mut correlator = Correlator::default();
        let (verdict, identity) = correlator.judge(&group(), "m", at(0));
        assert_eq!(verdict, Verdict::Create { message: "m".into() });
        correlator.note(identity, written("e"), at(0));
        let (verdict, _) = correlator.judge(&group(), "m", at(1));
        assert!(matches!(verdict, Verdict::Raise { earlier, .. } if earlier.name == "e"));
    }

    #[test]
    fn the_tenth_similar_message_is_combined_and_a_quiet_time_resets() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            let (verdict, _) = correlator.judge(&group(), &format!("m{n}"), at(n));
            assert!(matches!(verdict, Verdict::Create { message } if message == format!("m{n}")));
        }
        let (verdict, _) = correlator.judge(&group(), "m9", at(9));
        assert!(matches!(verdict, Verdict::Create { message } if message == "(combined from similar events): m9"));
        let (verdict, _) = correlator.judge(&group(), "m10", at(700));
        assert!(matches!(verdict, Verdict::Create { message } if message == "m10"));
    }

    #[test]
    fn one_object_may_have_25_events_and_then_one_in_five_minutes() {
        let mut correlator = Correlator::default();
        for _ in 0..25 {
            assert_ne!(correlator.judge(&group(), "m", at(0)).0, Verdict::Drop);
        }
        assert_eq!(correlator.judge(&group(), "m", at(1)).0, Verdict::Drop);
        assert_ne!(correlator.judge(&group(), "m", at(302)).0, Verdict::Drop);
    }
}
