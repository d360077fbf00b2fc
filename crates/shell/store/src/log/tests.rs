//! The log as openraft uses it: its own suite for storages, and what a group of one never does but a larger one will.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, StorageError};
use trireme_mvcc::{Command, State};

use super::*;
use crate::disk::RealDisk;
use crate::machine::Machine;
use crate::replica::Replica;
use crate::types::{Proposal, log_id};

const SEGMENT: u64 = 128 << 10;

/// With the vote that entries of the terms here take for granted.
fn open(dir: &Path) -> Log {
    open_behind(dir, None)
}

fn open_behind(dir: &Path, snapshot: Option<LogId>) -> Log {
    let (mut votes, vote) = Record::<Vote>::open(&RealDisk, dir, VOTE, Absence::IsNew).unwrap();
    if vote.is_none() {
        votes.save(&Vote::new_committed(9, 1)).unwrap();
    }
    // Votes that were kept without a log would be a loss to a member that does not join.
    open_anyhow(dir, snapshot, true)
}

fn open_anyhow(dir: &Path, snapshot: Option<LogId>, joins: bool) -> Log {
    // The writer of a log that was dropped a moment ago gives its lock back when it ends.
    let lock = loop {
        match crate::disk::lock(&RealDisk, dir) {
            Err(OpenError::Locked { .. }) => std::thread::sleep(std::time::Duration::from_millis(5)),
            lock => break lock.unwrap(),
        }
    };
    Log::open(Opening {
        disk: Arc::new(RealDisk),
        dir,
        lock,
        segment_bytes: SEGMENT,
        snapshot,
        joins,
        inventory: Inventory::open(&RealDisk, dir, Absence::IsNew).unwrap(),
        absence: Absence::IsNew,
    })
    .unwrap()
}

struct Builder;

impl StoreBuilder<Group, Log, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Log, Machine), StorageError<Group>> {
        let dir = tempfile::tempdir().unwrap();
        let log = open_anyhow(dir.path(), None, false);
        let replica = Arc::new(Replica::new(State::new()));
        let machine = Machine::new(dir.path().to_owned(), 1, replica, log.clone(), None);
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn entry(term: u64, index: u64) -> Entry {
    let command = Command::Compact { revision: index };
    Entry::new(log_id(term, index), EntryPayload::Normal(Proposal::from(command)))
}

async fn indexes(log: &mut Log) -> Vec<(u64, u64)> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    entries
        .iter()
        .map(|entry| (entry.log_id.leader_id.term, entry.log_id.index))
        .collect()
}

/// Every length of the log, cut to every shorter one, written on from there, and opened again.
#[tokio::test]
async fn truncation_keeps_what_is_before_and_forgets_what_is_behind() {
    for keep in 0..12_u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        // Frames of three entries; applied or not, so that they are read from the disk or from memory.
        for first in [0, 3, 6, 9] {
            log.blocking_append((first..first + 3).map(|index| entry(1, index)))
                .await
                .unwrap();
        }
        log.applied(keep / 2 * 2);
        log.truncate_after(keep.checked_sub(1).map(|last| log_id(1, last)))
            .await
            .unwrap();
        let mut expected: Vec<_> = (0..keep).map(|index| (1, index)).collect();
        assert_eq!(indexes(&mut log).await, expected, "{keep}");
        log.blocking_append([entry(2, keep), entry(2, keep + 1)]).await.unwrap();
        expected.extend([(2, keep), (2, keep + 1)]);
        assert_eq!(indexes(&mut log).await, expected, "{keep}");
        log.close().await;
        drop(log);
        let mut log = open(dir.path());
        assert_eq!(indexes(&mut log).await, expected, "{keep}");
        assert_eq!(log.last(), Some(log_id(2, keep + 1)));
        log.close().await;
    }
}

fn large(index: u64) -> Entry {
    large_at(index, 30_000)
}

fn large_at(index: u64, length: usize) -> Entry {
    let write = trireme_mvcc::Write {
        key: Arc::from("/configmaps/d/a"),
        precondition: trireme_mvcc::Precondition::None,
        operation: trireme_mvcc::Operation::Delete {
            last: trireme_mvcc::Body {
                bytes: vec![7; length].into(),
                revision_at: 1,
            },
        },
    };
    let command = Command::Transaction {
        writes: vec![write],
        now_ms: 0,
        fence: None,
        guards: Vec::new(),
    };
    Entry::new(log_id(1, index), EntryPayload::Normal(Proposal::from(command)))
}

#[tokio::test]
async fn segments_are_cut_from_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for index in 0..30 {
        log.blocking_append([large(index)]).await.unwrap();
    }
    log.applied(30);
    log.purge(log_id(1, 9)).await.unwrap();
    log.truncate_after(Some(log_id(1, 17))).await.unwrap();
    let expected: Vec<_> = (10..18).map(|index| (1, index)).collect();
    assert_eq!(indexes(&mut log).await, expected);
    log.close().await;
    drop(log);
    // What is left of purged entries in the first segment may be seen again, but no more.
    let mut log = open_behind(dir.path(), Some(log_id(1, 9)));
    let found = indexes(&mut log).await;
    assert!(found.ends_with(&expected) && found.len() < 18, "{found:?}");
    // A snapshot from a peer that is ahead: the log goes on behind it.
    log.purge(log_id(3, 99)).await.unwrap();
    assert_eq!(indexes(&mut log).await, []);
    log.blocking_append([entry(3, 100)]).await.unwrap();
    log.close().await;
    drop(log);
    let mut log = open_behind(dir.path(), Some(log_id(3, 99)));
    assert_eq!(indexes(&mut log).await, [(3, 100)]);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(3, 99)));
    log.close().await;
}

/// A crash after the log was begun anew behind a peer's snapshot, and before the segments from before it were removed.
#[tokio::test]
async fn segments_from_before_a_peers_snapshot_may_have_stayed() {
    let (dir, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut log = open(dir.path());
    for index in 0..12 {
        log.blocking_append([large(index)]).await.unwrap();
    }
    let old = recover::segment_paths(&RealDisk, dir.path()).unwrap();
    assert!(old.len() > 2, "several segments");
    for path in &old {
        std::fs::copy(path, kept.path().join(path.file_name().unwrap())).unwrap();
    }
    log.purge(log_id(3, 99)).await.unwrap();
    log.blocking_append([entry(3, 100)]).await.unwrap();
    log.close().await;
    drop(log);
    // Removed from the oldest on: any number of them may be gone.
    for gone in 0..old.len() {
        for path in &old[gone..] {
            std::fs::copy(kept.path().join(path.file_name().unwrap()), path).unwrap();
        }
        let mut log = open_behind(dir.path(), Some(log_id(3, 99)));
        assert_eq!(indexes(&mut log).await, [(3, 100)], "{gone}");
        assert_eq!(log.last(), Some(log_id(3, 100)));
        assert_eq!(recover::segment_paths(&RealDisk, dir.path()).unwrap().len(), 1, "{gone}");
        log.close().await;
    }
    // But a gap that no snapshot closes is damage.
    for path in &old {
        std::fs::copy(kept.path().join(path.file_name().unwrap()), path).unwrap();
    }
    let refused = recover::recover(&RealDisk, dir.path(), None, Some(log_id(3, 98)));
    assert!(matches!(refused, Err(OpenError::Corrupt { .. })));
}

/// What is sent to a peer at once fits into what the peer admits at once, wherever it is read from; and all of it goes.
#[tokio::test]
async fn a_peer_is_sent_no_more_than_it_admits() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let (many, most) = (40_u64, log.shared.received.most as usize);
    for index in 0..many {
        // Some alone, some several in a frame.
        log.blocking_append([entry(1, 2 * index), large_at(2 * index + 1, 9_000)])
            .await
            .unwrap();
    }
    for applied in [0, 33, 2 * many] {
        log.applied(applied);
        let mut next = 0;
        while next < 2 * many {
            let entries = log.limited_get_log_entries(next, 2 * many).await.unwrap();
            let mut bytes = Vec::new();
            entries.iter().for_each(|entry| codec::encode(entry, &mut bytes));
            assert!(bytes.len() < most, "{} of {most} bytes at {next}", bytes.len());
            assert_eq!(entries.first().map(|entry| entry.log_id.index), Some(next));
            next += entries.len() as u64;
        }
    }
    // Changes of members count as much.
    let members: BTreeMap<u64, crate::Member> = (1..=9).map(|id| (id, crate::Member::default())).collect();
    let membership = openraft::Membership::new(vec![members.keys().copied().collect()], members).unwrap();
    let change = |index| Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Membership(membership.clone()),
    };
    let (first, behind) = (2 * many, 2 * many + 100);
    log.blocking_append((first..behind).map(change)).await.unwrap();
    let mut bytes = Vec::new();
    let entries = log.limited_get_log_entries(first, behind).await.unwrap();
    entries.iter().for_each(|entry| codec::encode(entry, &mut bytes));
    assert!(entries.len() > 1 && bytes.len() < most, "{} of {most} bytes", bytes.len());
    // One that is as large as a proposal may be goes alone.
    let many = behind / 2;
    let largest = log.shared.proposed.most as usize - 200;
    log.blocking_append([large_at(2 * many, largest), entry(1, 2 * many + 1)])
        .await
        .unwrap();
    let entries = log.limited_get_log_entries(2 * many, 2 * many + 2).await.unwrap();
    assert_eq!(entries.len(), 1);
    let mut bytes = Vec::new();
    codec::encode(&entries[0], &mut bytes);
    drop(log.admit_append(bytes.len() + 300).await.unwrap());
    log.close().await;
}

/// What a deposed leader could not commit keeps no room from its successor's appends.
#[tokio::test]
async fn proposals_take_no_room_from_appends() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut held = Vec::new();
    let command = Command::Compact { revision: 1 };
    while let Ok(room) = tokio::time::timeout(std::time::Duration::from_millis(50), log.admit(&command)).await {
        held.push(room.unwrap());
    }
    assert!(held.len() > 10);
    drop(log.admit_append(10_000).await.unwrap());
    log.close().await;
}
