//! Histories of an ideal store pass every check; each kind of injected violation is found, by the check that is named for
//! it.

mod common;

use std::time::Instant;

use common::{Random, Shape, valid};
use proptest::prelude::*;
use trireme_checker::{Change, History, Kind, Operation, Outcome, Record, Seen, Step, Violation, check};

fn shape() -> impl Strategy<Value = Shape> {
    (1..150_u64, 1..6_u64, 1..8_u64, 0..4_u64, 0..8_u64).prop_map(|(operations, keys, clients, watches, unknown_each)| Shape {
        operations,
        keys,
        clients,
        watches,
        unknown_each,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn valid_histories_pass(seed in any::<u64>(), shape in shape()) {
        let history = valid(seed, shape);
        prop_assert_eq!(check(&history), Vec::new());
    }

    #[test]
    fn lines_are_read_as_written(seed in any::<u64>(), shape in shape()) {
        let history = valid(seed, shape);
        let mut read = History::default();
        read.read_lines(&history.to_lines()).unwrap();
        prop_assert_eq!(history, read);
    }

    #[test]
    fn injected_violations_are_found(seed in any::<u64>(), at in any::<u64>()) {
        let shape = Shape { operations: 120, keys: 3, clients: 5, watches: 3, unknown_each: 10 };
        let valid = valid(seed, shape);
        for (name, inject) in INJECTIONS {
            let mut history = valid.clone();
            let Some(wanted) = inject(&mut history, &mut Random::new(at)) else { continue };
            let found = check(&history);
            prop_assert!(found.iter().any(wanted), "{name} was not found; only {found:#?} in\n{}", history.to_lines());
        }
    }
}

type Wanted = fn(&Violation) -> bool;
type Inject = fn(&mut History, &mut Random) -> Option<Wanted>;

/// Each breaks a valid history in one way, if it has a place for that, and says which violation must come of it.
const INJECTIONS: &[(&str, Inject)] = &[
    ("a stale read", stale_read),
    ("a read of a failed write", read_of_failed),
    ("a write lost", lost_write),
    ("a compare-and-swap over another revision", wrong_cas),
    ("a create over something", create_twice),
    ("a revision given twice", reuse),
    ("a revision that went back", back),
    ("two values at one revision", two_values),
    ("an event dropped", drop_event),
    ("the last event dropped", drop_last_event),
    ("an event twice", repeat_event),
    ("events swapped", swap_events),
    ("a bookmark ahead", bookmark_ahead),
    ("a bookmark back", bookmark_back),
    ("a resumed watch that repeats", resume_repeats),
    ("an event of the wrong kind", wrong_kind),
    ("watches that disagree", disagree),
    ("an event that nobody made", from_nowhere),
    ("a torn listing", torn_listing),
];

fn choose<T>(random: &mut Random, items: Vec<T>) -> Option<T> {
    let at = usize::try_from(random.below(items.len() as u64)).unwrap();
    items.into_iter().nth(at)
}

/// Places of operations that fit.
fn operations(history: &History, fits: impl Fn(&Operation) -> bool) -> Vec<usize> {
    let all = history.operations.iter().enumerate();
    all.filter(|(_, operation)| fits(operation)).map(|(at, _)| at).collect()
}

/// Places of watch steps that fit: watch and index.
fn steps(history: &History, fits: impl Fn(&Step) -> bool) -> Vec<(u64, usize)> {
    let all = history
        .watches
        .iter()
        .flat_map(|(watch, steps)| steps.iter().enumerate().map(|(at, step)| (*watch, at, step)));
    all.filter(|(_, _, step)| fits(&step.step))
        .map(|(watch, at, _)| (watch, at))
        .collect()
}

fn is_event(step: &Step) -> bool {
    matches!(step, Step::Event { .. })
}

fn applied(operation: &Operation) -> Option<u64> {
    match operation.outcome {
        Outcome::Applied { revision } => Some(revision),
        _ => None,
    }
}

/// A late read of a version that was replaced before it began.
fn stale_read(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let puts = operations(history, |one| applied(one).is_some() && one.kind.value().is_some());
    let fits = puts.into_iter().filter(|at| {
        let old = &history.operations[*at];
        history
            .operations
            .iter()
            .any(|new| new.key == old.key && applied(new) > applied(old) && new.kind.changes())
    });
    let fits: Vec<usize> = fits.collect();
    let old = history.operations[choose(random, fits)?].clone();
    let end = history.operations.iter().map(|one| one.returned).max()? + 1;
    let seen = Seen::Present {
        value: old.kind.value()?.to_owned(),
        revision: applied(&old)?,
    };
    history.push(Record::Operation(Operation {
        id: u64::MAX,
        invoked: end,
        returned: end,
        kind: Kind::Read,
        outcome: Outcome::Saw(seen),
        ..old
    }));
    Some(|found| matches!(found, Violation::NotLinearizable { .. }))
}

fn read_of_failed(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let failed = operations(history, |one| one.outcome == Outcome::Failed && one.kind.value().is_some());
    let write = history.operations[choose(random, failed)?].clone();
    let end = history.operations.iter().map(|one| one.returned).max()? + 1;
    history.push(Record::Operation(Operation {
        id: u64::MAX,
        invoked: end,
        returned: end,
        kind: Kind::Read,
        outcome: Outcome::Saw(Seen::Present {
            value: write.kind.value()?.to_owned(),
            revision: 1_000_000,
        }),
        ..write
    }));
    Some(|found| matches!(found, Violation::NotLinearizable { .. }))
}

/// The last listing shows what was before an acknowledged write.
fn lost_write(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let last = history.listings.last()?.clone();
    let open = |key: &str| {
        let deletes = |one: &&Operation| one.key == key && one.outcome == Outcome::Unknown;
        history.operations.iter().find(deletes).is_some()
    };
    let keys: Vec<String> = last.objects.keys().filter(|key| !open(key)).cloned().collect();
    let key = choose(random, keys)?;
    history.listings.last_mut()?.objects.remove(&key);
    Some(|found| matches!(found, Violation::Lost { .. }))
}

fn wrong_cas(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let fits = operations(history, |one| matches!(one.kind, Kind::Cas { .. }) && applied(one).is_some());
    let at = choose(random, fits)?;
    if let Kind::Cas { expected, .. } = &mut history.operations[at].kind {
        // A revision that this key never had.
        *expected = 2_000_000;
    }
    Some(|found| matches!(found, Violation::NotLinearizable { .. }))
}

fn create_twice(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let last = history.listings.last()?.clone();
    let open = |key: &str| {
        history
            .operations
            .iter()
            .any(|one| one.key == key && one.outcome == Outcome::Unknown)
    };
    let keys: Vec<String> = last.objects.keys().filter(|key| !open(key)).cloned().collect();
    let key = choose(random, keys)?;
    let end = history.operations.iter().map(|one| one.returned).max()? + 1;
    history.push(Record::Operation(Operation {
        id: u64::MAX,
        client: 0,
        server: "server-0".into(),
        key,
        invoked: end,
        returned: end,
        kind: Kind::Create { value: "again".into() },
        outcome: Outcome::Applied { revision: 1_000_000 },
    }));
    Some(|found| matches!(found, Violation::NotLinearizable { .. }))
}

fn reuse(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let fits = operations(history, |one| applied(one).is_some());
    let (first, second) = (choose(random, fits.clone())?, choose(random, fits)?);
    if first == second {
        return None;
    }
    history.operations[second].outcome = history.operations[first].outcome.clone();
    Some(|found| matches!(found, Violation::RevisionReused { .. }))
}

fn back(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let fits = operations(history, |one| applied(one).is_some_and(|revision| revision > 2));
    let later = history.operations[choose(random, fits)?].clone();
    let end = history.operations.iter().map(|one| one.returned).max()? + 1;
    history.push(Record::Operation(Operation {
        id: u64::MAX,
        client: 0,
        server: "server-0".into(),
        key: "/things/ns/other".into(),
        invoked: end,
        returned: end,
        kind: Kind::Create { value: "late".into() },
        outcome: Outcome::Applied {
            revision: applied(&later)? - 1,
        },
    }));
    Some(|found| matches!(found, Violation::RevisionWentBack { .. }))
}

fn two_values(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let reads = operations(history, |one| matches!(one.outcome, Outcome::Saw(Seen::Present { .. })));
    let at = choose(random, reads)?;
    let mut copy = history.operations[at].clone();
    if let Outcome::Saw(Seen::Present { value, .. }) = &mut copy.outcome {
        value.push_str("-other");
    }
    copy.id = u64::MAX;
    copy.kind = Kind::StaleRead;
    history.operations.push(copy);
    Some(|found| matches!(found, Violation::TwoValues { .. }))
}

/// An event with a later one behind it in the same segment.
fn inner_event(history: &History, random: &mut Random) -> Option<(u64, usize)> {
    let events = steps(history, is_event);
    let inner = events.into_iter().filter(|(watch, at)| {
        let rest = &history.watches[watch][at + 1..];
        let segment = rest.iter().take_while(|step| !matches!(step.step, Step::Opened { .. }));
        segment.into_iter().any(|step| is_event(&step.step))
    });
    let inner = inner.collect();
    choose(random, inner)
}

fn known_elsewhere(history: &History, watch: u64, step: &Step) -> bool {
    let Step::Event { revision, key, .. } = step else {
        return false;
    };
    let acknowledged = history
        .operations
        .iter()
        .any(|one| one.key == *key && applied(one) == Some(*revision));
    let watched = |(other, steps): (&u64, &Vec<trireme_checker::WatchStep>)| {
        let same = |one: &trireme_checker::WatchStep| matches!(&one.step, Step::Event { revision: at, .. } if at == revision);
        *other != watch && steps.iter().any(same)
    };
    acknowledged || history.watches.iter().any(watched)
}

fn drop_event(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let (watch, at) = inner_event(history, random)?;
    let step = history.watches[&watch][at].step.clone();
    if !known_elsewhere(history, watch, &step) {
        return None;
    }
    history.watches.get_mut(&watch)?.remove(at);
    Some(|found| matches!(found, Violation::Missed { .. }))
}

fn drop_last_event(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let events = steps(history, is_event);
    let last = |(watch, at): &(u64, usize)| matches!(history.watches[watch].get(at + 1), Some(next) if matches!(next.step, Step::Ended { .. }));
    let (watch, at) = choose(random, events.into_iter().filter(last).collect())?;
    let step = history.watches[&watch][at].step.clone();
    if !known_elsewhere(history, watch, &step) {
        return None;
    }
    history.watches.get_mut(&watch)?.remove(at);
    Some(|found| matches!(found, Violation::Missed { .. }))
}

fn repeat_event(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let (watch, at) = choose(random, steps(history, is_event))?;
    let all = history.watches.get_mut(&watch)?;
    all.insert(at, all[at].clone());
    Some(|found| matches!(found, Violation::Repeated { .. }))
}

fn swap_events(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let pairs = steps(history, is_event).into_iter().filter(|(watch, at)| {
        let next = history.watches[watch].get(at + 1);
        next.is_some_and(|next| is_event(&next.step))
    });
    let (watch, at) = choose(random, pairs.collect())?;
    history.watches.get_mut(&watch)?.swap(at, at + 1);
    Some(|found| matches!(found, Violation::OutOfOrder { .. }))
}

fn bookmark_ahead(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let (watch, at) = choose(random, steps(history, is_event))?;
    let all = history.watches.get_mut(&watch)?;
    let mut bookmark = all[at].clone();
    let Step::Event { revision, .. } = bookmark.step else {
        return None;
    };
    bookmark.step = Step::Bookmark { revision };
    all.insert(at, bookmark);
    Some(|found| matches!(found, Violation::BookmarkAhead { .. }))
}

fn bookmark_back(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let (watch, at) = choose(random, steps(history, is_event))?;
    let all = history.watches.get_mut(&watch)?;
    let mut bookmark = all[at].clone();
    let Step::Event { revision, .. } = bookmark.step else {
        return None;
    };
    bookmark.step = Step::Bookmark { revision: revision - 1 };
    all.insert(at + 1, bookmark);
    Some(|found| matches!(found, Violation::BookmarkBack { .. }))
}

fn resume_repeats(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let (watch, at) = choose(random, steps(history, is_event))?;
    let all = history.watches.get_mut(&watch)?;
    let mut resumed = all[at].clone();
    let Step::Event { revision, .. } = resumed.step else {
        return None;
    };
    resumed.step = Step::Resumed { after: revision };
    let event = all[at].clone();
    all.splice(at + 1..at + 1, [resumed, event]);
    Some(|found| matches!(found, Violation::WronglyResumed { .. }))
}

fn wrong_kind(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let (watch, at) = choose(
        random,
        steps(history, |step| {
            matches!(
                step,
                Step::Event {
                    change: Change::Modified,
                    ..
                }
            )
        }),
    )?;
    let all = history.watches.get_mut(&watch)?;
    let Step::Event { key, .. } = all[at].step.clone() else {
        return None;
    };
    let same = |step: &trireme_checker::WatchStep| matches!(&step.step, Step::Event { key: other, .. } if *other == key);
    let before = all[..at]
        .iter()
        .rev()
        .take_while(|step| !matches!(step.step, Step::Opened { .. }));
    if !before.into_iter().any(same) {
        return None;
    }
    if let Step::Event { change, .. } = &mut all[at].step {
        *change = Change::Added;
    }
    Some(|found| matches!(found, Violation::WrongKind { .. }))
}

fn disagree(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let fits = steps(history, is_event).into_iter().filter(|(watch, at)| {
        let Step::Event { revision, .. } = &history.watches[watch][*at].step else {
            return false;
        };
        let same =
            |one: &trireme_checker::WatchStep| matches!(&one.step, Step::Event { revision: other, .. } if other == revision);
        history
            .watches
            .iter()
            .any(|(other, steps)| other != watch && steps.iter().any(same))
    });
    let (watch, at) = choose(random, fits.collect())?;
    if let Step::Event { value, .. } = &mut history.watches.get_mut(&watch)?[at].step {
        value.push_str("-other");
    }
    Some(|found| matches!(found, Violation::Disagree { .. }))
}

fn from_nowhere(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let (watch, at) = choose(random, steps(history, is_event))?;
    let all = history.watches.get_mut(&watch)?;
    let mut ghost = all[at].clone();
    if let Step::Event {
        revision, value, change, ..
    } = &mut ghost.step
    {
        (*revision, *change) = (3_000_000, Change::Modified);
        *value = "ghost".into();
    }
    all.insert(at + 1, ghost);
    Some(|found| matches!(found, Violation::FromNowhere { .. }))
}

fn torn_listing(history: &mut History, random: &mut Random) -> Option<Wanted> {
    let last = history.listings.len().checked_sub(1)?;
    let objects = &history.listings[last].objects;
    let replaced: Vec<(String, String, u64)> = history
        .operations
        .iter()
        .filter_map(|one| Some((one.key.clone(), one.kind.value()?.to_owned(), applied(one)?)))
        .filter(|(key, _, at)| objects.get(key).is_some_and(|(_, now)| at < now))
        .collect();
    let (key, value, revision) = choose(random, replaced)?;
    history.listings[last].objects.insert(key, (value, revision));
    Some(|found| matches!(found, Violation::TornListing { .. }))
}

#[test]
fn every_injection_finds_a_place_in_some_history() {
    let shape = Shape {
        operations: 120,
        keys: 3,
        clients: 5,
        watches: 3,
        unknown_each: 10,
    };
    for (name, inject) in INJECTIONS {
        let placed = (0..50).any(|seed| inject(&mut valid(seed, shape), &mut Random::new(seed)).is_some());
        assert!(placed, "{name} never found a place");
    }
}

#[test]
fn a_hundred_thousand_operations_on_a_thousand_keys_are_judged() {
    let shape = Shape {
        operations: 100_000,
        keys: 1000,
        clients: 64,
        watches: 8,
        unknown_each: 50,
    };
    let history = valid(7, shape);
    let start = Instant::now();
    for (name, check) in trireme_checker::CHECKS {
        let begun = Instant::now();
        assert_eq!(check(&history), Vec::new());
        println!("{name}: {:?}", begun.elapsed());
    }
    println!("altogether: {:?}", start.elapsed());
}

#[test]
fn one_busy_key_with_many_unknown_outcomes_is_judged() {
    let shape = Shape {
        operations: 3000,
        keys: 1,
        clients: 6,
        watches: 1,
        unknown_each: 20,
    };
    let history = valid(11, shape);
    assert_eq!(check(&history), Vec::new());
}

#[test]
fn a_violation_reads_well() {
    let mut history = History::default();
    let lines = r#"
{"operation":{"id":1,"client":1,"server":"a","key":"k","invoked":1,"returned":2,"kind":{"create":{"value":"x"}},"outcome":{"applied":{"revision":2}}}}
{"operation":{"id":2,"client":1,"server":"a","key":"k","invoked":3,"returned":4,"kind":{"cas":{"expected":2,"value":"y"}},"outcome":{"applied":{"revision":3}}}}
{"operation":{"id":3,"client":2,"server":"b","key":"k","invoked":5,"returned":6,"kind":"read","outcome":{"saw":{"present":{"value":"x","revision":2}}}}}
"#;
    history.read_lines(lines).unwrap();
    let found: Vec<String> = check(&history).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "not linearizable at key \"k\": no order explains operation 3 (client 2 at b, 5..6) read of \"k\": saw \"x\" of revision 2
  the key could hold: \"y\" of revision 3
  before it: operation 1 (client 1 at a, 1..2) create \"x\" of \"k\": applied at revision 2
             operation 2 (client 1 at a, 3..4) write \"y\" over revision 2 of \"k\": applied at revision 3",
            "acknowledged write lost: operation 2 (client 1 at a, 3..4) write \"y\" over revision 2 of \"k\": applied at revision 3; but operation 3 (client 2 at b, 5..6) read of \"k\": saw \"x\" of revision 2",
        ]
    );
}

#[test]
fn an_unknown_outcome_may_come_true_late_or_never() {
    let operation = |id, invoked, returned, kind, outcome| {
        let (client, server, key) = (id, "a".to_owned(), "k".to_owned());
        Operation {
            id,
            client,
            server,
            key,
            invoked,
            returned,
            kind,
            outcome,
        }
    };
    let present = |value: &str, revision| {
        Outcome::Saw(Seen::Present {
            value: value.into(),
            revision,
        })
    };
    let create = operation(1, 1, 2, Kind::Create { value: "x".into() }, Outcome::Applied { revision: 2 });
    let lost = operation(2, 3, 4, Kind::Write { value: "y".into() }, Outcome::Unknown);
    let old = operation(3, 10, 11, Kind::Read, present("x", 2));
    let new = operation(4, 20, 21, Kind::Read, present("y", 3));
    let old_again = operation(5, 30, 31, Kind::Read, present("x", 2));
    let history = |operations: &[&Operation]| History {
        operations: operations.iter().copied().cloned().collect(),
        ..History::default()
    };
    assert_eq!(check(&history(&[&create, &lost, &old])), Vec::new());
    assert_eq!(check(&history(&[&create, &lost, &old, &new])), Vec::new());
    let back = check(&history(&[&create, &lost, &old, &new, &old_again]));
    assert!(matches!(back[..], [Violation::NotLinearizable { .. }]), "{back:?}");
}
