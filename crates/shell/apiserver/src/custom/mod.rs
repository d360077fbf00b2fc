//! Custom resources as this server serves them: the registry of the stored definitions, kept by a watch of this replica.
//!
//! Invariant: nobody waits for a lock to look at it, and who asks for a built-in resource does not look. It may be as late as a
//! watch of the store is; who misses something in it makes sure first that it has seen what the replica has after a barrier.

pub(crate) mod convert;
pub(crate) mod decode;
mod older;
mod settle;

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use trireme_api::{Object, Status};
use trireme_resources::custom::{Builder, Found, Registry, Served};
use trireme_store::{ReadError, Store};

use crate::keys;
use crate::server::ApiServer;

/// Group of definitions.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
/// Plural name of definitions.
pub(crate) const DEFINITIONS: &str = "customresourcedefinitions";

/// How long a request for an unknown resource waits for the registry to see a definition that is stored.
const SEEN_WAIT: Duration = Duration::from_secs(1);

/// The digests of documents, by place.
pub(crate) type Digests = Arc<[(String, [u8; 32])]>;

/// The custom resources that are served now.
pub(crate) struct Customs {
    registry: ArcSwap<Registry>,
    /// Who calls webhooks that convert.
    callers: convert::Callers,
    /// The digests of the documents of OpenAPI, with the registry that they are of.
    digests: Mutex<Option<(Arc<Registry>, Digests)>>,
    /// The revision of the store that the registry is of, told to who waits.
    seen: watch::Sender<u64>,
}

impl Customs {
    fn new() -> Self {
        Self {
            registry: ArcSwap::default(),
            callers: convert::Callers::default(),
            digests: Mutex::default(),
            seen: watch::Sender::new(0),
        }
    }

    /// Reads all definitions and follows them from there on, as long as the server lives. Must be called within a tokio runtime.
    pub(crate) fn start(store: &Arc<dyn Store>) -> (Arc<Self>, Follower) {
        let customs = Arc::new(Self::new());
        let mut follower = Follower {
            customs: Arc::clone(&customs),
            store: Arc::clone(store),
            builder: Builder::default(),
        };
        follower.read();
        (customs, follower)
    }

    /// The registry as it is now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    /// The revision of the store that the registry is of, as it changes.
    pub(crate) fn seen(&self) -> watch::Receiver<u64> {
        self.seen.subscribe()
    }

    /// The resource of that group, version and plural name.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Found> {
        self.registry.load().find(group, version, plural)
    }

    /// The digest of each group and version's document, by place; made once for a registry.
    pub(crate) fn digests(&self, registry: &Arc<Registry>, make: impl Fn(&str, &str) -> [u8; 32]) -> Digests {
        let mut kept = self.digests.lock();
        if let Some((of, digests)) = &*kept
            && Arc::ptr_eq(of, registry)
        {
            return Arc::clone(digests);
        }
        let places = registry
            .groups()
            .flat_map(|(group, versions)| versions.iter().map(move |version| (group, version)));
        let made: Digests = places
            .map(|(group, version)| (format!("apis/{group}/{version}"), make(group, version)))
            .collect();
        *kept = Some((Arc::clone(registry), Arc::clone(&made)));
        made
    }

    /// Waits until that version is served no more.
    pub(crate) async fn replaced(&self, served: &Arc<Served>) {
        let mut seen = self.seen.subscribe();
        while self.registry.load().serves(served) {
            if seen.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Keeps the registry.
pub(crate) struct Follower {
    customs: Arc<Customs>,
    store: Arc<dyn Store>,
    builder: Builder,
}

impl Follower {
    /// Makes the registry of what the replica has; the definitions and their revision.
    fn read(&mut self) -> (Vec<Object>, u64) {
        let revision = self.store.revision();
        let prefix = keys::prefix(GROUP, DEFINITIONS, None);
        let definitions: Vec<Object> = match self.store.range(&prefix, None, None, Some(revision)) {
            Ok(page) => page.items.into_iter().map(|(_, object)| object).collect(),
            Err(error) => {
                tracing::warn!(%error, "definitions of custom resources are read anew");
                return (Vec::new(), 0);
            }
        };
        let registry = self.builder.build(&definitions);
        self.customs.registry.store(Arc::new(registry));
        self.customs.seen.send_replace(revision);
        (definitions, revision)
    }

    /// Follows definitions, and brings their status in order, until the server is gone.
    pub(crate) async fn follow(mut self, weak: Weak<ApiServer>) {
        let prefix = keys::prefix(GROUP, DEFINITIONS, None);
        loop {
            let (definitions, revision) = self.read();
            let Some(server) = weak.upgrade() else { return };
            server.settle(&definitions);
            drop(server);
            let next = match self.store.watch(&prefix, revision) {
                Ok(mut watch) => loop {
                    let next = tokio::time::timeout(older::LOOK_EVERY, watch.next()).await;
                    older::look(&self.store, &self.customs.registry());
                    match next {
                        Ok(next) => break next.map(drop),
                        // It may be that nobody changes a definition for days.
                        Err(_) if weak.strong_count() == 0 => return,
                        Err(_) => {}
                    }
                },
                Err(error) => Err(error),
            };
            if let Err(ReadError::Future { .. }) = next {
                tokio::time::sleep(SEEN_WAIT).await;
            }
        }
    }
}

impl ApiServer {
    /// The custom resource of that group, version and plural name. Where this replica does not know it, it catches up first.
    ///
    /// # Errors
    /// As a barrier.
    pub(crate) async fn custom(&self, group: &str, version: &str, plural: &str) -> Result<Option<Found>, Status> {
        if let Some(found) = self.customs.find(group, version, plural) {
            return Ok(Some(found));
        }
        if group.is_empty() || plural.is_empty() {
            return Ok(None);
        }
        self.barrier().await?;
        let key = keys::object(GROUP, DEFINITIONS, "", &format!("{plural}.{group}"));
        if let Some(definition) = self.store.get(&key) {
            let stored = definition.header().resource_version;
            let mut seen = self.customs.seen.subscribe();
            // Where it does not come in time, the definition is not served yet.
            let wait = tokio::time::timeout(SEEN_WAIT, seen.wait_for(|seen| *seen >= stored)).await;
            if wait.is_err() {
                tracing::warn!(plural, group, "a definition is stored and was not seen yet");
            }
        }
        Ok(self.customs.find(group, version, plural))
    }
}
