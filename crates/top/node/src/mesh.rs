//! Keeps the ways to other nodes' pods in step with the Node objects.
//!
//! Invariant: pods start only after the ways of the cluster as first seen were applied; whatever fails later is told once
//! and tried again. It will not decide anything: `routing::mesh` does.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use trireme_client::{Cache, ResourceRef, Subscription};
use trireme_network::PodMesh;
use trireme_routing::Cidr;
use trireme_routing::mesh::{self, Mesh, Mode, Problem};

/// How often the kernel is compared with what is wanted, though no node changed: links go down, people clean up.
const CHECK: Duration = Duration::from_secs(15);
/// Changes that come this close together are applied together.
const GATHER: Duration = Duration::from_millis(20);
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
            let mut checked = Instant::now();
            loop {
                // However often nodes say that they are there, the kernel is looked at now and then.
                let next = checked + if self.applied.is_some() { CHECK } else { RETRY };
                if timeout_at(next, self.changes.next()).await.is_err() {
                    self.applied = None;
                    checked = Instant::now();
                } else {
                    sleep(GATHER).await;
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};
    use serde_json::json;
    use trireme_client::testing::FakeTransport;
    use trireme_client::{Client, DeleteOptions};

    use super::*;

    fn shell(command: &str) -> String {
        let output = Command::new("sh").args(["-ec", command]).output().unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    async fn until(what: &str, done: impl Fn() -> bool) {
        for _ in 0..200 {
            if done() {
                return;
            }
            sleep(Duration::from_millis(25)).await;
        }
        panic!("never: {what}\n{}", shell("ip route; bridge fdb show dev trireme-vx"));
    }

    async fn follow() {
        shell(
            "ip link set lo up && ip link add eth0 type veth peer name far && ip link set far up && ip link set eth0 up && \
             ip addr add 192.0.2.1/24 dev eth0 && ip link add trireme0 type bridge && ip addr add 10.42.0.1/24 dev trireme0 && \
             ip link set trireme0 up",
        );
        let fake = FakeTransport::new();
        let client = Client::new(fake.clone());
        let seed = |name: &str, address: &str, range: &str| {
            fake.seed(
                &ResourceRef::of::<Node>(),
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]},
                       "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
            );
        };
        seed("one", "192.0.2.1", "10.42.0.0/24");
        seed("two", "192.0.2.2", "10.42.1.0/24");
        let shutdown = CancellationToken::new();
        let cache = Cache::new(&client, shutdown.clone());
        let config = MeshConfig {
            node_name: "one".into(),
            node_address: [192, 0, 2, 1].into(),
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            mode: Mode::Vxlan,
            bridge: "trireme0",
        };
        let part = MeshPart::start(config, cache).await.unwrap();
        let routes = || shell("ip route show proto 116");
        assert!(
            routes().contains("10.42.1.0/24 via 10.42.1.1 dev trireme-vx"),
            "before pods start: {}",
            routes()
        );
        let running = tokio::spawn(part.run(shutdown.clone()));
        seed("three", "192.0.2.3", "10.42.2.0/24");
        until("a new node", || routes().contains("10.42.2.0/24")).await;
        seed("three", "192.0.2.33", "10.42.2.0/24");
        let entries = || shell("bridge fdb show dev trireme-vx");
        until("a new address", || {
            entries().contains("dst 192.0.2.33 ") && !entries().contains("dst 192.0.2.3 ")
        })
        .await;
        client.delete::<Node>("", "two", &DeleteOptions::default()).await.unwrap();
        until("a node that went", || !routes().contains("10.42.1.0/24")).await;
        shutdown.cancel();
        running.await.unwrap();
        assert!(routes().contains("10.42.2.0/24"), "the ways stay");
    }

    /// In a network namespace of the test's own.
    #[test]
    fn the_ways_follow_the_nodes() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(follow());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
