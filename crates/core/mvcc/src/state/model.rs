//! The state machine against a naive model that keeps every revision as a whole map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{delete, put};
use super::*;
use crate::Loader;

#[derive(Clone, Debug)]
enum Step {
    Transaction(Vec<(usize, Change)>),
    Compact(u8),
    Expire(u8),
    Reload,
}

#[derive(Clone, Debug)]
enum Change {
    Put(Guard, Option<u8>),
    Delete(Guard),
}

#[derive(Clone, Copy, Debug)]
enum Guard {
    None,
    Absent,
    Current,
    Stale,
}

const KEYS: [&str; 8] = [
    "/configmaps/d/a",
    "/configmaps/d/b",
    "/configmaps/e/a",
    "/events/d/a",
    "apps/deployments/d/a",
    "/nodes//n",
    "/pods/d/p",
    "/pods/e/p",
];

#[derive(Clone, Default, PartialEq, Debug)]
struct Held {
    revision: Revision,
    value: String,
    expiry: Option<u64>,
}

type World = BTreeMap<&'static str, Held>;

fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        4 => Just(Guard::None),
        1 => Just(Guard::Absent),
        3 => Just(Guard::Current),
        1 => Just(Guard::Stale)
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (guard(), proptest::option::of(1_u8..5)).prop_map(|(guard, ttl)| Change::Put(guard, ttl)),
        1 => guard().prop_map(Change::Delete)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => proptest::collection::btree_map(0..KEYS.len(), change(), 1..4)
            .prop_map(|changes| Step::Transaction(changes.into_iter().collect())),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => (0_u8..10).prop_map(Step::Expire),
        1 => Just(Step::Reload)
    ]
}

fn precondition(guard: Guard, held: Option<&Held>) -> Precondition {
    match guard {
        Guard::None => Precondition::None,
        Guard::Absent => Precondition::Absent,
        Guard::Current => held.map_or(Precondition::Absent, |held| Precondition::Revision(held.revision)),
        Guard::Stale => Precondition::Revision(held.map_or(7, |held| held.revision - 1)),
    }
}

/// What the state says a prefix holds at a revision, in the model's terms.
fn read(state: &State, prefix: &str, at: Revision) -> Vec<(String, Revision, String)> {
    let view = state.view(prefix, Some(at)).unwrap();
    let whole = view.page(prefix, None, None);
    // Paging one by one gives the same.
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|(key, _): &(Key, Object)| Arc::clone(key));
        let page = view.page(prefix, after.as_deref(), Some(1));
        assert_eq!(page.remaining + paged.len() + page.items.len(), whole.items.len());
        if page.items.is_empty() {
            break;
        }
        paged.extend(page.items);
    }
    assert!(paged.iter().map(|(key, _)| key).eq(whole.items.iter().map(|(key, _)| key)));
    whole
        .items
        .iter()
        .map(|(key, object)| {
            let value = object.value()["data"]["v"].as_str().unwrap().to_owned();
            (key.to_string(), object.header().resource_version, value)
        })
        .collect()
}

/// The model's answer to the same question.
fn expected(world: &World, prefix: &str) -> Vec<(String, Revision, String)> {
    world
        .iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .map(|(key, held)| ((*key).to_owned(), held.revision, held.value.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_state_equals_the_model_at_every_revision_that_history_reaches(steps in proptest::collection::vec(step(), 1..60)) {
        let mut state = State::new();
        let mut worlds: BTreeMap<Revision, World> = BTreeMap::from([(1, World::new())]);
        let mut log: Vec<(Revision, String, EventKind)> = Vec::new();
        // The nodes that the pod of an event is or was on.
        let mut nodes: BTreeMap<Revision, Vec<(String, Vec<serde_json::Value>)>> = BTreeMap::new();
        let mut note = |event: &Event| {
            let both = [Some(&event.object), event.previous.as_ref()].into_iter().flatten();
            let both = both.map(|object| object.value()["spec"]["nodeName"].clone());
            nodes.entry(event.revision).or_default().push((event.key.to_string(), both.collect()));
        };
        let (mut now_ms, mut count) = (1_000_u64, 0_u32);
        for step in steps {
            now_ms += 500;
            let revision = state.revision();
            let mut world = worlds[&revision].clone();
            match step {
                Step::Transaction(changes) => {
                    let mut writes = Vec::new();
                    let mut commits = true;
                    let mut next = world.clone();
                    for (index, change) in &changes {
                        let key = KEYS[*index];
                        count += 1;
                        let value = count.to_string();
                        let (guard, ttl) = match change {
                            Change::Put(guard, ttl) => (*guard, *ttl),
                            Change::Delete(guard) => (*guard, None),
                        };
                        let precondition = precondition(guard, world.get(key));
                        commits &= match precondition {
                            Precondition::None => true,
                            Precondition::Absent => !world.contains_key(key),
                            Precondition::Revision(wanted) => world.get(key).is_some_and(|held| held.revision == wanted),
                        };
                        match change {
                            Change::Put(..) => {
                                writes.push(put(key, precondition, &value, ttl.map(u32::from)));
                                let expiry = ttl.map(|ttl| now_ms + u64::from(ttl) * 1000);
                                next.insert(key, Held { revision: revision + 1, value, expiry });
                            }
                            Change::Delete(_) => {
                                writes.push(delete(key, precondition));
                                next.remove(key);
                            }
                        }
                    }
                    let (applied, events) = state.apply(&Command::Transaction { writes, now_ms, fence: None, guards: Vec::new() }, 1);
                    if commits {
                        let committed = matches!(applied, Applied::Committed { .. });
                        prop_assert!(committed);
                        for event in &events {
                            log.push((event.revision, event.key.to_string(), event.kind));
                            note(event);
                            let before = world.get(&*event.key).map(|held| held.revision);
                            prop_assert_eq!(event.previous.as_ref().map(|object| object.header().resource_version), before);
                        }
                        worlds.insert(revision + 1, next);
                    } else {
                        let conflict = matches!(applied, Applied::Conflict { .. });
                        prop_assert!(conflict && events.is_empty());
                    }
                }
                Step::Compact(share) => {
                    let target = 1 + revision * u64::from(share) / 255;
                    state.apply(&Command::Compact { revision: target }, 1);
                    prop_assert!(state.oldest() >= target.min(revision));
                }
                Step::Expire(ahead) => {
                    now_ms += u64::from(ahead) * 250;
                    let (_, events) = state.apply(&Command::Expire { now_ms }, 1);
                    for event in &events {
                        log.push((event.revision, event.key.to_string(), event.kind));
                        note(event);
                        let held = world.remove(&*event.key).unwrap();
                        prop_assert!(held.expiry.is_some_and(|at| at <= now_ms));
                        worlds.insert(event.revision, world.clone());
                    }
                    prop_assert!(world.values().all(|held| held.expiry.is_none_or(|at| at > now_ms)));
                }
                Step::Reload => {
                    let mut loader = Loader::new();
                    for chunk in state.freeze().chunks() {
                        loader.feed(&chunk).unwrap();
                    }
                    state = loader.finish().unwrap();
                }
            }
            let current = &worlds[&state.revision()];
            prop_assert_eq!(state.len(), current.len());
            prop_assert_eq!(state.next_expiry_ms(), current.values().filter_map(|held| held.expiry).min());
            for at in state.oldest()..=state.revision() {
                for prefix in ["", "/configmaps/", "/configmaps/d/", "/configmaps/d/b", "/events/", "/nodes/", "apps/"] {
                    prop_assert_eq!(read(&state, prefix, at), expected(&worlds[&at], prefix));
                    let mut cursor = at;
                    let mut seen = Vec::new();
                    while cursor < state.revision() {
                        let tail = state.tail(prefix, None, cursor, 2).unwrap();
                        prop_assert!(tail.through > cursor);
                        let quiet = state.quiet_through(prefix, None, cursor);
                        match tail.events.first() {
                            Some(first) => prop_assert_eq!(quiet, first.revision - 1),
                            None => prop_assert_eq!(quiet, tail.through),
                        }
                        cursor = tail.through;
                        seen.extend(tail.events.iter().map(|event| (event.revision, event.key.to_string(), event.kind)));
                    }
                    let all: Vec<_> = log.iter().filter(|(revision, key, _)| *revision > at && key.starts_with(prefix)).cloned().collect();
                    prop_assert_eq!(seen, all);
                }
            }
        }
        for node in ["n1", "n2", "n3"] {
            for prefix in ["/pods/", "/pods/d/"] {
                let topic = topic::topic(prefix, "spec.nodeName", node);
                let mut cursor = state.oldest();
                let mut seen = Vec::new();
                while cursor < state.revision() {
                    let tail = state.tail(prefix, topic.as_deref(), cursor, 1).unwrap();
                    cursor = tail.through;
                    seen.extend(tail.events.iter().map(|event| (event.revision, event.key.to_string())));
                }
                let of_node = nodes.range(state.oldest() + 1..).flat_map(|(revision, told)| told.iter().map(move |told| (*revision, told)));
                let of_node = of_node.filter(|(_, (key, on))| key.starts_with(prefix) && on.iter().any(|on| on == node));
                let all: Vec<_> = of_node.map(|(revision, (key, _))| (revision, key.clone())).collect();
                prop_assert_eq!(seen, all);
            }
        }
    }
}
