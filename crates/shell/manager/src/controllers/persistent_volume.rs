//! Claims and volumes: the binder on either side, claims of generic ephemeral volumes, and claims that are to grow.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;
use trireme_api::volume::{annotation, class_of};
use trireme_api::{Object, Status};
use trireme_client::{ApiObject, Cache, Change, ResourceRef};
use trireme_reconcile::persistent_volume::{
    ClaimSnapshot, Class, EphemeralSnapshot, ExpandSnapshot, VolumeSnapshot, default_class, ephemeral_claim_name,
    reconcile_claim, reconcile_ephemeral, reconcile_expand, reconcile_volume,
};

use crate::registration::{Context, Key, Registration};

pub(super) fn registrations() -> [Registration; 4] {
    [
        // One claim at a time: two that looked at once might choose the same volume.
        Registration::new("persistentvolume-binder", claim, reconcile_claim)
            .component("persistentvolume-controller")
            .account("persistent-volume-binder")
            .queue("claims")
            .workers(1)
            .primary::<PersistentVolumeClaim>()
            .watch::<PersistentVolume>(claims_of_volume)
            .watch::<StorageClass>(|cache, _| pending_claims(cache, None))
            .watch::<Pod>(claims_of_new_pod),
        Registration::with_live_snapshot("persistentvolume-reclaimer", volume, reconcile_volume)
            .component("persistentvolume-controller")
            .account("persistent-volume-binder")
            .queue("volumes")
            .workers(1)
            .primary::<PersistentVolume>()
            .watch::<PersistentVolumeClaim>(|_, change| volumes_of_claim(change)),
        Registration::new("ephemeral-volume", ephemeral, reconcile_ephemeral)
            .component("ephemeral_volume")
            .account("ephemeral-volume-controller")
            .queue("ephemeral_volume")
            .watch::<Pod>(|_, change| match (&change.old, &change.new) {
                (None, Some(pod)) if pod.mentions("\"ephemeral\"") => vec![Key::of(change)],
                _ => Vec::new(),
            })
            .watch::<PersistentVolumeClaim>(owner_of_gone_claim),
        Registration::new("persistentvolume-expander", expand, reconcile_expand)
            .component("volume_expand")
            .account("expand-controller")
            .queue("volume_expand")
            .primary::<PersistentVolumeClaim>()
            .reads::<PersistentVolume>(),
    ]
}

fn object<K: ApiObject>(cache: &Cache, namespace: &str, name: &str) -> Option<Value> {
    let object = cache.object(&ResourceRef::of::<K>(), namespace, name)?;
    Some(object.value())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Claims that look for a volume, of one class or of all.
fn pending_claims(cache: &Cache, class: Option<&str>) -> Vec<Key> {
    let claims = cache.objects(&ResourceRef::of::<PersistentVolumeClaim>(), None);
    let open = claims.iter().filter(|claim| !claim.mentions(annotation::BIND_COMPLETED));
    open.filter(|claim| class.is_none_or(|class| class.is_empty() || claim.mentions(class)))
        .map(key_of)
        .collect()
}

fn key_of(object: &Object) -> Key {
    let header = object.header();
    Key::new(&header.namespace, &header.name)
}

/// The claim that a volume is and was meant for; those that look for one where it is nobody's.
fn claims_of_volume(cache: &Cache, change: &Change) -> Vec<Key> {
    let mut keys = Vec::new();
    for volume in change.old.iter().chain(&change.new) {
        let volume = volume.value();
        let reference = &volume["spec"]["claimRef"];
        let key = Key::new(text(&reference["namespace"]), text(&reference["name"]));
        if reference.is_object() && !keys.contains(&key) {
            keys.push(key);
        }
    }
    if let Some(volume) = change.new.as_ref().map(Object::value)
        && volume["spec"]["claimRef"].is_null()
    {
        keys.extend(pending_claims(cache, Some(class_of(&volume))));
    }
    keys
}

/// Claims of a pod that was just made: what they wait for has a name now.
fn claims_of_new_pod(cache: &Cache, change: &Change) -> Vec<Key> {
    let (None, Some(pod)) = (&change.old, &change.new) else {
        return Vec::new();
    };
    if !pod.mentions("\"persistentVolumeClaim\"") && !pod.mentions("\"ephemeral\"") {
        return Vec::new();
    }
    let Some(pod) = cache.typed::<Pod>(pod) else {
        return Vec::new();
    };
    let names = claim_names(&pod).map(|name| Key::new(&change.namespace, name));
    names.collect()
}

/// Names of the claims that a pod uses.
fn claim_names(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| ephemeral_claim_name(pod, &volume.name)),
    })
}

/// The volume that a claim got, lost or leaves behind.
fn volumes_of_claim(change: &Change) -> Vec<Key> {
    let named = |object: &Option<Object>| {
        let value = object.as_ref().map(Object::value);
        value
            .map(|value| text(&value["spec"]["volumeName"]).to_owned())
            .unwrap_or_default()
    };
    let (old, new) = (named(&change.old), named(&change.new));
    if change.new.is_some() && old == new {
        return Vec::new();
    }
    let mut keys: Vec<Key> = [old, new]
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(|name| Key::new("", name))
        .collect();
    keys.dedup();
    keys
}

fn claim(context: &Context, key: &Key) -> Option<ClaimSnapshot> {
    let cache = &context.cache;
    let claim = object::<PersistentVolumeClaim>(cache, &key.namespace, &key.name)?;
    let annotations = &claim["metadata"]["annotations"];
    let named = text(&claim["spec"]["volumeName"]);
    let open = named.is_empty() && annotations[annotation::BIND_COMPLETED].is_null();
    if !open {
        return Some(ClaimSnapshot {
            volumes: object::<PersistentVolume>(cache, "", named).into_iter().collect(),
            claim,
            class: None,
            default_class: None,
            unscheduled: Vec::new(),
        });
    }
    // The bytes are asked first: most volumes of a cluster are bound, and to others.
    let quoted = format!("\"{}\"", key.name);
    let volumes = cache.objects(&ResourceRef::of::<PersistentVolume>(), None);
    let mut volumes: Vec<Value> = volumes
        .iter()
        .filter(|volume| volume.mentions("\"Available\"") || volume.mentions(&quoted))
        .map(Object::value)
        .collect();
    volumes.sort_by(|a, b| text(&a["metadata"]["name"]).cmp(text(&b["metadata"]["name"])));
    let class = object::<StorageClass>(cache, "", class_of(&claim)).map(|class| Class::read(&class));
    let classes = cache.objects(&ResourceRef::of::<StorageClass>(), None);
    let classes: Vec<Value> = classes.iter().map(Object::value).collect();
    let waits = class.as_ref().is_some_and(|class| class.waits) && annotations[annotation::SELECTED_NODE].is_null();
    Some(ClaimSnapshot {
        volumes,
        class,
        default_class: default_class(&classes).map(str::to_owned),
        unscheduled: if waits { unscheduled(cache, key) } else { Vec::new() },
        claim,
    })
}

/// Names of a claim's pods that have no node and have not ended, sorted.
fn unscheduled(cache: &Cache, key: &Key) -> Vec<String> {
    let pods = cache.select::<Pod>(Some(&key.namespace), |pod| {
        pod.mentions("\"persistentVolumeClaim\"") || pod.mentions("\"ephemeral\"")
    });
    let waiting = pods.iter().filter(|pod| {
        let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        placed.unwrap_or_default().is_empty()
            && !matches!(phase, Some("Failed" | "Succeeded"))
            && claim_names(pod).any(|name| name == key.name)
    });
    let mut names: Vec<String> = waiting.filter_map(|pod| pod.metadata.name.clone()).collect();
    names.sort();
    names
}

async fn volume(context: Context, key: Key) -> Result<Option<VolumeSnapshot>, Status> {
    let cache = &context.cache;
    let Some(volume) = object::<PersistentVolume>(cache, "", &key.name) else {
        return Ok(None);
    };
    let reference = &volume["spec"]["claimRef"];
    let (namespace, name, uid) = (
        text(&reference["namespace"]),
        text(&reference["name"]),
        text(&reference["uid"]),
    );
    let mut claim = None;
    if !uid.is_empty() {
        claim = object::<PersistentVolumeClaim>(cache, namespace, name);
        // The view of claims may be behind that of volumes, and what follows is not to be undone.
        let missing = claim.as_ref().is_none_or(|claim| claim["metadata"]["uid"] != uid);
        if missing && !matches!(text(&volume["status"]["phase"]), "Released" | "Failed") {
            let found = context.client.find::<PersistentVolumeClaim>(namespace, name).await?;
            claim = found.and_then(|found| serde_json::to_value(&*found).ok());
        }
    }
    Ok(Some(VolumeSnapshot { volume, claim }))
}

/// A claim of an ephemeral volume that is gone is made anew for its pod.
fn owner_of_gone_claim(_: &Cache, change: &Change) -> Vec<Key> {
    let (Some(claim), None) = (&change.old, &change.new) else {
        return Vec::new();
    };
    let owners = claim.header().owners.iter();
    owners
        .filter(|owner| owner.controller && owner.kind == "Pod")
        .map(|owner| Key::new(&change.namespace, &owner.name))
        .collect()
}

fn ephemeral(context: &Context, key: &Key) -> Option<EphemeralSnapshot> {
    let pod = context.cache.get::<Pod>(&key.namespace, &key.name)?;
    let names: BTreeMap<_, _> = claim_names(&pod)
        .filter_map(|name| {
            let claim = context.cache.get::<PersistentVolumeClaim>(&key.namespace, &name)?;
            Some((name, claim))
        })
        .collect();
    Some(EphemeralSnapshot { pod, claims: names })
}

fn expand(context: &Context, key: &Key) -> Option<ExpandSnapshot> {
    let claim = object::<PersistentVolumeClaim>(&context.cache, &key.namespace, &key.name)?;
    let volume = object::<PersistentVolume>(&context.cache, "", text(&claim["spec"]["volumeName"]))?;
    let built_in = volume["metadata"]["annotations"][annotation::PROVISIONED_BY] == trireme_reconcile::local_volume::PROVISIONER;
    (!built_in).then_some(ExpandSnapshot { claim, volume })
}
