//! ReplicaSets, and ReplicationControllers, which are the same thing in an older form.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use trireme_client::{ApiObject, Cache, Change};
use trireme_reconcile::ownership;
use trireme_reconcile::replicaset::{self, Kind, Snapshot};
use trireme_reconcile::replication_controller;

use super::suffix;
use crate::facts::{controller_of, counted_pods, counts_alike};
use crate::registration::{Context, Failure, Key, Registration, controllers_of};

/// What keeps a number of pods alike.
trait Replicates: ApiObject {
    const KEPT_AS: &'static Kind;

    fn as_replica_set(object: Arc<Self>) -> Arc<ReplicaSet>;
}

impl Replicates for ReplicaSet {
    const KEPT_AS: &'static Kind = &replicaset::KIND;

    fn as_replica_set(object: Arc<Self>) -> Arc<ReplicaSet> {
        object
    }
}

impl Replicates for ReplicationController {
    const KEPT_AS: &'static Kind = &replication_controller::KIND;

    fn as_replica_set(object: Arc<Self>) -> Arc<ReplicaSet> {
        replication_controller::as_replica_set(&object)
    }
}

pub(super) fn registrations() -> [Registration; 2] {
    [
        registration::<ReplicaSet>("replicaset")
            .component("replicaset-controller")
            .account("replicaset-controller"),
        registration::<ReplicationController>("replicationcontroller")
            .component("replication-controller")
            .account("replication-controller")
            .queue("replicationmanager"),
    ]
}

fn registration<K: Replicates>(name: &'static str) -> Registration {
    Registration::new(name, snapshot::<K>, |snapshot: &Snapshot, now| {
        replicaset::reconcile(snapshot, now, &mut suffix)
    })
    .primary::<K>()
    .watch::<Pod>(|cache, change| {
        // With many pods each look is long, and most changes of a pod that starts would only cause another.
        if counts_alike(change) {
            return Vec::new();
        }
        let mut keys = controllers_of::<K>(change);
        keys.extend(orphaned::<K>(cache, change));
        keys
    })
}

/// A pod without a controller may be adopted by whichever of them selects it.
fn orphaned<K: Replicates>(cache: &Cache, change: &Change) -> Vec<Key> {
    let Some(new) = &change.new else { return Vec::new() };
    if new.header().owners.iter().any(|owner| owner.controller) {
        return Vec::new();
    }
    let sets = cache.list::<K>(Some(&change.namespace)).into_iter().map(K::as_replica_set);
    let selecting = sets.filter(|set| {
        let spec = set.spec.as_ref();
        spec.is_some_and(|spec| ownership::selects(&spec.selector, Some(&new.header().labels)))
    });
    selecting
        .map(|set| Key::new(&change.namespace, set.metadata.name.clone().unwrap_or_default()))
        .collect()
}

fn snapshot<K: Replicates>(context: &Context, key: &Key) -> Option<Snapshot> {
    let replica_set = K::as_replica_set(context.cache.get::<K>(&key.namespace, &key.name)?);
    let uid = replica_set.metadata.uid.as_deref();
    let selector = replica_set.spec.as_ref().map(|spec| &spec.selector);
    // Its own, and what may become so or is a neighbour: what the selector without the hash of the template selects.
    let concerns = |pod: &trireme_api::Object| {
        controller_of(pod).is_some_and(|owner| Some(owner) == uid)
            || selector.is_some_and(|selector| replicaset::is_related(selector, &pod.header().labels))
    };
    Some(Snapshot {
        kind: K::KEPT_AS,
        pods: counted_pods(&context.cache, &key.namespace, concerns),
        replica_set,
        failure: match &context.failure {
            Some(Failure::Create(message)) => Some(replicaset::Failure::Create(message.clone())),
            Some(Failure::Delete(message)) => Some(replicaset::Failure::Delete(message.clone())),
            Some(Failure::Subresource(_) | Failure::Other(_)) | None => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;
    use trireme_client::testing::FakeTransport;
    use trireme_client::{Client, Clock, EventRecorder, ResourceRef, SystemClock};

    use super::*;

    /// The pods here have volumes that no type takes: whoever decoded one would go on without it.
    #[tokio::test]
    async fn a_look_at_many_pods_decodes_none() {
        let fake = FakeTransport::new();
        let client = Client::new(fake.clone());
        let shutdown = CancellationToken::new();
        let cache = Cache::new(&client, shutdown.clone());
        let labels = json!({"app": "web"});
        fake.seed(
            &ResourceRef::of::<ReplicaSet>(),
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "d", "uid": "set"},
                "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}}),
        );
        for name in ["a", "b", "c"] {
            let owners =
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "set", "controller": true}]);
            fake.seed(
                &ResourceRef::of::<Pod>(),
                json!({"apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "namespace": "d", "labels": labels, "ownerReferences": owners},
                    "spec": {"containers": [], "volumes": "none that a type takes"},
                    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
            );
        }
        cache
            .synced(&[ResourceRef::of::<Pod>(), ResourceRef::of::<ReplicaSet>()])
            .await;
        assert!(cache.list::<Pod>(None).is_empty(), "a decode refuses them");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let context = Context {
            events: EventRecorder::new(&client, "c", "", Arc::clone(&clock), shutdown.clone()),
            client,
            cache,
            kinds: Arc::new(super::super::kinds()),
            clock,
            failure: None,
        };
        let seen = snapshot::<ReplicaSet>(&context, &Key::new("d", "web")).unwrap();
        let plan = replicaset::reconcile(&seen, context.clock.now(), &mut || unreachable!("there are enough"));
        let [trireme_reconcile::plan::Action::UpdateStatus { object }] = &plan.actions[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (&object["status"]["replicas"], &object["status"]["readyReplicas"]),
            (&json!(3), &json!(3))
        );
        shutdown.cancel();
    }
}
