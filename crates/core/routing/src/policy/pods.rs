//! Pods as policies see them.

use core::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::Labels;
use crate::facts::Protocol;

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// `name`.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `containerPort`.
    pub number: u16,
}

/// A pod, or something that answers in place of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyPod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID, so that a pod is not taken for a later one of its name.
    pub uid: String,
    /// Node that it runs on; empty for none.
    pub node: String,
    /// Labels.
    pub labels: Labels,
    /// Its addresses; none yet while it starts.
    pub addresses: Vec<IpAddr>,
    /// Ports with names; of equal names and protocols the first counts, as for Services.
    pub ports: Vec<NamedPort>,
}

impl PolicyPod {
    /// What policies see of a pod. Nothing of one with the host's network, whose packets are the node's, or of one that has
    /// ended, whose address may be another's by now.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        if spec.host_network == Some(true) || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let all = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
        let mut addresses: Vec<IpAddr> = all.iter().filter_map(|it| it.ip.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(status.and_then(|status| status.pod_ip.as_deref()?.parse::<IpAddr>().ok()));
        }
        addresses.retain(|it| !it.is_unspecified() && !it.is_loopback() && !it.is_multicast());
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|it| it.restart_policy.as_deref() == Some("Always"));
        let mut ports: Vec<NamedPort> = Vec::new();
        for port in spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|it| it.ports.iter().flatten())
        {
            let (Some(name), Some(protocol), Ok(number)) = (
                port.name.as_ref().filter(|name| !name.is_empty()),
                Protocol::of(port.protocol.as_deref()),
                u16::try_from(port.container_port),
            ) else {
                continue;
            };
            if !ports.iter().any(|known| known.name == *name && known.protocol == protocol) {
                ports.push(NamedPort {
                    name: name.clone(),
                    protocol,
                    number,
                });
            }
        }
        Some(Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: spec.node_name.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses,
            ports,
        })
    }
}
