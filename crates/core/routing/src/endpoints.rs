//! EndpointSlices gathered by Service, and which endpoints of a port are to be used.
//!
//! Legend of the choice, per traffic policy: ready endpoints; if there are none, those that terminate but still serve.
//! A condition that is absent counts as ready, and as serving if ready.

use core::net::IpAddr;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as discovery;

use crate::facts::{Family, NodeFacts, Protocol};

/// Label that ties a slice to its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One address and port to send to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// On this node.
    pub local: bool,
}

/// Slices by namespace and Service name.
pub(crate) type Index<'a> = HashMap<(&'a str, &'a str), Vec<&'a discovery::EndpointSlice>>;

/// Gathers slices by the Service they belong to.
pub(crate) fn index(slices: &[Arc<discovery::EndpointSlice>]) -> Index<'_> {
    let mut index = Index::new();
    for slice in slices {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let Some(name) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) else {
            continue;
        };
        index.entry((namespace, name.as_str())).or_default().push(slice);
    }
    index
}

/// The endpoints of one Service port, by policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// For policy Cluster.
    pub(crate) cluster: Vec<Endpoint>,
    /// For policy Local.
    pub(crate) local: Vec<Endpoint>,
    /// Whether the Service has a usable endpoint anywhere.
    pub(crate) any: bool,
}

struct Candidate<'a> {
    endpoint: Endpoint,
    ready: bool,
    serving: bool,
    terminating: bool,
    hints: Option<&'a discovery::EndpointHints>,
}

/// What conditions say, with upstream's meaning of absence.
pub(crate) fn conditions(endpoint: &discovery::Endpoint) -> (bool, bool, bool) {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|it| it.ready).unwrap_or(true);
    let serving = conditions.and_then(|it| it.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|it| it.terminating).unwrap_or(false);
    (ready, serving, terminating)
}

/// Chooses the endpoints of the port called `port_name`.
pub(crate) fn choose(
    slices: &[&discovery::EndpointSlice],
    family: Family,
    port_name: &str,
    protocol: Protocol,
    node: &NodeFacts,
) -> Choice {
    let candidates = candidates(slices, family, port_name, protocol, node);
    let near = near(&candidates, node);
    let cluster = pick(candidates.iter().filter(|it| near.is_none_or(|matches| matches(it, node))));
    let cluster = if cluster.is_empty() {
        pick(candidates.iter())
    } else {
        cluster
    };
    let local = pick(candidates.iter().filter(|it| it.endpoint.local));
    let any = !cluster.is_empty() || !local.is_empty();
    Choice { cluster, local, any }
}

fn candidates<'a>(
    slices: &[&'a discovery::EndpointSlice],
    family: Family,
    port_name: &str,
    protocol: Protocol,
    node: &NodeFacts,
) -> Vec<Candidate<'a>> {
    let mut found: Vec<Candidate<'a>> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family.slice_type()) {
        let ports = slice.ports.as_deref().unwrap_or_default().iter();
        let ports = ports.filter(|port| {
            port.name.as_deref().unwrap_or_default() == port_name && Protocol::of(port.protocol.as_deref()) == Some(protocol)
        });
        let Some(port) = ports
            .filter_map(|port| port.port)
            .find_map(|port| u16::try_from(port).ok().filter(|it| *it != 0))
        else {
            continue;
        };
        for endpoint in slice.endpoints.as_deref().unwrap_or_default() {
            // Addresses of one endpoint are fungible and kept only for old clients: the first is the one to use.
            let Some(ip) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else {
                continue;
            };
            if Family::of(ip) != family || ip.is_unspecified() || ip.is_loopback() {
                continue;
            }
            let (ready, serving, terminating) = conditions(endpoint);
            let local = endpoint.node_name.as_deref() == Some(node.name.as_str());
            let endpoint_of = Endpoint { ip, port, local };
            let candidate = Candidate {
                endpoint: endpoint_of,
                ready,
                serving,
                terminating,
                hints: endpoint.hints.as_ref(),
            };
            match found.iter_mut().find(|it| it.endpoint.ip == ip && it.endpoint.port == port) {
                // The same endpoint can be in two slices while it moves: the usable one counts.
                Some(known) if !known.ready && candidate.ready => *known = candidate,
                Some(_) => {}
                None => found.push(candidate),
            }
        }
    }
    found
}

type Matcher = fn(&Candidate<'_>, &NodeFacts) -> bool;

/// Which topology hints to follow: only if every ready endpoint carries them and one matches.
fn near(candidates: &[Candidate<'_>], node: &NodeFacts) -> Option<Matcher> {
    fn same_node(candidate: &Candidate<'_>, node: &NodeFacts) -> bool {
        let nodes = candidate
            .hints
            .and_then(|hints| hints.for_nodes.as_deref())
            .unwrap_or_default();
        nodes.iter().any(|it| it.name == node.name)
    }
    fn same_zone(candidate: &Candidate<'_>, node: &NodeFacts) -> bool {
        let zones = candidate
            .hints
            .and_then(|hints| hints.for_zones.as_deref())
            .unwrap_or_default();
        node.zone.as_ref().is_some_and(|zone| zones.iter().any(|it| it.name == *zone))
    }
    let ready: Vec<_> = candidates.iter().filter(|it| it.ready).collect();
    let hinted = |has: fn(&discovery::EndpointHints) -> bool| ready.iter().all(|it| it.hints.is_some_and(has));
    if ready.is_empty() {
        return None;
    }
    if hinted(|hints| hints.for_nodes.as_ref().is_some_and(|it| !it.is_empty())) && ready.iter().any(|it| same_node(it, node)) {
        return Some(same_node);
    }
    if hinted(|hints| hints.for_zones.as_ref().is_some_and(|it| !it.is_empty())) && ready.iter().any(|it| same_zone(it, node)) {
        return Some(same_zone);
    }
    None
}

fn pick<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>> + Clone) -> Vec<Endpoint> {
    let ready: BTreeSet<_> = candidates
        .clone()
        .filter(|it| it.ready)
        .map(|it| it.endpoint.clone())
        .collect();
    if !ready.is_empty() {
        return ready.into_iter().collect();
    }
    let last: BTreeSet<_> = candidates
        .filter(|it| it.serving && it.terminating)
        .map(|it| it.endpoint.clone())
        .collect();
    last.into_iter().collect()
}
