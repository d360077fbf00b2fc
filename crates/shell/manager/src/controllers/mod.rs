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

mod service_account;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use trireme_client::Kinds;

use crate::registration::Registration;

/// What the built-in controllers have to be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// PEM of the cluster's CA, for `kube-root-ca.crt`.
    pub root_ca_pem: String,
}

/// All built-in controllers.
#[must_use]
pub fn all(_settings: &Settings) -> Vec<Registration> {
    vec![service_account::registration()]
}

/// The kinds that the built-in controllers name.
#[must_use]
pub fn kinds() -> Kinds {
    Kinds::new().with::<ConfigMap>().with::<Namespace>().with::<ServiceAccount>()
}
