//! Pod garbage collection: one key for the whole cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use trireme_api::Status;
use trireme_client::{Cache, Change};
use trireme_reconcile::pod_gc::{self, Snapshot, TERMINATED_MAX};

use crate::registration::{Context, Key, Registration};

/// For how long a node must be missing before its pods go.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// How often to look while there is a missing node.
const PERIOD: std::time::Duration = std::time::Duration::from_secs(20);

/// Nodes that pods name and that do not exist, and since when.
type Missing = Arc<Mutex<BTreeMap<String, Timestamp>>>;

pub(super) fn registration() -> Registration {
    let missing = Missing::default();
    Registration::with_live_snapshot(
        "pod-garbage-collector",
        move |context, _| snapshot(context, Arc::clone(&missing)),
        |(snapshot, quarantined): &(Snapshot, bool), now| {
            let mut plan = pod_gc::reconcile(snapshot, now);
            if *quarantined {
                plan.requeue_after = Some(PERIOD);
            }
            plan
        },
    )
    .component("pod-garbage-collector-controller")
    .account("pod-garbage-collector")
    .queue("orphaned_pods_nodes")
    .workers(1)
    .watch::<Pod>(|cache, change| only_if(concerns(cache, change)))
    .watch::<Node>(|cache, change| only_if(change.new.is_none() || change.old.is_none() || is_tainted(cache, change)))
}

fn only_if(wanted: bool) -> Vec<Key> {
    if wanted { vec![Key::new("", "pods")] } else { Vec::new() }
}

fn is_tainted(cache: &Cache, change: &Change) -> bool {
    let node = change.new.as_ref().and_then(|object| cache.typed::<Node>(object));
    let taints = node.as_ref().and_then(|node| node.spec.as_ref()?.taints.as_ref());
    taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service"))
}

/// Whether a pod became one that may have to go: new here, being deleted, or finished.
fn concerns(cache: &Cache, change: &Change) -> bool {
    let Some(new) = &change.new else { return false };
    let finished = |object: &trireme_api::Object| {
        let pod = cache.typed::<Pod>(object);
        pod.is_some_and(|pod| trireme_reconcile::pods::is_finished(&pod))
    };
    match &change.old {
        None => true,
        Some(old) => new.header().deleting != old.header().deleting || finished(new) != finished(old),
    }
}

async fn snapshot(context: Context, missing: Missing) -> Result<Option<(Snapshot, bool)>, Status> {
    let now = context.clock.now();
    let nodes = context.cache.list::<Node>(None);
    let pods = context.cache.list::<Pod>(None);
    let names: BTreeSet<_> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
    let named = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref());
    let absent: BTreeSet<_> = named.filter(|node| !node.is_empty() && !names.contains(node)).collect();
    let overdue: Vec<String> = {
        let mut missing = missing.lock();
        missing.retain(|node, _| absent.contains(node.as_str()));
        for node in &absent {
            missing.entry((*node).to_owned()).or_insert(now);
        }
        let overdue = missing.iter().filter(|(_, since)| now.duration_since(**since) >= QUARANTINE);
        overdue.map(|(node, _)| node.clone()).collect()
    };
    let mut nodes_gone = BTreeSet::new();
    for node in overdue {
        if context.client.find::<Node>("", &node).await?.is_none() {
            nodes_gone.insert(node);
        }
    }
    let quarantined = !absent.is_empty();
    let snapshot = Snapshot {
        nodes,
        nodes_gone,
        terminated_max: TERMINATED_MAX,
        pods,
    };
    Ok(Some((snapshot, quarantined)))
}
