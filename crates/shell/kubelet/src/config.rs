//! What a kubelet is told at its start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::server::ResolvesServerCert;

use crate::eviction::EvictionHard;

/// Most processes of one pod, unless told otherwise: more than any honest pod needs, and few enough that a node's usual
/// limits (32,768 pids) hold out against several that fork without end.
pub const POD_PIDS_LIMIT: i64 = 4096;

/// Settings of one node's kubelet.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// The machine's host name; the address of type Hostname.
    pub hostname: String,
    /// Addresses of the node, primary first.
    pub node_ips: Vec<IpAddr>,
    /// Name servers for pods.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of services, `cluster.local`.
    pub cluster_domain: String,
    /// Where pod directories are (`data_dir/pods/<uid>`).
    pub data_dir: PathBuf,
    /// Where container logs are, `/var/log/pods`.
    pub pod_log_dir: PathBuf,
    /// The node's cgroup, below which the runtime puts `kubepods`; empty for the root. The kubelet only reads figures there.
    pub cgroup_root: String,
    /// Whether the cache is this kubelet's alone (an agent's), so that it holds this node's pods only. Where other parts
    /// share the cache, it must hold all pods.
    pub own_pods_only: bool,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Address that the kubelet's API listens on.
    pub listen: IpAddr,
    /// Its port, 10250; 0 takes any.
    pub port: u16,
    /// Most connections to it at a time.
    pub connections_max: usize,
    /// Certificates of the kubelet's API; without them it is not served.
    pub tls: Option<Tls>,
    /// Labels of the Node beyond the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with.
    pub taints: Vec<Taint>,
    /// Whether the node is to take no new pods.
    pub unschedulable: bool,
    /// Most pods on the node, 110.
    pub max_pods: u32,
    /// Most processes of one pod (`podPidsLimit`), 4096; -1 is no limit, as upstream's default is.
    pub pod_pids_limit: i64,
    /// What the node is to have; `None` is what the machine has.
    pub capacity: Option<Capacity>,
    /// What must stay free on the node.
    pub eviction_hard: EvictionHard,
    /// `nodeInfo.kubeletVersion`, `v1.36.2+trireme`.
    pub kubelet_version: String,
    /// `nodeInfo.containerRuntimeVersion`, `trireme://0.1.0`.
    pub runtime_version: String,
    /// What keeps the node from being ready beside its runtime.
    pub obstacle: Obstacle,
}

/// Tells at each look what keeps a node from being ready; nothing by default.
#[derive(Clone, Default)]
pub struct Obstacle(Option<Arc<dyn Fn() -> Option<String> + Send + Sync>>);

impl Obstacle {
    /// Asks this.
    pub fn new(look: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(look)))
    }

    pub(crate) fn look(&self) -> Option<String> {
        self.0.as_ref().and_then(|look| look())
    }
}

impl std::fmt::Debug for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Obstacle").field(&self.0.is_some()).finish()
    }
}

impl KubeletConfig {
    /// Defaults for a node of this name and address, with data below `data_dir`.
    #[must_use]
    pub fn new(node_name: &str, node_ip: IpAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.to_owned(),
            hostname: node_name.to_owned(),
            node_ips: vec![node_ip],
            cluster_dns: vec![IpAddr::from([10, 43, 0, 10])],
            cluster_domain: "cluster.local".to_owned(),
            data_dir: data_dir.into(),
            pod_log_dir: PathBuf::from("/var/log/pods"),
            cgroup_root: String::new(),
            own_pods_only: false,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            listen: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            connections_max: 1024,
            tls: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            unschedulable: false,
            max_pods: 110,
            pod_pids_limit: POD_PIDS_LIMIT,
            capacity: None,
            eviction_hard: EvictionHard::default(),
            kubelet_version: "v1.36.2+trireme".to_owned(),
            runtime_version: concat!("trireme://", env!("CARGO_PKG_VERSION")).to_owned(),
            obstacle: Obstacle::default(),
        }
    }
}

/// The size of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Cores.
    pub cpus: i64,
    /// Memory, bytes.
    pub memory_bytes: i64,
    /// Disk for images and pods, bytes.
    pub storage_bytes: i64,
}

/// Certificates of the kubelet's API.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Serving certificate, asked for at each handshake, so that it may be renewed meanwhile.
    pub certificate: Arc<dyn ResolvesServerCert>,
    /// Authorities that client certificates are checked against, DER.
    pub client_ca: Vec<Vec<u8>>,
}

/// A taint of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}
