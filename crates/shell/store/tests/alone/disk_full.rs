//! A full disk: writes are refused with a reason, reads go on, nothing acknowledged is lost, and freeing space mends it.

use std::fs::File;
use std::io::Write as _;

use trireme_store::{OpenError, RaftStore, Store, StoreConfig, WriteError};

use crate::common::{open, small, value, write};
use crate::host::{Mounted, in_own_mounts};

fn fill(path: &std::path::Path) {
    let mut file = File::create(path).unwrap();
    let block = vec![1; 4096];
    while file.write_all(&block).is_ok() {}
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space_again() {
    in_own_mounts(async {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Mounted::tmpfs(dir.path(), 4 << 20);
        let data = dir.path().join("data");
        let mut config = small(&data);
        config.snapshot_log_bytes = 512 << 10;
        let store = open(config.clone()).await.unwrap();
        let mut acknowledged = 0;
        for round in 0..3 {
            let ballast = dir.path().join("ballast");
            fill(&ballast);
            let refused = loop {
                match write(&*store, &format!("k{acknowledged}"), &"v".repeat(3000)).await {
                    Ok(_) => acknowledged += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, WriteError::Disk(_)), "round {round}: {refused}");
            assert!(matches!(store.has_room().await, Err(WriteError::Disk(_))), "round {round}");
            // Also many at once, and again.
            let tasks: Vec<_> = (0..32)
                .map(|_| {
                    let store = store.clone();
                    tokio::spawn(async move { write(&*store, "refused", "v").await })
                })
                .collect();
            for task in tasks {
                assert!(matches!(task.await.unwrap(), Err(WriteError::Disk(_))));
            }
            assert_eq!(value(&*store, "refused"), None);
            assert!(value(&*store, &format!("k{}", acknowledged - 1)).is_some());
            assert!(store.barrier().await.is_ok());

            // It opens on a full disk, too, and reads.
            std::fs::remove_file(&ballast).unwrap();
            write(&*store, &format!("k{acknowledged}"), "v")
                .await
                .expect("space was freed");
            assert!(store.has_room().await.is_ok(), "round {round}");
            acknowledged += 1;
        }
        store.shutdown().await;
        drop(store);

        fill(&dir.path().join("ballast"));
        let store = open(config.clone()).await.expect("a full disk can be read");
        for index in 0..acknowledged {
            assert!(value(&*store, &format!("k{index}")).is_some(), "k{index} of {acknowledged}");
        }
        store.shutdown().await;
        let error = RaftStore::open(StoreConfig::new(dir.path().join("other"), crate::common::alone(1)))
            .await
            .unwrap_err();
        assert!(matches!(error, OpenError::Full { .. }), "{error}");
        drop(store);
        mounted.unmount();
    });
}
