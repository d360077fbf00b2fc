//! Exponential back-off of one container or image: 10 s, doubling to 5 min, forgotten after 10 min of quiet
//! (client-go's `flowcontrol.Backoff` with the kubelet's numbers).

use jiff::{SignedDuration, Timestamp};

/// First delay.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Largest delay.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// State after at least one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Delay that the next try has to keep from the event.
    pub delay: SignedDuration,
    /// When the delay last grew.
    pub last_update: Timestamp,
}

impl Backoff {
    /// Until when to wait after an event (the end of the last run), `None` when there is no need to.
    #[must_use]
    pub fn until(entry: Option<&Self>, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = entry?;
        if entry.expired(event) {
            return None;
        }
        let until = event.saturating_add(entry.delay).unwrap_or(Timestamp::MAX);
        (now < until).then_some(until)
    }

    /// The state after another try at `now`.
    #[must_use]
    pub fn next(entry: Option<&Self>, event: Timestamp, now: Timestamp) -> Self {
        let delay = match entry {
            Some(known) if !known.expired(event) => (known.delay * 2).min(MAX),
            _ => INITIAL,
        };
        Self { delay, last_update: now }
    }

    /// The state that a container of this restart count, made at this time, has if it failed each time.
    #[must_use]
    pub fn after_restarts(restarts: u32, last: Timestamp) -> Option<Self> {
        let doublings = restarts.checked_sub(1)?.min(8);
        Some(Self {
            delay: (INITIAL * 2_i32.pow(doublings)).min(MAX),
            last_update: last,
        })
    }

    fn expired(&self, event: Timestamp) -> bool {
        event.duration_since(self.last_update) > MAX * 2
    }
}

/// A duration as Go prints it, as far as back-offs need: `10s`, `1m20s`, `5m0s`.
#[must_use]
pub fn go_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn doubles_to_the_limit_and_forgets_after_ten_minutes() {
        let mut entry = None;
        let mut delays = Vec::new();
        let mut now = 0;
        for _ in 0..8 {
            let next = Backoff::next(entry.as_ref(), at(now), at(now));
            delays.push(next.delay.as_secs());
            now += next.delay.as_secs();
            entry = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
        let quiet = at(now + 601);
        assert_eq!(Backoff::until(entry.as_ref(), quiet, quiet), None);
        assert_eq!(Backoff::next(entry.as_ref(), quiet, quiet).delay.as_secs(), 10);
    }

    #[test]
    fn a_restart_count_tells_the_delay() {
        let delay = |restarts| Backoff::after_restarts(restarts, at(0)).map(|backoff| backoff.delay.as_secs());
        assert_eq!(
            [0, 1, 2, 5, 6, u32::MAX].map(delay),
            [None, Some(10), Some(20), Some(160), Some(300), Some(300)]
        );
    }

    #[test]
    fn waits_from_the_event_and_not_from_now() {
        let entry = Backoff {
            delay: SignedDuration::from_secs(20),
            last_update: at(100),
        };
        assert_eq!(Backoff::until(Some(&entry), at(110), at(120)), Some(at(130)));
        assert_eq!(Backoff::until(Some(&entry), at(110), at(130)), None);
        assert_eq!(Backoff::until(None, at(110), at(111)), None);
    }

    #[test]
    fn prints_as_go_does() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3600, "1h0m0s")] {
            assert_eq!(go_duration(SignedDuration::from_secs(seconds)), text);
        }
    }
}
