//! PodDisruptionBudgets, and pods that say they are about to be disrupted and are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use trireme_api::Owner;
use trireme_client::{ApiObject, Cache, Change};
use trireme_reconcile::disruption::{self, Scaled, Snapshot, no_controllers};
use trireme_reconcile::ownership::controller_of;

use crate::facts::{counted_pods, counts_alike};
use crate::registration::{Context, Key, Registration};

pub(super) fn registrations() -> [Registration; 2] {
    let budgets = Registration::new("disruption", snapshot, disruption::reconcile)
        .component("controllermanager")
        .account("disruption-controller")
        .primary::<PodDisruptionBudget>()
        .watch::<Pod>(covering)
        .reads::<ReplicationController>()
        .reads::<ReplicaSet>()
        .reads::<Deployment>()
        .reads::<StatefulSet>();
    let stale = Registration::new(
        "stale-pod-disruption",
        |context, key| context.cache.get::<Pod>(&key.namespace, &key.name),
        |pod: &Arc<Pod>, now| disruption::reconcile_stale(pod, now),
    )
    .component("controllermanager")
    .account("disruption-controller")
    .queue("stale_pod_disruption")
    .watch::<Pod>(|cache, change| {
        let pod = change.new.as_ref().filter(|object| object.mentions("DisruptionTarget"));
        let pod = pod.and_then(|object| cache.typed::<Pod>(object));
        let says = pod.is_some_and(|pod| disruption::says_disrupted(&pod).is_some());
        if says { vec![Key::of(change)] } else { Vec::new() }
    });
    [budgets, stale]
}

/// The budgets that select a pod as it is or as it was.
fn covering(cache: &Cache, change: &Change) -> Vec<Key> {
    if counts_alike(change) {
        return Vec::new();
    }
    let budgets = cache.list::<PodDisruptionBudget>(Some(&change.namespace));
    let states: Vec<_> = change
        .old
        .iter()
        .chain(&change.new)
        .map(|object| &object.header().labels)
        .collect();
    let covering = budgets
        .iter()
        .filter(|budget| states.iter().any(|labels| disruption::selects(budget, Some(labels))));
    covering
        .map(|budget| Key::new(&change.namespace, budget.metadata.name.clone().unwrap_or_default()))
        .collect()
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    let budget = context.cache.get::<PodDisruptionBudget>(&key.namespace, &key.name)?;
    let pods = counted_pods(&context.cache, &key.namespace, |pod| {
        disruption::selects(&budget, Some(&pod.header().labels))
    });
    let mut scales = BTreeMap::new();
    for pod in &pods {
        let header = pod.header();
        if let Some(owner) = header.owners.iter().find(|owner| owner.controller)
            && !scales.contains_key(&owner.uid)
        {
            let scale = scale(&context.cache, (&key.namespace, &header.name), owner);
            scales.insert(owner.uid.clone(), scale);
        }
    }
    Some(Snapshot { budget, pods, scales })
}

/// Who says how many pods there should be of those that a controller makes.
fn scale(cache: &Cache, (namespace, pod): (&str, &str), owner: &Owner) -> Result<Scaled, String> {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let found = match (group, owner.kind.as_str()) {
        ("", "ReplicationController") => {
            let controller = held::<ReplicationController>(cache, namespace, (&owner.name, &owner.uid));
            controller.map(|controller| controller.spec.as_ref().and_then(|spec| spec.replicas))
        }
        ("apps" | "extensions", "ReplicaSet") => {
            let set = held::<ReplicaSet>(cache, namespace, (&owner.name, &owner.uid));
            let above = set
                .as_ref()
                .and_then(|set| controller_of(&set.metadata))
                .filter(|above| above.kind == Deployment::KIND);
            if let Some(above) = above
                && let Some(deployment) = held::<Deployment>(cache, namespace, (&above.name, &above.uid))
            {
                return Ok(scaled(&above.uid, deployment.spec.as_ref().and_then(|spec| spec.replicas)));
            }
            set.map(|set| set.spec.as_ref().and_then(|spec| spec.replicas))
        }
        ("apps", "StatefulSet") => {
            let set = held::<StatefulSet>(cache, namespace, (&owner.name, &owner.uid));
            set.map(|set| set.spec.as_ref().and_then(|spec| spec.replicas))
        }
        (group, kind) => {
            return Err(match trireme_resources::find_kind(group, version, kind) {
                None => format!("no matches for kind {kind:?} in version {:?}", owner.api_version),
                Some(row) if group.is_empty() => format!("{} does not implement the scale subresource", row.plural),
                Some(row) => format!("{}.{group} does not implement the scale subresource", row.plural),
            });
        }
    };
    found
        .map(|replicas| scaled(&owner.uid, replicas))
        .ok_or_else(|| no_controllers(pod))
}

fn scaled(by: &str, replicas: Option<i32>) -> Scaled {
    Scaled {
        uid: by.to_owned(),
        replicas: replicas.unwrap_or(1),
    }
}

/// The very object that a reference means.
fn held<K: ApiObject>(cache: &Cache, namespace: &str, (name, uid): (&str, &str)) -> Option<Arc<K>> {
    let object = cache.get::<K>(namespace, name)?;
    (object.metadata().uid.as_deref() == Some(uid)).then_some(object)
}
