//! Use of ResourceQuotas. Quota and contents are read live, in this order: see the reconciler's invariant.

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::Value;
use trireme_api::{Object, Status};
use trireme_client::{Cache, Change, Kinds, ListOptions, ResourceRef};
use trireme_reconcile::namespace::Contents;
use trireme_reconcile::resource_quota::{self, Snapshot, has_content, is_counted};
use trireme_resources::quota;

use crate::registration::{Context, Key, Registration};

pub(super) fn registration(kinds: &Kinds) -> Registration {
    let quotas = ResourceRef::of::<ResourceQuota>();
    let contents = counted(kinds).filter(|resource| *resource != quotas);
    Registration::with_live_snapshot("resource-quota", snapshot, resource_quota::reconcile)
        .component("resourcequota-controller")
        .account("resourcequota-controller")
        .queue("resourcequota_primary")
        .watch::<ResourceQuota>(|cache, change| {
            let mut keys = freed(cache, change);
            if is_asked_anew(change) {
                keys.push(Key::of(change));
            }
            keys
        })
        .watch_resources(contents, freed)
        .watch_custom(freed)
}

/// All that a quota can count.
fn counted(kinds: &Kinds) -> impl Iterator<Item = ResourceRef> {
    let all = kinds.collectable().into_iter();
    all.filter(|resource| resource.namespaced && is_counted(&resource.group, &resource.plural))
}

/// A new quota, or one whose limits changed. A new status is our own doing or admission's.
fn is_asked_anew(change: &Change) -> bool {
    let hard = |object: &Option<Object>| object.as_ref().map(|object| object.value()["spec"]["hard"].take());
    change.new.is_some() && hard(&change.old) != hard(&change.new)
}

/// The quotas of a namespace where an object went, or uses or is something else than before.
fn freed(cache: &Cache, change: &Change) -> Vec<Key> {
    let quotas = cache.objects(&ResourceRef::of::<ResourceQuota>(), Some(&change.namespace));
    let (group, plural) = (&*change.resource.group, &*change.resource.plural);
    let released = match (&change.old, &change.new) {
        _ if quotas.is_empty() => false,
        (Some(_), None) => true,
        (Some(old), Some(new)) if has_content(group, plural) => {
            let (old, new) = (old.value(), new.value());
            let ends = |pod: &Value| plural == "pods" && quota::is_terminating(pod);
            quota::usage(group, plural, &old) != quota::usage(group, plural, &new) || ends(&old) != ends(&new)
        }
        _ => false,
    };
    if !released {
        return Vec::new();
    }
    let concerned = quotas.iter().filter(|held| names(held, group, plural));
    concerned
        .map(|held| Key::new(&change.namespace, &held.header().name))
        .collect()
}

/// Whether a quota names something that objects of this resource count against.
fn names(held: &Object, group: &str, plural: &str) -> bool {
    let hard = held.value()["spec"]["hard"].take();
    let mut names = hard.as_object().into_iter().flatten();
    names.any(|(name, _)| quota::counts(group, plural, name))
}

async fn snapshot(context: Context, key: Key) -> Result<Option<Snapshot>, Status> {
    let transport = context.client.transport();
    // By a list: the role of this controller has no `get`.
    let options = ListOptions {
        field_selector: Some(format!("metadata.name={}", key.name)),
        ..ListOptions::default()
    };
    let quotas = ResourceRef::of::<ResourceQuota>();
    let held = transport.list(&quotas, Some(&key.namespace), &options).await?.items;
    let Some(quota) = held.into_iter().next() else {
        return Ok(None);
    };
    let mut contents = Vec::new();
    for resource in counted(&context.kinds) {
        if names(&quota, &resource.group, &resource.plural) {
            let list = transport
                .list(&resource, Some(&key.namespace), &ListOptions::default())
                .await?;
            contents.push(Contents {
                group: resource.group.to_string(),
                plural: resource.plural.to_string(),
                objects: list.items,
            });
        }
    }
    Ok(Some(Snapshot { quota, contents }))
}
