//! Pod address ranges of nodes. One worker: two nodes at once could be given the same range.

use k8s_openapi::api::core::v1::Node;
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
        let nodes = cache.list::<Node>(None);
        let without = nodes.iter().filter(|node| ranges(node).is_empty());
        without
            .map(|node| Key::new("", node.metadata.name.clone().unwrap_or_default()))
            .collect()
    })
}

fn ranges(node: &Node) -> &[String] {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default()
}

fn snapshot(context: &Context, key: &Key, cluster: &[Range]) -> Option<Snapshot> {
    let node = context.cache.get::<Node>("", &key.name)?;
    let nodes = context.cache.list::<Node>(None);
    Some(Snapshot {
        node,
        taken: nodes.iter().flat_map(|node| ranges(node).to_vec()).collect(),
        cluster: cluster.to_vec(),
    })
}
