//! What a store holds when it is opened again, after an orderly end, a sudden one, and damage to its files.

use std::fs;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use trireme_store::{OpenError, RaftStore, Store, StoreConfig, WriteError};

use crate::common::{open, put, small, value, write};

/// Stores that are tried at one time.
const AT_ONCE: usize = 16;

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-"))
        .collect();
    paths.sort();
    paths
}

/// Ends of the frames of a segment, by their magic; the first number is where the first begins.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut offsets: Vec<usize> = (64..bytes.len())
        .step_by(32)
        .filter(|at| bytes[*at..].starts_with(b"TRFR"))
        .collect();
    let last = *offsets.last().unwrap();
    let length = u32::from_le_bytes(bytes[last + 4..last + 8].try_into().unwrap()) as usize;
    offsets.push((last + 32 + length + 1).next_multiple_of(32));
    offsets
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_there_after_a_shutdown_and_after_a_drop() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(small(dir.path())).await.unwrap();
    assert_eq!(store.revision(), 1);
    assert_eq!(write(&*store, "a", "1").await.unwrap(), 2);
    store.shutdown().await;
    assert!(matches!(store.commit(put("a", "2")).await, Err(WriteError::Unavailable)));
    assert!(matches!(store.barrier().await, Err(WriteError::Unavailable)));
    assert_eq!(value(&*store, "a").as_deref(), Some("1"));

    // The store that was shut down may still be held; its directory is free.
    let again = RaftStore::open(small(dir.path())).await.unwrap();
    assert_eq!((again.revision(), value(&*again, "a").as_deref()), (2, Some("1")));
    assert_eq!(write(&*again, "b", "2").await.unwrap(), 3);
    drop(again);

    let third = open(small(dir.path())).await.unwrap();
    assert_eq!((third.revision(), value(&*third, "b").as_deref()), (3, Some("2")));
    assert_eq!(third.barrier().await.unwrap(), 3);
    // History comes back with the log: a client may go on watching where it was.
    let mut watch = third.watch("/configmaps/", 1).unwrap();
    let events = watch.next().await.unwrap();
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_process_and_one_member() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(small(dir.path())).await.unwrap();
    let error = RaftStore::open(small(dir.path())).await.unwrap_err();
    assert!(matches!(&error, OpenError::Locked { path } if path == dir.path()), "{error}");
    store.shutdown().await;
    let error = RaftStore::open(StoreConfig::new(dir.path(), crate::common::alone(2)))
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Member { found: 1, wanted: 2, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_wherever_it_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(small(dir.path())).await.unwrap();
    for name in ["a", "b", "c"] {
        write(&*store, name, "1").await.unwrap();
    }
    store.shutdown().await;
    let [segment] = &segments(dir.path())[..] else {
        panic!("three small writes fit one segment")
    };
    let whole = fs::read(segment).unwrap();
    let ends = frames(&whole);
    let (from, to) = (ends[ends.len() - 2], ends[ends.len() - 1]);
    let trailer = (from..to).rev().find(|at| whole[*at] != 0).unwrap();
    let name = segment.file_name().unwrap();
    // Cut off as a file, or left as zeros behind the point as preallocated blocks are. Many at a time: each mostly waits for
    // the disk.
    let cases = (from..=trailer).flat_map(|at| [(at, false), (at, true)]);
    let tried = futures::stream::iter(cases).map(|(at, zeros)| {
        let torn = tempfile::tempdir().unwrap();
        copy(dir.path(), torn.path());
        let mut bytes = whole[..at].to_vec();
        if zeros {
            bytes.resize(whole.len(), 0);
        }
        fs::write(torn.path().join(name), bytes).unwrap();
        async move {
            let store = open(small(torn.path()))
                .await
                .unwrap_or_else(|error| panic!("torn at {at}, {zeros}: {error}"));
            assert_eq!(
                (store.revision(), value(&*store, "b").as_deref()),
                (3, Some("1")),
                "torn at {at}"
            );
            assert_eq!(value(&*store, "c"), None);
            // It goes on, and what it goes on with lasts.
            assert_eq!(write(&*store, "d", "2").await.unwrap(), 4);
            store.shutdown().await;
            let store = open(small(torn.path())).await.unwrap();
            assert_eq!((store.revision(), value(&*store, "d").as_deref()), (4, Some("2")));
            store.shutdown().await;
        }
    });
    assert_eq!(tried.buffer_unordered(AT_ONCE).count().await, 2 * (trailer - from + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_refuses_to_open_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(small(dir.path())).await.unwrap();
    for index in 0..700 {
        write(&*store, &format!("k{index}"), &"v".repeat(400)).await.unwrap();
    }
    store.shutdown().await;
    let paths = segments(dir.path());
    assert!(paths.len() >= 2, "the log has several segments");
    for (path, what) in [(&paths[0], "first"), (paths.last().unwrap(), "last")] {
        let whole = fs::read(path).unwrap();
        let ends = frames(&whole);
        // The head, frames at the beginning, in the middle, and the very last (its whole frame was acknowledged).
        for frame in [None, Some(0), Some(ends.len() / 2), Some(ends.len() - 2)] {
            let start = frame.map_or(0, |frame| ends[frame]);
            for at in [start + 3, start + 9, start + 29, start + 60] {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                fs::write(path, bytes).unwrap();
                let error = RaftStore::open(small(dir.path())).await.unwrap_err();
                match &error {
                    OpenError::Corrupt { path: named, offset, .. } => {
                        assert_eq!((named, *offset), (path, start as u64), "{what} {frame:?} {at}");
                        assert!(error.to_string().contains("restore the data directory from a backup"));
                    }
                    other => panic!("{what} {frame:?} {at}: {other}"),
                }
            }
        }
        fs::write(path, &whole).unwrap();
    }
    // A missing segment in the middle is damage too.
    let away = dir.path().join("away");
    fs::rename(&paths[0], &away).unwrap();
    let error = open(small(dir.path())).await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Corrupt { path, .. } if path == dir.path()),
        "{error}"
    );
    fs::rename(&away, &paths[0]).unwrap();
    let store = open(small(dir.path())).await.unwrap();
    assert_eq!(store.revision(), 701);
    store.shutdown().await;
    // And a log that is gone altogether is not an empty store.
    for path in segments(dir.path()) {
        fs::remove_file(path).unwrap();
    }
    let error = open(small(dir.path())).await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Missing { path, .. } if path == paths.last().unwrap()),
        "{error}"
    );
    assert_eq!(segments(dir.path()).len(), 0, "a refused start makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_take_over_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(small(dir.path())).await.unwrap();
    let snapshot = || {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.to_str().unwrap().contains("snapshot-"))
    };
    let mut revision = 1;
    while snapshot().is_none() || fs::exists(dir.path().join("log-00000000000000000000")).unwrap() {
        for index in 0..100 {
            revision = write(&*store, &format!("k{index}"), &format!("{revision}{}", "v".repeat(2000)))
                .await
                .unwrap();
        }
    }
    let last = value(&*store, "k99").unwrap();
    store.shutdown().await;

    let store = open(small(dir.path())).await.unwrap();
    assert_eq!((store.revision(), value(&*store, "k99").unwrap()), (revision, last));
    assert_eq!(store.range("/configmaps/", None, None, None).unwrap().items.len(), 100);
    // What the snapshot did not keep is said to be gone.
    assert!(store.watch("/configmaps/", 2).is_err());
    store.shutdown().await;

    let path = snapshot().unwrap();
    let whole = fs::read(&path).unwrap();
    for at in [0, 20, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = RaftStore::open(small(dir.path())).await.unwrap_err();
        assert!(
            matches!(&error, OpenError::Corrupt { path: named, .. } if *named == path),
            "{at}: {error}"
        );
    }
    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    assert!(matches!(
        RaftStore::open(small(dir.path())).await,
        Err(OpenError::Corrupt { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writes_share_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(small(dir.path())).await.unwrap();
    let before = store.statistics();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move {
                for index in 0..20 {
                    write(&*store, &format!("t{task}-{index}"), "v").await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let after = store.statistics();
    assert_eq!(after.revision, before.revision + 1280);
    let flushes = after.log_flushes - before.log_flushes;
    assert!(flushes < 1280 / 2, "{flushes} flushes for 1280 writes of 64 at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_unfinished_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(small(dir.path())).await.unwrap();
    write(&*store, "a", "1").await.unwrap();
    store.shutdown().await;
    drop(store);
    let left = ["snapshot-3.new", "received-102.new", "member.new"].map(|name| dir.path().join(name));
    for path in &left {
        fs::write(path, b"half of something").unwrap();
    }
    let store = open(small(dir.path())).await.unwrap();
    assert_eq!(value(&*store, "a").as_deref(), Some("1"));
    assert!(left.iter().all(|path| !path.exists()));
    store.shutdown().await;
}
