//! The status of the Node as upstream's setters make it (pkg/kubelet/nodestatus).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use trireme_api::quantity;
use trireme_runtime::cri::RUNTIME_HANDLERS;

use super::machine;
use crate::shared::Shared;

/// Most images and names of one image that are shown.
const IMAGES_MAX: usize = 50;
const NAMES_MAX: usize = 5;
/// How long the runtime may take to answer.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(10);

/// `amd64`, `arm64`, …
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn taint(taint: &crate::config::Taint) -> Taint {
    Taint {
        key: taint.key.clone(),
        value: (!taint.value.is_empty()).then(|| taint.value.clone()),
        effect: taint.effect.clone(),
        time_added: None,
    }
}

/// What the runtime can do for pods of one RuntimeClass's handler.
fn runtime_handler(name: &str) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(name.to_owned()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(true),
            user_namespaces: Some(true),
        }),
    }
}

/// The status now; transition times are taken from the old one where nothing changed.
pub(super) async fn of(shared: &Shared, old: &NodeStatus) -> NodeStatus {
    let config = &shared.config;
    let machine = &shared.machine;
    let addresses = config
        .node_ips
        .iter()
        .map(|ip| ("InternalIP", ip.to_string()))
        .chain([("Hostname", config.hostname.clone())]);
    let runtime = tokio::time::timeout(RUNTIME_TIMEOUT, shared.runtime.list_pod_sandboxes()).await;
    let trouble = match runtime {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("container runtime is down: {error}")),
        Err(_) => Some("container runtime status check may not have completed yet".to_owned()),
    };
    NodeStatus {
        addresses: Some(
            addresses
                .map(|(kind, address)| NodeAddress {
                    type_: kind.into(),
                    address,
                })
                .collect(),
        ),
        capacity: Some(resources(shared, machine.memory, machine.storage)),
        allocatable: Some(resources(
            shared,
            machine.allocatable_memory(&config.eviction_hard),
            machine.allocatable_storage(&config.eviction_hard),
        )),
        conditions: Some(conditions(shared, old, together(trouble, config.obstacle.look()))),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(config.port),
            }),
        }),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).into()),
        features: Some(NodeFeatures {
            supplemental_groups_policy: Some(true),
        }),
        images: Some(images(shared).await),
        runtime_handlers: Some(RUNTIME_HANDLERS.into_iter().map(runtime_handler).collect()),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().into(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: config.runtime_version.clone(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: config.kubelet_version.clone(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            swap: (machine.swap > 0).then_some(NodeSwapStatus {
                capacity: Some(machine.swap),
            }),
            system_uuid: machine.system_uuid.clone(),
        }),
        ..NodeStatus::default()
    }
}

/// What pods may be changed to here that not every node can do (component-helpers/nodedeclaredfeatures).
const DECLARED_FEATURES: [&str; 2] = [
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
];

fn resources(shared: &Shared, memory: i64, storage: i64) -> BTreeMap<String, Quantity> {
    [
        ("cpu", Quantity(shared.machine.cpus.to_string())),
        ("memory", kibi(memory)),
        ("ephemeral-storage", kibi(storage)),
        ("hugepages-1Gi", Quantity("0".into())),
        ("hugepages-2Mi", Quantity("0".into())),
        ("pods", Quantity(shared.config.max_pods.to_string())),
    ]
    .into_iter()
    .map(|(name, quantity)| (name.to_owned(), quantity))
    .collect()
}

/// An amount in whole KiB as the API writes it: one that it writes otherwise would be a change at each look.
fn kibi(bytes: i64) -> Quantity {
    Quantity(quantity::Quantity::new(bytes / 1024 * 1024, quantity::Format::BinarySi).to_string())
}

/// Two troubles as upstream joins them.
fn together(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), Some(other)) => Some(format!("[{one}, {other}]")),
        (one, other) => one.or(other),
    }
}

struct Verdict {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

fn conditions(shared: &Shared, old: &NodeStatus, trouble: Option<String>) -> Vec<NodeCondition> {
    let config = &shared.config;
    let pressure = config
        .eviction_hard
        .pressure(|signal| machine::measure(signal, &config.data_dir));
    let pick = |kind, pressed: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        let (reason, message) = if pressed { yes } else { no };
        Verdict {
            kind,
            status: pressed,
            reason,
            message: message.to_owned(),
        }
    };
    let verdicts = [
        pick(
            "MemoryPressure",
            pressure.memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pick(
            "DiskPressure",
            pressure.disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pick(
            "PIDPressure",
            pressure.pid,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        match trouble {
            None => Verdict {
                kind: "Ready",
                status: true,
                reason: "KubeletReady",
                message: "kubelet is posting ready status".into(),
            },
            Some(why) => Verdict {
                kind: "Ready",
                status: false,
                reason: "KubeletNotReady",
                message: why,
            },
        },
    ];
    let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
    verdicts
        .into_iter()
        .map(|verdict| {
            let status = if verdict.status { "True" } else { "False" };
            let known = old
                .conditions
                .iter()
                .flatten()
                .find(|known| known.type_ == verdict.kind && known.status == status);
            NodeCondition {
                type_: verdict.kind.into(),
                status: status.into(),
                reason: Some(verdict.reason.into()),
                message: Some(verdict.message),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: known
                    .and_then(|known| known.last_transition_time.clone())
                    .or_else(|| Some(now.clone())),
            }
        })
        .collect()
}

async fn images(shared: &Shared) -> Vec<ContainerImage> {
    let mut images = shared.images.service().list_images().await.unwrap_or_default();
    images.sort_by(|one, other| other.size.cmp(&one.size).then_with(|| one.id.cmp(&other.id)));
    images
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| ContainerImage {
            names: Some(
                image
                    .repo_digests
                    .into_iter()
                    .chain(image.repo_tags)
                    .take(NAMES_MAX)
                    .collect(),
            ),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

/// Whether two statuses differ in more than their heartbeats and the order of their conditions.
pub(super) fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        let conditions = status.conditions.get_or_insert_default();
        conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
        for condition in conditions {
            condition.last_heartbeat_time = None;
        }
        status.images.get_or_insert_default();
        status
    };
    still(old) != still(new)
}

/// Events of conditions that turn: to true, to false.
const TURNS: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
    ("Ready", "NodeReady", "NodeNotReady"),
];

/// The events that tell which conditions turned from one status to the next.
pub(super) fn turned(old: &NodeStatus, new: &NodeStatus) -> Vec<&'static str> {
    let is = |status: &NodeStatus, kind: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    };
    TURNS
        .into_iter()
        .filter(|(kind, _, _)| is(old, kind) != is(new, kind))
        .map(|(kind, on, off)| if is(new, kind) { on } else { off })
        .collect()
}

/// Ours over what is there: conditions, volumes and extended resources of others stay.
pub(super) fn merged(mut foreign: NodeStatus, own: NodeStatus) -> NodeStatus {
    let mut conditions: Vec<_> = foreign
        .conditions
        .take()
        .unwrap_or_default()
        .into_iter()
        .filter(|known| {
            !own.conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == known.type_)
        })
        .collect();
    conditions.extend(own.conditions.unwrap_or_default());
    let keep = |theirs: Option<BTreeMap<String, Quantity>>, ours: Option<BTreeMap<String, Quantity>>| {
        let mut all = theirs.unwrap_or_default();
        all.extend(ours.unwrap_or_default());
        Some(all)
    };
    NodeStatus {
        conditions: Some(conditions),
        capacity: keep(foreign.capacity.take(), own.capacity),
        allocatable: keep(foreign.allocatable.take(), own.allocatable),
        addresses: own.addresses,
        daemon_endpoints: own.daemon_endpoints,
        declared_features: own.declared_features,
        features: own.features,
        images: own.images,
        runtime_handlers: own.runtime_handlers,
        node_info: own.node_info,
        ..foreign
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> NodeStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn amounts_are_written_as_the_api_writes_them() {
        for (bytes, text) in [
            (64 << 30, "64Gi"),
            ((64 << 30) + 1024, "67108865Ki"),
            (5000, "4Ki"),
            (3 << 20, "3Mi"),
            (0, "0"),
        ] {
            assert_eq!(kibi(bytes).0, text);
            assert_eq!(quantity::Quantity::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_others_say_is_no_change_of_ours() {
        let ready = |since: &str| json!({"type": "Ready", "status": "True", "lastHeartbeatTime": since});
        let own = status(
            json!({"conditions": [ready("2026-01-01T00:01:00Z")], "capacity": {"cpu": "1"}, "images": [],
            "declaredFeatures": ["A"]}),
        );
        let old = status(
            json!({"conditions": [ready("2026-01-01T00:00:00Z"), {"type": "NetworkUnavailable", "status": "False"}],
            "capacity": {"cpu": "1", "example.com/gpu": "2"}, "allocatable": {}, "volumesInUse": ["v"], "declaredFeatures": ["A"]}),
        );
        assert!(!differs(&old, &merged(old.clone(), own.clone())));
        let changes = [
            json!({"conditions": [{"type": "Ready", "status": "False"}], "capacity": {"cpu": "1"}, "declaredFeatures": ["A"]}),
            json!({"conditions": [ready("2026-01-01T00:01:00Z")], "capacity": {"cpu": "2"}, "declaredFeatures": ["A"]}),
            json!({"conditions": [ready("2026-01-01T00:01:00Z")], "capacity": {"cpu": "1"}, "declaredFeatures": ["B"]}),
            json!({"conditions": [ready("2026-01-01T00:01:00Z")], "capacity": {"cpu": "1"}, "declaredFeatures": ["A"],
                "images": [{"names": ["i"]}]}),
        ];
        for own in changes {
            assert!(differs(&old, &merged(old.clone(), status(own.clone()))), "{own}");
        }
    }
}
