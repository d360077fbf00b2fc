//! Latencies in figures. Pure: it takes samples and never looks at a clock.

use std::time::Duration;

use serde_json::{Value, json};

/// A distribution of latencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// How many samples.
    pub(crate) count: usize,
    /// Half of the samples took at most this long.
    pub(crate) p50: Duration,
    /// Nine in ten.
    pub(crate) p90: Duration,
    /// 99 in a hundred.
    pub(crate) p99: Duration,
    /// The longest.
    pub(crate) max: Duration,
}

impl Summary {
    /// Of samples in any order; none without samples.
    pub(crate) fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        Some(Self {
            count: samples.len(),
            p50: percentile(&samples, 50)?,
            p90: percentile(&samples, 90)?,
            p99: percentile(&samples, 99)?,
            max: *samples.last()?,
        })
    }

    /// Its figures in milliseconds.
    pub(crate) fn json(&self) -> Value {
        json!({
            "count": self.count,
            "p50Ms": rounded(self.p50),
            "p90Ms": rounded(self.p90),
            "p99Ms": rounded(self.p99),
            "maxMs": rounded(self.max),
        })
    }
}

/// The nearest-rank percentile of sorted samples.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

fn rounded(duration: Duration) -> f64 {
    (milliseconds(duration) * 1000.0).round() / 1000.0
}

/// A duration as milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A number with as many decimals as its size deserves: 4 significant digits at most.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A latency in milliseconds, for people.
pub(crate) fn latency(duration: Duration) -> String {
    figure(milliseconds(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(milliseconds: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        milliseconds.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        for (given, p50, p90, p99, max) in [
            (samples([7]), 7, 7, 7, 7),
            (samples([2, 1]), 1, 2, 2, 2),
            (samples((1..=10).rev()), 5, 9, 10, 10),
            (samples(1..=100), 50, 90, 99, 100),
            (samples(1..=1000), 500, 900, 990, 1000),
        ] {
            let summary = Summary::of(given.clone()).expect("there are samples");
            let expected = samples([p50, p90, p99, max]);
            assert_eq!(
                vec![summary.p50, summary.p90, summary.p99, summary.max],
                expected,
                "{given:?}"
            );
            assert_eq!(summary.count, given.len());
        }
    }

    #[test]
    fn no_samples_have_no_summary() {
        assert_eq!(Summary::of(vec![]), None);
    }

    #[test]
    fn figures_have_few_digits() {
        for (value, text) in [
            (1234.5, "1234"),
            (123.45, "123"),
            (12.345, "12.3"),
            (1.2345, "1.23"),
            (0.12345, "0.123"),
            (0.0, "0.000"),
        ] {
            assert_eq!(figure(value), text);
        }
    }
}
