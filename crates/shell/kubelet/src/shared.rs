//! What all parts of one kubelet use together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use trireme_client::{Cache, Client, EventRecorder, EventType, Regarding, SystemClock};
use trireme_connections::Budget;
use trireme_pod::downward::NodeFacts;
use trireme_pod::plan::ContainerKind;
use trireme_pod::resolv::ClusterDns;
use trireme_pod::spec;
use trireme_runtime::cri::{ImageService, RuntimeService};
use trireme_volumes::Volumes;

use crate::config::KubeletConfig;
use crate::images::Images;
use crate::metrics::ResourceMetrics;
use crate::node::machine::Machine;
use crate::pods::resize::Allocations;
use crate::user_namespaces::UserNamespaces;

/// Name of the field manager and event source.
pub(crate) const COMPONENT: &str = "kubelet";

pub(crate) struct Shared {
    pub(crate) config: KubeletConfig,
    pub(crate) machine: Machine,
    pub(crate) client: Client,
    pub(crate) cache: Arc<Cache>,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) images: Images,
    pub(crate) volumes: Volumes,
    pub(crate) user_namespaces: Arc<UserNamespaces>,
    pub(crate) recorder: EventRecorder,
    pub(crate) metrics: Arc<ResourceMetrics>,
    pub(crate) allocations: Allocations,
    /// What the workers know of their pods, for the server and the metrics.
    pub(crate) pods: Arc<RwLock<BTreeMap<String, PodView>>>,
    /// The range that the node's pods have their addresses from, once the Node has one.
    pub(crate) pod_cidr: Arc<OnceLock<String>>,
    /// Those of the kubelet's port.
    pub(crate) connections: Arc<Budget>,
    pub(crate) shutdown: CancellationToken,
}

/// A pod as its worker last saw it.
#[derive(Clone)]
pub(crate) struct PodView {
    pub(crate) pod: Arc<Pod>,
    pub(crate) sandbox_id: Option<String>,
    pub(crate) containers: Vec<ContainerView>,
    pub(crate) statuses: Vec<ContainerStatus>,
}

/// A run of a container, newest first.
#[derive(Clone)]
pub(crate) struct ContainerView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) running: bool,
    pub(crate) log_path: PathBuf,
}

impl Shared {
    pub(crate) fn new(
        config: KubeletConfig,
        client: &Client,
        cache: Arc<Cache>,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
    ) -> Self {
        let client = client.with_field_manager(COMPONENT);
        let shutdown = CancellationToken::new();
        let recorder = EventRecorder::new(&client, COMPONENT, &config.node_name, Arc::new(SystemClock), shutdown.clone());
        let connections = crate::server::budget(config.connections_max);
        let pods = Arc::new(RwLock::new(BTreeMap::new()));
        let metrics = ResourceMetrics::new(
            config.node_name.clone(),
            config.labels.clone(),
            Arc::clone(&runtime),
            Arc::clone(&pods),
        );
        let volumes = match runtime.runs_processes() {
            true => Volumes::new(&config.data_dir, client.clone()),
            false => Volumes::without_files(&config.data_dir, client.clone()),
        };
        Self {
            machine: Machine::read(&config),
            volumes,
            user_namespaces: Arc::new(UserNamespaces::new(config.data_dir.join("pods"))),
            images: Images::new(images, client.clone()),
            metrics: Arc::new(metrics),
            allocations: Allocations::new(config.data_dir.join("allocations")),
            config,
            client,
            cache,
            runtime,
            recorder,
            pods,
            pod_cidr: Arc::default(),
            connections,
            shutdown,
        }
    }

    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn node_facts(&self, pod_ips: Vec<String>) -> NodeFacts {
        NodeFacts {
            pod_ips,
            host_ips: self.host_ips(),
            allocatable_milli_cpu: self.machine.cpus * 1000,
            allocatable_memory: self.machine.allocatable_memory(&self.config.eviction_hard),
            allocatable_storage: self.machine.allocatable_storage(&self.config.eviction_hard),
        }
    }

    pub(crate) fn cluster_dns(&self) -> ClusterDns {
        ClusterDns {
            servers: self.config.cluster_dns.iter().map(ToString::to_string).collect(),
            domain: self.config.cluster_domain.clone(),
        }
    }

    pub(crate) fn pod_event(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.record(Regarding::of(pod), kind, reason, message);
    }

    pub(crate) fn container_event(&self, pod: &Pod, container: &str, kind: EventType, reason: &str, message: impl Into<String>) {
        let list = match kind_of(pod, container) {
            ContainerKind::Regular => "containers",
            ContainerKind::Init | ContainerKind::Sidecar => "initContainers",
            ContainerKind::Ephemeral => "ephemeralContainers",
        };
        self.recorder.record(
            Regarding::of(pod).at(format!("spec.{list}{{{container}}}")),
            kind,
            reason,
            message,
        );
    }

    /// The directory of a pod's logs.
    pub(crate) fn log_directory(&self, pod: &Pod) -> PathBuf {
        self.config
            .pod_log_dir
            .join(format!("{}_{}_{}", spec::namespace(pod), spec::name(pod), spec::uid(pod)))
    }

    /// Where the termination message of a run is written.
    pub(crate) fn message_path(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.volumes
            .pod_dir(uid)
            .join("containers")
            .join(container)
            .join(format!("{attempt}.message"))
    }
}

fn kind_of(pod: &Pod, container: &str) -> ContainerKind {
    let pod = spec::of(pod);
    if pod.containers.iter().any(|known| known.name == container) {
        ContainerKind::Regular
    } else if spec::init_containers(pod).iter().any(|known| known.name == container) {
        ContainerKind::Init
    } else {
        ContainerKind::Ephemeral
    }
}
