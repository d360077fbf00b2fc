//! Nodes to the way between their pods: what this node's kernel should hold so that every pod reaches every other one as
//! itself.
//!
//! Invariant: everything about a peer follows from its Node object alone (the hardware address of its tunnel end too, so no
//! node has to tell others anything further). Of two nodes that claim the same range, the older one has it, on every node alike.
//! It will not ask the kernel anything: which networks this node is on comes as input.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use core::str::FromStr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::facts::{Cidr, Family};

/// UDP port of the tunnel: Linux' own default, which flannel uses as well.
pub const VXLAN_PORT: u16 = 8472;
/// Number of the tunnel's network.
pub const VXLAN_ID: u32 = 1;
/// What the tunnel adds to a packet: outer IPv4 (20), UDP (8), VXLAN (8) and the inner Ethernet header (14).
pub const VXLAN_OVERHEAD_BYTES: u32 = 50;

/// A hardware address.
pub type Mac = [u8; 6];

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In UDP packets between the nodes, whatever lies between them.
    #[default]
    Vxlan,
    /// By plain routes; all nodes share a link.
    HostGw,
    /// Somebody else's business.
    None,
}

impl Mode {
    /// Bytes of a packet that the way takes for itself.
    #[must_use]
    pub fn overhead_bytes(self) -> u32 {
        match self {
            Self::Vxlan => VXLAN_OVERHEAD_BYTES,
            Self::HostGw | Self::None => 0,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::None => "none",
        })
    }
}

/// A text names no [`Mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose vxlan, host-gw or none")]
pub struct ModeError;

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text {
            "vxlan" => Ok(Self::Vxlan),
            "host-gw" => Ok(Self::HostGw),
            "none" => Ok(Self::None),
            _ => Err(ModeError),
        }
    }
}

/// Everything that the way between pods follows from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// This node's name.
    pub node_name: &'a str,
    /// This node's address towards the others.
    pub node_address: Ipv4Addr,
    /// Range of this node's pods.
    pub pod_cidr: Cidr,
    /// How.
    pub mode: Mode,
    /// The networks that this node's links are in; asked for by `host-gw` only.
    pub on_link: &'a [Cidr],
    /// All nodes, in any order.
    pub nodes: &'a [Arc<Node>],
}

/// What the kernel should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// This node's end of the tunnel, if there is one.
    pub tunnel: Option<Tunnel>,
    /// Ways to the other nodes' pods.
    pub routes: BTreeMap<Cidr, Route>,
    /// Over the tunnel: the hardware address that belongs to a gateway.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// Over the tunnel: the node that has a hardware address.
    pub forwarding: BTreeMap<Mac, Ipv4Addr>,
}

/// This node's end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Address that outer packets come from.
    pub local: Ipv4Addr,
    /// Hardware address that others send inner packets to.
    pub mac: Mac,
    /// The node as its peers' pods see it: the gateway of its pods.
    pub address: Ipv4Addr,
}

/// One way to pods of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Next hop.
    pub via: Ipv4Addr,
    /// As whom this node itself sends: the gateway of its pods, so that the answer comes back the same way.
    pub source: Ipv4Addr,
    /// Over the tunnel; otherwise over the link that the next hop is on.
    pub is_tunnelled: bool,
}

/// Why the pods of a node are not reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// Plain routes need a common link.
    #[error("node {node} ({address}) shares no link with this node, so its pods are not reached: use --pod-network vxlan")]
    NotOnLink {
        /// Its name.
        node: String,
        /// Its address.
        address: Ipv4Addr,
    },
    /// What was this node under another name, most likely.
    #[error("node {node} has this node's address {address}, so its pods are not reached: delete the node that is gone")]
    SameAddress {
        /// Its name.
        node: String,
        /// Its address.
        address: Ipv4Addr,
    },
    /// Another node has the range, or this node itself, or a part of it.
    #[error("node {node} has the pod range {range}, which overlaps the one of node {owner}, so its pods are not reached")]
    SameRange {
        /// Its name.
        node: String,
        /// Its range.
        range: Cidr,
        /// Who has it.
        owner: String,
    },
    /// A range that is no pod range.
    #[error("node {node} has the pod range {range}, which is none: its pods are not reached")]
    Range {
        /// Its name.
        node: String,
        /// As it stands there.
        range: String,
    },
}

/// The hardware address of a node's end of the tunnel: locally administered, and made of its address.
#[must_use]
pub fn tunnel_mac(node: Ipv4Addr) -> Mac {
    let [a, b, c, d] = node.octets();
    [0x0e, 0x58, a, b, c, d]
}

/// First usable address of a pod range: the gateway of these pods.
fn gateway(range: Cidr) -> Option<Ipv4Addr> {
    match range.address() {
        IpAddr::V4(first) if range.prefix() <= 30 => Some(Ipv4Addr::from_bits(first.to_bits() | 1)),
        _ => None,
    }
}

fn overlap(one: Cidr, other: Cidr) -> bool {
    one.contains(other.address()) || other.contains(one.address())
}

/// A node as its peers see it.
struct Peer<'a> {
    name: &'a str,
    address: Ipv4Addr,
    ranges: Vec<&'a str>,
}

/// IPv4 `InternalIP` of a node; the first, if there are several.
#[must_use]
pub fn internal_address(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let mut internal = addresses.iter().filter(|it| it.type_ == "InternalIP");
    internal.find_map(|it| it.address.parse().ok())
}

fn peer(node: &Node) -> Option<Peer<'_>> {
    let spec = node.spec.as_ref()?;
    let mut ranges: Vec<&str> = spec.pod_cidrs.iter().flatten().map(String::as_str).collect();
    if ranges.is_empty() {
        ranges.extend(spec.pod_cidr.as_deref());
    }
    ranges.retain(|range| !range.is_empty());
    Some(Peer {
        name: node.metadata.name.as_deref()?,
        address: internal_address(node)?,
        ranges,
    })
}

/// Computes what this node's kernel should hold, and what is wrong with nodes that are left out.
#[must_use]
pub fn mesh(input: &Input<'_>) -> (Mesh, Vec<Problem>) {
    let mut mesh = Mesh::default();
    let mut problems = BTreeSet::new();
    let Some(own_gateway) = gateway(input.pod_cidr) else {
        return (mesh, Vec::new());
    };
    if input.mode == Mode::None {
        return (mesh, Vec::new());
    }
    if input.mode == Mode::Vxlan {
        mesh.tunnel = Some(Tunnel {
            local: input.node_address,
            mac: tunnel_mac(input.node_address),
            address: own_gateway,
        });
    }
    let mut nodes: Vec<&Node> = input.nodes.iter().map(AsRef::as_ref).collect();
    nodes.sort_by_cached_key(|node| {
        let metadata = &node.metadata;
        (metadata.creation_timestamp.as_ref().map(|time| time.0), metadata.name.clone())
    });
    // This node comes first: whatever a Node object says, its own pods are its own.
    let mut taken = vec![(input.pod_cidr, input.node_name)];
    for peer in nodes.into_iter().filter_map(peer).filter(|peer| peer.name != input.node_name) {
        let (node, address) = (peer.name.to_owned(), peer.address);
        if address == input.node_address {
            problems.insert(Problem::SameAddress { node, address });
            continue;
        }
        if input.mode == Mode::HostGw && !input.on_link.iter().any(|it| it.contains(address.into())) {
            problems.insert(Problem::NotOnLink { node, address });
            continue;
        }
        for text in &peer.ranges {
            match claim(text, &peer, &mut taken) {
                Ok(Some((range, gateway))) => add(&mut mesh, &peer, range, gateway, own_gateway),
                Ok(None) => {}
                Err(problem) => drop(problems.insert(problem)),
            }
        }
    }
    (mesh, problems.into_iter().collect())
}

/// The range with its gateway if it is the peer's; `None` for one of another family.
fn claim<'a>(text: &str, peer: &Peer<'a>, taken: &mut Vec<(Cidr, &'a str)>) -> Result<Option<(Cidr, Ipv4Addr)>, Problem> {
    let wrong = || Problem::Range {
        node: peer.name.to_owned(),
        range: text.to_owned(),
    };
    let range: Cidr = text.parse().map_err(|_| wrong())?;
    if range.family() != Family::V4 {
        return Ok(None);
    }
    let gateway = gateway(range).ok_or_else(wrong)?;
    if let Some((_, owner)) = taken.iter().find(|(other, _)| overlap(*other, range)) {
        return Err(Problem::SameRange {
            node: peer.name.to_owned(),
            range,
            owner: (*owner).to_owned(),
        });
    }
    taken.push((range, peer.name));
    Ok(Some((range, gateway)))
}

fn add(mesh: &mut Mesh, peer: &Peer<'_>, range: Cidr, gateway: Ipv4Addr, source: Ipv4Addr) {
    let is_tunnelled = mesh.tunnel.is_some();
    let via = if is_tunnelled { gateway } else { peer.address };
    mesh.routes.insert(
        range,
        Route {
            via,
            source,
            is_tunnelled,
        },
    );
    if is_tunnelled {
        let mac = tunnel_mac(peer.address);
        mesh.neighbours.insert(gateway, mac);
        mesh.forwarding.insert(mac, peer.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, address: &str, ranges: &[&str], created: &str) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "fd00::9"},
                                     {"type": "InternalIP", "address": address}]},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";

    fn run(mode: Mode, nodes: &[Arc<Node>]) -> (Vec<String>, Vec<String>) {
        let on_link = ["192.0.2.0/24".parse().unwrap()];
        let (mesh, problems) = mesh(&Input {
            node_name: "one",
            node_address: "192.0.2.1".parse().unwrap(),
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            mode,
            on_link: &on_link,
            nodes,
        });
        for route in mesh.routes.values() {
            assert_eq!(route.source.to_string(), "10.42.0.1");
            assert_eq!(route.is_tunnelled, mode == Mode::Vxlan);
            if route.is_tunnelled {
                assert!(
                    mesh.forwarding.contains_key(&mesh.neighbours[&route.via]),
                    "every hop is found"
                );
            }
        }
        assert_eq!(mesh.tunnel.is_some(), mode == Mode::Vxlan);
        let routes = mesh
            .routes
            .iter()
            .map(|(range, it)| format!("{range} via {}", it.via))
            .collect();
        let kind = |problem: &Problem| match problem {
            Problem::NotOnLink { node, .. } => format!("{node} not on link"),
            Problem::SameAddress { node, .. } => format!("{node} has this node's address"),
            Problem::SameRange { node, owner, .. } => format!("{node} has {owner}'s range"),
            Problem::Range { node, .. } => format!("{node} has no range"),
        };
        (routes, problems.iter().map(kind).collect())
    }

    /// Mode, nodes, ways, problems.
    type Row = (Mode, Vec<Arc<Node>>, Vec<&'static str>, Vec<&'static str>);

    #[test]
    fn every_peer_gets_a_way_and_every_clash_one_owner() {
        let own = node("one", "192.0.2.1", &["10.42.0.0/24"], LATE);
        let two = node("two", "192.0.2.2", &["10.42.1.0/24"], EARLY);
        let far = node("far", "198.51.100.7", &["10.42.2.0/24"], EARLY);
        let young = |address: &str, ranges: &[&str]| node("young", address, ranges, LATE);
        let both = ["10.42.1.0/24 via 10.42.1.1", "10.42.2.0/24 via 10.42.2.1"];
        let table: Vec<Row> = vec![
            (Mode::Vxlan, vec![own.clone()], vec![], vec![]),
            (
                Mode::Vxlan,
                vec![far.clone(), own.clone(), two.clone()],
                both.to_vec(),
                vec![],
            ),
            (
                Mode::HostGw,
                vec![own.clone(), two.clone(), far.clone()],
                vec!["10.42.1.0/24 via 192.0.2.2"],
                vec!["far not on link"],
            ),
            (Mode::None, vec![own.clone(), two.clone()], vec![], vec![]),
            // Not yet known where it is, or no range yet.
            (
                Mode::Vxlan,
                vec![node("x", "nowhere", &["10.42.5.0/24"], EARLY)],
                vec![],
                vec![],
            ),
            (Mode::Vxlan, vec![node("x", "192.0.2.9", &[], EARLY)], vec![], vec![]),
            (
                Mode::Vxlan,
                vec![young("192.0.2.9", &["fd00:1::/64", "10.42.9.0/24"])],
                vec!["10.42.9.0/24 via 10.42.9.1"],
                vec![],
            ),
            (
                Mode::Vxlan,
                // The same host under two names: no harm.
                vec![young("192.0.2.2", &["10.42.9.0/24"]), two.clone()],
                vec![both[0], "10.42.9.0/24 via 10.42.9.1"],
                vec![],
            ),
            (
                Mode::Vxlan,
                vec![young("192.0.2.9", &["10.42.1.128/25", "10.42.9.0/24"]), two.clone()],
                vec![both[0], "10.42.9.0/24 via 10.42.9.1"],
                vec!["young has two's range"],
            ),
            // This node's own come first, however old another's claim is.
            (
                Mode::Vxlan,
                vec![node("old", "192.0.2.1", &["10.42.9.0/24"], EARLY), own.clone()],
                vec![],
                vec!["old has this node's address"],
            ),
            (
                Mode::Vxlan,
                vec![node("old", "192.0.2.8", &["10.42.0.0/16"], EARLY), own],
                vec![],
                vec!["old has one's range"],
            ),
            (
                Mode::Vxlan,
                vec![young("192.0.2.9", &["10.42.9.0/31"])],
                vec![],
                vec!["young has no range"],
            ),
            (
                Mode::Vxlan,
                vec![young("192.0.2.9", &["x"])],
                vec![],
                vec!["young has no range"],
            ),
        ];
        for (at, (mode, nodes, routes, problems)) in table.into_iter().enumerate() {
            let mut reversed = nodes.clone();
            reversed.reverse();
            for nodes in [nodes, reversed] {
                assert_eq!(
                    run(mode, &nodes),
                    (
                        routes.iter().map(|it| (*it).to_owned()).collect(),
                        problems.iter().map(|it| (*it).to_owned()).collect()
                    ),
                    "row {at}"
                );
            }
        }
    }

    #[test]
    fn hardware_addresses_are_unicast_local_and_differ() {
        let one = tunnel_mac("192.0.2.1".parse().unwrap());
        assert_eq!(one[0] & 0b11, 0b10);
        assert_ne!(one, tunnel_mac("192.0.2.2".parse().unwrap()));
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [Mode::Vxlan, Mode::HostGw, Mode::None] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("VXLAN".parse::<Mode>(), Err(ModeError));
    }
}
