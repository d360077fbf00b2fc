//! Policies to a ruleset.
//!
//! A packet that begins a flow meets two look-ups: `egress_of` by its source and `ingress_of` by its destination. Each leads to
//! the chain of all pods with the same policies, `eg/…` or `in/…`, or to `return` where no policy selects the pod. `return`
//! means "allowed" in every chain; what falls through is dropped.
//!
//! Sets: `p/…` addresses of the pods that one large or several small selectors find, `b/…` ranges of blocks, `ports/…` long lists of ports,
//! `np/<proto>/<name>` the pods with a port of that name. Names end in a digest of what they stand for, so what is equal is there once, whoever's policy it is.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::parse::{Direction, Peer, PodPeer, Policy, PolicyPort, Rule, Scope};
use super::pods::PolicyPod;
use super::ranges::Ranges;
use super::{Input, Outcome};
use crate::facts::{Family, Protocol};
use crate::render::{braces, map, ranges, set};
use crate::ruleset::{Chain, POLICY_TABLE, Ruleset, Table};

impl Direction {
    /// Map from a pod's address to its chain.
    fn map(self) -> &'static str {
        match self {
            Self::Ingress => "ingress_of",
            Self::Egress => "egress_of",
        }
    }

    fn chain(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Ingress => "in",
            Self::Egress => "eg",
        }
    }

    /// Where the pod's own address stands in a packet.
    fn own(self) -> &'static str {
        match self {
            Self::Ingress => "daddr",
            Self::Egress => "saddr",
        }
    }

    /// Where the peer's address stands in a packet.
    fn other(self) -> &'static str {
        match self {
            Self::Ingress => "saddr",
            Self::Egress => "daddr",
        }
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// 128 bits of SHA-256: nobody finds two policies that share a name.
fn digest<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_ref());
        hasher.update([0]);
    }
    let bytes = hasher.finalize();
    bytes[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A pod of this node and the policies that select it: positions in the input, by direction.
struct Subject<'a> {
    pod: &'a PolicyPod,
    policies: [Option<Vec<usize>>; 2],
}

/// The whole ruleset.
pub(super) fn render(input: &Input<'_>) -> Outcome {
    let subjects = subjects(input);
    let mut maker = Maker {
        input,
        pods_of: HashMap::new(),
        members: HashMap::new(),
        names_pods: false,
        merging_left: 0,
    };
    for pod in input.pods {
        maker.pods_of.entry(pod.namespace.as_str()).or_default().push(pod);
    }
    let mut ruleset = Ruleset::new(POLICY_TABLE);
    for family in input.node.families() {
        let mut table = maker.table(family, &subjects);
        table.mark();
        ruleset.tables.insert(family, table);
    }
    Outcome {
        ruleset,
        isolated_pods: subjects.iter().filter(|it| it.policies.iter().any(Option::is_some)).count(),
        names_pods: maker.names_pods,
    }
}

fn subjects<'a>(input: &Input<'a>) -> Vec<Subject<'a>> {
    let mut by_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, policy) in input.policies.iter().enumerate() {
        by_namespace.entry(policy.namespace.as_str()).or_default().push(at);
    }
    let own = input
        .pods
        .iter()
        .filter(|pod| pod.node == input.node.name && !pod.node.is_empty());
    let subject = |pod: &'a std::sync::Arc<PolicyPod>| {
        let mut policies = [None, None];
        for &at in by_namespace.get(pod.namespace.as_str()).into_iter().flatten() {
            let policy = &input.policies[at];
            if policy.selects(&pod.labels) {
                for (list, direction) in policies.iter_mut().zip(DIRECTIONS) {
                    if policy.rules(direction).is_some() {
                        list.get_or_insert_with(Vec::new).push(at);
                    }
                }
            }
        }
        Subject { pod, policies }
    };
    own.map(subject).collect()
}

/// Whom some ports are open to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Peers<'a> {
    everybody: bool,
    /// Keys of selectors.
    pods: BTreeSet<&'a str>,
    blocks: Ranges,
}

impl Peers<'_> {
    fn is_nobody(&self) -> bool {
        !self.everybody && self.pods.is_empty() && self.blocks.is_empty()
    }

    /// In the form in which equal peers are equal.
    fn settled(mut self, family: Family) -> Self {
        self.blocks.settle();
        if self.everybody || self.blocks.is_all(family) {
            return Self {
                everybody: true,
                ..Self::default()
            };
        }
        self
    }
}

/// What is open to the same peers.
#[derive(Default)]
struct Ports<'a> {
    all: bool,
    numbers: BTreeMap<Protocol, Ranges>,
    names: BTreeSet<(Protocol, &'a str)>,
}

impl<'a> Ports<'a> {
    fn add(&mut self, port: Option<&'a PolicyPort>) {
        match port {
            None => self.all = true,
            Some(PolicyPort::Numbers(protocol, first, last)) => {
                let numbers = self.numbers.entry(*protocol).or_default();
                numbers.add((*first).into(), (*last).into());
            }
            Some(PolicyPort::Named(protocol, name)) => drop(self.names.insert((*protocol, name))),
        }
    }

    fn add_all(&mut self, other: Self) {
        self.all |= other.all;
        for (protocol, numbers) in &other.numbers {
            self.numbers.entry(*protocol).or_default().add_all(numbers);
        }
        self.names.extend(other.names);
    }

    fn settle(&mut self) {
        self.numbers.values_mut().for_each(Ranges::settle);
    }
}

/// Elements that sets may have more than the policies ask for, so that rules become fewer; of one table.
const MERGED_ELEMENTS: usize = 50_000;
/// The pods of a selector that finds more than this are a set of their own, which all lists share.
const SHARED_MEMBERS: usize = 32;
/// A list of ports longer than this becomes a set of its own, which chains share.
const PORTS_IN_RULE: usize = 8;

struct Maker<'a> {
    input: &'a Input<'a>,
    pods_of: HashMap<&'a str, Vec<&'a PolicyPod>>,
    /// Addresses of both families, by key of the selector.
    members: HashMap<&'a str, Vec<IpAddr>>,
    names_pods: bool,
    merging_left: usize,
}

impl<'a> Maker<'a> {
    fn table(&mut self, family: Family, subjects: &[Subject<'_>]) -> Table {
        let mut table = Table::default();
        self.merging_left = MERGED_ELEMENTS;
        self.frame(&mut table, family);
        let mut chains: HashMap<(usize, &[usize]), String> = HashMap::new();
        for subject in subjects {
            let addresses = subject.pod.addresses.iter().filter(|it| Family::of(**it) == family);
            let addresses: Vec<String> = addresses.map(ToString::to_string).collect();
            if addresses.is_empty() {
                continue;
            }
            for (at, direction) in DIRECTIONS.into_iter().enumerate() {
                let verdict = match &subject.policies[at] {
                    None => "return".to_owned(),
                    Some(policies) => {
                        let known = chains.entry((at, policies.as_slice()));
                        let name = known.or_insert_with(|| self.chain(&mut table, family, direction, policies));
                        format!("goto {name}")
                    }
                };
                let map = table.sets.get_mut(direction.map()).expect("declared by frame");
                map.elements
                    .extend(addresses.iter().map(|address| (address.clone(), verdict.clone())));
            }
            if subject.policies.iter().any(Option::is_some) {
                let own = table.sets.get_mut("self").expect("declared by frame");
                // Every address of a pod is the pod.
                let pairs = addresses
                    .iter()
                    .flat_map(|a| addresses.iter().map(move |b| format!("{a} . {b}")));
                own.elements.extend(pairs.map(|pair| (pair, String::new())));
            }
        }
        table
    }

    /// The sets and chains that are always there.
    fn frame(&self, table: &mut Table, family: Family) {
        let (ip, address) = (family.word(), family.address_type());
        let own = ranges(&self.input.node.pod_cidrs, family);
        table
            .sets
            .insert("self".to_owned(), set(format!("type {address} . {address};")));
        for direction in DIRECTIONS {
            table
                .sets
                .insert(direction.map().to_owned(), map(format!("type {address} : verdict;")));
            let field = direction.own();
            let mut rules = vec![
                format!("{ip} saddr . {ip} daddr @self return"),
                format!("{ip} {field} vmap @{}", direction.map()),
            ];
            // A pod that is not known yet.
            rules.extend(own.iter().map(|own| format!("{ip} {field} {own} counter drop")));
            table.chains.insert(direction.chain().to_owned(), Chain { base: None, rules });
        }
        let hook = |name: &str| Some(format!("type filter hook {name} priority 10; policy accept;"));
        let flows = "ct state established,related accept".to_owned();
        let egress = format!("jump {}", Direction::Egress.chain());
        let ingress = format!("jump {}", Direction::Ingress.chain());
        // The node speaks to itself from its pods' gateway.
        let mut input = vec!["iifname \"lo\" accept".to_owned(), flows.clone()];
        if family == Family::V6 {
            // How neighbours are found: what ARP is to IPv4.
            input.push("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept".to_owned());
        }
        input.push(egress.clone());
        for (name, base, rules) in [
            ("filter_forward", hook("forward"), vec![flows, egress, ingress]),
            ("filter_input", hook("input"), input),
        ] {
            table.chains.insert(name.to_owned(), Chain { base, rules });
        }
    }

    /// The chain of all pods that just these policies select.
    fn chain(&mut self, table: &mut Table, family: Family, direction: Direction, policies: &[usize]) -> String {
        let open = self.open(family, direction, policies);
        let is_open = open.iter().any(|(peers, ports)| peers.everybody && ports.all);
        let mut rules = Vec::new();
        if is_open {
            rules.push("return".to_owned());
        } else {
            for (peers, ports) in &open {
                let (peers, ports) = (self.peers(table, family, direction, peers), self.ports(table, family, ports));
                rules.extend(
                    peers
                        .iter()
                        .flat_map(|peer| ports.iter().map(move |port| format!("{peer}{port}return"))),
                );
            }
            rules.push("counter drop".to_owned());
        }
        let name = format!("{}/{}", direction.prefix(), digest(&rules));
        table.chains.entry(name.clone()).or_insert(Chain { base: None, rules });
        name
    }

    /// What the policies open together: peers, and the ports that are open to just them. Rules that open the same port become
    /// one where that costs little; otherwise each stays for itself, so that all is as large as the policies at most.
    fn open(&mut self, family: Family, direction: Direction, policies: &[usize]) -> Vec<(Peers<'a>, Ports<'a>)> {
        let input = self.input;
        let all = policies.iter().map(|at| &*input.policies[*at]);
        let rules: Vec<&'a Rule> = all
            .flat_map(|policy: &'a Policy| policy.rules(direction).unwrap_or_default())
            .collect();
        let peers: Vec<Peers<'a>> = rules.iter().map(|rule| self.peers_of(rule, family)).collect();
        let mut by_port: BTreeMap<Option<&'a PolicyPort>, BTreeSet<usize>> = BTreeMap::new();
        for (at, rule) in rules.iter().enumerate().filter(|(at, _)| !peers[*at].is_nobody()) {
            match &rule.ports {
                None => drop(by_port.entry(None).or_default().insert(at)),
                Some(ports) => {
                    for port in ports {
                        by_port.entry(Some(port)).or_default().insert(at);
                    }
                }
            }
        }
        let mut groups: BTreeMap<BTreeSet<usize>, Ports<'a>> = BTreeMap::new();
        for (port, rules) in &by_port {
            groups.entry(rules.clone()).or_default().add(*port);
        }
        let several = groups.keys().filter(|rules| rules.len() > 1).flatten();
        let cost: usize = several.map(|at| self.weight(&peers[*at])).sum();
        if cost > self.merging_left {
            groups = BTreeMap::new();
            for (port, rules) in &by_port {
                for at in rules {
                    groups.entry([*at].into()).or_default().add(*port);
                }
            }
        } else {
            self.merging_left -= cost;
        }
        let mut open: BTreeMap<Peers<'a>, Ports<'a>> = BTreeMap::new();
        for (rules, ports) in groups {
            let mut merged = Peers::default();
            for at in rules {
                merged.everybody |= peers[at].everybody;
                merged.pods.extend(&peers[at].pods);
                merged.blocks.add_all(&peers[at].blocks);
            }
            open.entry(merged.settled(family)).or_default().add_all(ports);
        }
        let mut open: Vec<_> = open.into_iter().collect();
        open.iter_mut().for_each(|(_, ports)| ports.settle());
        open
    }

    fn peers_of(&mut self, rule: &'a Rule, family: Family) -> Peers<'a> {
        let mut peers = Peers {
            everybody: rule.peers.is_none(),
            ..Peers::default()
        };
        for peer in rule.peers.iter().flatten() {
            match peer {
                Peer::Block(of, ranges) if *of == family => peers.blocks.add_all(ranges),
                Peer::Block(..) => {}
                Peer::Pods(peer) => {
                    self.find(peer);
                    peers.pods.insert(&peer.key);
                }
            }
        }
        peers.settled(family)
    }

    /// Whether a selector finds so many pods that they are a set of their own.
    fn is_large(&self, key: &str) -> bool {
        self.members.get(key).is_some_and(|pods| pods.len() > SHARED_MEMBERS)
    }

    /// What it costs to have these peers in one more set.
    fn weight(&self, peers: &Peers<'_>) -> usize {
        let small = peers.pods.iter().filter(|key| !self.is_large(key));
        let pods = small.filter_map(|key| self.members.get(key));
        peers.pods.len() + pods.map(Vec::len).sum::<usize>() + peers.blocks.len()
    }

    /// Looks up the pods of a selector, once.
    fn find(&mut self, peer: &'a PodPeer) {
        self.names_pods = true;
        if self.members.contains_key(peer.key.as_str()) {
            return;
        }
        let mut found = BTreeSet::new();
        let mut within = |namespace: &str| {
            let pods = self.pods_of.get(namespace).into_iter().flatten();
            let matching = pods.filter(|pod| peer.pods.matches(&pod.labels));
            found.extend(matching.flat_map(|pod| pod.addresses.iter().copied()));
        };
        match &peer.scope {
            Scope::One(namespace) => within(namespace),
            Scope::Selected(selector) => {
                let all = self.input.namespaces.iter();
                all.filter(|(_, labels)| selector.matches(labels))
                    .for_each(|(name, _)| within(name));
            }
        }
        self.members.insert(&peer.key, found.into_iter().collect());
    }

    /// Matches of peers, with the sets that they look in.
    fn peers(&self, table: &mut Table, family: Family, direction: Direction, peers: &Peers<'_>) -> Vec<String> {
        if peers.everybody {
            return vec![String::new()];
        }
        let (ip, address, field) = (family.word(), family.address_type(), direction.other());
        let mut matches = Vec::new();
        // What many find is there once, whoever names it; the others of a list become one.
        let (large, small): (Vec<&str>, Vec<&str>) = peers.pods.iter().copied().partition(|key| self.is_large(key));
        let lists = large.iter().map(|key| vec![*key]);
        for keys in lists.chain((!small.is_empty()).then_some(small)) {
            let name = format!("p/{}", digest(&keys));
            // An empty set is kept: a pod that comes is put in without a change of rules.
            table.sets.entry(name.clone()).or_insert_with(|| {
                let all = keys.iter().filter_map(|key| self.members.get(key)).flatten();
                let mut members = set(format!("type {address};"));
                members.elements = all
                    .filter(|it| Family::of(**it) == family)
                    .map(|it| (it.to_string(), String::new()))
                    .collect();
                members
            });
            matches.push(format!("{ip} {field} @{name} "));
        }
        if !peers.blocks.is_empty() {
            let texts: Vec<String> = peers.blocks.addresses(family).collect();
            let name = format!("b/{}", digest(&texts));
            let mut blocks = set(format!("type {address}; flags interval;"));
            blocks.elements = texts.into_iter().map(|text| (text, String::new())).collect();
            table.sets.insert(name.clone(), blocks);
            matches.push(format!("{ip} {field} @{name} "));
        }
        matches
    }

    /// Matches of ports, with the sets that they look in.
    fn ports(&mut self, table: &mut Table, family: Family, ports: &Ports<'_>) -> Vec<String> {
        if ports.all {
            return vec![String::new()];
        }
        let (ip, address) = (family.word(), family.address_type());
        let mut matches = Vec::new();
        for (protocol, numbers) in &ports.numbers {
            let word = protocol.word();
            if numbers.is_all_ports() {
                matches.push(format!("meta l4proto {word} "));
            } else if numbers.len() > PORTS_IN_RULE {
                let texts: Vec<String> = numbers.ports().collect();
                let name = format!("ports/{}", digest(&texts));
                let mut list = set("type inet_service; flags interval;".to_owned());
                list.elements = texts.into_iter().map(|text| (text, String::new())).collect();
                table.sets.insert(name.clone(), list);
                matches.push(format!("{word} dport @{name} "));
            } else if let Some(list) = braces(numbers.ports()) {
                matches.push(format!("{word} dport {list} "));
            }
        }
        for (protocol, port) in &ports.names {
            self.names_pods = true;
            let word = protocol.word();
            let name = format!("np/{word}/{port}");
            table.sets.entry(name.clone()).or_insert_with(|| {
                let mut doors = set(format!("type {address} . inet_proto . inet_service;"));
                for pod in self.input.pods {
                    let Some(number) = pod.ports.iter().find(|it| it.name == *port && it.protocol == *protocol) else {
                        continue;
                    };
                    let addresses = pod.addresses.iter().filter(|it| Family::of(**it) == family);
                    let doors_of = addresses.map(|it| (format!("{it} . {word} . {}", number.number), String::new()));
                    doors.elements.extend(doors_of);
                }
                doors
            });
            matches.push(format!("{ip} daddr . meta l4proto . th dport @{name} "));
        }
        matches
    }
}
