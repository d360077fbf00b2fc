//! How long the failed pod of a node is left alone before another takes its place, lest the controller and a node that
//! refuses pods chase one another.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

/// Pause after the first failed pod of a node; it doubles with every further one.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause. After twice this time without a failed pod it begins anew.
pub const PAUSE_MAX: Duration = Duration::from_mins(15);

/// Where pods failed: the DaemonSet's uid, its generation, and the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// `metadata.uid` of the DaemonSet.
    pub uid: String,
    /// `status.observedGeneration` of it: a change of the DaemonSet is a new beginning.
    pub generation: i64,
    /// The node's name.
    pub node: String,
}

/// The pauses of one DaemonSet's nodes, bounded by its nodes and by time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(BTreeMap<Place, Pause>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    length: Duration,
    since: Timestamp,
}

impl Pause {
    fn spent(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.since)).unwrap_or_default()
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.spent(now) > 2 * PAUSE_MAX
    }
}

impl Pauses {
    /// How long a failed pod at this place has to stay; nothing if it may go now.
    #[must_use]
    pub fn left(&self, place: &Place, now: Timestamp) -> Option<Duration> {
        let pause = self.0.get(place).filter(|pause| !pause.is_over(now))?;
        pause.length.checked_sub(pause.spent(now)).filter(|left| !left.is_zero())
    }

    /// A failed pod goes now: the next one has to stay for longer.
    pub fn lengthen(&mut self, place: Place, now: Timestamp) {
        let held = self.0.get(&place).filter(|pause| !pause.is_over(now));
        let length = held.map_or(PAUSE_MIN, |pause| (pause.length * 2).min(PAUSE_MAX));
        self.0.insert(place, Pause { length, since: now });
    }

    /// Forgets what is too old to count.
    pub fn forget_old(&mut self, now: Timestamp) {
        self.0.retain(|_, pause| !pause.is_over(now));
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_quarter_of_an_hour_and_begin_anew_after_half_an_hour() {
        let place = |node: &str| Place {
            uid: "u".into(),
            generation: 1,
            node: node.into(),
        };
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut pauses = Pauses::default();
        assert_eq!(pauses.left(&place("a"), at(0)), None);
        let mut now = 0;
        let mut lengths = Vec::new();
        for _ in 0..12 {
            pauses.lengthen(place("a"), at(now));
            let left = pauses.left(&place("a"), at(now)).unwrap().as_secs();
            lengths.push(left);
            now += i64::try_from(left).unwrap();
            assert_eq!(pauses.left(&place("a"), at(now)), None, "over when it is over");
            assert!(pauses.left(&place("a"), at(now - 1)).is_some());
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(pauses.left(&place("b"), at(now)), None, "other nodes have their own");
        now += 1801;
        pauses.lengthen(place("a"), at(now));
        assert_eq!(pauses.left(&place("a"), at(now)), Some(PAUSE_MIN));
        pauses.forget_old(at(now + 1801));
        assert!(pauses.is_empty());
    }
}
