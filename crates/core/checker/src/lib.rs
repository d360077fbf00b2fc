//! Judges histories: what clients of a replicated store did and saw, written down as it happened, by the simulator or by
//! real processes in the lab. Pure: it runs nothing, it only reads.
//!
//! Invariant: a check never blames a store for what may have happened under some order of concurrent operations, nor for
//! an operation of unknown outcome; every violation names the operations or events that contradict each other.

mod commits;
mod history;
mod linear;
mod lists;
mod record;
mod register;
mod revisions;
mod violation;
mod watches;

pub use history::{History, ParseError, Segment, Watch};
pub use linear::linearizable_per_key;
pub use lists::{lists_are_snapshots, no_acknowledged_write_lost};
pub use record::{Change, Kind, Listing, Operation, Outcome, Record, Seen, Step, WatchStep};
pub use revisions::{nothing_from_nowhere, one_value_per_revision, revisions_follow_real_time, revisions_never_reused};
pub use violation::Violation;
pub use watches::{
    bookmarks_honest, watch_gapless, watch_kinds_follow, watch_ordered, watch_resumable, watch_unique, watchers_agree,
    watches_complete,
};

/// A named property of histories.
pub type Check = fn(&History) -> Vec<Violation>;

/// All properties, with the names under which they are reported.
pub const CHECKS: &[(&str, Check)] = &[
    ("linearizable_per_key", linearizable_per_key),
    ("no_acknowledged_write_lost", no_acknowledged_write_lost),
    ("lists_are_snapshots", lists_are_snapshots),
    ("revisions_never_reused", revisions_never_reused),
    ("revisions_follow_real_time", revisions_follow_real_time),
    ("one_value_per_revision", one_value_per_revision),
    ("nothing_from_nowhere", nothing_from_nowhere),
    ("watch_ordered", watch_ordered),
    ("watch_unique", watch_unique),
    ("watch_gapless", watch_gapless),
    ("watch_resumable", watch_resumable),
    ("watch_kinds_follow", watch_kinds_follow),
    ("watches_complete", watches_complete),
    ("bookmarks_honest", bookmarks_honest),
    ("watchers_agree", watchers_agree),
];

/// Runs all checks. Empty means that the history is one that a correct store may have.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    CHECKS.iter().flat_map(|(_, check)| check(history)).collect()
}
