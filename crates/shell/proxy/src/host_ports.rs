//! Host ports of the pods on this node, kept from the changes of pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use trireme_client::{Cache, Change};
use trireme_routing::{HostPort, Protocol};

pub(crate) struct HostPorts {
    node: String,
    by_pod: BTreeMap<(String, String), Vec<HostPort>>,
}

impl HostPorts {
    pub(crate) fn new(node: String) -> Self {
        Self {
            node,
            by_pod: BTreeMap::new(),
        }
    }

    /// Takes a change in; true if it changed the host ports.
    pub(crate) fn note(&mut self, cache: &Cache, change: &Change) -> bool {
        let pod = change.new.as_ref().filter(|object| object.mentions("\"hostPort\""));
        let pod = pod.and_then(|object| cache.typed::<Pod>(object));
        let ports = pod.map(|pod| published(&pod, &self.node)).unwrap_or_default();
        let place = (change.namespace.clone(), change.name.clone());
        if ports.is_empty() {
            return self.by_pod.remove(&place).is_some();
        }
        self.by_pod.insert(place, ports.clone()) != Some(ports)
    }

    pub(crate) fn all(&self) -> Vec<HostPort> {
        self.by_pod.values().flatten().cloned().collect()
    }
}

/// What a pod publishes: nothing without an address, with the host's network, or after its end.
fn published(pod: &Pod, node: &str) -> Vec<HostPort> {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else {
        return Vec::new();
    };
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if spec.node_name.as_deref() != Some(node) || spec.host_network == Some(true) || has_ended {
        return Vec::new();
    }
    let addresses: Vec<IpAddr> = match &status.pod_ips {
        Some(all) if !all.is_empty() => all.iter().filter_map(|it| it.ip.parse().ok()).collect(),
        _ => status.pod_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
    };
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let ports = containers
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten());
    let mut found = Vec::new();
    for port in ports {
        let number = |value: i32| u16::try_from(value).ok().filter(|it| *it != 0);
        let (Some(host_port), Some(container_port)) = (port.host_port.and_then(number), number(port.container_port)) else {
            continue;
        };
        let Some(protocol) = Protocol::of(port.protocol.as_deref()) else {
            continue;
        };
        let host_ip = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
        found.extend(addresses.iter().map(|pod_ip| HostPort {
            host_ip,
            host_port,
            protocol,
            pod_ip: *pod_ip,
            container_port,
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_running_pods_of_this_node_publish() {
        let pod = |node: &str, phase: &str, host_network: bool| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "d"},
                "spec": {"nodeName": node, "hostNetwork": host_network, "containers": [
                    {"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": ""}, {"containerPort": 81}]}]},
                "status": {"phase": phase, "podIP": "10.42.0.5"},
            }))
            .unwrap()
        };
        assert_eq!(published(&pod("one", "Running", false), "one").len(), 1);
        for (node, phase, host_network) in [
            ("two", "Running", false),
            ("one", "Succeeded", false),
            ("one", "Running", true),
        ] {
            assert!(
                published(&pod(node, phase, host_network), "one").is_empty(),
                "{node} {phase} {host_network}"
            );
        }
    }
}
