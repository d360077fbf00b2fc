//! Which flows through Services are still right.
//!
//! The kernel remembers where it sent a flow for as long as packets come: a UDP flow's endpoint for ever, and that of a TCP
//! connection which nobody answers for two minutes, however often its client tries again. So a flow must be forgotten when
//! its endpoint goes. This states what is right; the shell compares it with what the kernel remembers, so nothing is lost
//! over a restart.
//!
//! Invariant: a connection that was answered is never forgotten: its endpoint may still serve it to the end.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{Family, NodeFacts, Protocol};
use crate::services::Port;

/// Destination address and port.
pub type Target = (IpAddr, u16);

/// A flow that the kernel remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where the client sent to.
    pub original: Target,
    /// What answers, or would. A flow that was never translated has `endpoint == original`.
    pub endpoint: Target,
    /// Whether anything has come back.
    pub answered: bool,
}

/// What each Service address may lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowExpectations {
    /// Protocol, Service address and port → endpoints. A flow to a key whose endpoint is not in the set is stale.
    pub services: BTreeMap<(Protocol, Target), BTreeSet<Target>>,
}

impl FlowExpectations {
    /// Whether a remembered flow leads to an endpoint that is gone, and may be forgotten. One that was never translated is
    /// stale once there are endpoints.
    #[must_use]
    pub fn is_stale(&self, flow: &Flow) -> bool {
        if flow.answered && flow.protocol != Protocol::Udp {
            return false;
        }
        match self.services.get(&(flow.protocol, flow.original)) {
            None => false,
            Some(endpoints) if flow.endpoint == flow.original => !endpoints.is_empty(),
            Some(endpoints) => !endpoints.contains(&flow.endpoint),
        }
    }

    /// Whether flows that were right before may be stale now: an address has lost an endpoint, or has got its first one.
    #[must_use]
    pub fn may_have_outdated(&self, before: &Self) -> bool {
        self.services.iter().any(|(target, now)| match before.services.get(target) {
            Some(then) if !then.is_empty() => !then.is_subset(now),
            _ => !now.is_empty(),
        })
    }
}

pub(crate) fn expectations(ports: &[Port], node: &NodeFacts) -> FlowExpectations {
    let mut services: BTreeMap<(Protocol, Target), BTreeSet<Target>> = BTreeMap::new();
    for port in ports {
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
            services.entry((port.protocol, target)).or_insert_with(|| endpoints.clone());
        }
    }
    FlowExpectations { services }
}
