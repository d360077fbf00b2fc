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

/// A time without anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gap {
    /// How long it is.
    pub(super) length: Duration,
    /// How long after the period's start it begins.
    pub(super) after: Duration,
}

/// The longest time without any of `times` within a period; its ends count as if something had happened there.
pub(super) fn longest(times: impl IntoIterator<Item = Instant>, period: &Range<Instant>) -> Gap {
    let mut times: Vec<Instant> = times.into_iter().filter(|time| period.contains(time)).collect();
    times.extend([period.start, period.end]);
    times.sort_unstable();
    let gap = |pair: &[Instant]| Gap {
        length: pair[1] - pair[0],
        after: pair[0] - period.start,
    };
    times.windows(2).map(gap).max().unwrap_or_default()
}

/// Longest gaps of many rounds, as one group of clients saw them.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    fault: Vec<Gap>,
    usual: Vec<Gap>,
}

fn summary(gaps: &[Gap]) -> Option<Summary> {
    Summary::of(gaps.iter().map(|gap| gap.length).collect())
}

impl Gaps {
    /// Adds a round: the longest gap from the fault on, and the longest of a time without.
    pub(super) fn add(&mut self, fault: Gap, usual: Gap) {
        self.fault.push(fault);
        self.usual.push(usual);
    }

    /// For people; none without rounds.
    pub(super) fn row(&self, fault: &str, clients: &str) -> Option<Vec<String>> {
        let (during, usual) = (summary(&self.fault)?, summary(&self.usual)?);
        let figures = [during.p50, during.p90, during.p99, during.max, usual.p50, usual.max].map(latency);
        Some([vec![fault.into(), clients.into(), during.count.to_string()], figures.to_vec()].concat())
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let each =
            |of: fn(&Gap) -> Duration| -> Vec<f64> { self.fault.iter().map(|gap| milliseconds(of(gap)).round()).collect() };
        json!({
            "fault": summary(&self.fault).map(|summary| summary.json()),
            "usual": summary(&self.usual).map(|summary| summary.json()),
            "eachMs": each(|gap| gap.length),
            "eachBeginsMs": each(|gap| gap.after),
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
        for (times, from, to, length, after) in [
            (&[][..], 0, 100, 100, 0),
            (&[10, 40, 90], 0, 100, 50, 40),
            (&[90, 10, 40], 0, 100, 50, 40),
            (&[30], 0, 100, 70, 30),
            (&[95], 0, 100, 95, 0),
            (&[10, 200], 20, 60, 40, 0),
        ] {
            let [length, after] = [length, after].map(Duration::from_millis);
            let found = longest(times.iter().map(|time| at(*time)), &(at(from)..at(to)));
            assert_eq!(found, Gap { length, after }, "{times:?}");
        }
    }

    #[test]
    fn rows_have_all_columns() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.row("x", "all"), None);
        let gap = |length| Gap {
            length: Duration::from_millis(length),
            after: Duration::from_millis(1),
        };
        gaps.add(gap(500), gap(5));
        let row = gaps.row("x", "all").expect("there is a round");
        assert_eq!(row.len(), HEADER.len());
        assert_eq!(row[..4], ["x", "all", "1", "500"]);
        let value = gaps.json();
        assert_eq!((&value["eachMs"], &value["eachBeginsMs"]), (&json!([500.0]), &json!([1.0])));
    }
}
