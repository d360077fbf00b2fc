//! The node part of a server: runtime, pod network, kubelet, service routing and DNS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_client::{Cache, Client, ListOptions, ResourceRef};
use trireme_dns::{Dns, DnsConfig, Upstream};
use trireme_kubelet::{Kubelet, KubeletConfig, Tls};
use trireme_network::{Ipv4Range, Nft, PodNetwork, PodNetworkConfig};
use trireme_proxy::{Proxy, ProxyConfig};
use trireme_routing::dns::Zone;
use trireme_routing::{Cidr, NodeFacts, Protocol};
use trireme_runtime::{Runtime, RuntimeConfig};

use crate::config::{Checked, Part};
use crate::mesh::{MeshConfig, MeshPart};
use crate::seams::{NodeMetrics, Sandboxes};
use crate::server::Certificates;

/// Name of the bridge that pods hang on.
const BRIDGE: &str = "trireme0";

/// What a node is started with.
pub(crate) struct NodeContext<'a> {
    pub(crate) config: &'a Checked,
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
    /// Acts as the node.
    pub(crate) client: Client,
    pub(crate) cache: Arc<Cache>,
    pub(crate) certificates: &'a Certificates,
    pub(crate) metrics: &'a NodeMetrics,
}

/// A running node.
pub(crate) struct Node {
    failures: mpsc::UnboundedReceiver<anyhow::Error>,
}

impl Node {
    /// Starts all parts. The pod network follows once the node has a range of addresses.
    pub(crate) async fn start(context: NodeContext<'_>, tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<Self> {
        let options = &context.config.options;
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
            kubelet_config(&context),
            &context.client,
            Arc::clone(&context.cache),
            Arc::clone(&runtime) as _,
            runtime as _,
        )?;
        context.metrics.set(kubelet.metrics());
        let running = kubelet.run(shutdown.clone());
        spawn(tasks, &report, async move { running.await.context("the kubelet ended") });

        let network = NetworkPart {
            node_name: context.node_name,
            node_ip: context.node_ip,
            cache: context.cache,
            config: context.config.clone(),
            sandboxes,
            tasks: tasks.clone(),
            report: report.clone(),
            shutdown: shutdown.clone(),
        };
        spawn(tasks, &report, network.run());
        Ok(Self { failures })
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

fn kubelet_config(context: &NodeContext<'_>) -> KubeletConfig {
    let options = &context.config.options;
    let identity = &context.certificates.kubelet;
    KubeletConfig {
        cluster_dns: vec![context.config.cluster_dns],
        cluster_domain: options.cluster_domain.clone(),
        pod_log_dir: options.pod_log_dir.clone(),
        cgroup_root: options.cgroup_root.clone(),
        port: options.kubelet_port,
        max_pods: options.max_pods,
        kubelet_version: crate::KUBERNETES_VERSION.to_owned(),
        tls: Some(Tls {
            certificates: vec![identity.certificate.to_vec()],
            key: identity.key().secret_der().to_vec(),
            client_ca: vec![context.certificates.authority.certificate().to_vec()],
        }),
        ..KubeletConfig::new(&context.node_name, context.node_ip, options.data_dir.join("kubelet"))
    }
}

/// What needs the node's range of pod addresses.
struct NetworkPart {
    node_name: String,
    node_ip: IpAddr,
    cache: Arc<Cache>,
    config: Checked,
    sandboxes: Arc<Sandboxes>,
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
        let IpAddr::V4(node_address) = self.node_ip else {
            anyhow::bail!(
                "--node-ip: {} is an IPv6 address; the pod network of this version is IPv4",
                self.node_ip
            )
        };
        let options = &self.config.options;
        let cidr = range.parse::<Cidr>().map_err(|error| anyhow::anyhow!("{range}: {error}"))?;
        let mode = options.pod_network;
        let network = PodNetwork::open(PodNetworkConfig {
            node_address,
            pod_cidr: parse(&range)?,
            cluster_cidr: parse(&options.cluster_cidr)?,
            service_cidr: parse(&options.service_cidr)?,
            bridge: BRIDGE.into(),
            data_dir: options.data_dir.join("network"),
            mtu: 0,
            overhead_bytes: mode.overhead_bytes(),
        })
        .await
        .context("opening the pod network")?;
        let network = Arc::new(network);
        let mesh = MeshConfig {
            node_name: self.node_name.clone(),
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
        self.sandboxes.open(Arc::clone(&network));
        if self.config.runs(Part::Dns) {
            self.start_dns(&network).await?;
        }
        if self.config.runs(Part::Proxy) {
            self.start_proxy(&range)?;
        }
        Ok(())
    }

    /// `spec.podCIDR` of the node, once a controller has given it one.
    async fn pod_range(&self) -> Result<String> {
        if !self.config.runs(Part::Controllers) {
            // Nobody gives ranges away: a node alone takes the first.
            return Ok(format!("{}/24", self.config.cluster_cidr.network));
        }
        let nodes = ResourceRef::of::<NodeObject>();
        self.cache.ensure(&nodes);
        let mut changes = self.cache.subscribe(std::slice::from_ref(&nodes));
        self.cache.synced(std::slice::from_ref(&nodes)).await;
        loop {
            let node = self.cache.get::<NodeObject>("", &self.node_name);
            if let Some(range) = node
                .and_then(|node| node.spec.as_ref()?.pod_cidr.clone())
                .filter(|range| !range.is_empty())
            {
                return Ok(range);
            }
            changes.next().await;
        }
    }

    async fn start_dns(&self, network: &PodNetwork) -> Result<()> {
        let options = &self.config.options;
        if let IpAddr::V4(address) = self.config.cluster_dns {
            network
                .add_service_address(address)
                .await
                .context("giving this host the cluster DNS address")?;
        }
        let cidr = |text: &str| text.parse::<Cidr>().map_err(|error| anyhow::anyhow!("{text}: {error}"));
        let zone = Zone {
            domain: options.cluster_domain.clone(),
            cluster_cidrs: vec![cidr(&options.cluster_cidr)?],
            service_cidrs: vec![cidr(&options.service_cidr)?],
            server: Some(self.config.cluster_dns),
        };
        let config = DnsConfig {
            listen: vec![SocketAddr::new(self.config.cluster_dns, 53)],
            zone,
            upstream: Upstream::ResolvConf("/etc/resolv.conf".into()),
        };
        let dns = Dns::bind(Arc::clone(&self.cache), config).await?;
        let running = dns.run(self.shutdown.clone());
        spawn(&self.tasks, &self.report, async move {
            running.await;
            Ok(())
        });
        Ok(())
    }

    fn start_proxy(&self, range: &str) -> Result<()> {
        let options = &self.config.options;
        let cidr = |text: &str| text.parse::<Cidr>().map_err(|error| anyhow::anyhow!("{text}: {error}"));
        let node = NodeFacts {
            name: self.node_name.clone(),
            zone: None,
            cluster_cidrs: vec![cidr(&options.cluster_cidr)?],
            pod_cidrs: vec![cidr(range)?],
            service_cidrs: vec![cidr(&options.service_cidr)?],
            addresses: vec![self.node_ip],
            local_service_addresses: if self.config.runs(Part::Dns) {
                vec![self.config.cluster_dns]
            } else {
                vec![]
            },
            external_ip_cidrs: vec![],
            reserved_ports: vec![(Protocol::Tcp, options.secure_port), (Protocol::Tcp, options.kubelet_port)],
        };
        let pods = ListOptions {
            field_selector: Some(format!("spec.nodeName={}", self.node_name)),
            ..ListOptions::default()
        };
        let proxy = Proxy::new(Arc::clone(&self.cache), Arc::new(Nft), ProxyConfig { node, pods });
        let running = proxy.run(self.shutdown.clone());
        spawn(&self.tasks, &self.report, async move {
            running.await.context("service routing ended")
        });
        Ok(())
    }
}
