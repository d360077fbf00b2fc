//! Services as rules need them: one row per port and family, with every address it answers on.
//!
//! Invariant: an address that a Service may not capture (a pod's, a loopback, an unlisted external IP) never appears in a
//! row. Where two Services claim the same address and port, the older one has it.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core_v1;

use crate::HealthCheck;
use crate::endpoints::{self, Choice, Index};
use crate::facts::{Cidr, Family, NodeFacts, Protocol};

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const AFFINITY_S: u32 = 10_800;

/// One port of one Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) cluster_ip: IpAddr,
    /// 0 where there is none.
    pub(crate) node_port: u16,
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) source_ranges: Vec<Cidr>,
    /// Whether `source_ranges` limits who may use the load balancer's addresses.
    pub(crate) has_source_ranges: bool,
    /// Seconds of ClientIP affinity.
    pub(crate) affinity_s: Option<u32>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) choice: Choice,
}

/// Names become part of a script: whatever the API let in, only letters, digits and dashes get that far.
fn is_plain(name: Option<&String>) -> bool {
    name.is_some_and(|name| {
        (1..=63).contains(&name.len())
            && name
                .bytes()
                .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-')
    })
}

/// Whether this proxy is to serve the Service.
fn is_ours(service: &core_v1::Service) -> bool {
    if !is_plain(service.metadata.namespace.as_ref()) || !is_plain(service.metadata.name.as_ref()) {
        return false;
    }
    let labels = service.metadata.labels.as_ref();
    let Some(spec) = &service.spec else { return false };
    labels.is_none_or(|labels| !labels.contains_key(PROXY_NAME))
        && spec.type_.as_deref() != Some("ExternalName")
        && !matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

/// The Services that are ours to serve, older ones first.
pub(crate) fn oldest_first(services: &[Arc<core_v1::Service>]) -> Vec<&core_v1::Service> {
    let mut ours: Vec<&core_v1::Service> = services
        .iter()
        .map(AsRef::as_ref)
        .filter(|service| is_ours(service))
        .collect();
    ours.sort_by_cached_key(|service| {
        let metadata = &service.metadata;
        (
            metadata.creation_timestamp.as_ref().map(|time| time.0),
            metadata.namespace.clone(),
            metadata.name.clone(),
        )
    });
    ours
}

/// Rows of all Services, older Services first.
pub(crate) fn ports(services: &[Arc<core_v1::Service>], index: &Index<'_>, node: &NodeFacts) -> Vec<Port> {
    oldest_first(services)
        .into_iter()
        .flat_map(|service| rows(service, index, node))
        .collect()
}

fn rows(service: &core_v1::Service, index: &Index<'_>, node: &NodeFacts) -> Vec<Port> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let slices = index.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
    let mut cluster_ips: Vec<IpAddr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter_map(|text| text.parse().ok())
        .collect();
    if cluster_ips.is_empty() {
        cluster_ips.extend(spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()));
    }
    let is_external = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let ranges = source_ranges(service);
    let mut rows = Vec::new();
    for cluster_ip in cluster_ips {
        let family = Family::of(cluster_ip);
        for port in spec.ports.iter().flatten() {
            let (Some(protocol), Ok(number)) = (Protocol::of(port.protocol.as_deref()), u16::try_from(port.port)) else {
                continue;
            };
            let port_name = port.name.as_deref().unwrap_or_default();
            rows.push(Port {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                family,
                protocol,
                port: number,
                cluster_ip,
                node_port: port
                    .node_port
                    .filter(|_| is_external)
                    .and_then(|it| u16::try_from(it).ok())
                    .unwrap_or(0),
                load_balancer_ips: load_balancer_ips(service, family, protocol, number, node),
                external_ips: external_ips(spec, family, protocol, number, node),
                source_ranges: ranges
                    .iter()
                    .flatten()
                    .copied()
                    .filter(|cidr| cidr.family() == family)
                    .collect(),
                has_source_ranges: ranges.is_some(),
                affinity_s: affinity(spec),
                internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
                external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
                choice: endpoints::choose(slices, family, port_name, protocol, node),
            });
        }
    }
    rows
}

fn affinity(spec: &core_v1::ServiceSpec) -> Option<u32> {
    (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let client = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref());
        client
            .and_then(|it| it.timeout_seconds)
            .and_then(|it| u32::try_from(it).ok())
            .filter(|it| *it > 0)
            .unwrap_or(AFFINITY_S)
    })
}

/// `None`: everybody may. The field wins over the annotation.
fn source_ranges(service: &core_v1::Service) -> Option<Vec<Cidr>> {
    let spec = service.spec.as_ref()?;
    let of_field: Vec<&str> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let annotation = service.metadata.annotations.as_ref().and_then(|it| it.get(SOURCE_RANGES));
    let texts = if of_field.is_empty() {
        annotation?.split(',').collect()
    } else {
        of_field
    };
    let texts: Vec<&str> = texts.into_iter().map(str::trim).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() {
        return None;
    }
    let ranges: Vec<Cidr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    (!ranges.iter().any(|range| range.prefix() == 0)).then_some(ranges)
}

/// Addresses a Service may never capture from outside its own ClusterIP: those of pods, of other Services, of the machine
/// itself and of everybody.
fn may_capture(address: IpAddr, family: Family, node: &NodeFacts) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    Family::of(address) == family
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !link_local
        && !node
            .cluster_cidrs
            .iter()
            .chain(&node.pod_cidrs)
            .chain(&node.service_cidrs)
            .any(|cidr| cidr.contains(address))
        && !node.local_service_addresses.contains(&address)
}

fn load_balancer_ips(service: &core_v1::Service, family: Family, protocol: Protocol, port: u16, node: &NodeFacts) -> Vec<IpAddr> {
    if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) != Some("LoadBalancer") {
        return Vec::new();
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let ingress = ingress.iter().filter(|it| it.ip_mode.as_deref() != Some("Proxy"));
    let addresses = ingress.filter_map(|it| it.ip.as_deref()?.parse::<IpAddr>().ok());
    let allowed = addresses.filter(|address| may_capture(*address, family, node) && !is_reserved(*address, protocol, port, node));
    allowed.collect::<BTreeSet<_>>().into_iter().collect()
}

fn external_ips(spec: &core_v1::ServiceSpec, family: Family, protocol: Protocol, port: u16, node: &NodeFacts) -> Vec<IpAddr> {
    let addresses = spec
        .external_ips
        .iter()
        .flatten()
        .filter_map(|text| text.parse::<IpAddr>().ok());
    let allowed = addresses.filter(|address| {
        may_capture(*address, family, node)
            && !is_reserved(*address, protocol, port, node)
            && node.external_ip_cidrs.iter().any(|cidr| cidr.contains(*address))
    });
    allowed.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The node's own ports stay the node's, at any address of any node: which addresses other nodes have is not known here,
/// so only this node's are guarded, and each node guards its own.
fn is_reserved(address: IpAddr, protocol: Protocol, port: u16, node: &NodeFacts) -> bool {
    node.addresses.contains(&address) && node.reserves(protocol, port)
}

/// Health check servers of Services with policy Local.
pub(crate) fn health_checks(services: &[Arc<core_v1::Service>], index: &Index<'_>, node: &NodeFacts) -> Vec<HealthCheck> {
    let mut checks = Vec::new();
    for service in services.iter().filter(|service| is_ours(service)) {
        let Some(spec) = &service.spec else { continue };
        let is_local = spec.external_traffic_policy.as_deref() == Some("Local") && spec.type_.as_deref() == Some("LoadBalancer");
        let port = spec
            .health_check_node_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0);
        let (true, Some(port)) = (is_local, port) else { continue };
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let name = service.metadata.name.clone().unwrap_or_default();
        let slices = index
            .get(&(namespace.as_str(), name.as_str()))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let all = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let local: BTreeSet<&str> = all
            .filter(|endpoint| endpoint.node_name.as_deref() == Some(node.name.as_str()) && endpoints::conditions(endpoint).0)
            .filter_map(|endpoint| endpoint.addresses.first().map(String::as_str))
            .collect();
        checks.push(HealthCheck {
            port,
            local_endpoints: local.len(),
            namespace,
            name,
        });
    }
    checks.sort();
    checks
}
