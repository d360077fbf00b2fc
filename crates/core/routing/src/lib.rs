//! Routing is a function: Services, EndpointSlices and facts about the node in; one nftables ruleset, the UDP flows that
//! may live on, the health check ports and the DNS records out. Network policies are a second one ([`policy`]).
//!
//! Invariant: the same input gives the same output, byte for byte. It will not touch the kernel, a socket or a clock.

pub mod announce;
pub mod dns;
mod endpoints;
mod facts;
mod flows;
pub mod mesh;
pub mod policy;
mod render;
mod ruleset;
mod services;

pub use endpoints::Endpoint;
pub use facts::{Cidr, CidrError, Family, HostPort, NodeFacts, Protocol};
pub use flows::{Flow, FlowExpectations};
pub use ruleset::{Change, Existing, POLICY_TABLE, Ruleset, TABLE};

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Everything a node's rules follow from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// All Services, in any order.
    pub services: &'a [Arc<Service>],
    /// All EndpointSlices, in any order.
    pub slices: &'a [Arc<EndpointSlice>],
    /// Host ports of the pods on this node.
    pub host_ports: &'a [HostPort],
    /// The node itself.
    pub node: &'a NodeFacts,
}

/// What follows from an [`Input`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// What the kernel should hold.
    pub ruleset: Ruleset,
    /// Which flows may live on; others would send to endpoints that are gone.
    pub flows: FlowExpectations,
    /// Health check servers to run, by port.
    pub health_checks: Vec<HealthCheck>,
}

/// One `spec.healthCheckNodePort` server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HealthCheck {
    /// TCP port on the node.
    pub port: u16,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Ready endpoints on this node: the answer is 200 when there are any, otherwise 503.
    pub local_endpoints: usize,
}

/// Computes the rules of a node.
#[must_use]
pub fn route(input: &Input<'_>) -> Routing {
    let index = endpoints::index(input.slices);
    let ports = services::ports(input.services, &index, input.node);
    Routing {
        ruleset: render::render(&ports, input.host_ports, input.node),
        flows: flows::expectations(&ports, input.node),
        health_checks: services::health_checks(input.services, &index, input.node),
    }
}
