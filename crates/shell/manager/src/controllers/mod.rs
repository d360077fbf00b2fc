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
//!    names; `crate::controllers::kinds` lists those of the built-in controllers.
//!
//! Snapshots that need a live read use `Registration::with_live_snapshot`. Controllers that allocate from a pool use
//! `.workers(1)`. In an event's message `{created}` is the name of the object that the plan created last; an event
//! `SuccessfulCreate` behind a `Create` becomes `FailedCreate` with `Error creating: …` where that fails.

mod deployment;
mod endpoint_slice;
mod endpoints;
mod garbage;
mod hpa;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod pod_gc;
mod replicaset;
mod root_ca;
mod service;
mod service_account;
mod taint_eviction;

use std::net::IpAddr;

use k8s_openapi::api::{apps, autoscaling, batch, coordination, core, discovery, networking, policy, rbac};
use rand::Rng;
use trireme_client::Kinds;
use trireme_reconcile::node_ipam::Range;

use crate::registration::Registration;

/// What the built-in controllers have to be told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// PEM of the cluster's CA, for `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// Ranges of pod addresses (`10.42.0.0/16`), one per family; empty: nodes get none.
    pub cluster_cidrs: Vec<String>,
    /// Addresses for LoadBalancer Services; empty: the nodes' own.
    pub load_balancer_pool: Vec<IpAddr>,
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
    vec![
        namespace::registration(kinds),
        service_account::registration(),
        root_ca::registration(&settings.root_ca_pem),
        garbage::registration(kinds),
        pod_gc::registration(),
        node_lifecycle::registration(),
        taint_eviction::registration(),
        node_ipam::registration(ranges.collect()),
        deployment::registration(),
        replicaset::registration(),
        endpoints::registration(),
        endpoint_slice::registration(),
        service::registration(settings.load_balancer_pool.clone()),
        hpa::registration(),
    ]
}

/// The kinds that the built-in controllers name, for tests and small set-ups. A server fills its
/// [`Kinds`] from the resource rows.
#[must_use]
pub fn kinds() -> Kinds {
    let kinds = Kinds::new()
        .with::<core::v1::ConfigMap>()
        .with::<core::v1::Endpoints>()
        .with::<core::v1::Event>()
        .with::<core::v1::Namespace>()
        .with::<core::v1::Node>()
        .with::<core::v1::PersistentVolume>()
        .with::<core::v1::PersistentVolumeClaim>()
        .with::<core::v1::Pod>()
        .with::<core::v1::ReplicationController>()
        .with::<core::v1::Secret>()
        .with::<core::v1::Service>()
        .with::<core::v1::ServiceAccount>()
        .with::<apps::v1::ControllerRevision>()
        .with::<apps::v1::DaemonSet>()
        .with::<apps::v1::Deployment>()
        .with::<apps::v1::ReplicaSet>()
        .with::<apps::v1::StatefulSet>()
        .with::<autoscaling::v2::HorizontalPodAutoscaler>()
        .with::<batch::v1::CronJob>()
        .with::<batch::v1::Job>()
        .with::<coordination::v1::Lease>()
        .with::<discovery::v1::EndpointSlice>()
        .with::<networking::v1::Ingress>()
        .with::<networking::v1::NetworkPolicy>()
        .with::<policy::v1::PodDisruptionBudget>()
        .with::<rbac::v1::Role>()
        .with::<rbac::v1::RoleBinding>();
    let first = trireme_client::ResourceRef::of::<autoscaling::v1::HorizontalPodAutoscaler>();
    kinds.insert("HorizontalPodAutoscaler", first, false);
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
