//! Which events become new objects, which raise a count and which are dropped: the correlator of upstream's client-go
//! (tools/record/events_cache.go), as a state machine that is given the time.
//!
//! Invariant: memory is bounded by [`ENTRIES_MAX`] per table, and an entry takes a hundred bytes or so: what events have in common
//! is known by a keyed hash of 128 bits, not by its texts (`what_is_remembered_of_an_event_is_small`).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};

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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group<'a> {
    /// Component and host.
    pub(crate) source: [&'a str; 2],
    /// Kind, namespace, name, UID, API version and field path of the object.
    pub(crate) object: [&'a str; 6],
    pub(crate) event_type: &'static str,
    pub(crate) reason: &'a str,
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

/// What stands for texts in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Id(u128);

/// An event's identity in the table of written events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity(Id);

struct Similar {
    /// Those of the last messages.
    messages: Vec<Id>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

#[derive(Default)]
pub(crate) struct Correlator {
    /// Two, with keys of their own, give the halves of an id.
    hashers: [RandomState; 2],
    groups: HashMap<Id, Similar>,
    written: HashMap<Identity, (Written, Timestamp)>,
    buckets: HashMap<Id, Bucket>,
}

impl Correlator {
    fn id(&self, of: impl Hash) -> Id {
        let [high, low] = [0, 1].map(|at| u128::from(self.hashers[at].hash_one(&of)));
        Id(high << 64 | low)
    }

    /// Judges an event. A [`Verdict::Create`] or [`Verdict::Raise`] that succeeded is reported by [`Self::note`].
    pub(crate) fn judge(&mut self, group: &Group<'_>, message: &str, now: Timestamp) -> (Verdict, Identity) {
        let kind = (group.source, group.object, group.event_type, group.reason);
        let (id, said) = (self.id(kind), self.id(message));
        let (alone, combined) = (
            Identity(self.id((kind, Some(message)))),
            Identity(self.id((kind, None::<&str>))),
        );
        bound(&mut self.groups, |similar| similar.last);
        let similar = self.groups.entry(id).or_insert_with(|| Similar {
            messages: Vec::with_capacity(1),
            last: now,
        });
        if now.as_second() - similar.last.as_second() > GROUP_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        if !similar.messages.contains(&said) {
            similar.messages.push(said);
        }
        let (identity, message) = if similar.messages.len() < SIMILAR_MAX {
            (alone, message.to_owned())
        } else {
            similar.messages.remove(0);
            (combined, format!("{COMBINED}{message}"))
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

    fn allow(&mut self, group: &Group<'_>, now: Timestamp) -> bool {
        bound(&mut self.buckets, |bucket| bucket.filled);
        let id = self.id((group.source, group.object));
        let bucket = self.buckets.entry(id).or_insert(Bucket {
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

    fn group() -> Group<'static> {
        Group {
            source: ["kubelet", "n"],
            object: ["Pod", "default", "a", "u", "v1", ""],
            event_type: "Warning",
            reason: "BackOff",
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
    fn events_that_differ_in_anything_are_not_taken_for_one() {
        let mut correlator = Correlator::default();
        let (_, identity) = correlator.judge(&group(), "m", at(0));
        correlator.note(identity, written("e"), at(0));
        let mut others = vec![("o", group())];
        for place in 0..6 {
            let mut other = group();
            other.object[place] = "other";
            others.push(("m", other));
        }
        others.push((
            "m",
            Group {
                reason: "Other",
                ..group()
            },
        ));
        others.push((
            "m",
            Group {
                event_type: "Normal",
                ..group()
            },
        ));
        others.push((
            "m",
            Group {
                source: ["kubele", "tn"],
                ..group()
            },
        ));
        for (message, other) in others {
            let (verdict, _) = correlator.judge(&other, message, at(1));
            assert!(matches!(verdict, Verdict::Create { .. }), "{other:?} {message}");
        }
    }

    #[test]
    fn what_is_remembered_of_an_event_is_small() {
        let entries = size_of::<(Id, Similar)>() + size_of::<(Identity, (Written, Timestamp))>() + size_of::<(Id, Bucket)>();
        assert!(entries <= 224, "{entries}");
        let mut correlator = Correlator::default();
        for number in 0..3 * ENTRIES_MAX {
            let (name, time) = (number.to_string(), at(i64::try_from(number).unwrap()));
            let mut other = group();
            other.object[2] = &name;
            let (_, identity) = correlator.judge(&other, "m", time);
            correlator.note(identity, written("e"), time);
        }
        let lengths = [correlator.groups.len(), correlator.written.len(), correlator.buckets.len()];
        assert!(lengths.iter().all(|length| *length <= ENTRIES_MAX), "{lengths:?}");
        let messages = correlator.groups.values().map(|similar| similar.messages.capacity());
        assert_eq!(messages.max(), Some(1));
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
