//! Eviction by NoExecute taints: remembers since when each taint is known, for those that do not say it themselves.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use trireme_client::{Cache, Change};
use trireme_reconcile::taint_eviction::{self, Snapshot};

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

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// The pods of a node whose NoExecute taints changed.
fn tainted(cache: &Cache, change: &Change) -> Vec<Key> {
    let taints = |object: Option<&trireme_api::Object>| {
        let node = object.and_then(|object| cache.typed::<Node>(object));
        node.map(|node| no_execute(&node)).unwrap_or_default()
    };
    if taints(change.old.as_ref()) == taints(change.new.as_ref()) {
        return Vec::new();
    }
    let pods = cache.list::<Pod>(None);
    let here = pods.iter().filter(|pod| node_of(pod) == change.name);
    here.map(|pod| {
        let metadata = &pod.metadata;
        Key::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        )
    })
    .collect()
}

fn snapshot(context: &Context, key: &Key, seen: &Seen) -> Option<Snapshot> {
    let pod = context.cache.get::<Pod>(&key.namespace, &key.name)?;
    let name = node_of(&pod).to_owned();
    let taints = context
        .cache
        .get::<Node>("", &name)
        .map(|node| no_execute(&node))
        .unwrap_or_default();
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
    if !taints.is_empty() {
        seen.insert(name, taints.clone());
    }
    Some(Snapshot { pod, taints })
}
