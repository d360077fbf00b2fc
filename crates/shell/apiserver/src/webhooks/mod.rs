//! Admission webhooks of this server: which are configured, kept by a watch of this replica, and the calls to them.
//!
//! Invariant: a request that no webhook looks at pays one atomic load and a look at rules; nothing is prepared or converted for
//! it. Decisions are `trireme_policy::webhook`'s.

mod ask;
mod client;
mod conditions;
mod dispatch;
mod metrics;
mod place;
mod tls;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use trireme_api::Object;
use trireme_policy::webhook::{Endpoint, Hook, Hooks, Phase};
use trireme_store::{ReadError, Store};

use crate::keys;
use crate::server::ApiServer;

use client::Client;
pub(crate) use dispatch::{Asked, Mutated};

const GROUP: &str = "admissionregistration.k8s.io";
const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

/// How long a follower waits that is ahead of its replica.
const AHEAD_WAIT: Duration = Duration::from_secs(1);

/// The webhooks that are configured now, and the clients that reach them.
#[derive(Default)]
pub(crate) struct Registry {
    hooks: Hooks,
    clients: HashMap<Arc<Endpoint>, Arc<Client>>,
}

/// The webhooks of a server.
pub(crate) struct Webhooks {
    registry: ArcSwap<Registry>,
    /// How many calls there may be at once.
    calls: tokio::sync::Semaphore,
    counts: metrics::Counts,
}

impl Webhooks {
    /// Reads all configurations; the follower keeps them.
    pub(crate) fn start(store: &Arc<dyn Store>) -> (Arc<Self>, Follower) {
        let webhooks = Arc::new(Self {
            registry: ArcSwap::default(),
            calls: tokio::sync::Semaphore::new(client::CALLS_MAX),
            counts: metrics::Counts::default(),
        });
        let mut follower = Follower {
            webhooks: Arc::clone(&webhooks),
            store: Arc::clone(store),
            known: HashMap::new(),
        };
        follower.read();
        (webhooks, follower)
    }

    /// What is counted of them, as OpenMetrics text.
    pub(crate) fn counted(&self) -> String {
        self.counts.text()
    }

    /// Whether there are any of a kind.
    pub(crate) fn any(&self, phase: Phase) -> bool {
        !self.registry.load().hooks.of(phase).is_empty()
    }

    /// Those that are configured now, where there are any of that kind.
    fn some(&self, phase: Phase) -> Option<Arc<Registry>> {
        let registry = self.registry.load();
        (!registry.hooks.of(phase).is_empty()).then(|| Arc::clone(&registry))
    }
}

/// A configuration's webhooks, with the uid and revision that they were read from.
struct Known {
    at: (String, u64),
    hooks: Vec<Arc<Hook>>,
}

/// Keeps the webhooks.
pub(crate) struct Follower {
    webhooks: Arc<Webhooks>,
    store: Arc<dyn Store>,
    known: HashMap<(Phase, String), Known>,
}

impl Follower {
    /// Prepares what the replica has; its revision.
    fn read(&mut self) -> u64 {
        let revision = self.store.revision();
        let mut known = HashMap::new();
        let mut of = |phase: Phase, plural: &str| -> Option<Vec<(String, Vec<Arc<Hook>>)>> {
            let prefix = keys::prefix(GROUP, plural, Some(""));
            let page = self.store.range(&prefix, None, None, Some(revision)).ok()?;
            let configurations = page.items.iter().map(|(_, object)| {
                let name = object.header().name.clone();
                let kept = self.known.remove(&(phase, name.clone()));
                let hooks = prepared(phase, object, kept);
                let at = (object.header().uid.clone(), object.header().resource_version);
                let again = hooks.clone();
                known.insert((phase, name.clone()), Known { at, hooks });
                (name, again)
            });
            Some(configurations.collect())
        };
        let (Some(mutating), Some(validating)) = (of(Phase::Mutating, MUTATING), of(Phase::Validating, VALIDATING)) else {
            tracing::warn!("configurations of webhooks are read anew");
            return 0;
        };
        self.known = known;
        let hooks = Hooks::new(mutating, validating);
        let before = self.webhooks.registry.load();
        let all = [Phase::Mutating, Phase::Validating]
            .into_iter()
            .flat_map(|phase| hooks.of(phase));
        let clients = all
            .map(|hook| {
                let endpoint = Arc::clone(&hook.endpoint);
                let client = match before.clients.get(&endpoint) {
                    Some(client) => Arc::clone(client),
                    None => Client::new(Arc::clone(&endpoint)),
                };
                (endpoint, client)
            })
            .collect();
        self.webhooks.registry.store(Arc::new(Registry { hooks, clients }));
        revision
    }

    /// Follows configurations until the server is gone.
    pub(crate) async fn follow(mut self, server: Weak<ApiServer>) {
        let prefix = format!("{GROUP}/");
        loop {
            let revision = self.read();
            if server.strong_count() == 0 {
                return;
            }
            let next = match self.store.watch(&prefix, revision) {
                Ok(mut watch) => watch.next().await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(ReadError::Future { .. }) = next {
                tokio::time::sleep(AHEAD_WAIT).await;
            }
        }
    }
}

/// The webhooks of a configuration, those that are known where it did not change.
fn prepared(phase: Phase, object: &Object, known: Option<Known>) -> Vec<Arc<Hook>> {
    let header = object.header();
    match known {
        Some(known) if known.at == (header.uid.clone(), header.resource_version) => known.hooks,
        _ => Hook::all(phase, &object.value()),
    }
}

/// The client of a webhook that converts custom resources.
pub(crate) struct Caller {
    config: Value,
    client: Arc<Client>,
}

impl Caller {
    /// A client without connections, by a `clientConfig`.
    pub(crate) fn new(config: &Value) -> Self {
        Self {
            config: config.clone(),
            client: Client::new(Arc::new(Endpoint::of(config))),
        }
    }

    /// Whether it is the client of that `clientConfig`.
    pub(crate) fn is_of(&self, config: &Value) -> bool {
        self.config == *config
    }

    /// Posts a review and reads the answer, within the time; or says why there is none.
    pub(crate) async fn post(&self, server: &ApiServer, body: bytes::Bytes, time: Duration) -> Result<bytes::Bytes, String> {
        let answer = self.client.post(server, body, time).await;
        answer.map_err(|unanswered| unanswered.told().0)
    }
}
