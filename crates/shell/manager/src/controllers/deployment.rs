//! Deployments.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use trireme_client::{Cache, Change};
use trireme_reconcile::deployment::{self, Snapshot};
use trireme_reconcile::ownership;

use crate::facts::counted_pods;
use crate::registration::{Context, Key, Registration};

pub(super) fn registration() -> Registration {
    Registration::new("deployment", snapshot, deployment::reconcile)
        .component("deployment-controller")
        .account("deployment-controller")
        .primary::<Deployment>()
        .controlled::<ReplicaSet, Deployment>()
        .watch::<ReplicaSet>(orphaned)
        .watch::<Pod>(finished)
}

/// A ReplicaSet without a controller may be adopted by whichever Deployment selects it.
fn orphaned(cache: &Cache, change: &Change) -> Vec<Key> {
    let Some(new) = &change.new else { return Vec::new() };
    if new.header().owners.iter().any(|owner| owner.controller) {
        return Vec::new();
    }
    let deployments = cache.list::<Deployment>(Some(&change.namespace));
    let selecting = deployments.iter().filter(|deployment| {
        let spec = deployment.spec.as_ref();
        spec.is_some_and(|spec| ownership::selects(&spec.selector, Some(&new.header().labels)))
    });
    selecting.filter_map(|deployment| key_of(&deployment.metadata)).collect()
}

/// Recreate waits until the pods of the old ReplicaSets are gone.
fn finished(cache: &Cache, change: &Change) -> Vec<Key> {
    if change.new.is_some() {
        return Vec::new();
    }
    let Some(old) = &change.old else { return Vec::new() };
    let mut sets = old
        .header()
        .owners
        .iter()
        .filter(|owner| owner.controller && owner.kind == "ReplicaSet");
    let set = sets
        .next()
        .and_then(|owner| cache.get::<ReplicaSet>(&change.namespace, &owner.name));
    let owner = set.as_ref().and_then(|set| ownership::controller_of(&set.metadata));
    let owner = owner.filter(|owner| owner.kind == "Deployment");
    owner
        .map(|owner| Key::new(&change.namespace, &owner.name))
        .into_iter()
        .collect()
}

fn key_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<Key> {
    Some(Key::new(metadata.namespace.clone()?, metadata.name.clone()?))
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    let deployment = context.cache.get::<Deployment>(&key.namespace, &key.name)?;
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let recreates = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
    Some(Snapshot {
        replica_sets: context.cache.list::<ReplicaSet>(Some(&key.namespace)),
        // Only those of ReplicaSets matter, and only to Recreate.
        pods: if recreates {
            counted_pods(&context.cache, &key.namespace, |pod| {
                let mut owners = pod.header().owners.iter();
                owners.any(|owner| owner.controller && owner.kind == "ReplicaSet")
            })
        } else {
            Vec::new()
        },
        deployment,
    })
}
