//! StatefulSets.

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use trireme_client::{Cache, Change};
use trireme_reconcile::ownership;
use trireme_reconcile::statefulset::{self, Snapshot, is_claim_of, parent_and_ordinal};

use crate::facts::controller_of;
use crate::registration::{Context, Key, Registration};

pub(super) fn registration() -> Registration {
    Registration::new("statefulset", snapshot, statefulset::reconcile)
        .component("statefulset-controller")
        .account("statefulset-controller")
        .primary::<StatefulSet>()
        .controlled::<Pod, StatefulSet>()
        .watch::<Pod>(uncontrolled)
        .controlled::<ControllerRevision, StatefulSet>()
        .watch::<PersistentVolumeClaim>(removed_claim)
}

/// A pod without a controller may be adopted by the set that it is named after; a pod of such a name that is gone makes room.
fn uncontrolled(cache: &Cache, change: &Change) -> Vec<Key> {
    let object = change.new.as_ref().or(change.old.as_ref());
    let Some(object) = object else { return Vec::new() };
    if object
        .header()
        .owners
        .iter()
        .any(|owner| owner.controller && owner.kind == "StatefulSet")
    {
        return Vec::new(); // It is told of already.
    }
    let parent = change.name.rsplit_once('-').map(|(parent, _)| parent);
    let set = parent.and_then(|parent| cache.get::<StatefulSet>(&change.namespace, parent));
    let spec = set.as_ref().and_then(|set| set.spec.as_ref());
    let wakes = spec.is_some_and(|spec| {
        let selected = ownership::selects(&spec.selector, Some(&object.header().labels));
        change.new.is_none() || selected
    });
    let key = parent.filter(|_| wakes).map(|parent| Key::new(&change.namespace, parent));
    key.into_iter().collect()
}

/// A claim that is gone may have held a pod back.
fn removed_claim(cache: &Cache, change: &Change) -> Vec<Key> {
    if change.new.is_some() {
        return Vec::new();
    }
    let sets = cache.list::<StatefulSet>(Some(&change.namespace));
    let held_back = sets.iter().filter(|set| is_claim_of(set, &change.name));
    held_back
        .map(|set| Key::new(&change.namespace, set.metadata.name.clone().unwrap_or_default()))
        .collect()
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    let cache = &context.cache;
    let set = cache.get::<StatefulSet>(&key.namespace, &key.name)?;
    let templates = set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_ref());
    let has_claims = templates.is_some_and(|templates| !templates.is_empty());
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let pods = cache.select::<Pod>(Some(&key.namespace), |pod| match controller_of(pod) {
        Some(owner) => owner == uid,
        None => pod.header().name.starts_with(&key.name),
    });
    Some(Snapshot {
        // Others of the namespace are neither the set's nor could become so.
        pods: pods
            .into_iter()
            .filter(|pod| match ownership::controller_of(&pod.metadata) {
                Some(owner) => owner.uid == uid,
                None => parent_and_ordinal(pod).is_some_and(|(parent, _)| parent == key.name),
            })
            .collect(),
        revisions: cache.list::<ControllerRevision>(Some(&key.namespace)),
        claims: if has_claims {
            cache.list::<PersistentVolumeClaim>(Some(&key.namespace))
        } else {
            Vec::new()
        },
        set,
    })
}
