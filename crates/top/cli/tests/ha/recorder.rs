//! What clients did and saw, with times of one clock, for the checker and for figures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use trireme_checker::{History, Kind, Operation, Outcome, Record};

/// Collects records of all clients of one trial.
pub(crate) struct Recorder {
    start: Instant,
    next: AtomicU64,
    records: Mutex<Vec<Record>>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            next: AtomicU64::new(1),
            records: Mutex::default(),
        }
    }

    /// Microseconds since the trial began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A number that nothing else in this trial has.
    pub(crate) fn id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn push(&self, record: Record) {
        self.records.lock().push(record);
    }

    pub(crate) fn history(&self) -> History {
        let mut history = History::default();
        for record in self.records.lock().iter() {
            history.push(record.clone());
        }
        history
    }

    /// How many writes were acknowledged after a time.
    pub(crate) fn acknowledged_since(&self, since: u64) -> usize {
        let records = self.records.lock();
        records
            .iter()
            .filter(|record| acknowledged(record).is_some_and(|at| at > since))
            .count()
    }
}

fn acknowledged(record: &Record) -> Option<u64> {
    match record {
        Record::Operation(Operation {
            kind: Kind::Create { .. } | Kind::Cas { .. } | Kind::Write { .. },
            outcome: Outcome::Applied { .. },
            returned,
            ..
        }) => Some(*returned),
        _ => None,
    }
}

/// The longest time without an acknowledged write, over all servers or at those that `counts` names, within a period.
pub(crate) fn longest_gap(history: &History, period: std::ops::Range<u64>, counts: impl Fn(&str) -> bool) -> Duration {
    let mut times: Vec<u64> = history
        .operations
        .iter()
        .filter(|operation| counts(&operation.server) && operation.kind.changes())
        .filter(|operation| matches!(operation.outcome, Outcome::Applied { .. }))
        .map(|operation| operation.returned)
        .filter(|at| period.contains(at))
        .collect();
    times.extend([period.start, period.end]);
    times.sort_unstable();
    Duration::from_micros(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
}
