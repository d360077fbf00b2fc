//! Drives the pod core against the runtime, volumes and network.
//!
//! Invariant: every decision about a pod is [`trireme_pod::plan`]'s; this crate observes, executes and reports. It is
//! driven by events (pod changes, runtime events, probe results, timers) and rests otherwise; it remembers nothing that a
//! restart could not find again in the runtime and the API.

mod config;
mod eviction;
pub mod hollow;
mod images;
mod lifecycle;
mod metrics;
mod node;
mod pods;
mod probes;
mod server;
mod shared;
mod status_patch;
mod sys;
mod user_namespaces;

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_client::{Cache, Client};
use trireme_connections::Budget;
use trireme_runtime::cri::{ImageService, RuntimeService};

pub use config::{Capacity, KubeletConfig, Obstacle, POD_PIDS_LIMIT, Taint, Tls};
pub use eviction::EvictionHard;
pub use metrics::ResourceMetrics;
pub use server::{Authorizer, CertificateAuthorizer, Decision, Peer};

/// Why the kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A directory cannot be made.
    #[error("{path}: {error}")]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The port cannot be bound.
    #[error("listening on {address}: {error}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The certificate, key or client CA is not usable.
    #[error("the kubelet's certificate: {0}")]
    Tls(String),
}

/// A node's agent, ready to run.
pub struct Kubelet {
    shared: Arc<shared::Shared>,
    authorizer: Arc<dyn Authorizer>,
}

impl Kubelet {
    /// Puts a kubelet together. Must be called within a tokio runtime; nothing is started but the event recorder.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn build(
        config: KubeletConfig,
        client: &Client,
        cache: Arc<Cache>,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
    ) -> Result<Self, KubeletError> {
        let needed = [&config.data_dir, &config.pod_log_dir];
        for path in needed.into_iter().filter(|_| runtime.runs_processes()) {
            std::fs::create_dir_all(path).map_err(|error| KubeletError::Directory {
                path: path.clone(),
                error,
            })?;
        }
        let shared = shared::Shared::new(config, client, cache, runtime, images);
        Ok(Self {
            shared: Arc::new(shared),
            authorizer: Arc::new(CertificateAuthorizer),
        })
    }

    /// Replaces who may use the kubelet's own API.
    #[must_use]
    pub fn with_authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizer = authorizer;
        self
    }

    /// Resource metrics of this node, for `metrics.k8s.io` in process.
    #[must_use]
    pub fn metrics(&self) -> Arc<ResourceMetrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// The connections of this kubelet's port.
    #[must_use]
    pub fn connections(&self) -> Arc<Budget> {
        Arc::clone(&self.shared.connections)
    }

    /// Where the pod network notes the range that it gives this node's pods addresses from (`spec.podCIDR`): should the Node
    /// be deleted while they run, it registers again with that.
    #[must_use]
    pub fn pod_cidr(&self) -> Arc<OnceLock<String>> {
        Arc::clone(&self.shared.pod_cidr)
    }

    /// Registers the node and runs its pods until `shutdown`. Pods go on running afterwards.
    ///
    /// # Errors
    /// When its server cannot be started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), KubeletError> {
        let tasks = TaskTracker::new();
        if let Some(server) = server::Server::bind(Arc::clone(&self.shared), self.authorizer).await? {
            tasks.spawn(server.run(shutdown.clone()));
        }
        tasks.spawn(node::run(Arc::clone(&self.shared), shutdown.clone()));
        tasks.spawn(pods::run(Arc::clone(&self.shared), shutdown.clone()));
        shutdown.cancelled().await;
        self.shared.shutdown.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
