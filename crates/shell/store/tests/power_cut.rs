//! A power cut while many write: what was acknowledged is there afterwards, and no revision is given twice.

mod common;
#[path = "common/host.rs"]
mod host;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::{key, open, small, write};
use host::{Mounted, cut_power, in_own_mounts, make_ext4};
use parking_lot::Mutex;
use trireme_store::{RaftStore, Store, WriteError};

const ROUNDS: u64 = 5;
const WRITERS: usize = 16;

/// Writes until the store fails; notes what was acknowledged.
async fn write_on(store: Arc<RaftStore>, writer: usize, round: u64, acknowledged: Arc<Mutex<Vec<(String, u64)>>>) {
    for index in 0.. {
        let name = format!("r{round}-w{writer}-{index}");
        match write(&*store, &name, &"v".repeat(index % 3000)).await {
            Ok(revision) => acknowledged.lock().push((name, revision)),
            Err(error) => {
                // What was on its way to the disk may be there after all.
                assert!(matches!(error, WriteError::Disk(_) | WriteError::Unknown), "{error}");
                return;
            }
        }
    }
}

#[test]
fn no_acknowledged_write_is_lost_to_a_power_cut() {
    in_own_mounts(async {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&at).unwrap();
        make_ext4(&image, 96 << 20).unwrap();
        let mut known: HashMap<String, u64> = HashMap::new();
        let mut revisions = HashSet::new();
        for round in 0..ROUNDS {
            let mounted = Mounted::ext4(&image, &at);
            let mut config = small(&at.join("data"));
            config.snapshot_log_bytes = 512 << 10;
            let store = open(config).await.unwrap();
            for (name, revision) in &known {
                let object = store
                    .get(&key(name))
                    .unwrap_or_else(|| panic!("{name} of revision {revision} is lost"));
                assert_eq!(object.header().resource_version, *revision, "{name}");
            }
            let acknowledged = Arc::new(Mutex::new(Vec::new()));
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| tokio::spawn(write_on(Arc::clone(&store), writer, round, Arc::clone(&acknowledged))))
                .collect();
            // Long enough that in some rounds snapshots and new segments are underway.
            let enough = 300 * usize::try_from(round + 1).unwrap();
            while acknowledged.lock().len() < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // What is told between here and the end is told by a machine that has no power any more: the kernel may call a
            // flush that the cut overtook a success. Whoever is really without power tells nobody.
            let told = std::mem::take(&mut *acknowledged.lock());
            cut_power(&at).unwrap();
            for writer in writers {
                writer.await.unwrap();
            }
            for (name, revision) in told {
                assert!(revisions.insert(revision), "revision {revision} was given twice");
                known.insert(name, revision);
            }
            assert!(matches!(store.barrier().await, Err(WriteError::Disk(_))));
            store.shutdown().await;
            drop(store);
            mounted.unmount();
        }
    });
}
