//! What a controller tells the manager about itself: what it watches, how a change becomes keys, how a key becomes a
//! snapshot, and the pure function that turns the snapshot into a plan.

use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use trireme_api::Status;
use trireme_client::{ApiObject, Cache, Change, Client, Clock, EventRecorder, Kinds, ResourceRef};
use trireme_reconcile::plan::Plan;

use crate::workload_metrics::{Measure, Tally};

/// What is reconciled: an object by namespace and name; the namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of the changed object itself.
    #[must_use]
    pub fn of(change: &Change) -> Self {
        Self::new(&change.namespace, &change.name)
    }
}

/// What a snapshot builder may use. Cloning is a few reference counts.
#[derive(Clone)]
pub struct Context {
    /// Reads that must not be stale, and nothing else: writes are the plan's.
    pub client: Client,
    /// The shared view.
    pub cache: Arc<Cache>,
    /// Kind to resource.
    pub kinds: Arc<Kinds>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Events of plans.
    pub events: EventRecorder,
    /// What the key's last plan failed by, where it did.
    pub failure: Option<Failure>,
}

/// The action that a plan failed by, and the API's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A creation.
    Create(String),
    /// A deletion.
    Delete(String),
    /// A write of a subresource other than the status (`scale`).
    Subresource(String),
    /// Something else, or a race that was lost.
    Other(String),
}

/// The controlling owners of a kind that a changed object had and has.
pub(crate) fn controllers_of<Owner: ApiObject>(change: &Change) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in change.old.iter().chain(&change.new) {
        let header = object.header();
        let owners = header.owners.iter();
        for owner in owners.filter(|owner| owner.controller && owner.kind == Owner::KIND) {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let key = Key::new(&header.namespace, &owner.name);
            if group == Owner::GROUP && !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

pub(crate) type Map = Arc<dyn Fn(&Cache, &Change) -> Vec<Key> + Send + Sync>;
type Step = Arc<dyn Fn(Context, Key, Timestamp) -> BoxFuture<'static, Result<Option<Plan>, Status>> + Send + Sync>;

/// One watched resource.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) resource: ResourceRef,
    /// `None`: read by snapshots, but a change wakes nobody.
    pub(crate) map: Option<Map>,
}

/// A controller.
#[derive(Clone)]
pub struct Registration {
    pub(crate) name: &'static str,
    pub(crate) component: &'static str,
    pub(crate) account: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) workers: usize,
    pub(crate) watches: Vec<Watch>,
    pub(crate) step: Step,
    /// Whether a step does nothing but look and decide, so that what it takes is work.
    pub(crate) only_looks: bool,
    /// What it counts of each reconciliation, and of which resource the object is.
    pub(crate) measure: Option<(ResourceRef, Measure)>,
    /// What it counts of each change.
    pub(crate) tally: Option<Tally>,
    /// Whom a change of a custom resource concerns.
    pub(crate) custom: Option<Map>,
}

impl Registration {
    /// A controller whose snapshots come from the cache alone. A snapshot of `None` means that there is nothing to do
    /// (the object is gone).
    pub fn new<S>(
        name: &'static str,
        snapshot: impl Fn(&Context, &Key) -> Option<S> + Send + Sync + 'static,
        reconcile: impl Fn(&S, Timestamp) -> Plan + Send + Sync + 'static,
    ) -> Self {
        let step: Step = Arc::new(move |context, key, now| {
            let plan = snapshot(&context, &key).map(|snapshot| reconcile(&snapshot, now));
            Box::pin(async move { Ok(plan) })
        });
        Self {
            only_looks: true,
            ..Self::from_step(name, step)
        }
    }

    /// A controller whose snapshots need live reads. An error has the key tried again with back-off.
    pub fn with_live_snapshot<S, F>(
        name: &'static str,
        snapshot: impl Fn(Context, Key) -> F + Send + Sync + 'static,
        reconcile: impl Fn(&S, Timestamp) -> Plan + Send + Sync + 'static,
    ) -> Self
    where
        S: Send + 'static,
        F: Future<Output = Result<Option<S>, Status>> + Send + 'static,
    {
        let reconcile = Arc::new(reconcile);
        Self::from_step(
            name,
            Arc::new(move |context, key, now| {
                let snapshot = snapshot(context, key);
                let reconcile = Arc::clone(&reconcile);
                Box::pin(async move { Ok(snapshot.await?.map(|snapshot| reconcile(&snapshot, now))) })
            }),
        )
    }

    fn from_step(name: &'static str, step: Step) -> Self {
        Self {
            name,
            component: name,
            account: name,
            queue: name,
            workers: 5,
            watches: Vec::new(),
            step,
            only_looks: false,
            measure: None,
            tally: None,
            custom: None,
        }
    }

    /// The component that its events come from, where it is not the controller's name.
    #[must_use]
    pub fn component(mut self, component: &'static str) -> Self {
        self.component = component;
        self
    }

    /// The service account in `kube-system` that it acts as; its bootstrap role is of the same name behind
    /// `system:controller:`. Without it, its own name.
    #[must_use]
    pub fn account(mut self, account: &'static str) -> Self {
        self.account = account;
        self
    }

    /// See [`Registration::account`].
    #[must_use]
    pub fn account_name(&self) -> &'static str {
        self.account
    }

    /// Upstream's name of its work queue, for `/metrics`, where it is not the controller's name.
    #[must_use]
    pub fn queue(mut self, queue: &'static str) -> Self {
        self.queue = queue;
        self
    }

    /// Counts each reconciliation of an object of this kind.
    #[must_use]
    pub(crate) fn measured<K: ApiObject>(mut self, measure: Measure) -> Self {
        self.measure = Some((ResourceRef::of::<K>(), measure));
        self
    }

    /// Counts each change of what is watched.
    #[must_use]
    pub(crate) fn tallied(mut self, tally: Tally) -> Self {
        self.tally = Some(tally);
        self
    }

    /// How many keys may be worked on at once (default 5). One, for controllers that allocate from a shared pool.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Watches the resource whose objects are the keys.
    #[must_use]
    pub fn primary<K: ApiObject>(self) -> Self {
        self.watch::<K>(|_, change| vec![Key::of(change)])
    }

    /// Watches a resource whose objects are controlled (ownerReference with `controller: true`) by an object of this
    /// kind; a change wakes the old and the new owner.
    #[must_use]
    pub fn controlled<K: ApiObject, Owner: ApiObject>(self) -> Self {
        self.watch::<K>(|_, change| controllers_of::<Owner>(change))
    }

    /// Watches a resource with a mapping of its own.
    #[must_use]
    pub fn watch<K: ApiObject>(self, map: impl Fn(&Cache, &Change) -> Vec<Key> + Send + Sync + 'static) -> Self {
        self.watch_resources([ResourceRef::of::<K>()], map)
    }

    /// Watches several resources with one mapping.
    #[must_use]
    pub fn watch_resources(
        mut self,
        resources: impl IntoIterator<Item = ResourceRef>,
        map: impl Fn(&Cache, &Change) -> Vec<Key> + Send + Sync + 'static,
    ) -> Self {
        let map: Map = Arc::new(map);
        self.watches.extend(resources.into_iter().map(|resource| Watch {
            resource,
            map: Some(Arc::clone(&map)),
        }));
        self
    }

    /// Watches all custom resources that there are, now or later.
    #[must_use]
    pub fn watch_custom(mut self, map: impl Fn(&Cache, &Change) -> Vec<Key> + Send + Sync + 'static) -> Self {
        self.custom = Some(Arc::new(map));
        self
    }

    /// Reads a resource in its snapshots without being woken by it.
    #[must_use]
    pub fn reads<K: ApiObject>(mut self) -> Self {
        self.watches.push(Watch {
            resource: ResourceRef::of::<K>(),
            map: None,
        });
        self
    }
}
