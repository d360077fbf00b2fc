//! A ruleset as named sets, maps and chains, and the scripts for `nft -f` that bring the kernel to it.
//!
//! Invariant: every script is one transaction, so a packet sees the rules from before or from after it. It names only the
//! tables of the ruleset's own name; nobody else's are touched.

use core::fmt::{self, Write};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::facts::Family;

/// Name of the tables of Services.
pub const TABLE: &str = "trireme";
/// Name of the tables of NetworkPolicies.
pub const POLICY_TABLE: &str = "trireme-policy";

/// The empty chain `mark/<hash>` says in the kernel which rules a table holds. It changes in the same transaction.
const MARK: &str = "mark/";

/// Elements of one `add element` command; more make further commands.
const ELEMENTS_PER_COMMAND: usize = 256;

/// What the kernel should hold in the tables of one name, in all families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    pub(crate) name: &'static str,
    pub(crate) tables: BTreeMap<Family, Table>,
}

impl Default for Ruleset {
    fn default() -> Self {
        Self::new(TABLE)
    }
}

/// A table as scripts say it: family and name.
#[derive(Clone, Copy)]
struct Place {
    family: Family,
    name: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.word(), self.name)
    }
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Table {
    pub(crate) sets: BTreeMap<String, Set>,
    pub(crate) chains: BTreeMap<String, Chain>,
}

/// A set or a map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Set {
    pub(crate) is_map: bool,
    /// What stands between the braces of its declaration.
    pub(crate) declaration: String,
    /// Key → value; the value is empty in a set.
    pub(crate) elements: BTreeMap<String, String>,
    /// The kernel fills it; its elements outlive rewrites.
    pub(crate) is_dynamic: bool,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Chain {
    /// Hook of a base chain.
    pub(crate) base: Option<String>,
    pub(crate) rules: Vec<String>,
}

/// A way from one ruleset to another: the change that matters, then the removal of what nothing refers to any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// One transaction; empty if nothing changes.
    pub apply: String,
    /// One transaction to run after `apply`, empty if nothing is left over. Failing leaves only unused chains.
    pub cleanup: String,
}

impl Change {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apply.is_empty() && self.cleanup.is_empty()
    }
}

/// Names that the kernel holds in the tables of one name, from an earlier life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    name: &'static str,
    tables: BTreeMap<Family, Names>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    sets: BTreeSet<String>,
    maps: BTreeSet<String>,
    chains: BTreeSet<String>,
}

impl Default for Existing {
    fn default() -> Self {
        Self::of(TABLE)
    }
}

impl Existing {
    /// Nothing is known yet of the tables of this name.
    #[must_use]
    pub fn of(name: &'static str) -> Self {
        Self {
            name,
            tables: BTreeMap::new(),
        }
    }

    /// Reads `nft -j -t list table <family> <name>` into what is known; output of other shape adds nothing.
    pub fn add_listing(&mut self, listing: &serde_json::Value) {
        for item in listing["nftables"].as_array().into_iter().flatten() {
            let Some((kind, body)) = item.as_object().and_then(|object| object.iter().next()) else {
                continue;
            };
            let family = match body["family"].as_str() {
                Some("ip") => Family::V4,
                Some("ip6") => Family::V6,
                _ => continue,
            };
            let Some(name) = body["name"].as_str() else { continue };
            let is_table = kind == "table";
            if (if is_table { Some(name) } else { body["table"].as_str() }) != Some(self.name) {
                continue;
            }
            let names = self.tables.entry(family).or_default();
            match kind.as_str() {
                "set" => drop(names.sets.insert(name.to_owned())),
                "map" => drop(names.maps.insert(name.to_owned())),
                "chain" => drop(names.chains.insert(name.to_owned())),
                _ => {}
            }
        }
    }

    /// Whether the kernel holds just this ruleset, going by the marks in its tables. A listing of chains is enough.
    #[must_use]
    pub fn is_of(&self, ruleset: &Ruleset) -> bool {
        let mark = |name: &&String| name.starts_with(MARK);
        self.tables.keys().eq(ruleset.tables.keys())
            && self.tables.iter().zip(ruleset.tables.values()).all(|((_, names), table)| {
                table.chains.keys().any(|name| mark(&name)) && names.chains.iter().eq(table.chains.keys())
            })
    }

    /// Whether the kernel holds nothing of ours.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

/// Removes all tables of a name; what is absent is no error.
fn removal(name: &'static str) -> String {
    let mut script = String::new();
    for family in [Family::V4, Family::V6] {
        let place = Place { family, name };
        line(&mut script, format_args!("add table {place}"));
        line(&mut script, format_args!("delete table {place}"));
    }
    script
}

fn line(script: &mut String, text: core::fmt::Arguments<'_>) {
    script.write_fmt(text).expect("writing to a String never fails");
    script.push('\n');
}

impl Set {
    fn word(&self) -> &'static str {
        if self.is_map { "map" } else { "set" }
    }

    fn declare(&self, script: &mut String, place: Place, name: &str) {
        line(
            script,
            format_args!("add {} {place} {name} {{ {} }}", self.word(), self.declaration),
        );
    }
}

impl Chain {
    fn declare(&self, script: &mut String, place: Place, name: &str) {
        match &self.base {
            Some(base) => line(script, format_args!("add chain {place} {name} {{ {base} }}")),
            None => line(script, format_args!("add chain {place} {name}")),
        }
    }

    fn fill(&self, script: &mut String, place: Place, name: &str) {
        for rule in &self.rules {
            line(script, format_args!("add rule {place} {name} {rule}"));
        }
    }
}

/// `elements`: keys with values (added to a map) or keys alone.
fn element_commands<'a>(
    script: &mut String,
    verb: &str,
    place: Place,
    name: &str,
    elements: impl Iterator<Item = (&'a String, &'a str)>,
) {
    let texts: Vec<String> = elements
        .map(|(key, value)| {
            if value.is_empty() {
                key.clone()
            } else {
                format!("{key} : {value}")
            }
        })
        .collect();
    for chunk in texts.chunks(ELEMENTS_PER_COMMAND) {
        line(
            script,
            format_args!("{verb} element {place} {name} {{ {} }}", chunk.join(", ")),
        );
    }
}

impl Table {
    /// Adds the mark. The last step of making a table.
    pub(crate) fn mark(&mut self) {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        self.chains
            .insert(format!("{MARK}{:016x}", hasher.finish()), Chain::default());
    }

    fn declare_and_fill(&self, script: &mut String, place: Place) {
        for (name, set) in &self.sets {
            set.declare(script, place, name);
        }
        for (name, chain) in &self.chains {
            chain.declare(script, place, name);
        }
        self.fill(script, place);
    }

    fn fill(&self, script: &mut String, place: Place) {
        for (name, chain) in &self.chains {
            chain.fill(script, place, name);
        }
        for (name, set) in &self.sets {
            element_commands(
                script,
                "add",
                place,
                name,
                set.elements.iter().map(|(key, value)| (key, value.as_str())),
            );
        }
    }
}

impl Ruleset {
    /// Nothing in the tables of this name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            tables: BTreeMap::new(),
        }
    }

    fn place(&self, family: Family) -> Place {
        Place { family, name: self.name }
    }

    /// Puts the whole ruleset in place of whatever the kernel holds. Affinity state is lost: prefer [`Ruleset::adopt`].
    #[must_use]
    pub fn replace(&self) -> String {
        let mut script = removal(self.name);
        for (family, table) in &self.tables {
            let place = self.place(*family);
            line(&mut script, format_args!("add table {place}"));
            table.declare_and_fill(&mut script, place);
        }
        script
    }

    /// Puts the whole ruleset in place of what an earlier life left behind, keeping what the kernel filled itself
    /// (affinity). The kernel refuses if a set of the same name is of another shape: then [`Ruleset::replace`].
    #[must_use]
    pub fn adopt(&self, existing: &Existing) -> Change {
        let mut change = Change::default();
        for (family, table) in &self.tables {
            let place = self.place(*family);
            let script = &mut change.apply;
            line(script, format_args!("add table {place}"));
            line(script, format_args!("flush table {place}"));
            let known = existing.tables.get(family).map(|names| &names.chains);
            for name in known.into_iter().flatten().filter(|name| name.starts_with(MARK)) {
                line(script, format_args!("delete chain {place} {name}"));
            }
            for (name, set) in &table.sets {
                set.declare(script, place, name);
                if !set.is_dynamic {
                    line(script, format_args!("flush {} {place} {name}", set.word()));
                }
            }
            for (name, chain) in &table.chains {
                chain.declare(script, place, name);
            }
            table.fill(script, place);
        }
        for (family, names) in &existing.tables {
            let place = self.place(*family);
            let Some(table) = self.tables.get(family) else {
                line(&mut change.cleanup, format_args!("delete table {place}"));
                continue;
            };
            for name in names.maps.iter().filter(|name| !table.sets.contains_key(*name)) {
                line(&mut change.cleanup, format_args!("delete map {place} {name}"));
            }
            for name in names
                .chains
                .iter()
                .filter(|name| !name.starts_with(MARK) && !table.chains.contains_key(*name))
            {
                line(&mut change.cleanup, format_args!("delete chain {place} {name}"));
            }
            for name in names.sets.iter().filter(|name| !table.sets.contains_key(*name)) {
                line(&mut change.cleanup, format_args!("delete set {place} {name}"));
            }
        }
        change
    }

    /// The way here from `old`, which the kernel is known to hold.
    #[must_use]
    pub fn change_from(&self, old: &Self) -> Change {
        let mut change = Change::default();
        let empty = Table::default();
        for (family, new) in &self.tables {
            let place = self.place(*family);
            match old.tables.get(family) {
                Some(known) => difference(&mut change, place, known, new),
                None => {
                    line(&mut change.apply, format_args!("add table {place}"));
                    difference(&mut change, place, &empty, new);
                }
            }
        }
        for family in old.tables.keys().filter(|family| !self.tables.contains_key(family)) {
            line(&mut change.apply, format_args!("delete table {}", self.place(*family)));
        }
        change
    }

    /// Objects in it: chains, rules and elements, for logs and metrics.
    #[must_use]
    pub fn size(&self) -> usize {
        let sizes = self.tables.values().map(|table| {
            let rules: usize = table.chains.values().map(|chain| 1 + chain.rules.len()).sum();
            rules + table.sets.values().map(|set| set.elements.len()).sum::<usize>()
        });
        sizes.sum()
    }
}

/// Order: old elements out, new names in, changed chains rewritten, new elements in; then, apart, unused names out.
fn difference(change: &mut Change, place: Place, old: &Table, new: &Table) {
    let script = &mut change.apply;
    let none = BTreeMap::new();
    let kept = |name: &str, set: &Set| old.sets.get(name).filter(|was| was.declaration == set.declaration);
    for (name, set) in &new.sets {
        if let Some(was) = kept(name, set) {
            let gone = was
                .elements
                .iter()
                .filter(|(key, value)| set.elements.get(*key) != Some(value));
            element_commands(script, "delete", place, name, gone.map(|(key, _)| (key, "")));
        }
    }
    for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        set.declare(script, place, name);
    }
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        chain.declare(script, place, name);
    }
    for (name, chain) in &new.chains {
        let was = old.chains.get(name);
        if was.is_some_and(|was| was.rules == chain.rules) {
            continue;
        }
        if was.is_some() {
            line(script, format_args!("flush chain {place} {name}"));
        }
        chain.fill(script, place, name);
    }
    for (name, set) in &new.sets {
        let before = kept(name, set).map_or(&none, |was| &was.elements);
        let fresh = set.elements.iter().filter(|(key, value)| before.get(*key) != Some(value));
        element_commands(script, "add", place, name, fresh.map(|(key, value)| (key, value.as_str())));
    }
    // A set whose last user goes is emptied at once, so that no verdict keeps a chain that is about to go.
    for (name, set) in old
        .sets
        .iter()
        .filter(|(name, set)| set.is_map && !new.sets.contains_key(*name))
    {
        line(script, format_args!("flush {} {place} {name}", set.word()));
    }
    // Nothing ever refers to a mark, so the old one can go with the rules it stood for.
    for name in old
        .chains
        .keys()
        .filter(|name| name.starts_with(MARK) && !new.chains.contains_key(*name))
    {
        line(script, format_args!("delete chain {place} {name}"));
    }
    let cleanup = &mut change.cleanup;
    let unused = |name: &&String| !name.starts_with(MARK) && !new.chains.contains_key(*name);
    for name in old.chains.keys().filter(unused) {
        line(cleanup, format_args!("flush chain {place} {name}"));
    }
    for name in old.chains.keys().filter(unused) {
        line(cleanup, format_args!("delete chain {place} {name}"));
    }
    for (name, set) in old.sets.iter().filter(|(name, _)| !new.sets.contains_key(*name)) {
        line(cleanup, format_args!("delete {} {place} {name}", set.word()));
    }
}
