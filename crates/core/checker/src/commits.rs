//! The union of all commits that anybody knows of: from acknowledgements, reads, watches and listings.
//!
//! Invariant: only what certainly happened is in it. An acknowledged change, or a version that somebody was shown.

use std::collections::BTreeMap;

use crate::history::History;
use crate::record::{Change, Outcome, Seen};

/// One change that certainly happened.
#[derive(Clone, Debug)]
pub(crate) struct Commit<'a> {
    /// `None` for a deletion.
    pub(crate) value: Option<&'a str>,
    /// The first that told of it.
    pub(crate) source: Source<'a>,
}

/// Who told of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// An operation, by its place in the history.
    Acknowledged(&'a crate::Operation),
    Read(&'a crate::Operation),
    Watch {
        watch: u64,
        server: &'a str,
    },
    Listing {
        server: &'a str,
        revision: u64,
    },
}

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Acknowledged(operation) | Self::Read(operation) => write!(f, "{operation}"),
            Self::Watch { watch, server } => write!(f, "watch {watch} at {server}"),
            Self::Listing { server, revision } => write!(f, "the listing of {server} at revision {revision}"),
        }
    }
}

/// One thing that somebody was told: at this revision, this key got this value.
pub(crate) struct Told<'a> {
    pub(crate) revision: u64,
    pub(crate) key: &'a str,
    pub(crate) value: Option<&'a str>,
    pub(crate) source: Source<'a>,
}

/// Everything that was told, acknowledgements first.
pub(crate) fn told(history: &History) -> Vec<Told<'_>> {
    let mut all = Vec::new();
    let mut reads = Vec::new();
    for operation in &history.operations {
        let seen = match &operation.outcome {
            Outcome::Applied { revision } if operation.kind.changes() => {
                all.push(Told {
                    revision: *revision,
                    key: &operation.key,
                    value: operation.kind.value(),
                    source: Source::Acknowledged(operation),
                });
                continue;
            }
            Outcome::Saw(seen) | Outcome::Refused { seen: Some(seen) } => seen,
            _ => continue,
        };
        if let Seen::Present { value, revision } = seen {
            reads.push(Told {
                revision: *revision,
                key: &operation.key,
                value: Some(value),
                source: Source::Read(operation),
            });
        }
    }
    all.append(&mut reads);
    for watch in history.watches() {
        for (server, event) in watch.segments.iter().flat_map(|segment| segment.events()) {
            all.push(Told {
                revision: event.revision,
                key: event.key,
                value: (event.change != Change::Deleted).then_some(event.value),
                source: Source::Watch { watch: watch.id, server },
            });
        }
    }
    for listing in &history.listings {
        for (key, (value, revision)) in &listing.objects {
            let server = &listing.server;
            all.push(Told {
                revision: *revision,
                key,
                value: Some(value),
                source: Source::Listing {
                    server,
                    revision: listing.revision,
                },
            });
        }
    }
    all
}

/// All known commits, by revision and by key.
pub(crate) struct Commits<'a> {
    pub(crate) by_revision: BTreeMap<(u64, &'a str), Commit<'a>>,
    pub(crate) by_key: BTreeMap<&'a str, BTreeMap<u64, Commit<'a>>>,
}

impl<'a> Commits<'a> {
    pub(crate) fn of(history: &'a History) -> Self {
        let mut by_revision = BTreeMap::new();
        let mut by_key: BTreeMap<&str, BTreeMap<u64, Commit<'_>>> = BTreeMap::new();
        for Told {
            revision,
            key,
            value,
            source,
        } in told(history)
        {
            let commit = Commit { value, source };
            by_key
                .entry(key)
                .or_default()
                .entry(revision)
                .or_insert_with(|| commit.clone());
            by_revision.entry((revision, key)).or_insert(commit);
        }
        Self { by_revision, by_key }
    }

    /// Commits of keys of a prefix, after one revision and up to another.
    pub(crate) fn between<'s>(
        &'s self,
        prefix: &'s str,
        after: u64,
        through: u64,
    ) -> impl Iterator<Item = (u64, &'a str, &'s Commit<'a>)> + 's {
        let range = (after.saturating_add(1), "")..(through.max(after).saturating_add(1), "");
        self.by_revision
            .range(range)
            .filter(move |((_, key), _)| key.starts_with(prefix))
            .map(|((revision, key), commit)| (*revision, *key, commit))
    }
}
