//! Node lifecycle: remembers when each node was last heard of, by this process' clock.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use parking_lot::Mutex;
use trireme_client::{Cache, Change, ResourceRef};
use trireme_reconcile::node_lifecycle::{self, Present, Snapshot, condition};

use crate::registration::{Context, Key, Registration};

/// Namespace of the nodes' Leases.
const LEASES: &str = "kube-node-lease";

struct Health {
    uid: String,
    renewed: Option<MicroTime>,
    heartbeat: Option<Time>,
    alive_at: Timestamp,
}

type Known = Arc<Mutex<HashMap<String, Health>>>;

/// `grace` is the silence after which a node is given up.
pub(super) fn registration(grace: SignedDuration) -> Registration {
    let known = Known::default();
    Registration::new(
        "node-lifecycle",
        move |context, key| snapshot(context, key, &known, grace),
        node_lifecycle::reconcile,
    )
    .component("node-controller")
    .account("node-controller")
    .queue("node_lifecycle_controller")
    .watch::<Node>(concerned)
    .watch::<Lease>(|_, change| match change.namespace.as_str() {
        LEASES => vec![Key::new("", &change.name)],
        _ => Vec::new(),
    })
    .reads::<Pod>()
}

fn readiness(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|ready| ready.status.as_str())
}

/// Whether some node other than this is ready. Looks no further than the first.
fn another_is_ready(cache: &Cache, name: &str) -> bool {
    cache.any(&ResourceRef::of::<Node>(), None, |node| {
        node.header().name != name && cache.typed::<Node>(node).is_some_and(|node| readiness(&node) == Some("True"))
    })
}

/// A node whose readiness changed changes the case of all others where it is the first to be ready or was the last.
fn concerned(cache: &Cache, change: &Change) -> Vec<Key> {
    let typed = |object: Option<&trireme_api::Object>| object.and_then(|object| cache.typed::<Node>(object));
    let (old, new) = (typed(change.old.as_ref()), typed(change.new.as_ref()));
    if old.as_deref().map(readiness) == new.as_deref().map(readiness) || another_is_ready(cache, &change.name) {
        return vec![Key::of(change)];
    }
    let nodes = cache.objects(&ResourceRef::of::<Node>(), None);
    let mut keys: Vec<_> = nodes.iter().map(|node| Key::new("", &node.header().name)).collect();
    if !keys.contains(&Key::of(change)) {
        keys.push(Key::of(change));
    }
    keys
}

fn snapshot(context: &Context, key: &Key, known: &Known, grace: SignedDuration) -> Option<Snapshot> {
    let now = context.clock.now();
    let Some(node) = context.cache.get::<Node>("", &key.name) else {
        let health = known.lock().remove(&key.name)?;
        return Some(Snapshot::Removed {
            name: key.name.clone(),
            uid: health.uid,
        });
    };
    let uid = node.metadata.uid.clone().unwrap_or_default();
    let lease = context.cache.get::<Lease>(LEASES, &key.name);
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
    let heartbeat = condition(&node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone());
    let (alive_at, is_new) = {
        let mut known = known.lock();
        let is_new = known.get(&key.name).is_none_or(|health| health.uid != uid);
        if is_new {
            known.insert(
                key.name.clone(),
                Health {
                    uid,
                    renewed: renewed.clone(),
                    heartbeat: heartbeat.clone(),
                    alive_at: now,
                },
            );
        }
        let alive_at = known.get_mut(&key.name).map_or(now, |health| {
            // A silent node's conditions are changed by this controller without a new heartbeat.
            if renewed > health.renewed || heartbeat != health.heartbeat {
                health.alive_at = now;
                health.renewed = renewed;
                health.heartbeat = heartbeat;
            }
            health.alive_at
        });
        (alive_at, is_new)
    };
    let is_ready = readiness(&node) == Some("True");
    let is_unready = readiness(&node).is_some_and(|ready| ready != "True");
    let pods = if is_unready { pods_on(context, &key.name) } else { Vec::new() };
    Some(Snapshot::Present(Box::new(Present {
        all_unready: !is_ready && !another_is_ready(&context.cache, &key.name),
        pods,
        node,
        grace,
        alive_at,
        is_new,
    })))
}

fn pods_on(context: &Context, node: &str) -> Vec<Arc<Pod>> {
    let pods = context.cache.pods_on(node);
    pods.iter().filter_map(|pod| context.cache.typed(pod)).collect()
}
