//! Which node has which load balancer address.
//!
//! Invariant: every node that sees the same objects finds the same order, whatever its version (the hash is spelled out
//! here), and a node that comes or goes moves only the addresses that are or were its own. It will not say whether a node
//! is alive beyond what its Ready condition says: candidates settle that among themselves.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpoints::{self, Index};
use crate::services;

/// Nodes that are to have no load balancer address carry it.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What the order follows from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// All Services, in any order.
    pub services: &'a [Arc<Service>],
    /// All EndpointSlices, in any order.
    pub slices: &'a [Arc<EndpointSlice>],
    /// All nodes, in any order.
    pub nodes: &'a [Arc<Node>],
    /// Addresses that are ours to announce.
    pub pool: &'a BTreeSet<IpAddr>,
}

/// For each address that a Service has, the nodes that may have it; the first is to.
#[must_use]
pub fn order(input: &Input<'_>) -> BTreeMap<IpAddr, Vec<String>> {
    let ready: BTreeSet<&str> = input.nodes.iter().filter_map(|node| eligible(node)).collect();
    let taken: BTreeSet<IpAddr> = input.nodes.iter().flat_map(|node| addresses(node)).collect();
    let index = endpoints::index(input.slices);
    let mut candidates: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    for service in services::oldest_first(input.services) {
        let addresses: Vec<IpAddr> = ingress(service)
            .filter(|address| input.pool.contains(address) && !taken.contains(address))
            .collect();
        if addresses.is_empty() {
            continue;
        }
        let nodes = match local_nodes(service, &index) {
            Some(local) => ready.intersection(&local).copied().collect(),
            None => ready.clone(),
        };
        for address in addresses {
            // Services that share an address are best served where all of them are.
            let known = candidates.entry(address).or_insert_with(|| nodes.clone());
            let common: BTreeSet<&str> = known.intersection(&nodes).copied().collect();
            if !common.is_empty() {
                *known = common;
            }
        }
    }
    let ranked = candidates.into_iter().filter(|(_, nodes)| !nodes.is_empty());
    ranked.map(|(address, nodes)| (address, rank(address, nodes))).collect()
}

/// Highest score first (rendezvous hashing).
fn rank(address: IpAddr, nodes: BTreeSet<&str>) -> Vec<String> {
    let mut scored: Vec<(u64, &str)> = nodes.into_iter().map(|node| (score(address, node), node)).collect();
    scored.sort_by(|one, other| other.cmp(one));
    scored.into_iter().map(|(_, node)| node.to_owned()).collect()
}

/// FNV-1a over `address node`, then mixed (splitmix64's last steps), as FNV alone leaves similar names similar.
fn score(address: IpAddr, node: &str) -> u64 {
    let text = format!("{address} {node}");
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The node's name, if it may have addresses.
fn eligible(node: &Node) -> Option<&str> {
    let metadata = &node.metadata;
    let excluded = metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let conditions = node.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    let is_ready = conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
    (is_ready && !excluded && metadata.deletion_timestamp.is_none()).then_some(metadata.name.as_deref()?)
}

fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let status = node.status.as_ref();
    let all = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    all.iter().filter_map(|it| it.address.parse().ok())
}

fn ingress(service: &Service) -> impl Iterator<Item = IpAddr> {
    let is_balanced = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let status = service.status.as_ref().filter(|_| is_balanced);
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref())
        .unwrap_or_default();
    let by_address = ingress.iter().filter(|it| it.ip_mode.as_deref() != Some("Proxy"));
    by_address.filter_map(|it| it.ip.as_deref()?.parse().ok())
}

/// With policy Local, the nodes with endpoints: ready ones, or else such as terminate but still serve, as the rules do it.
/// `None`: any node will do.
fn local_nodes<'a>(service: &Service, index: &Index<'a>) -> Option<BTreeSet<&'a str>> {
    if service.spec.as_ref()?.external_traffic_policy.as_deref() != Some("Local") {
        return None;
    }
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let slices = index.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
    let (mut ready_nodes, mut last_nodes) = (BTreeSet::new(), BTreeSet::new());
    for endpoint in slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()) {
        let Some(node) = endpoint.node_name.as_deref() else { continue };
        let (ready, serving, terminating) = endpoints::conditions(endpoint);
        if ready {
            ready_nodes.insert(node);
        } else if serving && terminating {
            last_nodes.insert(node);
        }
    }
    Some(if ready_nodes.is_empty() { last_nodes } else { ready_nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, ready: &str, extra: Value) -> Arc<Node> {
        let mut node = json!({
            "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{}", name.len())}],
                       "conditions": [{"type": "Ready", "status": ready}]},
        });
        for (key, value) in extra.as_object().unwrap() {
            node["metadata"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn service(name: &str, address: &str, spec: Value) -> Arc<Service> {
        let mut service = json!({
            "metadata": {"namespace": "d", "name": name},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.7"},
            "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
        });
        for (key, value) in spec.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(service).unwrap())
    }

    fn slice(name: &str, endpoints: Value) -> Arc<EndpointSlice> {
        let slice = json!({
            "metadata": {"namespace": "d", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints,
        });
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    fn run(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], nodes: &[Arc<Node>]) -> BTreeMap<String, BTreeSet<String>> {
        let pool = (1..=200).map(|last| IpAddr::from([198, 51, 100, last])).collect();
        let input = Input {
            services,
            slices,
            nodes,
            pool: &pool,
        };
        let order = order(&input);
        order
            .into_iter()
            .map(|(address, nodes)| (address.to_string(), nodes.into_iter().collect()))
            .collect()
    }

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn only_ready_nodes_and_own_addresses_count() {
        let nodes = [
            node("a", "True", json!({})),
            node("bb", "True", json!({})),
            node("ccc", "Unknown", json!({})),
            node("dddd", "True", json!({"labels": {EXCLUDED: ""}})),
            node("eeeee", "True", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
        ];
        let both = || names(&["a", "bb"]);
        let local = || json!({"externalTrafficPolicy": "Local"});
        let at = |node: &str, conditions: Value| json!({"addresses": ["10.42.0.5"], "nodeName": node, "conditions": conditions});
        let table = [
            (service("s", "198.51.100.7", json!({})), json!([]), Some(both())),
            (service("s", "203.0.113.7", json!({})), json!([]), None),
            (service("s", "198.51.100.7", json!({"type": "NodePort"})), json!([]), None),
            (service("s", "198.51.100.7", local()), json!([]), None),
            (
                service("s", "198.51.100.7", local()),
                json!([at("bb", json!({})), at("ccc", json!({})), at("a", json!({"ready": false}))]),
                Some(names(&["bb"])),
            ),
            (
                service("s", "198.51.100.7", local()),
                json!([at("a", json!({"ready": false, "serving": true, "terminating": true}))]),
                Some(names(&["a"])),
            ),
        ];
        for (at, (service, endpoints, expected)) in table.into_iter().enumerate() {
            let found = run(&[service], &[slice("s", endpoints)], &nodes);
            assert_eq!(found.into_values().next(), expected, "row {at}");
        }
        let own = node("a", "True", json!({}));
        let mut clash = (*own).clone();
        clash.status.as_mut().unwrap().addresses.as_mut().unwrap()[0].address = "198.51.100.7".into();
        assert!(run(&[service("s", "198.51.100.7", json!({}))], &[], &[own, Arc::new(clash)]).is_empty());
    }

    #[test]
    fn services_that_share_an_address_meet_where_both_are() {
        let nodes = [node("a", "True", json!({})), node("bb", "True", json!({}))];
        let local = json!({"externalTrafficPolicy": "Local"});
        let services = [
            service("any", "198.51.100.7", json!({})),
            service("local", "198.51.100.7", local.clone()),
            service("nowhere", "198.51.100.7", local),
        ];
        let slices = [slice("local", json!([{"addresses": ["10.42.0.5"], "nodeName": "bb"}]))];
        assert_eq!(run(&services, &slices, &nodes).into_values().next(), Some(names(&["bb"])));
    }

    #[test]
    fn addresses_spread_and_only_those_of_a_node_that_goes_move() {
        let nodes: Vec<_> = ["a", "bb", "ccc", "dddd"].map(|name| node(name, "True", json!({}))).into();
        let services: Vec<_> = (1..=200)
            .map(|last| service(&format!("s{last}"), &format!("198.51.100.{last}"), json!({})))
            .collect();
        let pool = (1..=200).map(|last| IpAddr::from([198, 51, 100, last])).collect();
        let first = |nodes: &[Arc<Node>]| -> BTreeMap<IpAddr, String> {
            let input = Input {
                services: &services,
                slices: &[],
                nodes,
                pool: &pool,
            };
            order(&input)
                .into_iter()
                .map(|(address, mut nodes)| (address, nodes.swap_remove(0)))
                .collect()
        };
        let before = first(&nodes);
        for name in ["a", "bb", "ccc", "dddd"] {
            let share = before.values().filter(|it| *it == name).count();
            assert!((25..=75).contains(&share), "{name} has {share} of 200");
        }
        let after = first(&nodes[1..]);
        for (address, node) in &before {
            assert!(node == "a" || after[address] == *node);
        }
    }
}
