//! What the store does by itself: keys expire, history ends. Nothing here asserts when, only that it comes.

use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use trireme_store::{Command, EventKind, Operation, Precondition, Store, Write};

use crate::common::{body, key, open, small, write};

#[tokio::test(flavor = "multi_thread")]
async fn keys_expire_and_history_ends_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(dir.path());
    config.history_ms = 1;
    let store = open(config).await.unwrap();
    write(&*store, "stays", "1").await.unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let operation = Operation::Put {
        body: body("goes", "1"),
        ttl_seconds: Some(1),
    };
    let put = Write {
        key: key("goes"),
        precondition: Precondition::Absent,
        operation,
    };
    let command = Command::Transaction {
        writes: vec![put],
        now_ms: u64::try_from(now.as_millis()).unwrap(),
        fence: None,
        guards: Vec::new(),
    };
    store.commit(command).await.unwrap();
    let mut watch = store.watch(&key("goes"), store.revision()).unwrap();
    let events = watch.next().await.unwrap();
    assert_eq!((events[0].kind, events[0].revision), (EventKind::Delete, 4));
    assert_eq!(store.get(&key("goes")).map(|object| object.header().name.clone()), None);
    assert!(store.get(&key("stays")).is_some());
    while store.watch("/configmaps/", 1).is_ok() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(store.watch("/configmaps/", 4).is_ok());
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert!(
            entry.file_name() == "lock" || mode == 0o600,
            "{:?} {mode:o}",
            entry.file_name()
        );
    }
    store.shutdown().await;
}
