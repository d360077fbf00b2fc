//! Which UDP flows through Services are still right.
//!
//! The kernel remembers a UDP flow's endpoint for as long as packets come, so a flow must be forgotten when its endpoint
//! goes. This states what is right; the shell compares it with what the kernel remembers, so nothing is lost over a restart.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Family, NodeFacts, Protocol};
use crate::services::Port;

/// Destination address and port.
pub type Target = (IpAddr, u16);

/// What each UDP Service address may lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpExpectations {
    /// Service address and port → endpoints. A flow to a key whose endpoint is not in the set is stale.
    pub services: BTreeMap<Target, BTreeSet<Target>>,
}

impl UdpExpectations {
    /// Whether a remembered flow leads to an endpoint that is gone. `original` is where the client sent to, `endpoint`
    /// what answers. A flow that was never translated has `endpoint == original` and is stale once there are endpoints.
    #[must_use]
    pub fn is_stale(&self, original: Target, endpoint: Target) -> bool {
        match self.services.get(&original) {
            None => false,
            Some(endpoints) if endpoint == original => !endpoints.is_empty(),
            Some(endpoints) => !endpoints.contains(&endpoint),
        }
    }
}

pub(crate) fn expectations(ports: &[Port], node: &NodeFacts) -> UdpExpectations {
    let mut services: BTreeMap<Target, BTreeSet<Target>> = BTreeMap::new();
    for port in ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let all = port.choice.cluster.iter().chain(&port.choice.local);
        let endpoints: BTreeSet<Target> = all.map(|endpoint| (endpoint.ip, endpoint.port)).collect();
        let node_ports = node
            .addresses
            .iter()
            .filter(|it| port.node_port != 0 && Family::of(**it) == port.family)
            .map(|address| (*address, port.node_port));
        let addresses = std::iter::once(port.cluster_ip).chain(port.load_balancer_ips.iter().chain(&port.external_ips).copied());
        for target in addresses
            .filter(|it| !node.local_service_addresses.contains(it))
            .map(|it| (it, port.port))
            .chain(node_ports)
        {
            services.entry(target).or_insert_with(|| endpoints.clone());
        }
    }
    UdpExpectations { services }
}
