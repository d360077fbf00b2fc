//! Files of a store that are gone or empty: absence is never taken for a new beginning, and never for less than there was.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trireme_store::{Member, OpenError, RaftStore, Start, Store, StoreConfig};

use crate::common::{alone, open, small, value, write};

/// What a store can do without: it is made anew with nothing lost.
const DISPENSABLE: [&str; 3] = ["lock", "spare", "reserve"];

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for path in files(from) {
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// A file with its checksum behind it, as the store writes small ones.
fn checked(content: &str) -> Vec<u8> {
    let mut bytes = content.as_bytes().to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(content.as_bytes()).to_le_bytes());
    bytes
}

/// A store with a snapshot and several segments.
async fn used(dir: &Path) -> (u64, Arc<RaftStore>) {
    let store = open(small(dir)).await.unwrap();
    let mut revision = 0;
    while !files(dir)
        .iter()
        .any(|path| name(path).starts_with("snapshot-") && !name(path).ends_with(".new"))
    {
        for index in 0..50 {
            revision = write(&*store, &format!("k{index}"), &"v".repeat(2000)).await.unwrap();
        }
    }
    (revision, store)
}

/// Opens what a deed was done to, and expects that the file is named and nothing was made in its place.
async fn refused(config: StoreConfig, file: &str) {
    let dir = config.data_dir.clone();
    let before: Vec<(PathBuf, u64)> = files(&dir)
        .into_iter()
        .map(|path| (path.clone(), fs::metadata(path).unwrap().len()))
        .collect();
    let error = RaftStore::open(config).await.expect_err(file);
    let (OpenError::Missing { path, .. } | OpenError::Corrupt { path, .. }) = &error else {
        panic!("{file}: {error}");
    };
    assert_eq!(name(path), file, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("restore the data directory from a backup") && text.lines().count() == 1,
        "{text}"
    );
    let after: Vec<(PathBuf, u64)> = files(&dir)
        .into_iter()
        .map(|path| (path.clone(), fs::metadata(path).unwrap().len()))
        .collect();
    assert_eq!(before, after, "{file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_file_is_removed_or_emptied_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (revision, store) = used(dir.path()).await;
    store.shutdown().await;
    let all = files(dir.path());
    let kinds = ["inventory", "log-", "member", "snapshot-", "vote"];
    assert!(
        kinds.iter().all(|kind| all.iter().any(|path| name(path).starts_with(kind))),
        "{all:?}"
    );
    assert!(
        all.iter().filter(|path| name(path).starts_with("log-")).count() > 1,
        "{all:?}"
    );
    let newest = all.iter().rposition(|path| name(path).starts_with("log-"));
    for (index, path) in all.iter().enumerate() {
        let file = name(path);
        for removed in [true, false] {
            let hit = copy(dir.path());
            let path = hit.path().join(file);
            if removed {
                fs::remove_file(&path).unwrap();
            } else {
                fs::write(&path, b"").unwrap();
            }
            if DISPENSABLE.contains(&file) {
                let store = open(small(hit.path())).await.unwrap();
                assert_eq!(store.revision(), revision, "{file}");
                store.shutdown().await;
            } else if removed && file.starts_with("log-") && Some(index) != newest {
                // What the snapshot includes nobody needs, and it goes by itself one day. Else named is the one behind the gap,
                // or the directory where the gap is at the beginning.
                match open(small(hit.path())).await {
                    Ok(store) => {
                        assert_eq!(store.revision(), revision, "{file}");
                        store.shutdown().await;
                    }
                    Err(OpenError::Corrupt { path, .. }) => assert!(path.starts_with(hit.path()), "{file}: {path:?}"),
                    Err(error) => panic!("{file}: {error}"),
                }
            } else {
                refused(small(hit.path()), file).await;
            }
        }
    }
    // The vote's room is there, but zeros.
    let hit = copy(dir.path());
    fs::write(hit.path().join("vote"), vec![0; 8192]).unwrap();
    refused(small(hit.path()), "vote").await;
    // An old newest segment in place of all: what was acknowledged after it is missed.
    let hit = copy(dir.path());
    for path in files(hit.path()).iter().filter(|path| name(path).starts_with("log-")).skip(1) {
        fs::remove_file(path).unwrap();
    }
    refused(small(hit.path()), name(&all[newest.unwrap()])).await;
    // And the whole of it, where it is known that there was one.
    let gone = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        established: true,
        ..small(gone.path())
    };
    refused(config, "member").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joined_misses_its_files_too() {
    let dir = tempfile::tempdir().unwrap();
    let config = |dir: &Path| StoreConfig {
        start: Start::Join(Member {
            id: 7,
            ..Member::default()
        }),
        ..small(dir)
    };
    // Without anybody that it could join it has an empty log, and never voted.
    RaftStore::open(config(dir.path())).await.unwrap().shutdown().await;
    let all = files(dir.path());
    assert_eq!(
        all.iter()
            .map(|path| name(path))
            .filter(|file| !DISPENSABLE.contains(file))
            .count(),
        4,
        "{all:?}"
    );
    for file in all.iter().map(|path| name(path)).filter(|file| !DISPENSABLE.contains(file)) {
        for removed in [true, false] {
            let hit = copy(dir.path());
            if removed {
                fs::remove_file(hit.path().join(file)).unwrap();
            } else {
                fs::write(hit.path().join(file), b"").unwrap();
            }
            refused(config(hit.path()), file).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_from_before_there_was_an_inventory_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let (revision, store) = used(dir.path()).await;
    store.shutdown().await;
    fs::remove_file(dir.path().join("inventory")).unwrap();
    fs::write(dir.path().join("member"), checked("1")).unwrap();
    // What can be told without one is told: the log is of a term that was never voted in.
    for emptied in [Some(0), Some(8192), None] {
        let hit = copy(dir.path());
        match emptied {
            Some(length) => fs::write(hit.path().join("vote"), vec![0; length]).unwrap(),
            None => fs::remove_file(hit.path().join("vote")).unwrap(),
        }
        let error = RaftStore::open(small(hit.path())).await.expect_err("it would never lead");
        assert!(
            matches!(&error, OpenError::Missing { path, .. } if name(path) == "vote"),
            "{error}"
        );
    }
    let store = open(small(dir.path())).await.unwrap();
    assert_eq!(store.revision(), revision);
    store.shutdown().await;
    assert_eq!(fs::read(dir.path().join("member")).unwrap(), checked("1 complete"));
    for file in ["inventory", "vote"] {
        let hit = copy(dir.path());
        fs::remove_file(hit.path().join(file)).unwrap();
        refused(small(hit.path()), file).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_was_cut_goes_on_wherever_it_was_cut() {
    let whole = tempfile::tempdir().unwrap();
    open(small(whole.path())).await.unwrap().shutdown().await;
    let log = "log-00000000000000000000";
    let half = |file: &str, length: usize| (file.to_owned(), vec![0; length]);
    let as_it_was = |file: &str| (file.to_owned(), fs::read(whole.path().join(file)).unwrap());
    let begun = ("member".to_owned(), checked("1"));
    let cuts: Vec<Vec<(String, Vec<u8>)>> = vec![
        vec![],
        vec![("member.new".to_owned(), b"1".to_vec())],
        vec![begun.clone()],
        vec![begun.clone(), half("inventory", 0)],
        vec![begun.clone(), half("inventory", 4096)],
        vec![begun.clone(), half("inventory", 8192), half("vote", 0)],
        vec![begun.clone(), half("inventory", 8192), half("vote", 5000)],
        vec![
            begun.clone(),
            half("inventory", 8192),
            half("vote", 8192),
            half("spare", 1000),
        ],
        vec![begun.clone(), half("inventory", 8192), half("vote", 8192), as_it_was("spare")],
        // The log has its first entries, which say who is a member.
        vec![begun.clone(), as_it_was("inventory"), as_it_was("vote"), as_it_was(log)],
    ];
    for (number, cut) in cuts.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in cut {
            fs::write(dir.path().join(file), content).unwrap();
        }
        let store = open(small(dir.path()))
            .await
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        write(&*store, "a", "1").await.unwrap();
        store.shutdown().await;
        let store = open(small(dir.path())).await.unwrap();
        assert_eq!(value(&*store, "a").as_deref(), Some("1"), "{number}");
        store.shutdown().await;
        assert_eq!(
            fs::read(dir.path().join("member")).unwrap(),
            checked("1 complete"),
            "{number}"
        );
    }
    // Another member's, begun or complete, stays another member's.
    for text in ["2", "2 complete"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("member"), checked(text)).unwrap();
        let error = RaftStore::open(StoreConfig::new(dir.path(), alone(1))).await.unwrap_err();
        assert!(
            matches!(error, OpenError::Member { found: 2, wanted: 1, .. }),
            "{text}: {error}"
        );
    }
}
