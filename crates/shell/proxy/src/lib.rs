//! Applies the rulesets of Services and of network policies on a node.
//!
//! Invariant: the kernel goes from one complete ruleset to the next in one transaction; what a former process left is
//! taken over without a gap, and what this one leaves stays in force. It will not decide anything: `routing` does.

mod health;
mod host_ports;
mod policies;
mod tables;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use trireme_client::{Cache, Change, ListOptions, ResourceRef, Subscription};
use trireme_network::{NftError, Nftables, conntrack};
use trireme_routing::{FlowExpectations, Input, NodeFacts, TABLE};

use health::HealthServers;
use host_ports::HostPorts;
pub use policies::{Gate, Newcomer, Policies, PoliciesConfig};
use tables::Tables;

/// Changes that come this close together are applied together.
const GATHER: Duration = Duration::from_millis(3);
/// Pause after the kernel refused, before the whole ruleset is tried anew.
const RETRY: Duration = Duration::from_secs(1);
/// How many times as long as a look at the kernel's flows the rest after it is.
const FLOWS_REST: u32 = 10;
/// How often it is checked that nobody removed our tables (`nft flush ruleset`).
const CHECK: Duration = Duration::from_secs(15);

/// What a proxy has to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The node.
    pub node: NodeFacts,
    /// Which pods to hold if nobody in this process holds pods yet: all of them where controllers share the cache, this
    /// node's (`spec.nodeName=…`) on an agent. Whatever is held, only this node's host ports count.
    pub pods: ListOptions,
}

/// What is known of the kernel's flows.
#[derive(Default)]
struct Flows {
    /// What they were last compared with; `None` at the start.
    compared: Option<FlowExpectations>,
    /// Not before this time again.
    rest: Option<Instant>,
}

/// The service proxy of a node.
pub struct Proxy {
    cache: Arc<Cache>,
    nft: Arc<dyn Nftables>,
    config: ProxyConfig,
    host_ports: HostPorts,
    health: HealthServers,
    tables: Tables,
    flows: Flows,
    synced: watch::Sender<bool>,
}

impl Proxy {
    /// A proxy that has not started.
    #[must_use]
    pub fn new(cache: Arc<Cache>, nft: Arc<dyn Nftables>, config: ProxyConfig) -> Self {
        Self {
            host_ports: HostPorts::new(config.node.name.clone()),
            cache,
            tables: Tables::new(Arc::clone(&nft), TABLE),
            nft,
            config,
            health: HealthServers::default(),
            flows: Flows::default(),
            synced: watch::channel(false).0,
        }
    }

    /// Becomes true once the rules of the cluster as first seen are in force.
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Keeps the rules right until shutdown. The rules stay when it ends.
    ///
    /// # Errors
    /// [`NftError::Missing`] or [`NftError::NotPermitted`] at the start; later failures are logged and tried again.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), NftError> {
        let work = async {
            self.nft.chains().await?;
            let mut changes = self.watch().await;
            loop {
                let next_look = self.apply().await;
                self.wait(&mut changes, next_look).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = work => ended,
        }
    }

    async fn watch(&mut self) -> Subscription {
        let resources = [
            ResourceRef::of::<Service>(),
            ResourceRef::of::<EndpointSlice>(),
            ResourceRef::of::<Pod>(),
        ];
        self.cache.ensure_selected(&resources[2], self.config.pods.clone());
        let mut changes = self.cache.subscribe(&resources);
        self.cache.synced(&resources).await;
        while let Some(change) = changes.try_next() {
            self.note(&change);
        }
        changes
    }

    /// Whether a change may concern the rules.
    fn note(&mut self, change: &Change) -> bool {
        if change.resource.plural == "pods" {
            self.host_ports.note(&self.cache, change)
        } else {
            true
        }
    }

    /// Returns when there is something to apply, or when it is time to look.
    async fn wait(&mut self, changes: &mut Subscription, longest: Duration) {
        let end = Instant::now() + longest;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(change) = timeout(left, changes.next()).await else {
                self.tables.look().await;
                return;
            };
            if self.note(&change) {
                break;
            }
        }
        sleep(GATHER).await;
        while let Some(change) = changes.try_next() {
            self.note(&change);
        }
    }

    /// Brings the kernel to what the cluster now says. Returns after which time to do so again, whatever happens.
    async fn apply(&mut self) -> Duration {
        let services = self.cache.list::<Service>(None);
        let slices = self.cache.list::<EndpointSlice>(None);
        let host_ports = self.host_ports.all();
        let routing = trireme_routing::route(&Input {
            services: &services,
            slices: &slices,
            host_ports: &host_ports,
            node: &self.config.node,
        });
        drop((services, slices));
        let begun = Instant::now();
        let size = routing.ruleset.size();
        match self.tables.bring(routing.ruleset).await {
            Ok(true) => tracing::debug!(size, elapsed_ms = begun.elapsed().as_millis(), "rules applied"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!("rules were not applied, trying again: {error}");
                return RETRY;
            }
        }
        let next = self.forget_flows(routing.flows).await;
        self.health.reconcile(routing.health_checks).await;
        self.synced.send_replace(true);
        next.min(CHECK)
    }

    /// Forgets what the kernel remembers of endpoints that are gone. Returns after which time to call it again.
    async fn forget_flows(&mut self, expected: FlowExpectations) -> Duration {
        let known = self.flows.compared.as_ref();
        if known.is_some_and(|before| !expected.may_have_outdated(before)) {
            self.flows.compared = Some(expected);
            return CHECK;
        }
        let begun = Instant::now();
        if let Some(left) = self.flows.rest.and_then(|rest| rest.checked_duration_since(begun)) {
            return left;
        }
        let rules = expected.clone();
        let forget = move || conntrack::forget(|flow| rules.is_stale(flow));
        let outcome = tokio::task::spawn_blocking(forget).await;
        self.flows.rest = Some(Instant::now() + begun.elapsed() * FLOWS_REST);
        match outcome {
            Ok(Ok(count)) => {
                if count > 0 {
                    tracing::debug!(count, "forgot flows to endpoints that are gone");
                }
                self.flows.compared = Some(expected);
                return CHECK;
            }
            Ok(Err(error)) => tracing::warn!("flows to endpoints that are gone could not be forgotten: {error}"),
            Err(error) => tracing::warn!("forgetting flows: {error}"),
        }
        RETRY
    }
}
