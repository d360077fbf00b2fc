//! A small nftables: reads the script that the kernel would get and says what becomes of a packet.
//!
//! Invariant: an expression that it does not know is a panic, never a match.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// A packet as rules see it, after translation.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: &'static str,
    /// Of the destination; protocols without ports have 0.
    pub port: u16,
    pub established: bool,
    pub by_loopback: bool,
}

impl Packet {
    pub fn new(from: IpAddr, to: IpAddr, protocol: &'static str, port: u16) -> Self {
        Self {
            from,
            to,
            protocol,
            port,
            established: false,
            by_loopback: false,
        }
    }
}

/// Rules of all families.
#[derive(Default)]
pub struct Kernel {
    tables: HashMap<String, Table>,
}

#[derive(Default)]
struct Table {
    sets: HashMap<String, Set>,
    chains: HashMap<String, Chain>,
}

#[derive(Default)]
struct Set {
    is_interval: bool,
    exact: HashMap<String, String>,
    ranges: Vec<(u128, u128)>,
}

#[derive(Default)]
struct Chain {
    hook: Option<String>,
    rules: Vec<(Vec<Test>, Verdict)>,
}

#[derive(Clone, Copy, Debug)]
enum Key {
    From,
    To,
    Protocol,
    Port,
}

enum Test {
    Loopback,
    Flows,
    Neighbours,
    Is(Key, String),
    Ranges(Key, Vec<(u128, u128)>),
    Known(Vec<Key>, String),
}

#[derive(Clone)]
enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    Map(Vec<Key>, String),
}

enum Outcome {
    Accepted,
    Dropped,
    Left,
}

fn number(text: &str) -> u128 {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.to_bits().into(),
        Ok(IpAddr::V6(v6)) => v6.to_bits(),
        Err(_) => text.parse().unwrap_or_else(|_| panic!("no number: {text}")),
    }
}

fn range(text: &str) -> (u128, u128) {
    match text.split_once('-') {
        Some((first, last)) => (number(first), number(last)),
        None => (number(text), number(text)),
    }
}

/// Words; what stands in braces is one.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = if rest.starts_with('{') {
            rest.find('}').unwrap() + 1
        } else {
            rest.find(' ').unwrap_or(rest.len())
        };
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    words
}

fn listed(word: &str) -> impl Iterator<Item = &str> {
    word.trim_matches(['{', '}', ' ']).split(", ").filter(|it| !it.is_empty())
}

impl Kernel {
    pub fn load(script: &str) -> Self {
        let mut kernel = Self::default();
        for line in script.lines() {
            let words = words(line);
            let word = |at: usize| words.get(at).map(String::as_str).unwrap_or_default();
            let table = word(2).to_owned();
            assert_eq!(word(3), "trireme-policy", "{line}");
            match (word(0), word(1)) {
                ("add", "table") => drop(kernel.tables.entry(table).or_default()),
                ("delete", "table") => drop(kernel.tables.remove(&table)),
                ("add", "set" | "map") => {
                    let made = Set {
                        is_interval: word(5).contains("interval"),
                        ..Set::default()
                    };
                    let known = kernel.tables.get_mut(&table).unwrap().sets.insert(word(4).to_owned(), made);
                    assert!(known.is_none(), "declared twice: {line}");
                }
                ("add", "chain") => {
                    let hook = words.get(5).map(|base| base.split(' ').nth(4).unwrap().to_owned());
                    let made = Chain { hook, rules: Vec::new() };
                    kernel.tables.get_mut(&table).unwrap().chains.insert(word(4).to_owned(), made);
                }
                ("add", "rule") => {
                    let table = kernel.tables.get_mut(&table).unwrap();
                    let rule = rule(&words[5..]);
                    for test in &rule.0 {
                        if let Test::Known(_, set) = test {
                            assert!(table.sets.contains_key(set), "no set {set}");
                        }
                    }
                    table.chains.get_mut(word(4)).unwrap().rules.push(rule);
                }
                ("add", "element") => {
                    let set = kernel.tables.get_mut(&table).unwrap().sets.get_mut(word(4)).unwrap();
                    for element in listed(word(5)) {
                        if set.is_interval {
                            let new = range(element);
                            assert!(
                                set.ranges.iter().all(|known| new.0 > known.1 || new.1 < known.0),
                                "the kernel refuses overlaps: {line}"
                            );
                            set.ranges.push(new);
                        } else {
                            let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
                            set.exact.insert(key.to_owned(), value.to_owned());
                        }
                    }
                }
                other => panic!("{other:?}: {line}"),
            }
        }
        kernel
    }

    /// Whether a packet passes a hook.
    pub fn passes(&self, hook: &str, packet: &Packet) -> bool {
        let family = if packet.to.is_ipv4() { "ip" } else { "ip6" };
        let Some(table) = self.tables.get(family) else { return true };
        let mut bases = table.chains.values().filter(|chain| chain.hook.as_deref() == Some(hook));
        let seen = Seen::new(packet);
        bases.all(|chain| !matches!(table.walk(chain, &seen), Outcome::Dropped))
    }

    /// Rules that a packet meets at most in one chain, and elements of all sets.
    pub fn sizes(&self) -> (usize, usize) {
        let chains = self.tables.values().flat_map(|table| table.chains.values());
        let sets = self.tables.values().flat_map(|table| table.sets.values());
        (
            chains.map(|chain| chain.rules.len()).max().unwrap_or_default(),
            sets.map(|set| set.exact.len() + set.ranges.len()).sum(),
        )
    }

    /// Chains by the beginning of their names.
    pub fn chains(&self, family: &str, prefix: &str) -> usize {
        let chains = self.tables[family].chains.keys();
        chains.filter(|name| name.starts_with(prefix)).count()
    }
}

fn key(words: &[String], at: &mut usize) -> Option<Key> {
    let pair = (words.get(*at)?.as_str(), words.get(*at + 1)?.as_str());
    let key = match pair {
        ("ip" | "ip6", "saddr") => Key::From,
        ("ip" | "ip6", "daddr") => Key::To,
        ("meta", "l4proto") => Key::Protocol,
        ("th", "dport") => Key::Port,
        _ => return None,
    };
    *at += 2;
    Some(key)
}

fn rule(words: &[String]) -> (Vec<Test>, Verdict) {
    let mut tests = Vec::new();
    let mut at = 0;
    loop {
        let rest: Vec<&str> = words[at..].iter().map(String::as_str).collect();
        match rest.as_slice() {
            ["accept"] => return (tests, Verdict::Accept),
            ["drop"] => return (tests, Verdict::Drop),
            ["return"] => return (tests, Verdict::Return),
            ["jump", chain] => return (tests, Verdict::Jump((*chain).to_owned())),
            ["goto", chain] => return (tests, Verdict::Goto((*chain).to_owned())),
            ["counter", ..] => at += 1,
            ["iifname", "\"lo\"", ..] => {
                tests.push(Test::Loopback);
                at += 2;
            }
            ["ct", "state", "established,related", ..] => {
                tests.push(Test::Flows);
                at += 3;
            }
            ["icmpv6", "type", ..] => {
                tests.push(Test::Neighbours);
                at += 3;
            }
            [protocol @ ("tcp" | "udp" | "sctp"), "dport", what, ..] => {
                tests.push(Test::Is(Key::Protocol, (*protocol).to_owned()));
                tests.push(looked_up(vec![Key::Port], what));
                at += 3;
            }
            _ => {
                let mut keys = vec![key(words, &mut at).unwrap_or_else(|| panic!("unknown: {words:?}"))];
                while words[at] == "." {
                    at += 1;
                    keys.push(key(words, &mut at).unwrap());
                }
                if words[at] == "vmap" {
                    return (tests, Verdict::Map(keys, words[at + 1].trim_start_matches('@').to_owned()));
                }
                tests.push(looked_up(keys, &words[at]));
                at += 1;
            }
        }
    }
}

fn looked_up(keys: Vec<Key>, what: &str) -> Test {
    if let Some(set) = what.strip_prefix('@') {
        return Test::Known(keys, set.to_owned());
    }
    let [key] = keys.as_slice() else { panic!("{keys:?} {what}") };
    match key {
        Key::Protocol => Test::Is(*key, what.to_owned()),
        Key::Port => Test::Ranges(*key, listed(what).map(range).collect()),
        Key::From | Key::To => {
            let blocks = listed(what).map(|text| {
                let (first, bits) = text.split_once('/').unwrap();
                let first: IpAddr = first.parse().unwrap();
                let whole = if first.is_ipv4() { 32 } else { 128 };
                let size = 1_u128.checked_shl(whole - bits.parse::<u32>().unwrap()).unwrap_or(0);
                let first = number(&first.to_string());
                (first, first.wrapping_add(size).wrapping_sub(1))
            });
            Test::Ranges(*key, blocks.collect())
        }
    }
}

/// A packet with its fields as texts and numbers, made once.
struct Seen<'a> {
    packet: &'a Packet,
    texts: [String; 4],
    numbers: [u128; 4],
}

impl<'a> Seen<'a> {
    fn new(packet: &'a Packet) -> Self {
        let (from, to) = (packet.from.to_string(), packet.to.to_string());
        Self {
            packet,
            numbers: [number(&from), number(&to), 0, packet.port.into()],
            texts: [from, to, packet.protocol.to_owned(), packet.port.to_string()],
        }
    }

    fn text(&self, key: Key) -> &str {
        &self.texts[key as usize]
    }

    fn joined(&self, keys: &[Key]) -> Cow<'_, str> {
        match keys {
            [key] => self.text(*key).into(),
            keys => keys.iter().map(|key| self.text(*key)).collect::<Vec<_>>().join(" . ").into(),
        }
    }
}

impl Table {
    fn holds(&self, test: &Test, packet: &Seen<'_>) -> bool {
        let within = |ranges: &[(u128, u128)], key: Key| {
            let value = packet.numbers[key as usize];
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&value))
        };
        match test {
            Test::Loopback => packet.packet.by_loopback,
            Test::Flows => packet.packet.established,
            Test::Neighbours => packet.packet.protocol == "nd",
            Test::Is(key, text) => packet.text(*key) == *text,
            Test::Ranges(key, ranges) => within(ranges, *key),
            Test::Known(keys, name) => {
                let set = &self.sets[name];
                match keys.as_slice() {
                    [key] if set.is_interval => within(&set.ranges, *key),
                    keys => set.exact.contains_key(&*packet.joined(keys)),
                }
            }
        }
    }

    fn walk(&self, chain: &Chain, packet: &Seen<'_>) -> Outcome {
        for (tests, verdict) in &chain.rules {
            if !tests.iter().all(|test| self.holds(test, packet)) {
                continue;
            }
            let verdict = match verdict {
                Verdict::Map(keys, map) => match self.sets[map].exact.get(&*packet.joined(keys)) {
                    Some(text) => rule(&words(text)).1,
                    None => continue,
                },
                other => other.clone(),
            };
            match verdict {
                Verdict::Accept => return Outcome::Accepted,
                Verdict::Drop => return Outcome::Dropped,
                Verdict::Return => return Outcome::Left,
                Verdict::Goto(name) => return self.walk(&self.chains[&name], packet),
                Verdict::Jump(name) => match self.walk(&self.chains[&name], packet) {
                    Outcome::Left => {}
                    other => return other,
                },
                Verdict::Map(..) => unreachable!("a map holds no maps"),
            }
        }
        Outcome::Left
    }
}

/// Sorted lines of what the kernel would hold, for comparing two ways to the same rules.
pub fn lines(script: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for line in script.lines() {
        *lines.entry(line.to_owned()).or_default() += 1;
    }
    lines
}
