//! Eviction by NoExecute taints: remembers since when each taint is known, for those that do not say it themselves.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use trireme_api::Object;
use trireme_client::{Cache, Change, ResourceRef};
use trireme_reconcile::taint_eviction::{self, Snapshot};

use crate::facts::node_of;
use crate::registration::{Context, Key, Registration};

/// First sight of taints by node.
type Seen = Arc<Mutex<HashMap<String, Vec<(Taint, Timestamp)>>>>;

pub(super) fn registration() -> Registration {
    let seen = Seen::default();
    Registration::new(
        "taint-eviction",
        move |context, key| snapshot(context, key, &seen),
        taint_eviction::reconcile,
    )
    .component("taint-eviction-controller")
    .account("node-controller")
    .queue("noexec_taint_pod")
    .primary::<Pod>()
    .watch::<Node>(tainted)
}

const NO_EXECUTE: &str = "NoExecute";

/// The NoExecute taints of a node. Most have none, which is seen without decoding them.
fn no_execute(cache: &Cache, node: Option<&Object>) -> Vec<Taint> {
    let node = node.filter(|node| node.mentions(NO_EXECUTE));
    let Some(node) = node.and_then(|node| cache.typed::<Node>(node)) else {
        return Vec::new();
    };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == NO_EXECUTE).cloned().collect()
}

/// The pods of a node whose NoExecute taints changed.
fn tainted(cache: &Cache, change: &Change) -> Vec<Key> {
    if no_execute(cache, change.old.as_ref()) == no_execute(cache, change.new.as_ref()) {
        return Vec::new();
    }
    let pods = cache.pods_on(&change.name);
    pods.iter()
        .map(|pod| Key::new(&pod.header().namespace, &pod.header().name))
        .collect()
}

fn snapshot(context: &Context, key: &Key, seen: &Seen) -> Option<Snapshot> {
    let cache = &context.cache;
    let pod = cache.object(&ResourceRef::of::<Pod>(), &key.namespace, &key.name)?;
    let name = node_of(&pod).into_owned();
    let taints = no_execute(cache, cache.object(&ResourceRef::of::<Node>(), "", &name).as_ref());
    if taints.is_empty() {
        seen.lock().remove(&name);
        return None; // Nothing that it would have to go for.
    }
    let now = context.clock.now();
    let mut seen = seen.lock();
    let earlier = seen.remove(&name).unwrap_or_default();
    let taints: Vec<_> = taints
        .into_iter()
        .map(|taint| {
            let known = earlier.iter().find(|(known, _)| *known == taint).map(|(_, since)| *since);
            let since = taint.time_added.as_ref().map(|time| time.0).or(known).unwrap_or(now);
            (taint, since)
        })
        .collect();
    seen.insert(name, taints.clone());
    drop(seen);
    Some(Snapshot {
        pod: cache.typed(&pod)?,
        taints,
    })
}
