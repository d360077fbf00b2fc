//! Revisions: each is given once, to one change, and they grow with real time.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::commits::{Source, Told, told};
use crate::history::History;
use crate::record::{Kind, Operation, Outcome};
use crate::violation::Violation;

/// Acknowledged changes in the order of the history, with their revisions.
fn acknowledged(history: &History) -> impl Iterator<Item = (u64, &Operation)> {
    history.operations.iter().filter_map(|operation| match operation.outcome {
        Outcome::Applied { revision } if operation.kind.changes() => Some((revision, operation)),
        _ => None,
    })
}

/// No two acknowledged changes have one revision, and nobody tells of another key at the revision of one.
#[must_use]
pub fn revisions_never_reused(history: &History) -> Vec<Violation> {
    let mut first: HashMap<u64, &Operation> = HashMap::new();
    let mut violations = Vec::new();
    for (revision, operation) in acknowledged(history) {
        if let Some(other) = first.insert(revision, operation) {
            violations.push(Violation::RevisionReused {
                revision,
                first: other.to_string(),
                second: operation.to_string(),
            });
        }
    }
    let mut reported = HashSet::new();
    for told in told(history) {
        if let Some(operation) = first.get(&told.revision)
            && operation.key != told.key
            && !matches!(told.source, Source::Acknowledged(_))
            && reported.insert((told.revision, told.key))
        {
            violations.push(Violation::RevisionReused {
                revision: told.revision,
                first: operation.to_string(),
                second: format!("key {:?}, shown by {}", told.key, told.source),
            });
        }
    }
    violations
}

/// A change that began after another one was acknowledged has the higher revision, over all keys and servers.
#[must_use]
pub fn revisions_follow_real_time(history: &History) -> Vec<Violation> {
    let mut by_invocation: Vec<(u64, &Operation)> = acknowledged(history).collect();
    let mut by_return = by_invocation.clone();
    by_invocation.sort_by_key(|(_, operation)| operation.invoked);
    by_return.sort_by_key(|(_, operation)| operation.returned);
    // Of those that were over at a time, the one with the highest revision.
    let mut highest = by_return.clone();
    for at in 1..highest.len() {
        if highest[at - 1].0 > highest[at].0 {
            highest[at] = highest[at - 1];
        }
    }
    let over_before = |time: u64| {
        let over = by_return.partition_point(|(_, operation)| operation.returned < time);
        over.checked_sub(1).map(|at| highest[at])
    };
    let mut violations = Vec::new();
    for (revision, operation) in &by_invocation {
        if let Some((_, earlier)) = over_before(operation.invoked).filter(|(highest, _)| highest > revision) {
            violations.push(Violation::RevisionWentBack {
                earlier: earlier.to_string(),
                later: operation.to_string(),
            });
        }
    }
    for listing in history.listings.iter().filter(|listing| listing.linearizable) {
        if let Some((_, earlier)) = over_before(listing.invoked).filter(|(highest, _)| *highest > listing.revision) {
            violations.push(Violation::RevisionWentBack {
                earlier: earlier.to_string(),
                later: format!(
                    "the linearizable listing of {} at revision {}",
                    listing.server, listing.revision
                ),
            });
        }
    }
    violations
}

/// Whoever tells of a key at a revision tells the same.
#[must_use]
pub fn one_value_per_revision(history: &History) -> Vec<Violation> {
    let mut known: HashMap<(u64, &str), Told<'_>> = HashMap::new();
    let mut violations = Vec::new();
    let show = |value: Option<&str>| value.map_or_else(|| "a deletion".to_owned(), |value| format!("{value:?}"));
    for told in told(history) {
        match known.get(&(told.revision, told.key)) {
            Some(other) if other.value != told.value => violations.push(Violation::TwoValues {
                revision: told.revision,
                key: told.key.to_owned(),
                first: show(other.value),
                by_first: other.source.to_string(),
                second: show(told.value),
                by_second: told.source.to_string(),
            }),
            Some(_) => {}
            None => {
                known.insert((told.revision, told.key), told);
            }
        }
    }
    violations
}

/// Everything that was shown was asked for by somebody: no value that was never written or whose write certainly failed,
/// no deletion where nobody tried one. Only for keys that operations of the history wrote to.
#[must_use]
pub fn nothing_from_nowhere(history: &History) -> Vec<Violation> {
    let mut tried: HashSet<(&str, Option<&str>)> = HashSet::new();
    let mut deletions: BTreeMap<&str, HashSet<u64>> = BTreeMap::new();
    let mut keys: HashSet<&str> = HashSet::new();
    for operation in history.operations.iter().filter(|operation| operation.kind.changes()) {
        keys.insert(&operation.key);
        match operation.outcome {
            Outcome::Unknown => {
                tried.insert((&operation.key, operation.kind.value()));
            }
            Outcome::Applied { revision } => {
                if let Kind::Delete { .. } = operation.kind {
                    deletions.entry(&operation.key).or_default().insert(revision);
                } else {
                    tried.insert((&operation.key, operation.kind.value()));
                }
            }
            _ => {}
        }
    }
    let mut violations = Vec::new();
    let mut reported = HashSet::new();
    for told in told(history).into_iter().filter(|told| keys.contains(told.key)) {
        let acknowledged = || deletions.get(told.key).is_some_and(|all| all.contains(&told.revision));
        if tried.contains(&(told.key, told.value)) || (told.value.is_none() && acknowledged()) {
            continue;
        }
        if reported.insert((told.revision, told.key)) {
            violations.push(Violation::FromNowhere {
                revision: told.revision,
                key: told.key.to_owned(),
                what: told
                    .value
                    .map_or_else(|| "a deletion".to_owned(), |value| format!("{value:?}")),
                by: told.source.to_string(),
            });
        }
    }
    violations
}
