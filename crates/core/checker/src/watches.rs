//! What a watch promises: order, each change once, none missed, over any number of connections, and honest bookmarks.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::commits::Commits;
use crate::history::{Delivered, History, Segment, WatchEvent};
use crate::record::Change;
use crate::violation::Violation;

/// Revisions never go down within a watch.
#[must_use]
pub fn watch_ordered(history: &History) -> Vec<Violation> {
    each_segment(history, |watch, segment, violations| {
        let mut highest = segment.after;
        for (server, event) in segment.events() {
            if event.revision < highest {
                violations.push(Violation::OutOfOrder {
                    watch,
                    server: server.to_owned(),
                    revision: event.revision,
                    key: event.key.to_owned(),
                    after: highest,
                });
            }
            highest = highest.max(event.revision);
        }
    })
}

/// No change is told twice.
#[must_use]
pub fn watch_unique(history: &History) -> Vec<Violation> {
    each_segment(history, |watch, segment, violations| {
        let mut told = HashSet::new();
        for (server, event) in segment.events() {
            if !told.insert((event.revision, event.key)) {
                violations.push(Violation::Repeated {
                    watch,
                    server: server.to_owned(),
                    revision: event.revision,
                    key: event.key.to_owned(),
                });
            }
        }
    })
}

/// Of all changes that anybody knows of, every one between the first and the last revision that a watch told of came.
#[must_use]
pub fn watch_gapless(history: &History) -> Vec<Violation> {
    let commits = Commits::of(history);
    each_segment(history, |watch, segment, violations| {
        let highest = segment.events().map(|(_, event)| event.revision).max().unwrap_or(0);
        missed(watch, segment, &commits, highest, violations);
    })
}

/// A watch that was waited for at the end got everything up to the revision that was waited for.
#[must_use]
pub fn watches_complete(history: &History) -> Vec<Violation> {
    let commits = Commits::of(history);
    each_segment(history, |watch, segment, violations| {
        // What lies before the last event is judged by `watch_gapless`.
        let highest = segment
            .events()
            .map(|(_, event)| event.revision)
            .max()
            .unwrap_or(segment.after);
        let mut late = Vec::new();
        missed(watch, segment, &commits, segment.through, &mut late);
        late.retain(|violation| matches!(violation, Violation::Missed { revision, .. } if *revision > highest));
        violations.append(&mut late);
    })
}

fn missed(watch: u64, segment: &Segment<'_>, commits: &Commits<'_>, through: u64, violations: &mut Vec<Violation>) {
    let told: HashMap<(u64, &str), &str> = segment
        .events()
        .map(|(server, event)| ((event.revision, event.key), server))
        .collect();
    let mut order: Vec<(u64, &str)> = told.iter().map(|((revision, _), server)| (*revision, *server)).collect();
    order.sort_unstable();
    for (revision, key, commit) in commits.between(segment.prefix, segment.after, through) {
        if told.contains_key(&(revision, key)) {
            continue;
        }
        let at = order.partition_point(|(told, _)| *told < revision);
        let next = order.get(at);
        let server = next.map_or_else(
            || segment.deliveries.last().map_or("", |last| last.server),
            |(_, server)| server,
        );
        violations.push(Violation::Missed {
            watch,
            server: server.to_owned(),
            revision,
            key: key.to_owned(),
            after: at.checked_sub(1).map_or(segment.after, |before| order[before].0),
            next: next.map_or(through, |(revision, _)| *revision),
            known: commit.source.to_string(),
        });
    }
}

/// A watch that goes on behind a revision is told of later ones only. (That none is missing, `watch_gapless` says.)
#[must_use]
pub fn watch_resumable(history: &History) -> Vec<Violation> {
    each_segment(history, |watch, segment, violations| {
        let mut behind = segment.after;
        for delivery in &segment.deliveries {
            match delivery.what {
                Delivered::Resumed(after) => behind = after,
                Delivered::Event(WatchEvent { revision, .. }) if revision <= behind => {
                    violations.push(Violation::WronglyResumed {
                        watch,
                        server: delivery.server.to_owned(),
                        after: behind,
                        revision,
                    });
                }
                Delivered::Event(_) | Delivered::Bookmark(_) => {}
            }
        }
    })
}

/// A key is added where it was not, and modified or deleted where it was. Of keys that a watch has not told of yet,
/// nothing is known.
#[must_use]
pub fn watch_kinds_follow(history: &History) -> Vec<Violation> {
    each_segment(history, |watch, segment, violations| {
        let mut there: HashMap<&str, bool> = HashMap::new();
        for (server, event) in segment.events() {
            let before = there.insert(event.key, event.change != Change::Deleted);
            if before.is_some_and(|before| before == (event.change == Change::Added)) {
                violations.push(Violation::WrongKind {
                    watch,
                    server: server.to_owned(),
                    revision: event.revision,
                    key: event.key.to_owned(),
                    change: name(event.change).to_owned(),
                    before: if before == Some(true) { "there" } else { "absent" }.to_owned(),
                });
            }
        }
    })
}

/// When a bookmark comes, everything up to its revision came before it, and nothing up to it comes after.
#[must_use]
pub fn bookmarks_honest(history: &History) -> Vec<Violation> {
    let commits = Commits::of(history);
    each_segment(history, |watch, segment, violations| {
        let mut told: HashSet<(u64, &str)> = HashSet::new();
        let (mut bookmark, mut judged, mut highest) = (0, segment.after, segment.after);
        for delivery in &segment.deliveries {
            let server = || delivery.server.to_owned();
            match delivery.what {
                Delivered::Event(event) => {
                    if event.revision <= bookmark && told.insert((event.revision, event.key)) {
                        violations.push(Violation::BookmarkAhead {
                            watch,
                            server: server(),
                            bookmark,
                            revision: event.revision,
                            key: event.key.to_owned(),
                        });
                    }
                    told.insert((event.revision, event.key));
                    highest = highest.max(event.revision);
                }
                Delivered::Bookmark(revision) => {
                    if revision < highest {
                        violations.push(Violation::BookmarkBack {
                            watch,
                            server: server(),
                            bookmark: revision,
                            after: highest,
                        });
                    }
                    for (undelivered, key, _) in commits.between(segment.prefix, judged, revision) {
                        if !told.contains(&(undelivered, key)) {
                            violations.push(Violation::BookmarkAhead {
                                watch,
                                server: server(),
                                bookmark: revision,
                                revision: undelivered,
                                key: key.to_owned(),
                            });
                            told.insert((undelivered, key));
                        }
                    }
                    judged = judged.max(revision);
                    bookmark = bookmark.max(revision);
                    highest = highest.max(revision);
                }
                Delivered::Resumed(_) => {}
            }
        }
    })
}

/// Any two watches tell the same of a key at a revision.
#[must_use]
pub fn watchers_agree(history: &History) -> Vec<Violation> {
    let mut told: BTreeMap<(u64, &str), (u64, WatchEvent<'_>)> = BTreeMap::new();
    let watches = history.watches();
    let mut violations = Vec::new();
    for watch in &watches {
        for (_, event) in watch.segments.iter().flat_map(|segment| segment.events()) {
            let (first, other) = *told.entry((event.revision, event.key)).or_insert((watch.id, event));
            if other != event {
                violations.push(Violation::Disagree {
                    first,
                    second: watch.id,
                    revision: event.revision,
                    key: event.key.to_owned(),
                    by_first: format!("{} {:?}", name(other.change), other.value),
                    by_second: format!("{} {:?}", name(event.change), event.value),
                });
            }
        }
    }
    violations
}

fn name(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Modified => "modified",
        Change::Deleted => "deleted",
    }
}

fn each_segment(history: &History, judge: impl Fn(u64, &Segment<'_>, &mut Vec<Violation>)) -> Vec<Violation> {
    let mut violations = Vec::new();
    for watch in history.watches() {
        for segment in &watch.segments {
            judge(watch.id, segment, &mut violations);
        }
    }
    violations
}
