//! What a pod asks of a node: resources, with init containers, sidecars and overhead, and host ports.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use trireme_api::quantity::Quantity;

/// What a container without a CPU request counts as when nodes are scored, in thousandths of a core.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// What a container without a memory request counts as when nodes are scored, in bytes.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Ephemeral storage in bytes.
    pub ephemeral_storage: i64,
    /// All others, by name.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// From an API resource list; `pods` is left out, what does not parse counts as nothing.
    #[must_use]
    pub fn from_list(list: &BTreeMap<String, Text>) -> Self {
        let mut resources = Self::default();
        for (name, text) in list {
            let Ok(quantity) = Quantity::parse(&text.0) else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = quantity.milli_value(),
                "memory" => resources.memory = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_storage = quantity.value(),
                "pods" => {}
                _ => {
                    resources.others.insert(name.clone(), quantity.value());
                }
            }
        }
        resources
    }

    /// Adds another amount.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine.saturating_add(theirs));
    }

    /// Takes another amount away.
    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine.saturating_sub(theirs));
    }

    /// The larger of both, for each resource.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = with(*mine, *amount);
        }
    }
}

/// A port of the node that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address, `0.0.0.0` for all.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ANY || other.address == ANY)
    }
}

const ANY: &str = "0.0.0.0";

/// What a pod asks of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRequests {
    /// What is reserved.
    pub resources: Resources,
    /// CPU and memory with defaults for containers that ask for none; only for scoring.
    pub scored: Resources,
    /// Host ports.
    pub ports: Vec<HostPort>,
}

impl PodRequests {
    /// Of a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        Self {
            resources: total(pod, false),
            scored: total(pod, true),
            ports: ports(pod),
        }
    }
}

fn requests(requirements: Option<&ResourceRequirements>) -> Resources {
    requirements
        .and_then(|requirements| requirements.requests.as_ref())
        .map(Resources::from_list)
        .unwrap_or_default()
}

fn of_container(container: &Container, defaults: bool) -> Resources {
    let mut resources = requests(container.resources.as_ref());
    if defaults {
        let asked = |name: &str| {
            let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            requests.is_some_and(|requests| requests.contains_key(name))
        };
        if !asked("cpu") {
            resources.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asked("memory") {
            resources.memory = DEFAULT_MEMORY;
        }
    }
    resources
}

fn total(pod: &Pod, defaults: bool) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of_container(container, defaults));
    }
    // Init containers run one after another, each beside the sidecars that were started before it.
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut step = of_container(container, defaults);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&step);
            step = sidecars.clone();
        } else {
            step.add(&sidecars);
        }
        starting.raise_to(&step);
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    if let Some(pod_level) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let pod_level_amounts = Resources::from_list(pod_level);
        if pod_level.contains_key("cpu") {
            running.milli_cpu = pod_level_amounts.milli_cpu;
        }
        if pod_level.contains_key("memory") {
            running.memory = pod_level_amounts.memory;
        }
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::from_list(overhead));
    }
    running
}

fn ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = if spec.host_network == Some(true) {
                port.host_port.unwrap_or(port.container_port)
            } else {
                port.host_port?
            };
            (host_port > 0).then(|| HostPort {
                address: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| ANY.into()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                port: host_port,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(cpu: &str, always: bool) -> Value {
        let mut container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        if always {
            container["restartPolicy"] = "Always".into();
        }
        container
    }

    #[test]
    fn init_containers_sidecars_and_overhead_count() {
        for (name, spec, cpu) in [
            (
                "sum",
                json!({"containers": [container("100m", false), container("1", false)]}),
                1100,
            ),
            (
                "an init container beside nothing",
                json!({"containers": [container("100m", false)], "initContainers": [container("300m", false)]}),
                300,
            ),
            (
                "a sidecar runs on",
                json!({"containers": [container("100m", false)], "initContainers": [container("300m", true)]}),
                400,
            ),
            (
                "an init container beside an earlier sidecar",
                json!({"containers": [container("100m", false)], "initContainers": [container("300m", true), container("200m", false)]}),
                500,
            ),
            (
                "overhead on top",
                json!({"containers": [container("100m", false)], "overhead": {"cpu": "50m"}}),
                150,
            ),
            (
                "pod level in place of the sum",
                json!({"containers": [container("100m", false)], "resources": {"requests": {"cpu": "2"}}}),
                2000,
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            assert_eq!(PodRequests::of(&pod).resources.milli_cpu, cpu, "{name}");
        }
    }
}
