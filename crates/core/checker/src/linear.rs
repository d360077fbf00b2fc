//! Linearizability of each key: Wing and Gong's search in Lowe's just-in-time form. Operations wait as pending from their
//! invocation; only when one returns must it have taken effect, and then every order of pending operations that ends with
//! it is tried, from every state that was possible so far.
//!
//! Invariant: the set of possible configurations is exact up to domination: of two that differ only in which operations
//! of unknown outcome they have used up, the one that used fewer can do all that the other can, and stands for both. A
//! pending operation that fits and changes nothing has always taken effect: that forecloses nothing.

use std::collections::{BTreeMap, HashMap};

use crate::commits::told;
use crate::history::History;
use crate::record::{Kind, Operation, Outcome};
use crate::register::{Register, UNTOLD};
use crate::violation::Violation;

/// The search at one key is given up when more configurations than this are possible at once.
const CONFIGURATIONS_MAX: usize = 200_000;

/// How many operations before the inexplicable one are shown.
const SHOWN_BEFORE: usize = 8;

/// Whether the operations on each key can be put in one order that respects real time and explains every answer.
#[must_use]
pub fn linearizable_per_key(history: &History) -> Vec<Violation> {
    let revisions = revisions_of_values(history);
    let mut keys: BTreeMap<&str, Vec<Entry<'_>>> = BTreeMap::new();
    for operation in &history.operations {
        if !matters(operation) {
            continue;
        }
        let found = operation
            .kind
            .value()
            .map(|value| revisions.get(&(operation.key.as_str(), value)));
        let resolved = found.flatten().copied().flatten().unwrap_or(UNTOLD);
        // Where nobody saw a value, it does not matter which it is.
        let unseen = found == Some(None) && operation.outcome == Outcome::Unknown;
        keys.entry(&operation.key).or_default().push(Entry {
            operation,
            resolved,
            unseen,
        });
    }
    let judge = |(key, entries): (&&str, &Vec<Entry<'_>>)| judge(key, entries);
    keys.iter().filter_map(judge).collect()
}

/// An operation that takes effect once, or may.
#[derive(Clone, Copy)]
struct Entry<'a> {
    operation: &'a Operation,
    resolved: u64,
    /// Whether it is of unknown outcome and nobody saw its value.
    unseen: bool,
}

impl<'a> Entry<'a> {
    fn open(&self) -> bool {
        self.operation.outcome == Outcome::Unknown
    }

    /// Whether it is of unknown outcome and cannot take effect any more once a key has changed at a revision.
    fn too_late(&self, floor: u64) -> bool {
        let passed = match self.operation.kind {
            Kind::Cas { expected, .. }
            | Kind::Delete {
                expected: Some(expected),
            } => expected < floor,
            _ => false,
        };
        self.open() && (passed || (self.resolved != UNTOLD && self.resolved <= floor))
    }

    /// Operations of one class are as good as each other: the first comes first.
    fn class(&self) -> Option<usize> {
        match self.operation.kind {
            Kind::Delete { expected: None } if self.open() => Some(0),
            Kind::Write { .. } if self.unseen => Some(1),
            Kind::Create { .. } if self.unseen => Some(2),
            _ => None,
        }
    }

    fn step(&self, register: Register<'a>) -> Option<Register<'a>> {
        let after = register.step(self.operation, self.resolved)?;
        Some(if self.unseen { after.unseen() } else { after })
    }
}

fn matters(operation: &Operation) -> bool {
    match operation.outcome {
        Outcome::Failed => false,
        Outcome::Unknown => operation.kind.changes(),
        _ => operation.kind != Kind::StaleRead,
    }
}

/// At which revision a value was seen, for values that one operation alone may have put there.
fn revisions_of_values(history: &History) -> HashMap<(&str, &str), Option<u64>> {
    let mut writers: HashMap<(&str, &str), u32> = HashMap::new();
    for operation in &history.operations {
        if let Some(value) = operation.kind.value() {
            *writers.entry((&operation.key, value)).or_default() += 1;
        }
    }
    let several = writers.iter().filter(|(_, count)| **count > 1);
    let mut revisions: HashMap<(&str, &str), Option<u64>> = several.map(|(value, _)| (*value, None)).collect();
    for told in told(history) {
        let Some(value) = told.value else { continue };
        if writers.get(&(told.key, value)) == Some(&1) {
            let known = revisions.entry((told.key, value)).or_insert(Some(told.revision));
            if *known != Some(told.revision) {
                *known = None;
            }
        }
    }
    revisions
}

/// What is wrong with a key's operations, if anything.
fn judge(key: &str, entries: &[Entry<'_>]) -> Option<Violation> {
    // A change that nobody saw most likely never happened: without those the search is short.
    let likely: Vec<Entry<'_>> = entries.iter().filter(|entry| !entry.unseen).copied().collect();
    if likely.len() < entries.len() && search(key, &likely).is_none() {
        return None;
    }
    search(key, entries)
}

/// Which operations were pending and took effect already, and what the key holds then.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration<'a> {
    register: Register<'a>,
    /// Pending operations with an answer that took effect, sorted.
    done: Vec<u32>,
    /// Operations of unknown outcome that took effect, sorted.
    used: Vec<u32>,
}

/// Configurations of which none dominates another.
#[derive(Default)]
struct Frontier<'a> {
    by_rest: HashMap<(Register<'a>, Vec<u32>), Vec<Vec<u32>>>,
    len: usize,
}

impl<'a> Frontier<'a> {
    /// Adds a configuration; false when one that is there can do all that it can.
    fn insert(&mut self, configuration: Configuration<'a>) -> bool {
        let Configuration { register, done, used } = configuration;
        let others = self.by_rest.entry((register, done)).or_default();
        if others.iter().any(|other| subset(other, &used)) {
            return false;
        }
        let before = others.len();
        others.retain(|other| !subset(&used, other));
        others.push(used);
        self.len = self.len + others.len() - before;
        true
    }

    fn into_configurations(self) -> impl Iterator<Item = Configuration<'a>> {
        self.by_rest.into_iter().flat_map(|((register, done), all)| {
            all.into_iter().map(move |used| Configuration {
                register,
                done: done.clone(),
                used,
            })
        })
    }
}

fn subset(small: &[u32], large: &[u32]) -> bool {
    small.len() <= large.len() && small.iter().all(|item| large.binary_search(item).is_ok())
}

fn with(items: &[u32], item: u32) -> Vec<u32> {
    let at = items.partition_point(|other| *other < item);
    let mut items = items.to_vec();
    items.insert(at, item);
    items
}

fn search(key: &str, entries: &[Entry<'_>]) -> Option<Violation> {
    // At one instant invocations come before returns: such operations count as concurrent.
    let mut events: Vec<(u64, bool, u32)> = Vec::with_capacity(entries.len() * 2);
    for (index, entry) in entries.iter().enumerate() {
        let index = u32::try_from(index).expect("fewer than 2^32 operations");
        events.push((entry.operation.invoked, false, index));
        if !entry.open() {
            events.push((entry.operation.returned.max(entry.operation.invoked), true, index));
        }
    }
    events.sort_unstable();
    let mut pending: Vec<u32> = Vec::new();
    let mut possible = vec![Configuration {
        register: Register::default(),
        done: Vec::new(),
        used: Vec::new(),
    }];
    for (position, (_, returns, index)) in events.iter().enumerate() {
        if !returns {
            pending.push(*index);
            continue;
        }
        let operation = entries[*index as usize].operation;
        match advance(entries, &pending, &possible, *index) {
            Some(next) if !next.is_empty() => possible = next,
            Some(_) => return Some(inexplicable(key, entries, &events[..position], &possible, operation)),
            None => {
                return Some(Violation::Undecided {
                    key: key.to_owned(),
                    operation: operation.to_string(),
                    configurations: CONFIGURATIONS_MAX,
                });
            }
        }
        // Those of unknown outcome whose moment has passed can take effect no more.
        let floor = possible.iter().map(|one| one.register.floor).min().unwrap_or(0);
        pending.retain(|other| other != index && !entries[*other as usize].too_late(floor));
    }
    None
}

/// All configurations in which an operation that returns now has taken effect. `None` when there are too many.
fn advance<'a>(
    entries: &[Entry<'a>],
    pending: &[u32],
    possible: &[Configuration<'a>],
    returning: u32,
) -> Option<Vec<Configuration<'a>>> {
    let mut next = Frontier::default();
    let mut visited = Frontier::default();
    let mut queue: Vec<Configuration<'a>> = Vec::new();
    for configuration in possible {
        if let Ok(at) = configuration.done.binary_search(&returning) {
            let mut configuration = configuration.clone();
            configuration.done.remove(at);
            next.insert(configuration);
        } else {
            let configuration = settled(entries, pending, configuration.clone());
            if let Ok(at) = configuration.done.binary_search(&returning) {
                let mut configuration = configuration;
                configuration.done.remove(at);
                next.insert(configuration);
            } else if visited.insert(configuration.clone()) {
                queue.push(configuration);
            }
        }
    }
    while let Some(configuration) = queue.pop() {
        if visited.len > CONFIGURATIONS_MAX {
            return None;
        }
        let mut begun = [false; 3];
        for index in pending {
            let entry = &entries[*index as usize];
            let taken = if entry.open() {
                &configuration.used
            } else {
                &configuration.done
            };
            if taken.binary_search(index).is_ok() {
                continue;
            }
            if entry.class().is_some_and(|class| std::mem::replace(&mut begun[class], true)) {
                continue;
            }
            let Some(register) = entry.step(configuration.register) else {
                continue;
            };
            let mut after = Configuration {
                register,
                ..configuration.clone()
            };
            if *index == returning {
                next.insert(after);
                continue;
            }
            if entry.open() {
                after.used = with(&configuration.used, *index);
            } else {
                after.done = with(&configuration.done, *index);
            }
            let mut after = settled(entries, pending, after);
            if let Ok(at) = after.done.binary_search(&returning) {
                after.done.remove(at);
                next.insert(after);
            } else if visited.insert(after.clone()) {
                queue.push(after);
            }
        }
    }
    Some(next.into_configurations().collect())
}

/// A configuration with all pending operations done that fit and change nothing.
fn settled<'a>(entries: &[Entry<'a>], pending: &[u32], mut configuration: Configuration<'a>) -> Configuration<'a> {
    for index in pending {
        let entry = &entries[*index as usize];
        if let Err(at) = configuration.done.binary_search(index)
            && !entry.open()
            && entry.step(configuration.register) == Some(configuration.register)
        {
            configuration.done.insert(at, *index);
        }
    }
    configuration
}

fn inexplicable(
    key: &str,
    entries: &[Entry<'_>],
    events: &[(u64, bool, u32)],
    possible: &[Configuration<'_>],
    operation: &Operation,
) -> Violation {
    let mut states: Vec<String> = possible.iter().map(|one| one.register.to_string()).collect();
    states.sort();
    states.dedup();
    let mut before: Vec<u32> = Vec::new();
    for (_, _, index) in events.iter().rev() {
        let other = entries[*index as usize].operation;
        if before.len() < SHOWN_BEFORE && other.id != operation.id && !before.contains(index) {
            before.push(*index);
        }
    }
    let before: Vec<String> = before
        .iter()
        .rev()
        .map(|index| entries[*index as usize].operation.to_string())
        .collect();
    Violation::NotLinearizable {
        key: key.to_owned(),
        operation: operation.to_string(),
        states: states.join(", or "),
        before: before.join("\n             "),
    }
}
