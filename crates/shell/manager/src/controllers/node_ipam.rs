//! Pod address ranges of nodes. One worker: two nodes at once could be given the same range.

use k8s_openapi::api::core::v1::Node;
use trireme_api::Object;
use trireme_client::ResourceRef;
use trireme_reconcile::node_ipam::{self, Range, Snapshot};

use crate::registration::{Context, Key, Registration};

pub(super) fn registration(cluster: Vec<Range>) -> Registration {
    Registration::new(
        "node-ipam",
        move |context, key| snapshot(context, key, &cluster),
        node_ipam::reconcile,
    )
    .component("node-ipam-controller")
    .account("node-controller")
    .queue("cidrallocator-node")
    .workers(1)
    .watch::<Node>(|cache, change| {
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

fn snapshot(context: &Context, key: &Key, cluster: &[Range]) -> Option<Snapshot> {
    let node = context.cache.get::<Node>("", &key.name)?;
    if !ranges(&node).is_empty() {
        return None; // It has what this would give it.
    }
    let nodes = context.cache.objects(&ResourceRef::of::<Node>(), None);
    Some(Snapshot {
        node,
        taken: nodes.iter().flat_map(held).collect(),
        cluster: cluster.to_vec(),
    })
}
