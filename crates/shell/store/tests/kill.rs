//! SIGKILL under load, again and again: what was acknowledged is there afterwards, and no revision is given twice.

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{key, open, small, write};
use trireme_store::Store;

const DIR: &str = "TRIREME_STORE_TEST_DIR";
const ROUNDS: usize = 8;

/// Not a test by itself: what the killed process does.
#[test]
fn writer_process() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut config = small(dir.as_ref());
        config.snapshot_log_bytes = 256 << 10;
        let store = open(config).await.unwrap();
        let base = store.revision();
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for index in 0.. {
                        let name = format!("b{base}-w{writer}-{index}");
                        let revision = write(&*store, &name, &"v".repeat(index % 500)).await.unwrap();
                        println!("acknowledged {name} {revision}");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[test]
fn no_acknowledged_write_is_lost_to_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut known: HashMap<u64, String> = HashMap::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        // Read on after the kill: what is in the pipe was acknowledged before it.
        while let Some(Ok(line)) = lines.next() {
            let Some(line) = line.strip_prefix("acknowledged ") else {
                continue;
            };
            let Some((name, revision)) = line.split_once(' ') else {
                continue;
            };
            let Ok(revision) = revision.parse() else { continue };
            let before = known.insert(revision, name.to_owned());
            assert!(before.is_none(), "revision {revision} was given to {before:?} and to {name}");
            seen += 1;
            if seen == 200 * (round + 1) {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 200 * (round + 1), "the writer ended by itself after {seen} writes");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = open(small(dir.path())).await.unwrap();
            for (revision, name) in &known {
                let object = store
                    .get(&key(name))
                    .unwrap_or_else(|| panic!("{name} of revision {revision} is lost"));
                assert_eq!(object.header().resource_version, *revision, "{name}");
            }
            store.shutdown().await;
        });
    }
}
