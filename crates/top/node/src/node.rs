//! The node part of a server or an agent: runtime, pod network, kubelet, service routing and DNS.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use rustls::pki_types::CertificateDer;
use rustls::server::ResolvesServerCert;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_client::{Cache, Client, ListOptions, ResourceRef};
use trireme_connections::{Budget, Shares};
use trireme_dns::{Dns, DnsConfig, Upstream};
use trireme_kubelet::{Kubelet, KubeletConfig, Obstacle, ResourceMetrics, Tls};
use trireme_network::{Ipv4Range, Nft, PodNetwork, PodNetworkConfig};
use trireme_proxy::{Gate, Policies, PoliciesConfig, Proxy, ProxyConfig};
use trireme_routing::dns::Zone;
use trireme_routing::mesh::Mode;
use trireme_routing::policy::{NamedPort, PolicyPod};
use trireme_routing::{Cidr, NodeFacts, Protocol};
use trireme_runtime::{Runtime, RuntimeConfig};

use crate::announce::Announcer;
use crate::config::NodeOptions;
use crate::control;
use crate::files::DataDirectory;
use crate::join::wire::ClusterSettings;
use crate::mesh::{MeshConfig, MeshPart};
use crate::seams::Sandboxes;

/// Name of the bridge that pods hang on.
const BRIDGE: &str = "trireme0";

/// What a node is told at its start.
#[derive(Clone)]
pub(crate) struct NodeSettings {
    pub(crate) options: NodeOptions,
    /// Where all of it lies.
    pub(crate) data: Arc<DataDirectory>,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) cluster: ClusterSettings,
    /// What the kubelet shows to those who call it.
    pub(crate) serving: Arc<dyn ResolvesServerCert>,
    /// Who certifies those that may call it.
    pub(crate) authority: CertificateDer<'static>,
    /// Service routing and DNS may be left out.
    pub(crate) proxy: bool,
    pub(crate) dns: bool,
    /// Whether a controller gives this node its range of addresses; a node alone takes the first.
    pub(crate) range_is_given: bool,
    /// Port of the API where this host serves it.
    pub(crate) api_port: Option<u16>,
    /// Whether the cache is this node's alone, as on an agent.
    pub(crate) own_pods_only: bool,
    /// Connections that its ports may have.
    pub(crate) shares: Shares,
}

/// A running node.
pub(crate) struct Node {
    failures: mpsc::UnboundedReceiver<anyhow::Error>,
    metrics: Arc<ResourceMetrics>,
    connections: [Arc<Budget>; 2],
}

impl Node {
    /// Starts all parts. The pod network follows once the node has a range of addresses. `client` acts as the node;
    /// `all_pods` sees those of other nodes too, or what network policies need of them.
    pub(crate) async fn start(
        settings: NodeSettings,
        client: &Client,
        cache: Arc<Cache>,
        all_pods: Arc<Cache>,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self> {
        let options = &settings.options;
        let (report, failures) = mpsc::unbounded_channel();
        let sandboxes = Arc::new(Sandboxes::default());
        let runtime = Runtime::open(RuntimeConfig {
            data_dir: options.data_dir.join("runtime"),
            run_dir: options.run_dir.join("runtime"),
            cgroup_root: options.cgroup_root.clone(),
            shim_exe: std::env::current_exe().context("finding the own executable")?,
            network: Arc::clone(&sandboxes) as _,
        })
        .await
        .context("opening the container runtime")?;
        let kubelet = Kubelet::build(
            kubelet_config(&settings),
            client,
            Arc::clone(&cache),
            Arc::clone(&runtime) as _,
            runtime as _,
        )?;
        let metrics = kubelet.metrics();
        let dns_connections = trireme_dns::connections(settings.shares.dns);
        let connections = [kubelet.connections(), Arc::clone(&dns_connections)];
        let noted_range = kubelet.pod_cidr();
        let running = kubelet.run(shutdown.clone());
        spawn(tasks, &report, async move { running.await.context("the kubelet ended") });

        let network = NetworkPart {
            settings,
            cache,
            all_pods,
            sandboxes,
            noted_range,
            dns_connections,
            tasks: tasks.clone(),
            report: report.clone(),
            shutdown: shutdown.clone(),
        };
        spawn(tasks, &report, network.run());
        Ok(Self {
            failures,
            metrics,
            connections,
        })
    }

    /// Resource metrics of this node.
    pub(crate) fn metrics(&self) -> Arc<ResourceMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The connections of the kubelet's port and of the cluster DNS.
    pub(crate) fn connections(&self) -> [Arc<Budget>; 2] {
        self.connections.clone()
    }

    /// The first failure of a part that cannot be without.
    pub(crate) async fn failure(mut self) -> anyhow::Error {
        match self.failures.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }
}

fn spawn(
    tasks: &TaskTracker,
    report: &mpsc::UnboundedSender<anyhow::Error>,
    work: impl Future<Output = Result<()>> + Send + 'static,
) {
    let report = report.clone();
    tasks.spawn(async move {
        if let Err(error) = work.await
            && report.send(error).is_err()
        {
            tracing::debug!("a part failed while the server was ending");
        }
    });
}

fn kubelet_config(settings: &NodeSettings) -> KubeletConfig {
    let options = &settings.options;
    let data = Arc::clone(&settings.data);
    KubeletConfig {
        cluster_dns: vec![settings.cluster.cluster_dns],
        cluster_domain: settings.cluster.cluster_domain.clone(),
        pod_log_dir: options.pod_log_dir.clone(),
        cgroup_root: options.cgroup_root.clone(),
        own_pods_only: settings.own_pods_only,
        port: options.kubelet_port,
        connections_max: settings.shares.kubelet,
        max_pods: options.max_pods,
        pod_pids_limit: options.pod_max_pids,
        eviction_hard: options.eviction_hard.clone(),
        kubelet_version: crate::KUBERNETES_VERSION.to_owned(),
        obstacle: Obstacle::new(move || data.trouble()),
        tls: Some(Tls {
            certificate: Arc::clone(&settings.serving),
            client_ca: vec![settings.authority.to_vec()],
        }),
        ..KubeletConfig::new(&settings.name, settings.address, options.data_dir.join("kubelet"))
    }
}

/// What needs the node's range of pod addresses.
struct NetworkPart {
    settings: NodeSettings,
    cache: Arc<Cache>,
    all_pods: Arc<Cache>,
    sandboxes: Arc<Sandboxes>,
    /// Where the kubelet looks for the range, should it have to register anew.
    noted_range: Arc<OnceLock<String>>,
    dns_connections: Arc<Budget>,
    tasks: TaskTracker,
    report: mpsc::UnboundedSender<anyhow::Error>,
    shutdown: CancellationToken,
}

impl NetworkPart {
    async fn run(self) -> Result<()> {
        let range = tokio::select! {
            range = self.pod_range() => range?,
            () = self.shutdown.cancelled() => return Ok(()),
        };
        let parse = |text: &str| text.parse::<Ipv4Range>().map_err(|error| anyhow::anyhow!("{text}: {error}"));
        let IpAddr::V4(node_address) = self.settings.address else {
            anyhow::bail!(
                "--node-ip: {} is an IPv6 address; the pod network of this version is IPv4",
                self.settings.address
            )
        };
        let cluster = &self.settings.cluster;
        let cidr = range.parse::<Cidr>().map_err(|error| anyhow::anyhow!("{range}: {error}"))?;
        let mode: Mode = cluster
            .pod_network
            .parse()
            .map_err(|error| anyhow::anyhow!("{}: {error}", cluster.pod_network))?;
        let network = PodNetwork::open(PodNetworkConfig {
            node_address,
            pod_cidr: parse(&range)?,
            cluster_cidr: parse(&cluster.cluster_cidr)?,
            service_cidr: parse(&cluster.service_cidr)?,
            bridge: BRIDGE.into(),
            data_dir: self.settings.options.data_dir.join("network"),
            mtu: 0,
            overhead_bytes: mode.overhead_bytes(),
        })
        .await
        .context("opening the pod network")?;
        let network = Arc::new(network);
        let mesh = MeshConfig {
            node_name: self.settings.name.clone(),
            node_address,
            pod_cidr: cidr,
            mode,
            bridge: BRIDGE,
        };
        let mesh = tokio::select! {
            mesh = MeshPart::start(mesh, Arc::clone(&self.cache)) => mesh?,
            () = self.shutdown.cancelled() => return Ok(()),
        };
        self.tasks.spawn(mesh.run(self.shutdown.clone()));
        let gate = if self.settings.proxy {
            Some(self.start_policies(&range)?)
        } else {
            None
        };
        self.sandboxes.open(Arc::clone(&network), gate);
        if self.settings.dns {
            self.start_dns(&network).await?;
        }
        if self.settings.proxy {
            self.start_proxy(&range)?;
            let pool: Vec<String> = cluster.load_balancer_pool.split(',').map(str::to_owned).collect();
            let pool = control::pool(&pool)?;
            let announcer = Announcer::new(self.settings.name.clone(), Arc::clone(&self.cache), pool);
            self.tasks.spawn(announcer.run(self.shutdown.clone()));
        }
        Ok(())
    }

    /// `spec.podCIDR` of the node, once a controller has given it one.
    async fn pod_range(&self) -> Result<String> {
        if !self.settings.range_is_given {
            // Nobody gives ranges away: a node alone takes the first.
            let whole = &self.settings.cluster.cluster_cidr;
            let (network, _) = whole.split_once('/').unwrap_or((whole, ""));
            return Ok(format!("{network}/24"));
        }
        let nodes = ResourceRef::of::<NodeObject>();
        self.cache.ensure(&nodes);
        let mut changes = self.cache.subscribe(std::slice::from_ref(&nodes));
        self.cache.synced(std::slice::from_ref(&nodes)).await;
        loop {
            let node = self.cache.get::<NodeObject>("", &self.settings.name);
            if let Some(range) = node
                .and_then(|node| node.spec.as_ref()?.pod_cidr.clone())
                .filter(|range| !range.is_empty())
            {
                return Ok(self.noted_range.get_or_init(|| range).clone());
            }
            changes.next().await;
        }
    }

    async fn start_dns(&self, network: &PodNetwork) -> Result<()> {
        let cluster = &self.settings.cluster;
        if let IpAddr::V4(address) = cluster.cluster_dns {
            network
                .add_service_address(address)
                .await
                .context("giving this host the cluster DNS address")?;
        }
        let cidr = |text: &str| text.parse::<Cidr>().map_err(|error| anyhow::anyhow!("{text}: {error}"));
        let zone = Zone {
            domain: cluster.cluster_domain.clone(),
            cluster_cidrs: vec![cidr(&cluster.cluster_cidr)?],
            service_cidrs: vec![cidr(&cluster.service_cidr)?],
            server: Some(cluster.cluster_dns),
        };
        let config = DnsConfig {
            listen: vec![SocketAddr::new(cluster.cluster_dns, 53)],
            zone,
            upstream: Upstream::ResolvConf("/etc/resolv.conf".into()),
            connections: Arc::clone(&self.dns_connections),
        };
        let dns = Dns::bind(Arc::clone(&self.cache), config).await?;
        let running = dns.run(self.shutdown.clone());
        spawn(&self.tasks, &self.report, async move {
            running.await;
            Ok(())
        });
        Ok(())
    }

    /// The node as rules see it.
    fn facts(&self, range: &str) -> Result<NodeFacts> {
        let cluster = &self.settings.cluster;
        let cidr = |text: &str| text.parse::<Cidr>().map_err(|error| anyhow::anyhow!("{text}: {error}"));
        let ports = [Some(self.settings.options.kubelet_port), self.settings.api_port];
        let reserved = ports.into_iter().flatten().map(|port| (Protocol::Tcp, port));
        Ok(NodeFacts {
            name: self.settings.name.clone(),
            zone: None,
            cluster_cidrs: vec![cidr(&cluster.cluster_cidr)?],
            pod_cidrs: vec![cidr(range)?],
            service_cidrs: vec![cidr(&cluster.service_cidr)?],
            addresses: vec![self.settings.address],
            local_service_addresses: if self.settings.dns {
                vec![cluster.cluster_dns]
            } else {
                vec![]
            },
            external_ip_cidrs: vec![],
            reserved_ports: reserved.collect(),
        })
    }

    /// Which pods the cache is to hold, should it hold none yet: all where others share it.
    fn own_pods(&self) -> ListOptions {
        let own = || format!("spec.nodeName={}", self.settings.name);
        ListOptions {
            field_selector: self.settings.own_pods_only.then(own),
            ..ListOptions::default()
        }
    }

    fn start_policies(&self, range: &str) -> Result<Gate> {
        let config = PoliciesConfig {
            node: self.facts(range)?,
            pods: self.own_pods(),
            stand_ins: if self.settings.dns {
                vec![dns_stand_in(self.settings.cluster.cluster_dns)]
            } else {
                vec![]
            },
        };
        let (policies, gate) = Policies::new(Arc::clone(&self.cache), Arc::clone(&self.all_pods), Arc::new(Nft), config);
        let running = policies.run(self.shutdown.clone());
        spawn(&self.tasks, &self.report, async move {
            running.await.context("network policies ended")
        });
        Ok(gate)
    }

    fn start_proxy(&self, range: &str) -> Result<()> {
        let (node, pods) = (self.facts(range)?, self.own_pods());
        let proxy = Proxy::new(Arc::clone(&self.cache), Arc::new(Nft), ProxyConfig { node, pods });
        let running = proxy.run(self.shutdown.clone());
        spawn(&self.tasks, &self.report, async move {
            running.await.context("service routing ended")
        });
        Ok(())
    }
}

/// Cluster DNS as policies know it elsewhere: a pod with the label that everybody's policies name.
fn dns_stand_in(address: IpAddr) -> PolicyPod {
    let port = |name: &str, protocol: Protocol| NamedPort {
        name: name.to_owned(),
        protocol,
        number: 53,
    };
    PolicyPod {
        namespace: "kube-system".to_owned(),
        name: "kube-dns".to_owned(),
        labels: [("k8s-app".to_owned(), "kube-dns".to_owned())].into(),
        addresses: vec![address],
        ports: vec![port("dns", Protocol::Udp), port("dns-tcp", Protocol::Tcp)],
        ..PolicyPod::default()
    }
}
