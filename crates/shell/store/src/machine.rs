//! openraft's state machine: applies what was committed to the replica, and hands out snapshots that were already written.
//!
//! Invariant: the applied log id and the state move together, under one lock, so that a snapshot is of one point. Writing
//! snapshots is the store's upkeep, not openraft's: a full disk must not stop consensus.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, Snapshot};
use parking_lot::Mutex;
use tokio::sync::watch;
use trireme_mvcc::Applied;

use crate::disk::blocking;
use crate::log::{Log, next_index};
use crate::replica::Replica;
use crate::snapshot::{self, SnapshotFile};
use crate::types::{Answer, Group, LogId, SnapshotMeta, StoredMembership};

/// How many entries are applied under one lock at most.
const BATCH_MAX: usize = 64;

/// The state machine; clones share it.
#[derive(Clone)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    /// This server.
    me: u64,
    standing: watch::Sender<Standing>,
    /// How many files for snapshots were begun: each has a name of its own.
    begun: AtomicU64,
    replica: Arc<Replica>,
    log: Log,
    applied: Mutex<Position>,
    snapshot: Mutex<Option<SnapshotFile>>,
}

/// Whether this server is a member, by what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It never was, as far as is known here.
    Stranger,
    /// Members that were made by this entry of the log include it.
    Member {
        /// Term and index of the entry.
        by: (u64, u64),
    },
    /// It was, and is no more; nor will it ever be, because ids are not used again.
    Removed,
}

impl Standing {
    fn after(self, membership: &StoredMembership, me: u64) -> Self {
        let included = membership.nodes().any(|(id, _)| *id == me);
        match self {
            Self::Removed => Self::Removed,
            _ if included => Self::Member {
                by: membership.log_id().as_ref().map_or((0, 0), parts),
            },
            Self::Member { .. } => Self::Removed,
            Self::Stranger => Self::Stranger,
        }
    }
}

/// Term and index of an entry. What is committed is ordered by them, and comes after everything with lower ones that is not.
pub(crate) fn parts(id: &LogId) -> (u64, u64) {
    (id.leader_id.term, id.index)
}

/// Up to where the log was applied.
#[derive(Clone, Default)]
struct Position {
    last: Option<LogId>,
    membership: StoredMembership,
}

impl Machine {
    /// The machine of a server, over a replica whose state is that of the snapshot, or empty where there is none.
    pub(crate) fn new(dir: PathBuf, me: u64, replica: Arc<Replica>, log: Log, snapshot: Option<SnapshotFile>) -> Self {
        let applied = snapshot.as_ref().map_or_else(Position::default, |snapshot| Position {
            last: snapshot.meta.last_log_id,
            membership: snapshot.meta.last_membership.clone(),
        });
        log.applied(next_index(applied.last));
        Self {
            shared: Arc::new(Shared {
                dir,
                me,
                standing: watch::Sender::new(Standing::Stranger.after(&applied.membership, me)),
                begun: AtomicU64::new(0),
                replica,
                log,
                applied: Mutex::new(applied),
                snapshot: Mutex::new(snapshot),
            }),
        }
    }

    /// Looks at the state, and tells term and index of the entry that it is at.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&trireme_mvcc::State) -> T) -> ((u64, u64), T) {
        let position = self.shared.applied.lock();
        let at = position.last.map_or((0, 0), |last| (last.leader_id.term, last.index));
        (at, self.shared.replica.with(look))
    }

    /// Whether this server is a member.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// Notes that this server was removed, as others say or it was known before.
    pub(crate) fn removed(&self) {
        self.shared.standing.send_replace(Standing::Removed);
    }

    /// Term and index of the entry that made the members that are committed, where a server is not one of them.
    pub(crate) fn members_without(&self, server: u64) -> Option<(u64, u64)> {
        let position = self.shared.applied.lock();
        let members = &position.membership;
        let by = members.log_id().as_ref().map(parts)?;
        (!members.nodes().any(|(id, _)| *id == server)).then_some(by)
    }

    fn note(&self, membership: &StoredMembership) {
        self.shared.standing.send_if_modified(|standing| {
            let before = *standing;
            *standing = before.after(membership, self.shared.me);
            *standing != before
        });
    }

    /// A path for a snapshot that is not whole yet. A restart removes it.
    pub(crate) fn unfinished(&self) -> PathBuf {
        let number = self.shared.begun.fetch_add(1, Ordering::Relaxed);
        self.shared.dir.join(format!("snapshot-{number}.new"))
    }

    /// Gives a whole and flushed snapshot its name, unless one that is as new is there already.
    fn adopt(&self, file: SnapshotFile) -> io::Result<SnapshotFile> {
        let disk = &**self.shared.log.disk();
        // Held meanwhile: an older snapshot that is written at the same time must not take a newer one's place.
        let mut current = self.shared.snapshot.lock();
        if let Some(newer) = current
            .as_ref()
            .filter(|newer| newer.meta.last_log_id >= file.meta.last_log_id)
        {
            disk.remove(&file.path)?;
            return Ok(newer.clone());
        }
        let file = snapshot::adopt(disk, &self.shared.dir, self.shared.log.inventory(), file)?;
        *current = Some(file.clone());
        Ok(file)
    }

    /// The index behind the last entry that the snapshot on disk includes.
    pub(crate) fn snapshot_next(&self) -> u64 {
        next_index(
            self.shared
                .snapshot
                .lock()
                .as_ref()
                .and_then(|snapshot| snapshot.meta.last_log_id),
        )
    }

    /// Writes a snapshot of what is applied now. Blocks on the disk, but holds up no write.
    pub(crate) fn write_snapshot(&self) -> io::Result<SnapshotFile> {
        let (meta, frozen) = {
            let position = self.shared.applied.lock();
            let meta = SnapshotMeta {
                last_log_id: position.last,
                last_membership: position.membership.clone(),
            };
            (meta, self.shared.replica.with(trireme_mvcc::State::freeze))
        };
        let file = snapshot::write(&**self.shared.log.disk(), self.unfinished(), meta, &frozen)?;
        self.adopt(file)
    }

    fn apply_batch(&self, batch: &mut Vec<EntryResponder<Group>>) {
        let mut position = self.shared.applied.lock();
        let commands = batch.iter().filter_map(|(entry, _)| match &entry.payload {
            EntryPayload::Normal(proposal) => Some((&*proposal.command, entry.log_id.leader_id.term)),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        });
        let mut answers = self.shared.replica.apply(commands).into_iter();
        for (entry, responder) in batch.drain(..) {
            position.last = Some(entry.log_id);
            let applied = match entry.payload {
                EntryPayload::Normal(_) => answers.next().expect("each command has an answer"),
                EntryPayload::Blank => Applied::Done,
                EntryPayload::Membership(membership) => {
                    position.membership = StoredMembership::new(Some(entry.log_id), membership);
                    self.note(&position.membership);
                    Applied::Done
                }
            };
            if let Some(responder) = responder {
                responder.send(Answer(applied));
            }
        }
        self.shared.log.applied(next_index(position.last));
    }
}

impl RaftStateMachine<Group> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let position = self.shared.applied.lock().clone();
        Ok((position.last, position.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Group>>> + Unpin + Send,
    {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while let Some(entry) = entries.next().await {
            batch.push(entry?);
            if batch.len() == BATCH_MAX {
                self.apply_batch(&mut batch);
            }
        }
        if !batch.is_empty() {
            self.apply_batch(&mut batch);
        }
        Ok(())
    }

    /// Hands out what upkeep has written, or defers; writes one only where a peer needs it now.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if force {
            return Some(Builder::Write(self.clone()));
        }
        self.shared.snapshot.lock().clone().map(Builder::Ready)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder::Write(self.clone())
    }

    /// Takes over a snapshot that a peer sent: its file gets its name first, so that a crash finds it whole or not at all.
    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let disk = Arc::clone(self.shared.log.disk());
        let (ours, machine) = (Arc::clone(&disk), self.clone());
        let load = blocking(&*disk, move || {
            let (_, state) = snapshot::load(&*ours, snapshot.path.clone()).map_err(io::Error::other)?;
            let file = machine.adopt(snapshot)?;
            Ok::<_, io::Error>((file, state))
        });
        let (file, state) = load.await??;
        let mut position = self.shared.applied.lock();
        position.last = file.meta.last_log_id;
        position.membership = file.meta.last_membership.clone();
        self.shared.replica.replace(state);
        self.note(&position.membership);
        self.shared.log.applied(next_index(position.last));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<openraft::alias::SnapshotOf<Group, SnapshotFile>>> {
        let snapshot = self.shared.snapshot.lock().clone();
        Ok(snapshot.map(|snapshot| Snapshot {
            meta: snapshot.meta.clone(),
            snapshot,
        }))
    }
}

/// Where openraft's next snapshot comes from.
pub(crate) enum Builder {
    /// From upkeep, which has written it.
    Ready(SnapshotFile),
    /// From this machine, written when asked.
    Write(Machine),
}

impl RaftSnapshotBuilder<Group> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<openraft::alias::SnapshotOf<Group, SnapshotFile>> {
        let snapshot = match self {
            Self::Ready(snapshot) => snapshot.clone(),
            Self::Write(machine) => {
                let machine = machine.clone();
                let disk = Arc::clone(machine.shared.log.disk());
                blocking(&*disk, move || machine.write_snapshot()).await??
            }
        };
        Ok(Snapshot {
            meta: snapshot.meta.clone(),
            snapshot,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use trireme_mvcc::State;

    use super::*;
    use crate::disk::{RealDisk, lock};
    use crate::inventory::Inventory;
    use crate::log::Opening;
    use crate::record::Absence;
    use crate::types::log_id;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("snapshot"))
            .collect();
        names.sort();
        names
    }

    /// A snapshot from a peer may come while an older one is still being written here.
    #[tokio::test]
    async fn an_older_snapshot_never_takes_a_newer_ones_place() {
        let dir = tempfile::tempdir().unwrap();
        let lock = lock(&RealDisk, dir.path()).unwrap();
        let inventory = Inventory::open(&RealDisk, dir.path(), Absence::IsNew).unwrap();
        let log = Log::open(Opening {
            disk: Arc::new(RealDisk),
            dir: dir.path(),
            lock,
            segment_bytes: 128 << 10,
            snapshot: None,
            joins: false,
            inventory,
            absence: Absence::IsNew,
        })
        .unwrap();
        let replica = Arc::new(Replica::new(State::new()));
        let machine = Machine::new(dir.path().to_owned(), 1, replica, log.clone(), None);
        let written = |index: u64| {
            let meta = SnapshotMeta {
                last_log_id: Some(log_id(1, index)),
                ..SnapshotMeta::default()
            };
            snapshot::write(&RealDisk, machine.unfinished(), meta, &State::new().freeze()).unwrap()
        };
        let (older, newer) = (written(5), written(9));
        assert_ne!(older.path, newer.path);
        machine.adopt(newer).unwrap();
        assert_eq!(machine.adopt(older).unwrap().meta.last_log_id, Some(log_id(1, 9)));
        assert_eq!(names(dir.path()), ["snapshot-00000000000000000009"]);
        machine.adopt(written(12)).unwrap();
        assert_eq!(names(dir.path()), ["snapshot-00000000000000000012"]);
        log.close().await;
    }
}
