//! Claims, volumes and classes of volume attributes go when nobody uses them: one controller each.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::Value;
use trireme_client::{ApiObject, Cache, Change, ResourceRef};
use trireme_reconcile::storage_protection::{self as core, Kind, Snapshot};

use crate::registration::{Context, Key, Registration};

pub(super) fn registrations() -> [Registration; 3] {
    [
        Registration::new("pvc-protection", claim, core::reconcile)
            .component("pvc-protection-controller")
            .account("pvc-protection-controller")
            .queue("pvcprotection")
            .primary::<PersistentVolumeClaim>()
            .watch::<Pod>(claims_of),
        Registration::new("pv-protection", volume, core::reconcile)
            .component("pv-protection-controller")
            .account("pv-protection-controller")
            .queue("pvprotection")
            .primary::<PersistentVolume>(),
        Registration::new("vac-protection", class, core::reconcile)
            .component("vac-protection-controller")
            .account("volumeattributesclass-protection-controller")
            .queue("vacprotection")
            .primary::<VolumeAttributesClass>()
            .watch::<PersistentVolumeClaim>(|cache, _| going::<VolumeAttributesClass>(cache, None))
            .watch::<PersistentVolume>(|cache, _| going::<VolumeAttributesClass>(cache, None)),
    ]
}

/// Claims of a namespace that wait for a pod to go.
fn claims_of(cache: &Cache, change: &Change) -> Vec<Key> {
    if change.new.is_some() {
        Vec::new()
    } else {
        going::<PersistentVolumeClaim>(cache, Some(&change.namespace))
    }
}

/// What is being deleted.
fn going<K: ApiObject>(cache: &Cache, namespace: Option<&str>) -> Vec<Key> {
    let objects = cache.objects(&ResourceRef::of::<K>(), namespace);
    let going = objects.iter().map(|object| object.header());
    going
        .filter(|header| header.deleting)
        .map(|header| Key::new(&header.namespace, &header.name))
        .collect()
}

/// An object, typed and whole.
fn held<K: ApiObject>(context: &Context, key: &Key) -> Option<(Arc<K>, Value)> {
    let object = context.cache.object(&ResourceRef::of::<K>(), &key.namespace, &key.name)?;
    Some((context.cache.typed::<K>(&object)?, object.value()))
}

fn claim(context: &Context, key: &Key) -> Option<Snapshot> {
    let (claim, object) = held::<PersistentVolumeClaim>(context, key)?;
    let pods = context.cache.select::<Pod>(Some(&key.namespace), |pod| {
        pod.mentions("\"persistentVolumeClaim\"") || pod.mentions("\"ephemeral\"")
    });
    Some(Snapshot {
        kind: Kind::Claim,
        object,
        in_use: pods.iter().any(|pod| core::uses_claim(pod, &claim)),
    })
}

fn volume(context: &Context, key: &Key) -> Option<Snapshot> {
    let (volume, object) = held::<PersistentVolume>(context, key)?;
    Some(Snapshot {
        kind: Kind::Volume,
        object,
        in_use: core::is_bound(&volume),
    })
}

fn class(context: &Context, key: &Key) -> Option<Snapshot> {
    let (_, object) = held::<VolumeAttributesClass>(context, key)?;
    let claims = context.cache.list::<PersistentVolumeClaim>(None);
    let volumes = context.cache.list::<PersistentVolume>(None);
    Some(Snapshot {
        kind: Kind::Class,
        object,
        in_use: claims.iter().any(|claim| core::claim_has_class(claim, &key.name))
            || volumes.iter().any(|volume| core::volume_has_class(volume, &key.name)),
    })
}
