//! What a pod asks of a node: resources, with init containers, sidecars and overhead, and host ports.

use std::collections::BTreeMap;

use trireme_api::quantity::Quantity;

use crate::view::{Amounts, ContainerView, PodSpecView};

/// What a container without a CPU request counts as when nodes are scored, in thousandths of a core.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// What a container without a memory request counts as when nodes are scored, in bytes.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
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
    pub(crate) fn from_list(list: &Amounts) -> Self {
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodRequests {
    /// What is reserved.
    pub resources: Resources,
    /// CPU and memory with defaults for containers that ask for none; only for scoring.
    pub scored: Resources,
    /// Host ports.
    pub ports: Vec<HostPort>,
}

impl PodRequests {
    pub(crate) fn of(spec: &PodSpecView) -> Self {
        Self {
            resources: total(spec, false),
            scored: total(spec, true),
            ports: ports(spec),
        }
    }
}

fn of_container(container: &ContainerView, defaults: bool) -> Resources {
    let asked = &container.resources.requests;
    let mut resources = Resources::from_list(asked);
    if defaults {
        if !asked.contains_key("cpu") {
            resources.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asked.contains_key("memory") {
            resources.memory = DEFAULT_MEMORY;
        }
    }
    resources
}

fn is_sidecar(container: &ContainerView) -> bool {
    container.restart_policy == "Always"
}

fn total(spec: &PodSpecView, defaults: bool) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of_container(container, defaults));
    }
    // Init containers run one after another, each beside the sidecars that were started before it.
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in &spec.init_containers {
        let mut step = of_container(container, defaults);
        if is_sidecar(container) {
            sidecars.add(&step);
            step = sidecars.clone();
        } else {
            step.add(&sidecars);
        }
        starting.raise_to(&step);
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    let pod_level = Resources::from_list(&spec.resources.requests);
    if spec.resources.requests.contains_key("cpu") {
        running.milli_cpu = pod_level.milli_cpu;
    }
    if spec.resources.requests.contains_key("memory") {
        running.memory = pod_level.memory;
    }
    running.add(&Resources::from_list(&spec.overhead));
    running
}

fn ports(spec: &PodSpecView) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|container| is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    ports
        .filter_map(|port| {
            let host_port = match port.host_port {
                0 if spec.host_network => port.container_port,
                port => port,
            };
            let or = |text: &String, default: &str| if text.is_empty() { default.to_owned() } else { text.clone() };
            (host_port > 0).then(|| HostPort {
                address: or(&port.host_ip, ANY),
                protocol: or(&port.protocol, "TCP"),
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
            let spec: PodSpecView = serde_json::from_value(spec).unwrap();
            assert_eq!(PodRequests::of(&spec).resources.milli_cpu, cpu, "{name}");
        }
    }
}
