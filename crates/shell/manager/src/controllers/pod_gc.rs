//! Pod garbage collection: one key for the whole cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use trireme_api::{Object, Status};
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
    let names: BTreeSet<_> = nodes.iter().map(|node| node.header().name.as_str()).collect();
    let named = context.cache.nodes_of_pods().into_iter();
    let absent: BTreeSet<_> = named.filter(|node| !names.contains(node.as_str())).collect();
    let overdue: Vec<String> = {
        let mut missing = missing.lock();
        missing.retain(|node, _| absent.contains(node));
        for node in &absent {
            missing.entry(node.clone()).or_insert(now);
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
    // Only what may have to go, and the nodes whose taint says so, are looked at closely: when many pods are deleted, each
    // look that does would cost all of them.
    let declared: Vec<_> = nodes.iter().filter(|node| node.mentions(OUT_OF_SERVICE)).collect();
    let is_declared = |node: &str| declared.iter().any(|declared| declared.header().name == node);
    let many = context.cache.count(&ResourceRef::of::<Pod>()) > TERMINATED_MAX;
    let may_go = |pod: &Object| {
        let strays = pod.header().deleting && {
            let node = node_of(pod);
            node.is_empty() || is_declared(&node)
        };
        strays || (!nodes_gone.is_empty() && nodes_gone.contains(&*node_of(pod))) || (many && is_finished(pod))
    };
    let pods = context.cache.select::<Pod>(None, may_go);
    let snapshot = Snapshot {
        nodes: declared.iter().filter_map(|node| context.cache.typed(node)).collect(),
        pods,
        terminated_max: TERMINATED_MAX,
        nodes_gone,
    };
    Ok(Some((snapshot, quarantined)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;
    use trireme_client::testing::FakeTransport;
    use trireme_client::{Client, EventRecorder, SystemClock};

    use super::*;

    #[tokio::test]
    async fn looks_closely_at_what_may_have_to_go_alone() {
        let fake = FakeTransport::new();
        let client = Client::new(fake.clone());
        let shutdown = CancellationToken::new();
        let cache = Cache::new(&client, shutdown.clone());
        let pod = |name: &str, node: &str, phase: &str, deleting: bool| {
            let mut value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"},
                "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}});
            if deleting {
                value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                value["metadata"]["finalizers"] = json!(["a.example/x"]);
            }
            fake.seed(&ResourceRef::of::<Pod>(), value);
        };
        let node = |name: &str, taints: Value| {
            let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": taints}});
            fake.seed(&ResourceRef::of::<Node>(), value);
        };
        node("n1", json!([]));
        node("out", json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]));
        pod("runs", "n1", "Running", false);
        pod("ends", "n1", "Running", true);
        pod("finished", "n1", "Succeeded", false);
        pod("unplaced", "", "Pending", true);
        pod("stuck", "out", "Running", true);
        pod("lost", "gone", "Running", false);
        cache.synced(&[ResourceRef::of::<Pod>(), ResourceRef::of::<Node>()]).await;
        let clock: Arc<dyn trireme_client::Clock> = Arc::new(SystemClock);
        let context = Context {
            events: EventRecorder::new(&client, "c", "", Arc::clone(&clock), shutdown.clone()),
            client,
            cache,
            kinds: Arc::new(super::super::kinds()),
            clock,
            failure: None,
        };
        let missing = Missing::default();
        let look = async || snapshot(context.clone(), Arc::clone(&missing)).await.unwrap().unwrap();
        let named = |snapshot: &Snapshot| {
            let names = snapshot.pods.iter().filter_map(|pod| pod.metadata.name.clone());
            names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let (first, quarantined) = look().await;
        assert_eq!(
            (named(&first), quarantined),
            (vec!["stuck".to_owned(), "unplaced".to_owned()], true)
        );
        assert_eq!(first.nodes.len(), 1);
        // Once its node was missing for long enough, a pod goes, too.
        *missing.lock().get_mut("gone").unwrap() -= QUARANTINE;
        let (later, _) = look().await;
        assert_eq!(named(&later), ["lost", "stuck", "unplaced"]);
        assert_eq!(later.nodes_gone.len(), 1);
        shutdown.cancel();
    }
}
