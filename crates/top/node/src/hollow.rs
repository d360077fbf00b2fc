//! `trireme hollow`: the kubelets of many nodes in one process, over a runtime without containers, for who plans capacity.
//!
//! Invariant: each node is the very kubelet of `trireme agent`, with its own Lease, status, watches of its pods, its Node and
//! the Services, and events; only the runtime behind it is hollow. Each acts as its node's own user, so that the node
//! authoriser and NodeRestriction judge it as they judge a real one. It keeps nothing on disk, and takes over no Node that
//! it did not make. What it holds is bounded by its options: nodes, and pods of each.

mod access;
mod removal;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Node;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_api::quantity::Quantity;
use trireme_client::{Cache, Client, Failover, HttpsTransport, ListOptions, ResourceRef, Servers};
use trireme_kubelet::hollow::HollowRuntime;
use trireme_kubelet::{Capacity, Kubelet, KubeletConfig};
use trireme_routing::Cidr;

use self::access::Access;
use crate::config::{LogFormat, duration};
use crate::server::STOP_LIMIT;

/// Nodes that share one HTTP/2 connection: a server lets one run 250 requests at a time, and a node has three watches.
const NODES_PER_CONNECTION: u32 = 40;
/// Nodes that register at once.
const REGISTERING_MAX: usize = 32;
/// Label that tells whose hollow node a Node is.
pub(crate) const POOL: &str = "hollow.trireme.io/pool";
/// Group of nodes' users.
const NODES_GROUP: &str = "system:nodes";
/// Pod ranges that are cut from `--pod-range`.
const RANGE_PREFIX: u8 = 24;

/// Options of `trireme hollow`.
#[derive(Args, Debug)]
pub struct HollowOptions {
    /// How many nodes
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub nodes: u32,
    /// Kubeconfig of somebody who may act as others: its identity must be allowed to `impersonate` the users
    /// `system:node:NAME-…` and the group `system:nodes`, as an administrator's is
    #[arg(long, env = "TRIREME_KUBECONFIG", default_value = "/etc/trireme/kubeconfig")]
    pub kubeconfig: PathBuf,
    /// What the nodes are called, before their numbers
    #[arg(long, default_value = "hollow")]
    pub name: String,
    /// Number of the first, where several processes make up one pool
    #[arg(long, default_value_t = 0)]
    pub first: u32,
    /// Cores of each
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub cpus: u32,
    /// Memory of each
    #[arg(long, default_value = "256Gi", value_parser = bytes)]
    pub memory: i64,
    /// Disk of each
    #[arg(long, default_value = "1Ti", value_parser = bytes)]
    pub storage: i64,
    /// Most pods of each
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// A label of every node, KEY=VALUE; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Zones that the nodes are spread over in turn, as `topology.kubernetes.io/zone`
    #[arg(long, default_value_t = 0)]
    pub zones: u32,
    /// How long containers of Jobs run before they succeed
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub job_time: Duration,
    /// Addresses of the nodes. They lead nowhere: by default they are of the range that is reserved for benchmarks (RFC 2544)
    #[arg(long, default_value = "198.18.0.0/15")]
    pub address_range: String,
    /// Give pods addresses out of this range, a /24 for each node, instead of waiting for each Node's `podCIDR`; for servers
    /// without controllers, and clusters whose own range has no room for so many nodes
    #[arg(long)]
    pub pod_range: Option<String>,
    /// At the end, remove the nodes, their Leases and the pods on them
    #[arg(long)]
    pub clean: bool,
    /// Form of the log
    #[arg(long, value_enum, default_value = "auto")]
    pub log_format: LogFormat,
    /// What is logged
    #[arg(long, default_value = "info")]
    pub log_level: String,
}

fn bytes(text: &str) -> Result<i64, String> {
    let quantity = Quantity::parse(text).map_err(|error| error.to_string())?;
    Some(quantity.value())
        .filter(|value| *value > 0)
        .ok_or_else(|| "it must be more than nothing".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A range of IPv4 addresses: its first, its prefix.
fn range(flag: &str, text: &str) -> Result<(Ipv4Addr, u8)> {
    let range: Cidr = text.parse().with_context(|| format!("{flag}: {text}"))?;
    match range.address() {
        IpAddr::V4(address) => Ok((address, range.prefix())),
        IpAddr::V6(_) => bail!("{flag}: {text} is not a range of IPv4 addresses"),
    }
}

/// What all nodes have in common.
struct Pool {
    options: HollowOptions,
    addresses: (Ipv4Addr, u8),
    pod_range: Option<(Ipv4Addr, u8)>,
    /// One way for each [`NODES_PER_CONNECTION`] nodes.
    ways: Vec<Arc<Failover>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    registered: AtomicU32,
}

/// Runs hollow nodes until SIGTERM or SIGINT. What they are to the API stays, as that of a node without power does, unless
/// they are to be cleaned away.
///
/// # Errors
/// One line that says what to do, when they cannot start, or cannot be removed.
pub async fn run_hollow(options: HollowOptions) -> Result<()> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pool = Arc::new(Pool::new(options)?);
    pool.check().await?;
    let starting = Arc::clone(&pool);
    let mut starting = pool.tasks.spawn(async move { starting.start().await });
    let mut failed = None;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Ok(Err(error)) = &mut starting => failed = Some(error),
    }
    pool.shutdown.cancel();
    pool.tasks.close();
    if tokio::time::timeout(STOP_LIMIT, pool.tasks.wait()).await.is_err() {
        tracing::warn!("some nodes did not end in time");
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if pool.options.clean {
        tracing::info!("removing the nodes");
        removal::remove(&Client::new(Arc::new(HttpsTransport::over(&pool.ways[0]))), &pool).await?;
    }
    Ok(())
}

impl Pool {
    fn new(options: HollowOptions) -> Result<Self> {
        let addresses = range("--address-range", &options.address_range)?;
        let pod_range = options
            .pod_range
            .as_deref()
            .map(|text| range("--pod-range", text))
            .transpose()?;
        let last = u64::from(options.first) + u64::from(options.nodes);
        let room = |prefix: u8, each: u8| 1_u64 << each.saturating_sub(prefix);
        // The first address of a range is nobody's.
        if last >= room(addresses.1, 32) {
            bail!("--address-range: {} has no room for {last} nodes", options.address_range);
        }
        if let (Some((_, prefix)), Some(text)) = (pod_range, &options.pod_range)
            && last > room(prefix, RANGE_PREFIX)
        {
            bail!("--pod-range: {text} has no room for a /{RANGE_PREFIX} for each of {last} nodes");
        }
        let access = Access::read(&options.kubeconfig)?;
        let ways = (0..options.nodes.div_ceil(NODES_PER_CONNECTION))
            .map(|_| {
                let servers = Servers::new(std::slice::from_ref(&access.server), |_| {})
                    .with_context(|| format!("{}", options.kubeconfig.display()))?;
                Ok(Failover::new(servers, Arc::clone(&access.credentials)))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            options,
            addresses,
            pod_range,
            ways,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            registered: AtomicU32::new(0),
        })
    }

    fn name(&self, number: u32) -> String {
        format!("{}-{number}", self.options.name)
    }

    /// The numbers of the nodes.
    fn numbers(&self) -> std::ops::Range<u32> {
        self.options.first..self.options.first + self.options.nodes
    }

    /// A client that acts as a node.
    fn client(&self, number: u32) -> Result<Client> {
        let way = &self.ways[((number - self.options.first) / NODES_PER_CONNECTION) as usize];
        let user = format!("system:node:{}", self.name(number));
        let transport = HttpsTransport::acting_as(way, &user, &[NODES_GROUP]).context("--name")?;
        Ok(Client::new(Arc::new(transport)))
    }

    /// Whether a server answers, and lets the caller act as a node.
    async fn check(&self) -> Result<()> {
        let first = self.options.first;
        let found = self.client(first)?.find::<Node>("", &self.name(first)).await;
        found.map(drop).map_err(|status| match status.code {
            0 => anyhow::anyhow!("no server answers: {}", status.message),
            403 => anyhow::anyhow!(
                "the identity of {} may not act as nodes (impersonate users system:node:{}-… and group {NODES_GROUP}): {}",
                self.options.kubeconfig.display(),
                self.options.name,
                status.message
            ),
            _ => anyhow::anyhow!("{}", status.message),
        })
    }

    /// Starts all nodes, some at a time, and then waits for the end.
    async fn start(self: Arc<Self>) -> Result<()> {
        let permits = Arc::new(Semaphore::new(REGISTERING_MAX));
        let mut starts = tokio::task::JoinSet::new();
        for number in self.numbers() {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit?,
                () = self.shutdown.cancelled() => return Ok(()),
            };
            while let Some(started) = starts.try_join_next() {
                started??;
            }
            let pool = Arc::clone(&self);
            starts.spawn(async move {
                let started = tokio::select! {
                    started = pool.start_node(number) => started,
                    () = pool.shutdown.cancelled() => Ok(()),
                };
                drop(permit);
                started
            });
        }
        while let Some(started) = starts.join_next().await {
            started??;
        }
        if !self.shutdown.is_cancelled() {
            tracing::info!(nodes = self.options.nodes, "all hollow nodes are registered");
        }
        self.shutdown.cancelled().await;
        Ok(())
    }

    /// Starts one node; returns when its Node is there.
    async fn start_node(self: &Arc<Self>, number: u32) -> Result<()> {
        let name = self.name(number);
        let client = self.client(number)?;
        if let Ok(Some(found)) = client.find::<Node>("", &name).await {
            let pool = found.metadata.labels.as_ref().and_then(|labels| labels.get(POOL));
            if pool != Some(&self.options.name) {
                bail!("node {name} exists and is none of this pool: choose another --name");
            }
        }
        let cache = Cache::new(&client, self.shutdown.clone());
        let own = ListOptions {
            field_selector: Some(format!("metadata.name={name}")),
            ..ListOptions::default()
        };
        let nodes = ResourceRef::of::<Node>();
        cache.ensure_selected(&nodes, own);
        let runtime = HollowRuntime::new(Arc::clone(&cache), self.options.job_time);
        let kubelet = Kubelet::build(
            self.config(number),
            &client,
            Arc::clone(&cache),
            Arc::clone(&runtime) as _,
            Arc::clone(&runtime) as _,
        )?;
        let noted_range = kubelet.pod_cidr();
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            if let Err(error) = kubelet.run(shutdown).await {
                tracing::error!("a hollow kubelet ended: {error}");
            }
        });
        let mut changes = cache.subscribe(std::slice::from_ref(&nodes));
        cache.synced(std::slice::from_ref(&nodes)).await;
        while cache.object(&nodes, "", &name).is_none() {
            changes.next().await;
        }
        self.registered.fetch_add(1, Ordering::Relaxed);
        if let Some((first, prefix)) = self.pod_range_of(number) {
            runtime.set_range(first, prefix);
            return Ok(());
        }
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let given = async {
                loop {
                    let node = cache.get::<Node>("", &name);
                    let given = node.and_then(|node| node.spec.as_ref()?.pod_cidr.clone());
                    if let Some(given) = given.filter(|given| !given.is_empty()) {
                        return given;
                    }
                    changes.next().await;
                }
            };
            let given = tokio::select! {
                given = given => given,
                () = shutdown.cancelled() => return,
            };
            match range("podCIDR", &given) {
                Ok((first, prefix)) => {
                    runtime.set_range(first, prefix);
                    // Only the first counts, as only one is given.
                    noted_range.get_or_init(|| given);
                }
                Err(error) => tracing::error!(node = name, "{error:#}"),
            }
        });
        Ok(())
    }

    /// The range that a node's pods have out of `--pod-range`.
    fn pod_range_of(&self, number: u32) -> Option<(Ipv4Addr, u8)> {
        let (first, _) = self.pod_range?;
        let size = 1_u32 << (32 - RANGE_PREFIX);
        Some((Ipv4Addr::from_bits(first.to_bits() + number * size), RANGE_PREFIX))
    }

    fn config(&self, number: u32) -> KubeletConfig {
        let options = &self.options;
        let address = Ipv4Addr::from_bits(self.addresses.0.to_bits() + number + 1);
        let mut labels: BTreeMap<String, String> = options.labels.iter().cloned().collect();
        labels.insert(POOL.to_owned(), options.name.clone());
        if options.zones > 0 {
            let zone = format!("zone-{}", number % options.zones);
            labels.insert("topology.kubernetes.io/zone".to_owned(), zone);
        }
        // Where grants of resized pods are noted; each start has a place of its own.
        let place = std::env::temp_dir().join(format!("trireme-hollow-{}", std::process::id()));
        KubeletConfig {
            labels,
            own_pods_only: true,
            max_pods: options.max_pods,
            capacity: Some(Capacity {
                cpus: i64::from(options.cpus),
                memory_bytes: options.memory,
                storage_bytes: options.storage,
            }),
            eviction_hard: "".parse().expect("no thresholds are none"),
            resolv_conf: "/dev/null".into(),
            kubelet_version: crate::KUBERNETES_VERSION.to_owned(),
            runtime_version: concat!("hollow://", env!("CARGO_PKG_VERSION")).to_owned(),
            ..KubeletConfig::new(&self.name(number), address.into(), place.join(number.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_labels_are_read() {
        assert_eq!(bytes("2Gi"), Ok(2 << 30));
        assert!(bytes("0").is_err() && bytes("much").is_err());
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("a").is_err());
        assert_eq!(range("--x", "198.18.7.9/15").unwrap(), (Ipv4Addr::new(198, 18, 0, 0), 15));
        assert!(range("--x", "fd00::/64").unwrap_err().to_string().contains("IPv4"));
    }
}
