//! The registrations: one file per controller, each a function that returns a [`Registration`](crate::Registration).
//!
//! # Adding a controller
//! 1. `crates/core/reconcile/src/x.rs`: `pub struct Snapshot { … }` (typed objects in `Arc`s; no shell types) and
//!    `pub fn reconcile(snapshot: &Snapshot, now: jiff::Timestamp) -> Plan`; `pub mod x;` in its `lib.rs`.
//! 2. `controllers/x.rs` here:
//!    ```ignore
//!    pub(super) fn registration() -> Registration {
//!        Registration::new("replicaset", snapshot, replicaset::reconcile)
//!            .component("replicaset-controller")        // who its events come from
//!            .account("replicaset-controller")          // who it is; its role is system:controller:replicaset-controller
//!            .primary::<ReplicaSet>()                   // its objects are the keys
//!            .controlled::<Pod, ReplicaSet>()           // a change of a pod wakes its controlling ReplicaSet
//!            .watch::<Node>(|cache, change| vec![…])    // any other mapping
//!            .reads::<Namespace>()                      // in the snapshot, wakes nobody
//!    }
//!    fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
//!        let set = context.cache.get::<ReplicaSet>(&key.namespace, &key.name)?;   // None: gone, nothing to do
//!        Some(Snapshot { pods: context.cache.by_owner::<Pod>(uid), set })
//!    }
//!    ```
//! 3. Its line in [`all`]. Every resource that a snapshot reads must be watched or `reads`, since the manager waits for
//!    its own writes to just those before each call. [`Kinds`](trireme_client::Kinds) must know every kind that a plan
//!    names; [`kinds`] knows all that have a resource row.
//!
//! A controller may do what upstream's bootstrap role of its account allows and no more: where a role has `update` but not
//! `patch`, the plan updates; where it has `list` but not `get`, a live snapshot lists by `metadata.name`.
//!
//! Snapshots that need a live read use `Registration::with_live_snapshot`. Controllers that allocate from a pool use
//! `.workers(1)`. An action whose end is told is `Action::Told` with the events for either end.

mod account_token;
mod cluster_role_aggregation;
mod cron_job;
mod csr;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod garbage;
mod hpa;
mod job;
mod local_volume;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod persistent_volume;
mod pod_gc;
mod replicaset;
mod resource_quota;
mod root_ca;
mod service;
mod service_account;
mod statefulset;
mod storage_protection;
mod taint_eviction;

use std::net::IpAddr;
use std::sync::Arc;

use jiff::SignedDuration;
use rand::Rng;
use trireme_client::{Kinds, ResourceRef};
use trireme_reconcile::node_ipam::Range;

use crate::registration::Registration;

pub use account_token::{TokenSigner, Unsigned};
pub use csr::Signer;
pub use local_volume::LocalVolumes;

/// What the built-in controllers have to be told.
#[derive(Clone, Default)]
pub struct Settings {
    /// PEM of the cluster's CA, for `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// Ranges of pod addresses (`10.42.0.0/16`), one per family; empty: nodes get none.
    pub cluster_cidrs: Vec<String>,
    /// Silence after which a node is unknown [default: [`node_lifecycle::GRACE`](trireme_reconcile::node_lifecycle::GRACE)].
    pub node_grace: Option<std::time::Duration>,
    /// Addresses for LoadBalancer Services; empty: the nodes' own.
    pub load_balancer_pool: Vec<IpAddr>,
    /// Signs certificates with the cluster's authority; without it requests are approved and wait.
    pub signer: Option<Arc<dyn Signer>>,
    /// Signs the tokens of hand-made Secrets; without it they wait.
    pub token_signer: Option<Arc<dyn TokenSigner>>,
    /// The nodes' disks; without them claims of class `local` wait.
    pub local_volumes: Option<Arc<dyn LocalVolumes>>,
}

/// All built-in controllers. The garbage collector and the namespace controller look at what `kinds` says is
/// collectable: one version of each resource.
#[must_use]
pub fn all(settings: &Settings, kinds: &Kinds) -> Vec<Registration> {
    let ranges = settings.cluster_cidrs.iter().filter_map(|text| {
        let range = Range::parse(text);
        if range.is_none() {
            tracing::error!(range = text, "not a range of pod addresses; nodes get none of it");
        }
        range
    });
    let grace = settings.node_grace.and_then(|grace| SignedDuration::try_from(grace).ok());
    let mut all = vec![
        namespace::registration(kinds),
        service_account::registration(),
        root_ca::registration(&settings.root_ca_pem),
        garbage::registration(kinds),
        pod_gc::registration(),
        node_lifecycle::registration(grace.unwrap_or(trireme_reconcile::node_lifecycle::GRACE)),
        taint_eviction::registration(),
        node_ipam::registration(ranges.collect()),
        cron_job::registration(),
        daemon_set::registration(),
        deployment::registration(),
        statefulset::registration(),
        endpoints::registration(),
        endpoint_slice::registration(),
        endpoint_slice_mirroring::registration(),
        service::registration(settings.load_balancer_pool.clone()),
        hpa::registration(),
        cluster_role_aggregation::registration(),
        resource_quota::registration(kinds),
    ];
    all.extend(replicaset::registrations());
    all.extend(disruption::registrations());
    all.extend(job::registrations());
    all.extend(csr::registrations(settings.signer.clone()));
    let root_ca = settings.root_ca_pem.as_str();
    all.extend(
        settings
            .token_signer
            .clone()
            .map(|signer| account_token::registration(signer, root_ca)),
    );
    all.extend(persistent_volume::registrations());
    all.extend(settings.local_volumes.iter().flat_map(local_volume::registrations));
    all.extend(storage_protection::registrations());
    all
}

/// All built-in kinds, from the resource rows. Those that can be listed, watched and deleted are collectable, in the
/// version in which they are stored.
#[must_use]
pub fn kinds() -> Kinds {
    let kinds = Kinds::new();
    for row in trireme_resources::rows() {
        let resource = ResourceRef {
            group: row.group.into(),
            version: row.version.into(),
            plural: row.plural.into(),
            namespaced: row.namespaced,
        };
        let whole = ["list", "watch", "delete"].iter().all(|verb| row.has_verb(verb));
        let collectable = whole && !row.virtual_ && row.stored_as == (row.group, row.version);
        kinds.insert(row.kind, resource, collectable);
    }
    kinds
}

/// Five letters and digits without vowels, as generated names end.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

#[cfg(test)]
mod tests;
