//! Histories of an ideal store: operations that take effect at one moment between invocation and return, watches that miss
//! nothing, listings of one moment. By seed, so that a failing one can be made again.

use std::collections::BTreeMap;

use trireme_checker::{Change, History, Kind, Listing, Operation, Outcome, Record, Seen, Step, WatchStep};

/// A small random source (xorshift).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound.max(1)
    }
}

/// How a history is to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub operations: u64,
    pub keys: u64,
    pub clients: u64,
    pub watches: u64,
    /// One in so many operations has an unknown outcome; 0 for none.
    pub unknown_each: u64,
}

struct Plan {
    id: u64,
    client: u64,
    invoked: u64,
    effect: u64,
    returned: u64,
}

/// A history that a correct store may have.
pub fn valid(seed: u64, shape: Shape) -> History {
    let mut random = Random::new(seed);
    let mut plans = Vec::new();
    let mut free = vec![0_u64; usize::try_from(shape.clients).unwrap()];
    for id in 0..shape.operations {
        let client = random.below(shape.clients);
        let start = &mut free[usize::try_from(client).unwrap()];
        let invoked = *start + random.below(20);
        let effect = invoked + random.below(30);
        let returned = effect + random.below(30);
        *start = returned + 1;
        plans.push(Plan {
            id,
            client,
            invoked,
            effect,
            returned,
        });
    }
    // Of two that take effect at one time, the one that comes first in this order does so first; their intervals overlap.
    plans.sort_by_key(|plan| plan.effect);
    let mut history = History::default();
    let mut state: BTreeMap<String, (String, u64)> = BTreeMap::new();
    let mut log: Vec<(u64, String, Change, String)> = Vec::new();
    let mut revision = 1;
    for plan in &plans {
        let key = format!("/things/ns/key-{}", random.below(shape.keys));
        let current = state.get(&key).cloned();
        let value = format!("v{}", plan.id);
        let seen = current
            .clone()
            .map_or(Seen::Absent, |(value, revision)| Seen::Present { value, revision });
        let expected = match (&current, random.below(4)) {
            (Some((_, at)), 1..) => *at,
            _ => random.below(revision + 1),
        };
        let kind = match random.below(10) {
            0..=2 => Kind::Read,
            3 => Kind::StaleRead,
            4 => Kind::Write { value },
            5 | 6 => Kind::Create { value },
            7 | 8 => Kind::Cas { expected, value },
            _ => Kind::Delete {
                expected: (random.below(2) == 0).then_some(expected),
            },
        };
        let holds = match &kind {
            Kind::Create { .. } => current.is_none(),
            Kind::Cas { expected, .. } => current.as_ref().is_some_and(|(_, at)| at == expected),
            Kind::Delete { expected } => current
                .as_ref()
                .is_some_and(|(_, at)| expected.is_none_or(|expected| *at == expected)),
            _ => true,
        };
        let unknown = shape.unknown_each > 0 && random.below(shape.unknown_each) == 0;
        let failed = random.below(12) == 0 || (unknown && random.below(2) == 0);
        let outcome = if !kind.changes() {
            Outcome::Saw(seen)
        } else if failed {
            Outcome::Failed
        } else if holds {
            revision += 1;
            let (change, text) = match (kind.value(), &current) {
                (Some(value), None) => (Change::Added, value.to_owned()),
                (Some(value), Some(_)) => (Change::Modified, value.to_owned()),
                (None, current) => (Change::Deleted, current.clone().map_or_else(String::new, |(value, _)| value)),
            };
            match change {
                Change::Deleted => drop(state.remove(&key)),
                _ => drop(state.insert(key.clone(), (text.clone(), revision))),
            }
            log.push((revision, key.clone(), change, text));
            Outcome::Applied { revision }
        } else {
            Outcome::Refused {
                seen: (random.below(2) == 0).then_some(seen),
            }
        };
        history.push(Record::Operation(Operation {
            id: plan.id,
            client: plan.client,
            server: format!("server-{}", random.below(3)),
            key,
            invoked: plan.invoked,
            returned: plan.returned,
            kind,
            outcome: if unknown { Outcome::Unknown } else { outcome },
        }));
        if random.below(40.max(shape.operations / 20)) == 0 {
            history.push(Record::Listing(listing(&state, plan.effect, plan.effect, revision)));
        }
    }
    let end = plans.iter().map(|plan| plan.returned).max().unwrap_or(0) + 1;
    history.push(Record::Listing(listing(&state, end, end, revision)));
    for watch in 0..shape.watches {
        watch_of(&mut history, &mut random, watch, &log, revision);
    }
    history
}

fn listing(state: &BTreeMap<String, (String, u64)>, invoked: u64, returned: u64, revision: u64) -> Listing {
    Listing {
        server: "server-0".into(),
        prefix: "/things/".into(),
        invoked,
        returned,
        revision,
        linearizable: true,
        objects: state.clone(),
    }
}

fn watch_of(history: &mut History, random: &mut Random, watch: u64, log: &[(u64, String, Change, String)], last: u64) {
    let mut steps = Vec::new();
    let mut server = format!("server-{}", random.below(3));
    let prefix = if random.below(3) == 0 {
        "/things/ns/key-1"
    } else {
        "/things/"
    };
    let mut told = 1 + random.below(last);
    steps.push((
        server.clone(),
        Step::Opened {
            prefix: prefix.into(),
            after: told,
        },
    ));
    for (revision, key, change, value) in log {
        if *revision <= told {
            continue;
        }
        if random.below(10) == 0 {
            steps.push((server.clone(), Step::Bookmark { revision: *revision - 1 }));
            told = *revision - 1;
        }
        if random.below(15) == 0 {
            server = format!("server-{}", random.below(3));
            steps.push((server.clone(), Step::Resumed { after: told }));
        }
        if random.below(60) == 0 {
            steps.push((server.clone(), Step::Expired));
            told = *revision;
            steps.push((
                server.clone(),
                Step::Opened {
                    prefix: prefix.into(),
                    after: told,
                },
            ));
        }
        if key.starts_with(prefix) && *revision > told {
            told = *revision;
            steps.push((
                server.clone(),
                Step::Event {
                    revision: *revision,
                    key: key.clone(),
                    change: *change,
                    value: value.clone(),
                },
            ));
        }
    }
    steps.push((server, Step::Ended { through: last }));
    for (at, (server, step)) in steps.into_iter().enumerate() {
        let at = at as u64;
        history.push(Record::Watch(WatchStep { watch, server, at, step }));
    }
}
