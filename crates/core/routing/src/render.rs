//! Service rows to a ruleset.
//!
//! A packet meets a fixed number of rules: one lookup of `address . protocol . port` (or `protocol . port` for NodePorts)
//! leads to the chain of the Service port, where one rule draws an endpoint. Only affinity walks its endpoints.
//!
//! Chains of a port `<ns>/<name>/<port>/<proto>`:
//! `svc/` policy Cluster · `loc/` policy Local · `ext/` from outside the cluster · `fw/` loadBalancerSourceRanges ·
//! `ep/` one endpoint of a port with affinity, which remembers the client in the set `aff/`.

use core::net::IpAddr;
use std::collections::BTreeMap;

use crate::endpoints::Endpoint;
use crate::facts::{Family, HostPort, NodeFacts};
use crate::ruleset::{Chain, Ruleset, Set, Table};
use crate::services::Port;

/// Bit of the packet mark that asks for masquerade; removed again before the packet leaves.
const MARK: &str = "0x4000";
const MARK_IT: &str = "meta mark set meta mark or 0x4000";

/// The whole ruleset.
pub(crate) fn render(ports: &[Port], host_ports: &[HostPort], node: &NodeFacts) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for family in node.families() {
        let mut table = Table::default();
        frame(&mut table, family, node);
        for port in ports.iter().filter(|port| port.family == family) {
            service_port(&mut table, port, node);
        }
        publish_host_ports(&mut table, family, host_ports, node);
        hairpins(&mut table, family, ports, host_ports);
        table.mark();
        ruleset.tables.insert(family, table);
    }
    ruleset
}

pub(crate) fn set(declaration: String) -> Set {
    Set {
        declaration,
        ..Set::default()
    }
}

pub(crate) fn map(declaration: String) -> Set {
    Set {
        is_map: true,
        ..set(declaration)
    }
}

pub(crate) fn braces<T: core::fmt::Display>(items: impl Iterator<Item = T>) -> Option<String> {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    (!items.is_empty()).then(|| format!("{{ {} }}", items.join(", ")))
}

pub(crate) fn ranges(cidrs: &[crate::Cidr], family: Family) -> Option<String> {
    braces(cidrs.iter().filter(|cidr| cidr.family() == family))
}

/// The sets and chains that are always there.
fn frame(table: &mut Table, family: Family, node: &NodeFacts) {
    let (ip, address) = (family.word(), family.address_type());
    let full = format!("type {address} . inet_proto . inet_service : verdict;");
    let by_port = "type inet_proto . inet_service : verdict;".to_owned();
    let target = format!(": {address} . inet_service;");
    for (name, it) in [
        ("cluster_ips", set(format!("type {address};"))),
        ("node_addresses", set(format!("type {address};"))),
        ("hairpin", set(format!("type {address} . {address};"))),
        ("service_ips", map(full.clone())),
        ("no_endpoint_ips", map(full)),
        ("node_ports", map(by_port.clone())),
        ("no_endpoint_node_ports", map(by_port)),
        ("host_ports", map(format!("type inet_proto . inet_service {target}"))),
        (
            "host_ip_ports",
            map(format!("type {address} . inet_proto . inet_service {target}")),
        ),
    ] {
        table.sets.insert(name.to_owned(), it);
    }
    let own = table.sets.get_mut("node_addresses").expect("declared above");
    own.elements.extend(
        node.addresses
            .iter()
            .filter(|it| Family::of(**it) == family)
            .map(|it| (it.to_string(), String::new())),
    );

    let spared = braces(node.local_service_addresses.iter().filter(|it| Family::of(**it) == family));
    let spare: Vec<String> = spared.into_iter().map(|it| format!("{ip} daddr {it} return")).collect();
    let loopback = if family == Family::V4 { "127.0.0.0/8" } else { "::1" };
    let multicast = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
    let pods = ranges(&node.cluster_cidrs, family)
        .or_else(|| ranges(&node.pod_cidrs, family))
        .unwrap_or_else(|| "{ }".to_owned());
    let own_pods = ranges(&node.pod_cidrs, family).unwrap_or_else(|| pods.clone());

    let mut services = spare.clone();
    services.extend([
        format!("{ip} daddr @cluster_ips {ip} saddr != {pods} {MARK_IT}"),
        format!("{ip} daddr . meta l4proto . th dport vmap @service_ips"),
        format!("{ip} daddr @node_addresses meta l4proto . th dport vmap @node_ports"),
        format!("dnat {ip} to {ip} daddr . meta l4proto . th dport map @host_ip_ports"),
        format!("fib daddr type local {ip} daddr != {loopback} dnat {ip} to meta l4proto . th dport map @host_ports"),
    ]);
    let mut unallocated = spare;
    unallocated.push(format!("{ip} daddr @cluster_ips goto refuse"));
    unallocated.extend(ranges(&node.service_cidrs, family).map(|cidrs| format!("{ip} daddr {cidrs} drop")));
    let no_endpoints = vec![
        format!("{ip} daddr . meta l4proto . th dport vmap @no_endpoint_ips"),
        format!("{ip} daddr @node_addresses meta l4proto . th dport vmap @no_endpoint_node_ports"),
    ];
    let check = "ct state new jump no_endpoints".to_owned();
    let jump = vec!["jump services".to_owned()];
    let filter = |hook: &str| Some(format!("type filter hook {hook} priority 0; policy accept;"));
    let nat = |hook: &str, priority: i32| Some(format!("type nat hook {hook} priority {priority}; policy accept;"));
    for (name, base, rules) in [
        ("services", None, services),
        ("unallocated", None, unallocated),
        ("no_endpoints", None, no_endpoints),
        // A reset is not held back by the kernel's limit on ICMP errors, so every connection is refused at once.
        (
            "refuse",
            None,
            vec!["meta l4proto tcp reject with tcp reset".to_owned(), "reject".to_owned()],
        ),
        ("nat_prerouting", nat("prerouting", -100), jump.clone()),
        ("nat_output", nat("output", -100), jump),
        (
            "nat_postrouting",
            nat("postrouting", 100),
            vec![
                format!("meta mark & {MARK} == {MARK} meta mark set meta mark xor {MARK} masquerade fully-random"),
                format!("ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random"),
                format!(
                    "{ip} saddr {own_pods} {ip} daddr != {pods} {ip} daddr != {multicast} oifname != \"lo\" masquerade fully-random"
                ),
            ],
        ),
        // Packets for a loopback address from elsewhere are refused whatever route_localnet says (CVE-2020-8558).
        (
            "filter_input",
            filter("input"),
            vec![
                format!("iifname != \"lo\" {ip} daddr {loopback} {ip} saddr != {loopback} drop"),
                check.clone(),
            ],
        ),
        (
            "filter_forward",
            filter("forward"),
            vec![check.clone(), "jump unallocated".to_owned()],
        ),
        ("filter_output", filter("output"), vec![check, "jump unallocated".to_owned()]),
    ] {
        table.chains.insert(name.to_owned(), Chain { base, rules });
    }
}

fn add(table: &mut Table, map: &str, key: String, value: &str) {
    let map = table.sets.get_mut(map).expect("declared by frame");
    // Older Services come first and keep what they have.
    map.elements.entry(key).or_insert_with(|| value.to_owned());
}

/// Where packets for one kind of address go.
enum Way {
    Chain(String),
    /// No endpoint anywhere: refuse.
    Refuse,
    /// Endpoints, but none that the policy allows: drop, another node answers.
    Drop,
}

impl Way {
    fn is_open(&self) -> bool {
        matches!(self, Self::Chain(_))
    }

    fn verdict(&self) -> String {
        match self {
            Self::Chain(name) => format!("goto {name}"),
            Self::Refuse => "goto refuse".to_owned(),
            Self::Drop => "drop".to_owned(),
        }
    }
}

fn service_port(table: &mut Table, port: &Port, node: &NodeFacts) {
    let (ip, word) = (port.family.word(), port.protocol.word());
    let path = format!("{}/{}/{}/{word}", port.namespace, port.name, port.port);
    if node.local_service_addresses.contains(&port.cluster_ip) {
        return;
    }
    let cluster = endpoint_chain(table, port, &path, "svc", &port.choice.cluster);
    let uses_local = port.internal_local || port.external_local;
    let local = if uses_local {
        endpoint_chain(table, port, &path, "loc", &port.choice.local)
    } else {
        None
    };
    let way = |chain: &Option<String>| match chain {
        Some(name) => Way::Chain(name.clone()),
        None if port.choice.any => Way::Drop,
        None => Way::Refuse,
    };
    let internal = way(if port.internal_local { &local } else { &cluster });
    table
        .sets
        .get_mut("cluster_ips")
        .expect("declared by frame")
        .elements
        .insert(port.cluster_ip.to_string(), String::new());
    let maps = |way: &Way| if way.is_open() { "service_ips" } else { "no_endpoint_ips" };
    add(
        table,
        maps(&internal),
        format!("{} . {word} . {}", port.cluster_ip, port.port),
        &internal.verdict(),
    );

    if port.node_port == 0 && port.load_balancer_ips.is_empty() && port.external_ips.is_empty() {
        return;
    }
    let external = external_way(table, port, &path, node, cluster.as_deref(), local.as_deref());
    for address in &port.external_ips {
        add(
            table,
            maps(&external),
            format!("{address} . {word} . {}", port.port),
            &external.verdict(),
        );
    }
    if port.node_port != 0 {
        let map = if external.is_open() {
            "node_ports"
        } else {
            "no_endpoint_node_ports"
        };
        add(table, map, format!("{word} . {}", port.node_port), &external.verdict());
    }
    let guarded = match &external {
        Way::Chain(name) if port.has_source_ranges && !port.load_balancer_ips.is_empty() => {
            let allowed = ranges(&port.source_ranges, port.family);
            let deny = allowed.map_or_else(|| "drop".to_owned(), |allowed| format!("{ip} saddr != {allowed} drop"));
            let wall = format!("fw/{path}");
            table.chains.insert(
                wall.clone(),
                Chain {
                    base: None,
                    rules: vec![deny, format!("goto {name}")],
                },
            );
            Way::Chain(wall)
        }
        Way::Chain(name) => Way::Chain(name.clone()),
        Way::Refuse => Way::Refuse,
        Way::Drop => Way::Drop,
    };
    for address in &port.load_balancer_ips {
        add(
            table,
            maps(&guarded),
            format!("{address} . {word} . {}", port.port),
            &guarded.verdict(),
        );
    }
}

/// From outside: with policy Cluster the source is replaced, as the endpoint may be elsewhere; with policy Local it is
/// kept, and pods and the node itself are served as if they had used the ClusterIP.
fn external_way(table: &mut Table, port: &Port, path: &str, node: &NodeFacts, cluster: Option<&str>, local: Option<&str>) -> Way {
    let ip = port.family.word();
    let Some(cluster) = cluster else { return Way::Refuse };
    let rules = if port.external_local {
        let pods = ranges(&node.cluster_cidrs, port.family);
        let mut rules: Vec<String> = pods
            .into_iter()
            .map(|pods| format!("{ip} saddr {pods} goto {cluster}"))
            .collect();
        rules.push(format!("fib saddr type local {MARK_IT}"));
        rules.push(format!("fib saddr type local goto {cluster}"));
        rules.push(local.map_or_else(|| "drop".to_owned(), |local| format!("goto {local}")));
        rules
    } else {
        vec![MARK_IT.to_owned(), format!("goto {cluster}")]
    };
    let name = format!("ext/{path}");
    table.chains.insert(name.clone(), Chain { base: None, rules });
    Way::Chain(name)
}

fn endpoint_chain(table: &mut Table, port: &Port, path: &str, prefix: &str, endpoints: &[Endpoint]) -> Option<String> {
    if endpoints.is_empty() {
        return None;
    }
    let name = format!("{prefix}/{path}");
    let rules = match port.affinity_s {
        None => vec![draw(port, endpoints)],
        Some(timeout_s) => affine(table, port, path, endpoints, timeout_s),
    };
    table.chains.insert(name.clone(), Chain { base: None, rules });
    Some(name)
}

fn draw(port: &Port, endpoints: &[Endpoint]) -> String {
    let (ip, word) = (port.family.word(), port.protocol.word());
    if let [only] = endpoints {
        return format!("meta l4proto {word} dnat {ip} to {}", target(only.ip, only.port));
    }
    let choices = endpoints
        .iter()
        .enumerate()
        .map(|(at, it)| format!("{at} : {} . {}", it.ip, it.port));
    let choices: Vec<String> = choices.collect();
    let count = endpoints.len();
    format!(
        "meta l4proto {word} dnat {ip} to numgen random mod {count} map {{ {} }}",
        choices.join(", ")
    )
}

fn target(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    }
}

/// First the endpoint that remembers the client, then a draw. The sets belong to the Service port, so ClusterIP and
/// NodePort share them. A set goes with its endpoint, so one that comes back has no memory older than the others'.
fn affine(table: &mut Table, port: &Port, path: &str, endpoints: &[Endpoint], timeout_s: u32) -> Vec<String> {
    let (ip, word) = (port.family.word(), port.protocol.word());
    let mut known = Vec::new();
    let mut drawn = Vec::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        let place = format!("{}.{}", endpoint.ip.to_string().replace(':', "-"), endpoint.port);
        let memory = format!("aff/{path}/{timeout_s}/{place}");
        let chain = format!("ep/{path}/{place}");
        let declaration = format!(
            "type {}; flags dynamic,timeout; timeout {timeout_s}s;",
            port.family.address_type()
        );
        table.sets.insert(
            memory.clone(),
            Set {
                is_dynamic: true,
                ..set(declaration)
            },
        );
        let send = format!("meta l4proto {word} dnat {ip} to {}", target(endpoint.ip, endpoint.port));
        let rules = vec![format!("update @{memory} {{ {ip} saddr }}"), send];
        table.chains.insert(chain.clone(), Chain { base: None, rules });
        known.push(format!("{ip} saddr @{memory} goto {chain}"));
        drawn.push(format!("{at} : goto {chain}"));
    }
    known.push(format!(
        "numgen random mod {} vmap {{ {} }}",
        endpoints.len(),
        drawn.join(", ")
    ));
    known
}

fn publish_host_ports(table: &mut Table, family: Family, host_ports: &[HostPort], node: &NodeFacts) {
    for it in host_ports
        .iter()
        .filter(|it| Family::of(it.pod_ip) == family && !node.reserves(it.protocol, it.host_port))
    {
        let (word, value) = (it.protocol.word(), format!("{} . {}", it.pod_ip, it.container_port));
        match it.host_ip.filter(|address| !address.is_unspecified()) {
            None => add(table, "host_ports", format!("{word} . {}", it.host_port), &value),
            Some(address) if Family::of(address) == family => {
                add(
                    table,
                    "host_ip_ports",
                    format!("{address} . {word} . {}", it.host_port),
                    &value,
                );
            }
            Some(_) => {}
        }
    }
}

/// A pod that reaches itself through a Service must see the node as its peer, or it answers itself directly.
fn hairpins(table: &mut Table, family: Family, ports: &[Port], host_ports: &[HostPort]) {
    let chosen = ports.iter().filter(|port| port.family == family);
    let local = chosen.flat_map(|port| {
        port.choice
            .cluster
            .iter()
            .chain(&port.choice.local)
            .filter(|it| it.local)
            .map(|it| it.ip)
    });
    let published = host_ports.iter().map(|it| it.pod_ip).filter(|ip| Family::of(*ip) == family);
    let pairs: BTreeMap<String, String> = local
        .chain(published)
        .map(|ip| (format!("{ip} . {ip}"), String::new()))
        .collect();
    table.sets.get_mut("hairpin").expect("declared by frame").elements = pairs;
}
