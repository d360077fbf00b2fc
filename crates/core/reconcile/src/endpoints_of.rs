//! Which pods stand behind a Service, and on which ports: shared by the EndpointSlice and the Endpoints controllers
//! (staging/src/k8s.io/endpointslice, pkg/controller/endpoint).

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods::CountedPod;

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
    pub pod: CountedPod,
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
pub fn backends(service: &Service, all: &[CountedPod], family: Family) -> Vec<Backend> {
    let Some(spec) = &service.spec else { return vec![] };
    let selector = spec.selector.clone().unwrap_or_default();
    let publish_unready = spec.publish_not_ready_addresses == Some(true);
    let mut backends: Vec<Backend> = all
        .iter()
        .filter(|pod| {
            let labels = &pod.header().labels;
            selector.iter().all(|(key, value)| labels.get(key) == Some(value)) && !pod.is_finished()
        })
        .filter_map(|pod| {
            let facts = pod.facts();
            let address = facts.addresses.iter().find(|address| family.has(address))?;
            let serving = facts.ready;
            let terminating = pod.header().deleting;
            let ready = publish_unready || (serving && !terminating);
            Some(Backend {
                address: address.to_string(),
                ports: ports(spec.ports.as_deref().unwrap_or_default(), pod),
                ready,
                serving,
                terminating,
                pod: pod.clone(),
            })
        })
        .collect();
    backends.sort_by(|left, right| left.pod.header().name.cmp(&right.pod.header().name));
    backends
}

impl Backend {
    /// The node that its pod is on.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        Some(&*self.pod.facts().node).filter(|node| !node.is_empty())
    }

    /// The pod's host name, where DNS will answer it: its subdomain is the Service.
    #[must_use]
    pub fn hostname(&self, service: &Service) -> Option<String> {
        let facts = self.pod.facts();
        let answers = service.metadata.name.as_deref() == Some(&*facts.subdomain);
        (answers && !facts.hostname.is_empty()).then(|| facts.hostname.to_string())
    }

    /// What names the pod.
    #[must_use]
    pub fn target(&self) -> ObjectReference {
        let header = self.pod.header();
        ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(header.namespace.clone()),
            name: Some(header.name.clone()),
            uid: Some(header.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// A Service's ports in a pod. A named target port that the pod lacks leaves that port out.
fn ports(wanted: &[ServicePort], pod: &CountedPod) -> Vec<Port> {
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

fn named_port(pod: &CountedPod, name: &str, protocol: &str) -> Option<i32> {
    let mut ports = pod.facts().ports.iter();
    ports
        .find(|port| &*port.name == name && &*port.protocol == protocol)
        .map(|port| port.number)
}
