//! Keeps the ways to other nodes' pods in step with the Node objects.
//!
//! Invariant: pods start only after the ways of the cluster as first seen were applied; whatever fails later is told once
//! and tried again. It will not decide anything: `routing::mesh` does.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trireme_client::{Cache, ResourceRef, Subscription};
use trireme_network::PodMesh;
use trireme_routing::Cidr;
use trireme_routing::mesh::{self, Mesh, Mode, Problem};

/// How often the kernel is compared with what is wanted, though no node changed: links go down, people clean up.
const CHECK: Duration = Duration::from_secs(15);
/// Pause after the kernel refused something.
const RETRY: Duration = Duration::from_secs(1);

/// What the ways follow from, beside the nodes.
pub(crate) struct MeshConfig {
    pub(crate) node_name: String,
    pub(crate) node_address: Ipv4Addr,
    /// Range of this node's pods.
    pub(crate) pod_cidr: Cidr,
    pub(crate) mode: Mode,
    /// Name of the pods' bridge.
    pub(crate) bridge: &'static str,
}

/// The ways, applied once and ready to be kept.
pub(crate) struct MeshPart {
    config: MeshConfig,
    cache: Arc<Cache>,
    kernel: PodMesh,
    changes: Subscription,
    applied: Option<Mesh>,
    problems: Vec<Problem>,
    /// What went wrong last, so that it is told once.
    told: Option<String>,
}

impl MeshPart {
    /// Waits for the list of nodes and applies what follows from it.
    pub(crate) async fn start(config: MeshConfig, cache: Arc<Cache>) -> Result<Self> {
        let nodes = [ResourceRef::of::<Node>()];
        let kernel = PodMesh::open(config.bridge).context("opening the way to other nodes' pods")?;
        let changes = cache.subscribe(&nodes);
        cache.synced(&nodes).await;
        let mut part = Self {
            config,
            cache,
            kernel,
            changes,
            applied: None,
            problems: Vec::new(),
            told: None,
        };
        part.apply().await;
        Ok(part)
    }

    /// Follows the nodes until shutdown. The ways stay when it ends.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let work = async {
            loop {
                let longest = if self.applied.is_some() { CHECK } else { RETRY };
                if timeout(longest, self.changes.next()).await.is_err() {
                    self.applied = None;
                }
                while self.changes.try_next().is_some() {}
                self.apply().await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    }

    /// Brings the kernel to what the nodes say; nothing happens if that is what was applied last.
    async fn apply(&mut self) {
        let Some(wanted) = self.wanted().await else {
            self.applied = None;
            return;
        };
        if self.applied.as_ref() == Some(&wanted) {
            return;
        }
        match self.kernel.apply(&wanted).await {
            Ok(changes) => {
                if changes > 0 {
                    tracing::info!(changes, peers = wanted.routes.len(), mode = %self.config.mode, "ways to other nodes' pods");
                }
                self.applied = Some(wanted);
                self.told = None;
            }
            Err(error) => {
                let text = error.to_string();
                if self.told.as_ref() != Some(&text) {
                    tracing::warn!("ways to other nodes' pods, trying again: {text}");
                    self.told = Some(text);
                }
                self.applied = None;
            }
        }
    }

    async fn wanted(&mut self) -> Option<Mesh> {
        let on_link = match self.config.mode {
            Mode::HostGw => match self.kernel.networks().await {
                Ok(networks) => networks,
                Err(error) => {
                    tracing::warn!("which networks this host is in, trying again: {error}");
                    return None;
                }
            },
            Mode::Vxlan | Mode::None => Vec::new(),
        };
        let nodes = self.cache.list::<Node>(None);
        let (wanted, problems) = mesh::mesh(&mesh::Input {
            node_name: &self.config.node_name,
            node_address: self.config.node_address,
            pod_cidr: self.config.pod_cidr,
            mode: self.config.mode,
            on_link: &on_link,
            nodes: &nodes,
        });
        for problem in &problems {
            if !self.problems.contains(problem) {
                tracing::warn!("{problem}");
            }
        }
        self.problems = problems;
        Some(wanted)
    }
}
