//! Watches: gapless, in order, woken, and honest about what they missed. The same over both stores.

use std::sync::Arc;

use trireme_store::{Applied, Command, EventKind, MemoryStore, Operation, Precondition, ReadError, Store, Write};

use crate::common::{body, key, open, put, put_if, small, write};

async fn stores() -> (tempfile::TempDir, Vec<Arc<dyn Store>>) {
    let dir = tempfile::tempdir().unwrap();
    let stores: Vec<Arc<dyn Store>> = vec![MemoryStore::new(), open(small(dir.path())).await.unwrap()];
    (dir, stores)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_gets_what_was_and_what_comes_and_nothing_else() {
    let (_dir, stores) = stores().await;
    for store in stores {
        write(&*store, "a", "1").await.unwrap();
        let mut watch = store.watch("/configmaps/default/a", 1).unwrap();
        let mut other = store.watch("/secrets/", 2).unwrap();
        let events = watch.next().await.unwrap();
        assert_eq!((events.len(), events[0].revision, events[0].previous.is_none()), (1, 2, true));
        assert_eq!(watch.progress(), 2);

        let waiting = tokio::spawn(async move { (watch.next().await.unwrap(), watch) });
        write(&*store, "b", "1").await.unwrap();
        let deletion = Write {
            key: key("a"),
            precondition: Precondition::Revision(2),
            operation: Operation::Delete { last: body("a", "1") },
        };
        let command = Command::Transaction {
            writes: vec![deletion],
            now_ms: 0,
            fence: None,
            guards: Vec::new(),
        };
        assert!(matches!(
            store.commit(command).await.unwrap(),
            Applied::Committed { revision: 4, .. }
        ));
        let (events, watch) = waiting.await.unwrap();
        assert_eq!((events[0].kind, events[0].revision), (EventKind::Delete, 4));
        assert_eq!(events[0].object.header().resource_version, 4);
        assert_eq!(events[0].previous.as_ref().unwrap().header().resource_version, 2);

        // A watch that has nothing to deliver still knows how far it is.
        write(&*store, "b", "2").await.unwrap();
        assert_eq!((watch.progress(), other.progress()), (5, 5));
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(50), other.next()).await;
        assert!(nothing.is_err());

        assert_eq!(
            store.watch("/configmaps/", 6).err(),
            Some(ReadError::Future { asked: 6, current: 5 })
        );
        store.commit(Command::Compact { revision: 4 }).await.unwrap();
        assert_eq!(
            store.watch("/configmaps/", 3).err(),
            Some(ReadError::Compacted { asked: 3, oldest: 4 })
        );
        assert!(store.range("/configmaps/", None, None, Some(3)).is_err());
        assert_eq!(
            store.range("/configmaps/", None, None, Some(4)).unwrap().items[0]
                .1
                .header()
                .resource_version,
            3
        );

        let conflict = store.commit(put_if("b", "3", Precondition::Absent)).await.unwrap();
        assert!(
            matches!(conflict, Applied::Conflict { write: 0, current: Some(current) } if current.header().resource_version == 5)
        );
        assert_eq!(store.revision(), 5);

        let later = Arc::clone(&store);
        let reached = tokio::spawn(async move { later.reached(6).await });
        write(&*store, "c", "1").await.unwrap();
        reached.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watchers_of_a_busy_store_see_every_event_once_in_order() {
    const WRITERS: usize = 8;
    const WRITES: usize = 200;
    let (_dir, stores) = stores().await;
    for store in stores {
        let watchers: Vec<_> = (0..8)
            .map(|_| {
                let mut watch = store.watch("/configmaps/", 1).unwrap();
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while seen.len() < WRITERS * WRITES {
                        seen.extend(watch.next().await.unwrap().iter().map(|event| event.revision));
                    }
                    seen
                })
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    for index in 0..WRITES {
                        store.commit(put(&format!("w{writer}-{}", index % 7), "v")).await.unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let all: Vec<u64> = (2..2 + (WRITERS * WRITES) as u64).collect();
        for watcher in watchers {
            assert_eq!(watcher.await.unwrap(), all);
        }
    }
}

/// etcd: watches lost events under starvation, and at compaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_falls_behind_loses_no_event_or_is_told() {
    let (_dir, stores) = stores().await;
    for store in stores {
        let mut slow = store.watch("/configmaps/", 1).unwrap();
        let mut slower = store.watch("/configmaps/", 1).unwrap();
        let mut last = 1;
        for number in 0..1500 {
            last = write(&*store, &format!("k{}", number % 7), "v").await.unwrap();
        }
        let mut next = 2;
        while next <= last {
            for event in slow.next().await.unwrap() {
                assert_eq!(event.revision, next);
                next += 1;
            }
        }
        store.commit(Command::Compact { revision: last - 10 }).await.unwrap();
        // Who has seen what was forgotten goes on; who has not is told.
        write(&*store, "k", "v").await.unwrap();
        assert_eq!(slow.next().await.unwrap()[0].revision, last + 1);
        assert!(matches!(slower.next().await, Err(ReadError::Compacted { .. })));
        assert!(matches!(store.watch("/configmaps/", 1), Err(ReadError::Compacted { .. })));
    }
}

fn bound(name: &str, node: &str) -> Command {
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node}});
    Command::Transaction {
        writes: vec![Write {
            key: Arc::from(format!("/pods/default/{name}")),
            precondition: Precondition::None,
            operation: Operation::Put {
                body: trireme_store::Body::new(pod),
                ttl_seconds: None,
            },
        }],
        now_ms: 0,
        fence: None,
        guards: Vec::new(),
    }
}

/// How often a future is woken.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_topic_is_not_woken_by_others() {
    let (_dir, stores) = stores().await;
    for store in stores {
        let topic = trireme_store::topic("/pods/", "spec.nodeName", "n1").unwrap();
        let start = store.revision();
        let mut watch = store.watch_topic("/pods/", &topic, start).unwrap();
        let woken = Arc::<Woken>::default();
        let waker = std::task::Waker::from(Arc::clone(&woken));
        let mut context = std::task::Context::from_waker(&waker);
        let mut next = watch.next();
        assert!(next.as_mut().poll(&mut context).is_pending());
        for pod in 0..5 {
            store.commit(bound(&format!("p{pod}"), "n2")).await.unwrap();
            store.commit(bound(&format!("q{pod}"), "")).await.unwrap();
        }
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::SeqCst), 0);
        store.commit(bound("q0", "n1")).await.unwrap();
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::SeqCst), 1);
        let events = next.await.unwrap();
        assert_eq!((events.len(), &*events[0].key), (1, "/pods/default/q0"));
        assert_eq!(watch.progress(), store.revision());
    }
}
