//! Volumes on nodes' own disks: orders go to the nodes, what came of them to the API.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;
use trireme_api::Status;
use trireme_api::volume::class_of;
use trireme_client::{ApiObject, Cache, Change, ResourceRef};
use trireme_reconcile::local_volume::{
    self as core, Answer, ClaimSnapshot, Due, Order, PROVISIONER, VolumeSnapshot, Wanted, reconcile_claim, reconcile_volume,
};

use crate::registration::{Context, Key, Registration};

/// The nodes' disks. Every order may be given again.
#[async_trait]
pub trait LocalVolumes: Send + Sync + 'static {
    /// Has a node make a volume, or make it larger.
    async fn ensure(&self, node: &Value, order: &Order) -> Answer;
    /// Has a node remove a volume with its data.
    async fn remove(&self, node: &Value, name: &str) -> Answer;
}

const ACCOUNT: &str = "local-volume-provisioner";

pub(super) fn registrations(disks: &Arc<dyn LocalVolumes>) -> [Registration; 2] {
    let (makes, keeps) = (Arc::clone(disks), Arc::clone(disks));
    [
        Registration::with_live_snapshot(
            "local-volume-provisioner",
            move |context, key| claim(context, key, Arc::clone(&makes)),
            reconcile_claim,
        )
        .component(PROVISIONER)
        .account(ACCOUNT)
        .primary::<PersistentVolumeClaim>()
        .watch::<StorageClass>(|cache, _| asking_claims(cache))
        .reads::<PersistentVolume>()
        .reads::<Node>(),
        Registration::with_live_snapshot(
            "local-volume-keeper",
            move |context, key| volume(context, key, Arc::clone(&keeps)),
            reconcile_volume,
        )
        .component(PROVISIONER)
        .account(ACCOUNT)
        .primary::<PersistentVolume>()
        .watch::<PersistentVolumeClaim>(|_, change| volume_of_claim(change))
        .watch::<Node>(|cache, change| match change.new {
            Some(_) => Vec::new(),
            None => made_volumes(cache),
        })
        .reads::<StorageClass>(),
    ]
}

fn object<K: ApiObject>(cache: &Cache, namespace: &str, name: &str) -> Option<Value> {
    let object = cache.object(&ResourceRef::of::<K>(), namespace, name)?;
    Some(object.value())
}

fn keys_mentioning<K: ApiObject>(cache: &Cache) -> Vec<Key> {
    let objects = cache.objects(&ResourceRef::of::<K>(), None);
    let ours = objects.iter().filter(|object| object.mentions(PROVISIONER));
    ours.map(|object| Key::new(&object.header().namespace, &object.header().name))
        .collect()
}

fn asking_claims(cache: &Cache) -> Vec<Key> {
    keys_mentioning::<PersistentVolumeClaim>(cache)
}

fn made_volumes(cache: &Cache) -> Vec<Key> {
    keys_mentioning::<PersistentVolume>(cache)
}

/// The volume of a claim that may have grown.
fn volume_of_claim(change: &Change) -> Vec<Key> {
    let Some(claim) = change.new.as_ref().filter(|claim| claim.mentions(PROVISIONER)) else {
        return Vec::new();
    };
    let claim = claim.value();
    let name = claim["spec"]["volumeName"].as_str().unwrap_or_default();
    if name.is_empty() {
        Vec::new()
    } else {
        vec![Key::new("", name)]
    }
}

async fn claim(context: Context, key: Key, disks: Arc<dyn LocalVolumes>) -> Result<Option<ClaimSnapshot>, Status> {
    let cache = &context.cache;
    let Some(claim) = object::<PersistentVolumeClaim>(cache, &key.namespace, &key.name) else {
        return Ok(None);
    };
    let Some(class) = object::<StorageClass>(cache, "", class_of(&claim)) else {
        return Ok(None);
    };
    if object::<PersistentVolume>(cache, "", &core::volume_name(&claim)).is_some() {
        return Ok(None);
    }
    let (node, answer) = match core::order(&claim, &class) {
        Wanted::Nothing => return Ok(None),
        Wanted::Refused(why) => (None, Answer::Refused(why.to_owned())),
        Wanted::Volume(order) => match object::<Node>(cache, "", &order.node) {
            None => (None, Answer::Gone),
            Some(node) => {
                let answer = disks.ensure(&node, &order).await;
                (Some(node), answer)
            }
        },
    };
    Ok(Some(ClaimSnapshot {
        claim,
        class,
        node,
        answer,
    }))
}

async fn volume(context: Context, key: Key, disks: Arc<dyn LocalVolumes>) -> Result<Option<VolumeSnapshot>, Status> {
    let cache = &context.cache;
    let Some(volume) = object::<PersistentVolume>(cache, "", &key.name) else {
        return Ok(None);
    };
    let reference = &volume["spec"]["claimRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let claim = object::<PersistentVolumeClaim>(cache, &text(&reference["namespace"]), &text(&reference["name"]));
    let class = object::<StorageClass>(cache, "", class_of(&volume));
    let due = core::due(&volume, claim.as_ref(), class.as_ref());
    let answer = match &due {
        Due::Nothing => return Ok(None),
        Due::Leave => Answer::Done(String::new()),
        Due::Remove { node, name } => match object::<Node>(cache, "", node) {
            None => Answer::Gone,
            Some(node) => disks.remove(&node, name).await,
        },
        Due::Grow(order) => match object::<Node>(cache, "", &order.node) {
            None => Answer::Gone,
            Some(node) => disks.ensure(&node, order).await,
        },
    };
    Ok(Some(VolumeSnapshot {
        volume,
        claim,
        due,
        answer,
    }))
}
