//! ReplicaSets.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use trireme_client::{Cache, Change};
use trireme_reconcile::ownership;
use trireme_reconcile::replicaset::{self, Snapshot};

use super::suffix;
use crate::registration::{Context, Failure, Key, Registration};

pub(super) fn registration() -> Registration {
    Registration::new("replicaset", snapshot, |snapshot: &Snapshot, now| {
        replicaset::reconcile(snapshot, now, &mut suffix)
    })
    .component("replicaset-controller")
    .account("replicaset-controller")
    .primary::<ReplicaSet>()
    .controlled::<Pod, ReplicaSet>()
    .watch::<Pod>(orphaned)
}

/// A pod without a controller may be adopted by whichever ReplicaSet selects it.
fn orphaned(cache: &Cache, change: &Change) -> Vec<Key> {
    let Some(new) = &change.new else { return Vec::new() };
    if new.header().owners.iter().any(|owner| owner.controller) {
        return Vec::new();
    }
    let sets = cache.list::<ReplicaSet>(Some(&change.namespace));
    let selecting = sets.iter().filter(|set| {
        let spec = set.spec.as_ref();
        spec.is_some_and(|spec| ownership::selects(&spec.selector, Some(&new.header().labels)))
    });
    selecting
        .map(|set| Key::new(&change.namespace, set.metadata.name.clone().unwrap_or_default()))
        .collect()
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    Some(Snapshot {
        replica_set: context.cache.get::<ReplicaSet>(&key.namespace, &key.name)?,
        pods: context.cache.list::<Pod>(Some(&key.namespace)),
        failure: match &context.failure {
            Some(Failure::Create(message)) => Some(replicaset::Failure::Create(message.clone())),
            Some(Failure::Delete(message)) => Some(replicaset::Failure::Delete(message.clone())),
            Some(Failure::Other(_)) | None => None,
        },
    })
}
