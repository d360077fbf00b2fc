//! Listings: each is of one moment, and at the end everything that was acknowledged is there.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::commits::{Commits, Source};
use crate::history::History;
use crate::record::{Kind, Listing, Operation, Outcome, Seen};
use crate::violation::Violation;

/// Each listing shows, of every key under its prefix, the last change up to its revision that anybody knows of, or a later
/// one that it knows itself.
#[must_use]
pub fn lists_are_snapshots(history: &History) -> Vec<Violation> {
    if history.listings.is_empty() {
        return Vec::new();
    }
    let commits = Commits::of(history);
    let open = OpenChanges::of(history);
    let mut violations = Vec::new();
    for listing in &history.listings {
        let mut torn = |what: String| {
            violations.push(Violation::TornListing {
                server: listing.server.clone(),
                revision: listing.revision,
                what,
            });
        };
        for (key, (value, revision)) in &listing.objects {
            if *revision > listing.revision {
                torn(format!("it holds {value:?} of the later revision {revision} at {key:?}"));
            }
            let known = commits.by_key.get(key.as_str());
            let range = (Bound::Excluded(*revision), Bound::Included(listing.revision.max(*revision)));
            let later = known.and_then(|all| all.range(range).next_back());
            if let Some((at, commit)) = later {
                torn(format!(
                    "at {key:?} it holds revision {revision}, but {} is of revision {at}",
                    commit.source
                ));
            }
        }
        for (key, all) in commits.by_key.range(listing.prefix.as_str()..) {
            if !key.starts_with(&listing.prefix) {
                break;
            }
            if listing.objects.contains_key(*key) {
                continue;
            }
            if let Some((at, commit)) = all.range(..=listing.revision).next_back()
                && commit.value.is_some()
                && !open.may_have_deleted(key, *at)
            {
                torn(format!("{key:?} is not in it, but {} is of revision {at}", commit.source));
            }
        }
    }
    violations
}

/// Deletions that may have happened without anybody having been told.
struct OpenChanges<'a> {
    deletions: BTreeMap<&'a str, Vec<Option<u64>>>,
}

impl<'a> OpenChanges<'a> {
    fn of(history: &'a History) -> Self {
        let mut deletions: BTreeMap<&str, Vec<Option<u64>>> = BTreeMap::new();
        for operation in &history.operations {
            if let (Kind::Delete { expected }, Outcome::Unknown) = (&operation.kind, &operation.outcome) {
                deletions.entry(&operation.key).or_default().push(*expected);
            }
        }
        Self { deletions }
    }

    /// Whether what a key got at a revision may have been deleted.
    fn may_have_deleted(&self, key: &str, revision: u64) -> bool {
        let fits = |expected: &Option<u64>| expected.is_none_or(|expected| expected >= revision);
        self.deletions.get(key).is_some_and(|all| all.iter().any(fits))
    }
}

/// What showed the state of keys, and which acknowledged changes it must include.
struct Evidence<'a> {
    describe: String,
    invoked: u64,
    covers: &'a dyn Fn(&str) -> Option<Option<u64>>,
}

/// Every acknowledged change is in every linearizable read and listing that began later: the key has its revision or a
/// later one, or is gone by a change that came later.
#[must_use]
pub fn no_acknowledged_write_lost(history: &History) -> Vec<Violation> {
    let commits = Commits::of(history);
    let open = OpenChanges::of(history);
    let mut violations = Vec::new();
    // The acknowledged changes of each key, by the time when they were acknowledged.
    let mut changes: BTreeMap<&str, Vec<(u64, u64, &Operation)>> = BTreeMap::new();
    for operation in history.operations.iter().filter(|operation| operation.kind.changes()) {
        if let Outcome::Applied { revision } = operation.outcome {
            let all = changes.entry(&operation.key).or_default();
            all.push((operation.returned, revision, operation));
        }
    }
    // The highest so far, so that one search finds what must be there.
    for all in changes.values_mut() {
        all.sort_by_key(|(returned, revision, _)| (*returned, *revision));
        for at in 1..all.len() {
            if all[at - 1].1 > all[at].1 {
                (all[at].1, all[at].2) = (all[at - 1].1, all[at - 1].2);
            }
        }
    }
    let mut look = |key: &str, evidence: &Evidence<'_>| {
        let Some(all) = changes.get(key) else { return };
        let over = all.partition_point(|(returned, _, _)| *returned < evidence.invoked);
        let Some((_, revision, operation)) = over.checked_sub(1).map(|at| all[at]) else {
            return;
        };
        let lost = match (evidence.covers)(key) {
            None => false,
            Some(Some(shown)) => shown < revision,
            Some(None) => {
                let later = |(at, commit): (&u64, &crate::commits::Commit<'_>)| *at > revision && commit.value.is_none();
                let deletes = matches!(operation.kind, Kind::Delete { .. });
                let deleted = || commits.by_key.get(key).is_some_and(|all| all.iter().any(later));
                !deletes && !deleted() && !open.may_have_deleted(key, revision)
            }
        };
        if lost {
            violations.push(Violation::Lost {
                operation: operation.to_string(),
                evidence: evidence.describe.clone(),
            });
        }
    };
    for read in history.operations.iter().filter(|operation| operation.kind == Kind::Read) {
        let Outcome::Saw(seen) = &read.outcome else { continue };
        let shown = match seen {
            Seen::Absent => None,
            Seen::Present { revision, .. } => Some(*revision),
        };
        let covers = |_: &str| Some(shown);
        let evidence = Evidence {
            describe: read.to_string(),
            invoked: read.invoked,
            covers: &covers,
        };
        look(&read.key, &evidence);
    }
    for listing in history.listings.iter().filter(|listing| listing.linearizable) {
        let covers = |key: &str| shown_by(listing, key);
        let evidence = Evidence {
            describe: Source::Listing {
                server: &listing.server,
                revision: listing.revision,
            }
            .to_string(),
            invoked: listing.invoked,
            covers: &covers,
        };
        for key in changes.keys().filter(|key| key.starts_with(&listing.prefix)) {
            look(key, &evidence);
        }
    }
    violations
}

/// What a listing shows of a key: `None` for one outside of it.
fn shown_by(listing: &Listing, key: &str) -> Option<Option<u64>> {
    key.starts_with(&listing.prefix)
        .then(|| listing.objects.get(key).map(|(_, revision)| *revision))
}
