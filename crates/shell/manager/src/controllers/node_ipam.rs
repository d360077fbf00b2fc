//! Pod address ranges of nodes. One worker: two nodes at once could be given the same range.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use trireme_api::Object;
use trireme_client::{Change, ResourceRef};
use trireme_reconcile::node_ipam::{self, Range, Snapshot, Taken};

use crate::registration::{Context, Key, Registration};

/// The ranges that nodes have, by the nodes' names. It follows the view's changes, so it knows what the view shows.
struct Known {
    taken: Taken,
    of: HashMap<String, Vec<String>>,
}

impl Known {
    fn follow(&mut self, change: &Change) {
        if let Some(old) = self.of.remove(&change.name) {
            self.taken.remove(&old);
        }
        let has = change.new.as_ref().map(held).unwrap_or_default();
        if !has.is_empty() {
            self.taken.add(&has);
            self.of.insert(change.name.clone(), has);
        }
    }
}

pub(super) fn registration(cluster: Vec<Range>) -> Registration {
    let known = Arc::new(Mutex::new(Known {
        taken: Taken::of(&cluster),
        of: HashMap::new(),
    }));
    let follows = Arc::clone(&known);
    Registration::new(
        "node-ipam",
        move |context, key| snapshot(context, key, &known),
        node_ipam::reconcile,
    )
    .component("node-ipam-controller")
    .account("node-controller")
    .queue("cidrallocator-node")
    .workers(1)
    .watch::<Node>(move |cache, change| {
        follows.lock().follow(change);
        if change.new.is_some() {
            return vec![Key::of(change)];
        }
        // A range came free: those without one have a chance.
        let nodes = cache.objects(&ResourceRef::of::<Node>(), None);
        let without = nodes.iter().filter(|node| held(node).is_empty());
        without.map(|node| Key::new("", &node.header().name)).collect()
    })
}

fn ranges(node: &Node) -> &[String] {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default()
}

/// The ranges of a node among many: read from its bytes.
fn held(node: &Object) -> Vec<String> {
    let ranges = node.raw_at(&["spec", "podCIDRs"]);
    ranges
        .and_then(|ranges| serde_json::from_slice(ranges).ok())
        .unwrap_or_default()
}

fn snapshot(context: &Context, key: &Key, known: &Mutex<Known>) -> Option<Snapshot> {
    let node = context.cache.get::<Node>("", &key.name)?;
    if !ranges(&node).is_empty() {
        return None; // It has what this would give it.
    }
    let free = known.lock().taken.free();
    Some(Snapshot { node, free })
}
