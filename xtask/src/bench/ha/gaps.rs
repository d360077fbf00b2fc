//! Gaps between acknowledged writes, in figures. Pure: it takes times and never looks at a clock.

use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::statistics::{Summary, latency, milliseconds};

/// Names of the columns of [`Gaps::row`].
pub(super) const HEADER: [&str; 9] = [
    "fault",
    "clients",
    "times",
    "p50",
    "p90",
    "p99",
    "max",
    "without fault: p50",
    "max",
];

/// The longest time without any of `times` within a period; its ends count as if something had happened there.
pub(super) fn longest(times: impl IntoIterator<Item = Instant>, period: &Range<Instant>) -> Duration {
    let mut times: Vec<Instant> = times.into_iter().filter(|time| period.contains(time)).collect();
    times.extend([period.start, period.end]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Longest gaps of many rounds, as one group of clients saw them.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    fault: Vec<Duration>,
    usual: Vec<Duration>,
}

impl Gaps {
    /// Adds a round: the longest gap from the fault on, and the longest of a time without.
    pub(super) fn add(&mut self, fault: Duration, usual: Duration) {
        self.fault.push(fault);
        self.usual.push(usual);
    }

    /// For people; none without rounds.
    pub(super) fn row(&self, fault: &str, clients: &str) -> Option<Vec<String>> {
        let (during, usual) = (Summary::of(self.fault.clone())?, Summary::of(self.usual.clone())?);
        let figures = [during.p50, during.p90, during.p99, during.max, usual.p50, usual.max].map(latency);
        Some([vec![fault.into(), clients.into(), during.count.to_string()], figures.to_vec()].concat())
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let each: Vec<f64> = self.fault.iter().map(|gap| milliseconds(*gap).round()).collect();
        json!({
            "fault": Summary::of(self.fault.clone()).map(|summary| summary.json()),
            "usual": Summary::of(self.usual.clone()).map(|summary| summary.json()),
            "eachMs": each,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_within_a_period() {
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        for (times, from, to, wanted) in [
            (&[][..], 0, 100, 100),
            (&[10, 40, 90], 0, 100, 50),
            (&[90, 10, 40], 0, 100, 50),
            (&[30], 0, 100, 70),
            (&[95], 0, 100, 95),
            (&[10, 200], 20, 60, 40),
        ] {
            let times = times.iter().map(|time| at(*time));
            assert_eq!(longest(times, &(at(from)..at(to))), Duration::from_millis(wanted));
        }
    }

    #[test]
    fn rows_have_all_columns() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.row("x", "all"), None);
        gaps.add(Duration::from_millis(500), Duration::from_millis(5));
        let row = gaps.row("x", "all").expect("there is a round");
        assert_eq!(row.len(), HEADER.len());
        assert_eq!(row[..4], ["x", "all", "1", "500"]);
        assert_eq!(gaps.json()["eachMs"], json!([500.0]));
    }
}
