//! Sets of completion indexes as Indexed Jobs write them: ordered intervals, `1,3-5,7`.
//!
//! Invariant: intervals are in order, do not overlap and do not touch.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;

/// Label and annotation that hold a pod's index.
pub const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation: failures of an index that count, before this pod.
pub const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation: failures of an index that the pod failure policy ignored, before this pod.
pub const IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals(Vec<(i64, i64)>);

impl Intervals {
    /// Reads what a status or a success policy holds; indexes from `completions` on are left out, and so is what is no
    /// interval.
    #[must_use]
    pub fn parse(text: &str, completions: i64) -> Self {
        let mut all: Vec<(i64, i64)> = Vec::new();
        for interval in text.split(',').filter(|interval| !interval.is_empty()) {
            let mut limits = interval.split('-');
            let Some(Ok(first)) = limits.next().map(str::parse::<i64>) else {
                continue;
            };
            if first >= completions {
                break;
            }
            let last = match limits.next().map(str::parse::<i64>) {
                None => first,
                Some(Ok(last)) => last.min(completions - 1),
                Some(Err(_)) => continue,
            };
            match all.last_mut() {
                Some(before) if before.1 == first - 1 => before.1 = last,
                _ => all.push((first, last)),
            }
        }
        Self(all)
    }

    /// Both sets together.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut all: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The set with more indexes.
    #[must_use]
    pub fn with(&self, indexes: &BTreeSet<i64>) -> Self {
        self.merge(&Self(indexes.iter().map(|index| (*index, *index)).collect()))
    }

    /// How many indexes it has.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has an index.
    #[must_use]
    pub fn has(&self, index: i64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes both sets have.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> i64 {
        let (mut ours, mut theirs, mut both) = (0, 0, 0);
        while let (Some(left), Some(right)) = (self.0.get(ours), other.0.get(theirs)) {
            both += (left.1.min(right.1) - left.0.max(right.0) + 1).max(0);
            ours += usize::from(left.1 <= right.1);
            theirs += usize::from(right.1 <= left.1);
        }
        both
    }

    /// The lowest indexes below `completions` that are not in the set, `count` at most.
    #[must_use]
    pub fn first_absent(&self, count: usize, completions: i64) -> Vec<i64> {
        let mut absent = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            while candidate < first.min(completions) && absent.len() < count {
                absent.push(candidate);
                candidate += 1;
            }
            candidate = candidate.max(last + 1);
        }
        absent
    }
}

impl fmt::Display for Intervals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match last - first {
                ..=0 => write!(out, "{comma}{first}")?,
                1 => write!(out, "{comma}{first},{last}")?,
                _ => write!(out, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// The index that a pod is for.
#[must_use]
pub fn index_of(pod: &Pod) -> Option<i64> {
    let text = pod.metadata.annotations.as_ref()?.get(COMPLETION_INDEX)?;
    text.parse().ok().filter(|index| *index >= 0)
}

/// A count in an annotation; 0 where it is absent or none.
fn count_in(pod: &Pod, annotation: &str) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|all| all.get(annotation));
    text.and_then(|text| text.parse::<i32>().ok())
        .filter(|count| *count >= 0)
        .unwrap_or(0)
}

/// How often a pod's index had failed before it, as far as it counts.
#[must_use]
pub fn failures(pod: &Pod) -> i32 {
    count_in(pod, FAILURE_COUNT)
}

/// How often a pod's index had failed before it without that it counts.
#[must_use]
pub fn ignored_failures(pod: &Pod) -> i32 {
    count_in(pod, IGNORED_FAILURE_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_written_and_joined() {
        // text, completions, what it is written as, total
        let table = [
            ("", 10, "", 0),
            ("1", 10, "1", 1),
            ("0,1", 10, "0,1", 2),
            ("0-2", 10, "0-2", 3),
            ("0,1,2", 10, "0-2", 3),
            ("1,3-5,7", 10, "1,3-5,7", 5),
            ("1,3-9", 5, "1,3,4", 3),
            ("1,7-9", 5, "1", 1),
            ("x,2,3-y,5", 10, "2,5", 2),
        ];
        for (text, completions, written, total) in table {
            let intervals = Intervals::parse(text, completions);
            assert_eq!(
                (intervals.to_string().as_str(), intervals.total()),
                (written, total),
                "{text}"
            );
        }
        let merged = Intervals::parse("0,4-6", 20).merge(&Intervals::parse("1,5-8,12", 20));
        assert_eq!(merged.to_string(), "0,1,4-8,12");
        assert_eq!(merged.overlap(&Intervals::parse("1-5,12-14", 20)), 4);
        let held: Vec<_> = (0..13).filter(|index| merged.has(*index)).collect();
        assert_eq!(held, [0, 1, 4, 5, 6, 7, 8, 12]);
    }

    #[test]
    fn the_lowest_absent_indexes_come_first() {
        let held = Intervals::parse("0,2-3,6", 10);
        assert_eq!(held.first_absent(3, 10), [1, 4, 5]);
        assert_eq!(held.first_absent(9, 8), [1, 4, 5, 7]);
        assert_eq!(held.first_absent(9, 5), [1, 4]);
        assert_eq!(held.first_absent(0, 10), [0_i64; 0]);
        assert_eq!(Intervals::default().first_absent(2, 10), [0, 1]);
    }
}
