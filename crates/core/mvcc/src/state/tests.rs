//! What single commands do, case by case.

use serde_json::json;

use super::*;
use crate::Loader;

/// A pod whose value is a number is on one of three nodes, or on none.
pub(super) fn pod(name: &str, value: &str) -> Body {
    let node = value.parse::<u32>().ok().map(|number| number % 4).filter(|node| *node > 0);
    let node = node.map_or_else(String::new, |node| format!("n{node}"));
    Body::new(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"}, "spec": {"nodeName": node}, "data": {"v": value}}),
    )
}

pub(super) fn body(name: &str, value: &str) -> Body {
    Body::new(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "d"}, "data": {"v": value}}),
    )
}

pub(super) fn put(key: &str, precondition: Precondition, value: &str, ttl_seconds: Option<u32>) -> Write {
    let name = key.rsplit('/').next().unwrap();
    Write {
        key: Arc::from(key),
        precondition,
        operation: Operation::Put {
            body: if key.starts_with("/pods/") {
                pod(name, value)
            } else {
                body(name, value)
            },
            ttl_seconds,
        },
    }
}

pub(super) fn delete(key: &str, precondition: Precondition) -> Write {
    let name = key.rsplit('/').next().unwrap();
    let operation = Operation::Delete {
        last: body(name, "last"),
    };
    Write {
        key: Arc::from(key),
        precondition,
        operation,
    }
}

pub(super) fn one(write: Write) -> Command {
    Command::Transaction {
        writes: vec![write],
        now_ms: 1_000,
        fence: None,
        guards: Vec::new(),
    }
}

fn value(object: &Object) -> String {
    object.value()["data"]["v"].as_str().unwrap().to_owned()
}

#[test]
fn stored_bytes_carry_their_revision_and_bodies_come_back_out_of_them() {
    let mut state = State::new();
    let (applied, events) = state.apply(&one(put("/configmaps/d/a", Precondition::Absent, "x\"{}\\", None)), 1);
    let Applied::Committed { revision, objects } = applied else {
        panic!("{applied:?}")
    };
    assert_eq!((revision, state.revision(), events.len()), (2, 2, 1));
    assert_eq!(objects[0].header().resource_version, 2);
    assert_eq!(objects[0].value()["metadata"]["resourceVersion"], "2");
    assert!(state.get("/configmaps/d/a").unwrap().is_same(&objects[0]));
    let again = Body::from_object(&objects[0]);
    let first = body("a", "x\"{}\\");
    assert_eq!((again.bytes, again.revision_at), (first.bytes, first.revision_at));
}

#[test]
fn preconditions() {
    let key = "/configmaps/d/a";
    for (exists, precondition, commits) in [
        (false, Precondition::Absent, true),
        (false, Precondition::None, true),
        (false, Precondition::Revision(2), false),
        (true, Precondition::Absent, false),
        (true, Precondition::None, true),
        (true, Precondition::Revision(2), true),
        (true, Precondition::Revision(1), false),
    ] {
        let mut state = State::new();
        if exists {
            state.apply(&one(put(key, Precondition::Absent, "0", None)), 1);
        }
        let before = state.revision();
        let (applied, events) = state.apply(&one(put(key, precondition, "1", None)), 1);
        match applied {
            Applied::Committed { revision, .. } => {
                assert!(commits && revision == before + 1, "{exists} {precondition:?}");
            }
            Applied::Conflict { write, current } => {
                assert!(
                    !commits && events.is_empty() && state.revision() == before,
                    "{exists} {precondition:?}"
                );
                assert_eq!((write, current.is_some()), (0, exists));
            }
            Applied::Unguarded { .. } | Applied::Fenced { .. } => panic!("no transaction here has a guard or a fence"),
            Applied::Done => panic!("a transaction is never just done"),
        }
    }
}

#[test]
fn a_transaction_is_all_or_nothing_at_one_revision() {
    let mut state = State::new();
    state.apply(&one(put("/configmaps/d/b", Precondition::None, "0", None)), 1);
    let writes = vec![
        put("/configmaps/d/a", Precondition::Absent, "1", None),
        put("/configmaps/d/b", Precondition::Absent, "1", None),
    ];
    let (applied, _) = state.apply(
        &Command::Transaction {
            writes,
            now_ms: 0,
            fence: None,
            guards: Vec::new(),
        },
        1,
    );
    assert!(matches!(
        applied,
        Applied::Conflict {
            write: 1,
            current: Some(_)
        }
    ));
    assert!(state.get("/configmaps/d/a").is_none());

    let writes = vec![
        put("/configmaps/d/a", Precondition::Absent, "1", None),
        delete("/configmaps/d/b", Precondition::Revision(2)),
    ];
    let (applied, events) = state.apply(
        &Command::Transaction {
            writes,
            now_ms: 0,
            fence: None,
            guards: Vec::new(),
        },
        1,
    );
    assert!(matches!(applied, Applied::Committed { revision: 3, .. }));
    assert_eq!(
        events.iter().map(|event| (event.revision, event.kind)).collect::<Vec<_>>(),
        [(3, EventKind::Put), (3, EventKind::Delete)]
    );
    assert_eq!(events[1].object.header().resource_version, 3);
    assert_eq!(value(&events[1].object), "last");
    assert_eq!(value(events[1].previous.as_ref().unwrap()), "0");
}

#[test]
fn expiry_counts_from_the_command_and_an_update_sets_it_anew() {
    let mut state = State::new();
    state.apply(&one(put("/events/d/a", Precondition::None, "0", Some(10))), 1);
    state.apply(&one(put("/events/d/b", Precondition::None, "0", Some(20))), 1);
    state.apply(&one(put("/events/d/c", Precondition::None, "0", Some(10))), 1);
    state.apply(&one(put("/events/d/c", Precondition::None, "1", None)), 1);
    assert_eq!(state.next_expiry_ms(), Some(11_000));
    assert!(state.apply(&Command::Expire { now_ms: 10_999 }, 1).1.is_empty());
    let (_, events) = state.apply(&Command::Expire { now_ms: 11_000 }, 1);
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&*events[0].key, events[0].kind, events[0].revision),
        ("/events/d/a", EventKind::Delete, 6)
    );
    assert_eq!(events[0].object.value()["metadata"]["resourceVersion"], "6");
    assert_eq!(value(&events[0].object), "0");
    assert_eq!(state.next_expiry_ms(), Some(21_000));
    state.apply(&one(delete("/events/d/b", Precondition::None)), 1);
    assert_eq!(state.next_expiry_ms(), None);
    assert!(state.apply(&Command::Expire { now_ms: u64::MAX }, 1).1.is_empty());
    assert!(state.get("/events/d/c").is_some());
}

#[test]
fn reads_and_watches_know_what_is_gone_and_what_is_to_come() {
    let mut state = State::new();
    for index in 0..10 {
        state.apply(&one(put("/configmaps/d/a", Precondition::None, &index.to_string(), None)), 1);
    }
    state.apply(&Command::Compact { revision: 5 }, 1);
    assert_eq!((state.oldest(), state.history_len()), (5, 6));
    assert_eq!(state.check(4), Err(ReadError::Compacted { asked: 4, oldest: 5 }));
    assert_eq!(state.check(12), Err(ReadError::Future { asked: 12, current: 11 }));
    for revision in 5..=11 {
        let page = state
            .view("/configmaps/", Some(revision))
            .unwrap()
            .page("/configmaps/", None, None);
        assert_eq!(value(&page.items[0].1), (revision - 2).to_string());
    }
    assert!(state.tail("/configmaps/", None, 4, 10).is_err());
    let tail = state.tail("/configmaps/", None, 5, 4).unwrap();
    assert_eq!((tail.events.len(), tail.through), (4, 9));
    let tail = state.tail("/configmaps/", None, 9, 4).unwrap();
    assert_eq!((tail.events.len(), tail.through), (2, 11));
    // Compaction never goes into the future nor back.
    state.apply(&Command::Compact { revision: 99 }, 1);
    state.apply(&Command::Compact { revision: 3 }, 1);
    assert_eq!((state.oldest(), state.history_len()), (11, 0));
}

#[test]
fn a_subscriber_of_a_quiet_resource_misses_nothing_while_others_are_busy() {
    let mut state = State::new();
    state.apply(&one(put("/secrets/d/a", Precondition::None, "0", None)), 1);
    for _ in 0..5 {
        state.apply(&one(put("/configmaps/d/a", Precondition::None, "0", None)), 1);
    }
    state.apply(&Command::Compact { revision: 6 }, 1);
    assert!(state.tail("/secrets/", None, 2, 10).unwrap().events.is_empty());
    assert_eq!(state.quiet_through("/secrets/", None, 2), 7);
    assert_eq!(state.quiet_through("/configmaps/d/", None, 6), 6);
    assert_eq!(state.quiet_through("/configmaps/e/", None, 6), 7);
    assert!(state.tail("/configmaps/", None, 2, 10).is_err());
    assert!(state.tail("", None, 2, 10).is_err());
    assert_eq!(state.tail("", None, 6, 10).unwrap().events.len(), 1);
}

#[test]
fn history_is_bounded_by_bytes() {
    let mut state = State::new();
    let large = "x".repeat(1 << 20);
    for _ in 0..80 {
        state.apply(&one(put("/configmaps/d/a", Precondition::None, &large, None)), 1);
    }
    // What each replaced is history's, 64 MiB of it; what is current is not.
    assert!((60..=64).contains(&state.history_len()), "{}", state.history_len());
    assert_eq!(state.oldest() + state.history_len() as u64, state.revision());
}

#[test]
fn paging_goes_on_behind_a_key_and_counts_what_remains() {
    let mut state = State::new();
    for name in ["a", "a0", "b", "c"] {
        state.apply(&one(put(&format!("/configmaps/d/{name}"), Precondition::None, "0", None)), 1);
        state.apply(&one(put(&format!("/configmaps/d2/{name}"), Precondition::None, "0", None)), 1);
    }
    let view = state.view("/configmaps/d/", None).unwrap();
    let page = view.page("/configmaps/d/", None, Some(2));
    assert_eq!(
        page.items.iter().map(|(key, _)| &**key).collect::<Vec<_>>(),
        ["/configmaps/d/a", "/configmaps/d/a0"]
    );
    assert_eq!((page.remaining, page.revision), (2, 9));
    let page = view.page("/configmaps/d/", Some("/configmaps/d/a0"), Some(9));
    assert_eq!((page.items.len(), page.remaining), (2, 0));
    assert_eq!(view.page("/configmaps/", None, None).items.len(), 8);
}

#[test]
fn a_body_that_is_no_header_still_applies() {
    let mut state = State::new();
    let body = Body::new(json!({"metadata": {"name": "a", "labels": {"a": 1}}}));
    let operation = Operation::Put { body, ttl_seconds: None };
    let key = Arc::from("/configmaps/d/a");
    let precondition = Precondition::None;
    state.apply(
        &one(Write {
            key,
            precondition,
            operation,
        }),
        1,
    );
    let object = state.get("/configmaps/d/a").unwrap();
    assert_eq!((&*object.header().name, object.header().resource_version), ("a", 2));
}

#[test]
fn a_loaded_snapshot_goes_on_where_the_state_was() {
    let mut state = State::new();
    for index in 0..2000 {
        let ttl = (index % 3 == 0).then_some(60);
        state.apply(
            &one(put(
                &format!("/configmaps/d/{index}"),
                Precondition::None,
                &"y".repeat(300),
                ttl,
            )),
            1,
        );
    }
    let frozen = state.freeze();
    state.apply(&one(put("/configmaps/d/later", Precondition::None, "0", None)), 1);
    let chunks: Vec<_> = frozen.chunks().collect();
    assert!(chunks.len() > 1);
    let mut loader = Loader::new();
    for chunk in &chunks {
        loader.feed(chunk).unwrap();
    }
    let loaded = loader.finish().unwrap();
    assert!(loaded.tail("/secrets/", None, 2000, 1).is_err() && loaded.tail("/secrets/", None, 2001, 1).is_ok());
    assert_eq!((loaded.revision(), loaded.len(), loaded.oldest()), (2001, 2000, 2001));
    assert_eq!(loaded.next_expiry_ms(), Some(61_000));
    assert_eq!(loaded.expiries.len(), 667);
    assert_eq!(
        loaded.get("/configmaps/d/7").unwrap().bytes(),
        state.get("/configmaps/d/7").unwrap().bytes()
    );

    let mut short = Loader::new();
    short.feed(&chunks[0]).unwrap();
    assert!(matches!(
        short.finish(),
        Err(crate::DecodeError::Incomplete { announced: 2000, .. })
    ));
    assert!(Loader::new().feed(&chunks[0][..chunks[0].len() - 1]).is_err());
    assert!(matches!(Loader::new().feed(&[9]), Err(crate::DecodeError::Version(9))));
}

#[test]
fn a_fence_lets_a_transaction_pass_in_its_own_term_only() {
    let fenced = |fence| Command::Transaction {
        writes: vec![put("/configmaps/d/a", Precondition::None, "0", None)],
        now_ms: 0,
        fence,
        guards: Vec::new(),
    };
    let mut state = State::new();
    for (fence, term, passes) in [(Some(3), 3, true), (Some(3), 4, false), (Some(4), 3, false), (None, 4, true)] {
        let before = state.revision();
        let (applied, events) = state.apply(&fenced(fence), term);
        if passes {
            assert!(matches!(applied, Applied::Committed { .. }), "{fence:?} in {term}");
        } else {
            assert!(
                matches!(applied, Applied::Fenced { term: found } if found == term),
                "{fence:?} in {term}"
            );
            assert!(events.is_empty());
        }
        assert_eq!(state.revision() - before, u64::from(passes), "{fence:?} in {term}");
    }
}

#[test]
fn what_a_guard_names_must_live() {
    let with = |key: &str, guards: &[&str]| Command::Transaction {
        writes: vec![put(key, Precondition::Absent, "0", None)],
        now_ms: 0,
        fence: None,
        guards: guards.iter().map(|key| Key::from(*key)).collect(),
    };
    let namespace = |extra: &str| {
        let text = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"d"{extra}}}}}"#);
        let write = Write {
            key: "/namespaces//d".into(),
            precondition: Precondition::None,
            operation: Operation::Put {
                body: Body::new(serde_json::from_str(&text).unwrap()),
                ttl_seconds: None,
            },
        };
        one(write)
    };
    let mut state = State::new();
    let guards = ["/namespaces//d"];
    let refused = |state: &mut State, key: &str| {
        let revision = state.revision();
        let (applied, events) = state.apply(&with(key, &guards), 1);
        assert!(events.is_empty() && state.revision() == revision);
        matches!(applied, Applied::Unguarded { guard: 0 })
    };
    assert!(refused(&mut state, "/configmaps/d/a"), "absent");
    state.apply(&namespace(""), 1);
    let (applied, events) = state.apply(&with("/configmaps/d/a", &guards), 1);
    assert!(matches!(applied, Applied::Committed { .. }) && events.len() == 1);
    state.apply(&namespace(r#","deletionTimestamp":"2026-01-01T00:00:00Z""#), 1);
    assert!(refused(&mut state, "/configmaps/d/b"), "being deleted");
    // The writes' own preconditions come second: whoever is told of them can rely on the guards.
    assert!(refused(&mut state, "/configmaps/d/a"), "both");
}

#[test]
fn weights_are_those_of_what_is_held() {
    let mut state = State::new();
    let long = "x".repeat(10_000);
    let key = |number: usize| format!("/configmaps/d/m{number}");
    for number in 0..10 {
        state.apply(&one(put(&key(number), Precondition::Absent, &long, None)), 1);
    }
    let objects = state.bytes();
    assert!((100_000..120_000).contains(&objects), "{objects}");
    // What a key holds now is not history's, however often it is told of.
    assert!(state.history_bytes() < 10_000, "{}", state.history_bytes());
    for round in 1..=5 {
        for number in 0..10 {
            state.apply(&one(put(&key(number), Precondition::None, &long, None)), 1);
        }
        // Versions of more digits are a little longer.
        assert!((objects..objects + 100).contains(&state.bytes()), "each key holds one object");
        let history = state.history_bytes();
        assert!(
            (round * 100_000..round * 115_000).contains(&history),
            "{history} after {round} rounds"
        );
    }
    // The last state of a deletion is history's, and so becomes what it replaced.
    let before = state.history_bytes();
    for number in 0..10 {
        state.apply(&one(delete(&key(number), Precondition::None)), 1);
    }
    assert_eq!(state.bytes(), 0);
    assert!(state.history_bytes() > before + 100_000);
    state.apply(
        &Command::Compact {
            revision: state.revision(),
        },
        1,
    );
    assert_eq!(state.history_bytes(), 0);
    // The bound holds for what is held.
    let longer = "x".repeat(1 << 20);
    for _ in 0..200 {
        state.apply(&one(put(&key(0), Precondition::None, &longer, None)), 1);
        assert!(state.history_bytes() <= crate::HISTORY_BYTES_MAX);
    }
    assert!(state.history_bytes() > crate::HISTORY_BYTES_MAX / 2);
}

#[test]
fn a_topic_tells_what_enters_changes_and_leaves_and_is_not_behind_while_others_are_busy() {
    let n1 = topic("/pods/d/", "spec.nodeName", "n1").unwrap();
    assert_eq!(topic("/pods/", "spec.nodeName", "n1").as_deref(), Some(n1.as_str()));
    assert_eq!(topic("/pods/", "status.phase", "n1"), None);
    assert_eq!(topic("/pods/", "spec.nodeName", ""), None);
    assert_eq!(topic("/podtemplates/", "spec.nodeName", "n1"), None);
    assert_eq!(topic("", "spec.nodeName", "n1"), None);
    let mut state = State::new();
    // On no node, bound to n1, changed there, moved to n2, of which n1 hears nothing more.
    for value in ["0", "1", "5", "2", "6"] {
        state.apply(&one(put("/pods/d/a", Precondition::None, value, None)), 1);
    }
    let told = |state: &State, after| {
        let tail = state.tail("/pods/", Some(&n1), after, 10).unwrap();
        let revisions: Vec<_> = tail.events.iter().map(|event| event.revision).collect();
        (revisions, tail.through)
    };
    assert_eq!(told(&state, 1), (vec![3, 4, 5], 6));
    assert_eq!(state.quiet_through("/pods/", Some(&n1), 3), 3);
    assert_eq!(state.quiet_through("/pods/", Some(&n1), 5), 6);
    assert!(state.tail("/pods/e/", Some(&n1), 1, 10).unwrap().events.is_empty());
    state.apply(&Command::Compact { revision: 6 }, 1);
    assert_eq!(told(&state, 5), (vec![], 6));
    assert!(state.tail("/pods/", None, 5, 10).is_err());
    assert!(state.tail("/pods/", Some(&n1), 4, 10).is_err());
    // A node is known by its name.
    state.apply(&one(put("/nodes//n1", Precondition::None, "0", None)), 1);
    let own = topic("/nodes//", "metadata.name", "n1").unwrap();
    assert_eq!(state.tail("/nodes/", Some(&own), 6, 10).unwrap().events.len(), 1);
}

#[test]
fn topics_that_are_forgotten_say_so_to_who_was_behind() {
    let mut state = State::new();
    let pod = |node: usize| {
        let body =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"nodeName": format!("n{node}")}});
        let operation = Operation::Put {
            body: Body::new(body),
            ttl_seconds: None,
        };
        one(Write {
            key: Arc::from("/pods/d/a"),
            precondition: Precondition::None,
            operation,
        })
    };
    for node in 0..5000 {
        state.apply(&pod(node), 1);
    }
    state.apply(&Command::Compact { revision: 5001 }, 1);
    let n7 = topic("/pods/", "spec.nodeName", "n7").unwrap();
    assert!(state.tail("/pods/", Some(&n7), 8, 10).is_err());
    assert!(state.tail("/pods/", Some(&n7), 5001, 10).unwrap().events.is_empty());
    state.apply(&pod(7), 1);
    assert!(state.tail("/pods/", Some(&n7), 8, 10).is_err());
    assert_eq!(state.tail("/pods/", Some(&n7), 5001, 10).unwrap().events.len(), 1);
}
