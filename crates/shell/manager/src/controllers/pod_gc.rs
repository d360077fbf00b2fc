//! Pod garbage collection: one key for the whole cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use trireme_api::Status;
use trireme_client::{Cache, Change, ResourceRef};
use trireme_reconcile::pod_gc::{self, Snapshot, TERMINATED_MAX};

use crate::facts::{is_finished, node_of};
use crate::registration::{Context, Key, Registration};

/// For how long a node must be missing before its pods go.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// How often to look while there is a missing node.
const PERIOD: std::time::Duration = std::time::Duration::from_secs(20);

/// Nodes that pods name and that do not exist, and since when.
type Missing = Arc<Mutex<BTreeMap<String, Timestamp>>>;

pub(super) fn registration() -> Registration {
    let missing = Missing::default();
    let known = Arc::clone(&missing);
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
    .watch::<Pod>(move |cache, change| only_if(concerns(cache, change, &known)))
    .watch::<Node>(|cache, change| only_if(change.new.is_none() || change.old.is_none() || is_tainted(cache, change)))
}

fn only_if(wanted: bool) -> Vec<Key> {
    if wanted { vec![Key::new("", "pods")] } else { Vec::new() }
}

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

fn is_tainted(cache: &Cache, change: &Change) -> bool {
    let node = change.new.as_ref().filter(|object| object.mentions(OUT_OF_SERVICE));
    let node = node.and_then(|object| cache.typed::<Node>(object));
    let taints = node.as_ref().and_then(|node| node.spec.as_ref()?.taints.as_ref());
    taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == OUT_OF_SERVICE))
}

/// Whether a pod became one that may have to go: being deleted, finished, or of a node that is not there. (As long as one is
/// known to be missing, there is a look every so often anyway.)
fn concerns(cache: &Cache, change: &Change, missing: &Missing) -> bool {
    let Some(new) = &change.new else { return false };
    let is_missing = |node: &str| {
        !node.is_empty() && cache.object(&ResourceRef::of::<Node>(), "", node).is_none() && !missing.lock().contains_key(node)
    };
    let node = node_of(new);
    match &change.old {
        None => new.header().deleting || is_finished(new) || is_missing(&node),
        Some(old) => {
            new.header().deleting != old.header().deleting
                || is_finished(new) != is_finished(old)
                || (node != node_of(old) && is_missing(&node))
        }
    }
}

async fn snapshot(context: Context, missing: Missing) -> Result<Option<(Snapshot, bool)>, Status> {
    let now = context.clock.now();
    let nodes = context.cache.objects(&ResourceRef::of::<Node>(), None);
    let pods = context.cache.objects(&ResourceRef::of::<Pod>(), None);
    let names: BTreeSet<_> = nodes.iter().map(|node| node.header().name.as_str()).collect();
    let named = pods.iter().map(node_of);
    let absent: BTreeSet<_> = named.filter(|node| !node.is_empty() && !names.contains(&**node)).collect();
    let overdue: Vec<String> = {
        let mut missing = missing.lock();
        missing.retain(|node, _| absent.contains(node.as_str()));
        for node in &absent {
            missing.entry(node.clone().into_owned()).or_insert(now);
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
    // Only what may have to go, and the nodes whose taint says so, are looked at closely.
    let may_go = |pod: &&trireme_api::Object| pod.header().deleting || nodes_gone.contains(&*node_of(pod)) || is_finished(pod);
    let declared = |node: &&trireme_api::Object| node.mentions(OUT_OF_SERVICE);
    let snapshot = Snapshot {
        nodes: nodes
            .iter()
            .filter(declared)
            .filter_map(|node| context.cache.typed(node))
            .collect(),
        pods: pods
            .iter()
            .filter(may_go)
            .filter_map(|pod| context.cache.typed(pod))
            .collect(),
        terminated_max: TERMINATED_MAX,
        nodes_gone,
    };
    Ok(Some((snapshot, quarantined)))
}
