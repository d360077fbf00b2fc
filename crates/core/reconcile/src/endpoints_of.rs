//! Which pods stand behind a Service, and on which ports: shared by the EndpointSlice and the Endpoints controllers
//! (staging/src/k8s.io/endpointslice, pkg/controller/endpoint).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

/// A port of a Service as one pod serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Name of the Service's port, empty for the only one.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Number in the pod; `None` for a Service without ports.
    pub number: Option<i32>,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// One pod behind a Service.
#[derive(Clone, Debug)]
pub struct Backend {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its address of the wanted family.
    pub address: String,
    /// Its ports, sorted.
    pub ports: Vec<Port>,
    /// Ready and not being deleted, or to be published anyway.
    pub ready: bool,
    /// Ready, also while being deleted; not ready if it is published without being so.
    pub serving: bool,
    /// Being deleted.
    pub terminating: bool,
}

/// `IPv4` or `IPv6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As EndpointSlices name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn has(self, address: &str) -> bool {
        address.contains(':') == (self == Self::V6)
    }
}

/// The families that a Service's endpoints have.
#[must_use]
pub fn families(service: &Service) -> Vec<Family> {
    let names = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.clone())
        .unwrap_or_default();
    let families: Vec<_> = names
        .iter()
        .map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 })
        .collect();
    if families.is_empty() { vec![Family::V4] } else { families }
}

/// Whether a controller has endpoints to make: there is a selector, and the Service is no alias.
#[must_use]
pub fn has_endpoints(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()) && spec.type_.as_deref() != Some("ExternalName")
    })
}

/// Whether the Service has no address of its own.
#[must_use]
pub fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// The pods behind a Service that have an address of the family, in a stable order.
#[must_use]
pub fn backends(service: &Service, all: &[Arc<Pod>], family: Family) -> Vec<Backend> {
    let Some(spec) = &service.spec else { return vec![] };
    let selector = spec.selector.clone().unwrap_or_default();
    let publish_unready = spec.publish_not_ready_addresses == Some(true);
    let mut backends: Vec<Backend> = all
        .iter()
        .filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            selector
                .iter()
                .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
                && !pods::is_finished(pod)
        })
        .filter_map(|pod| {
            let status = pod.status.as_ref()?;
            let addresses = status.pod_ips.iter().flatten().map(|address| address.ip.clone());
            let address = addresses
                .chain(status.pod_ip.clone())
                .find(|address| !address.is_empty() && family.has(address))?;
            let serving = pods::is_ready(pod);
            let terminating = pod.metadata.deletion_timestamp.is_some();
            let ready = publish_unready || (serving && !terminating);
            Some(Backend {
                address,
                ports: ports(spec.ports.as_deref().unwrap_or_default(), pod),
                ready,
                serving,
                terminating,
                pod: Arc::clone(pod),
            })
        })
        .collect();
    backends.sort_by(|left, right| left.pod.metadata.name.cmp(&right.pod.metadata.name));
    backends
}

/// A Service's ports in a pod. A named target port that the pod lacks leaves that port out.
fn ports(wanted: &[ServicePort], pod: &Pod) -> Vec<Port> {
    let mut ports: Vec<Port> = wanted
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            let number = match &port.target_port {
                None => port.port,
                Some(IntOrString::Int(0)) => port.port,
                Some(IntOrString::Int(number)) => *number,
                Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
            };
            let name = port.name.clone().unwrap_or_default();
            Some(Port {
                name,
                protocol,
                number: Some(number),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let held = |container: &Container| {
        let mut ports = container.ports.iter().flatten();
        ports
            .find(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol)
            .map(|port| port.container_port)
    };
    spec.containers.iter().chain(sidecars).find_map(held)
}
