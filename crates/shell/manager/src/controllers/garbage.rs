//! Garbage collection over every resource that can be listed, watched and deleted. Keys are UIDs.

use trireme_api::{Object, Owner, Status};
use trireme_client::typed::target_of;
use trireme_client::{Cache, Change, Kinds, ResourceRef};
use trireme_reconcile::garbage::{self, FOREGROUND, ORPHAN, OwnerState, Snapshot};

use crate::registration::{Context, Key, Registration};

pub(super) fn registration(kinds: &Kinds) -> Registration {
    // Events own nothing and nobody owns them.
    let resources = kinds.collectable().into_iter().filter(|resource| resource.plural != "events");
    Registration::with_live_snapshot("garbage-collector", snapshot, garbage::reconcile)
        .component("garbage-collector-controller")
        .account("generic-garbage-collector")
        .queue("garbage_collector_attempt_to_delete")
        .workers(20)
        .watch_resources(resources, touched)
        .watch_custom(touched)
}

fn held(object: &Object) -> bool {
    let header = object.header();
    header.deleting
        && header
            .finalizers
            .iter()
            .any(|finalizer| finalizer == FOREGROUND || finalizer == ORPHAN)
}

fn key(uid: &str) -> Key {
    Key::new("", uid)
}

/// Whom a change concerns: the object itself if it got other owners or waits for dependents; its dependents when it is gone or
/// waits for them; its owners when it no longer blocks them.
fn touched(cache: &Cache, change: &Change) -> Vec<Key> {
    let mut keys = Vec::new();
    let Some(object) = change.latest() else { return keys };
    let header = object.header();
    let same_owners = |old: &Object| old.header().uid == header.uid && old.header().owners == header.owners;
    let is_news = !change.old.as_ref().is_some_and(same_owners);
    if change.new.is_some() && ((is_news && !header.owners.is_empty()) || held(object)) {
        keys.push(key(&header.uid));
    }
    let began_to_wait = change.new.is_some() && held(object) && !change.old.as_ref().is_some_and(held);
    let replaced = change.old.as_ref().filter(|old| old.header().uid != header.uid);
    if change.new.is_none() || began_to_wait {
        keys.extend(dependents(cache, &header.uid).map(|dependent| key(&dependent.header().uid)));
    }
    if let Some(replaced) = replaced {
        keys.extend(dependents(cache, &replaced.header().uid).map(|dependent| key(&dependent.header().uid)));
    }
    let before = change
        .old
        .as_ref()
        .map(|old| old.header().owners.as_slice())
        .unwrap_or_default();
    let after = change
        .new
        .as_ref()
        .map(|new| new.header().owners.as_slice())
        .unwrap_or_default();
    if before != after {
        keys.extend(before.iter().map(|owner| key(&owner.uid)));
    }
    keys
}

fn dependents<'a>(cache: &'a Cache, uid: &'a str) -> impl Iterator<Item = Object> + 'a {
    cache
        .resources()
        .into_iter()
        .flat_map(move |resource| cache.objects_by_owner(&resource, uid))
}

async fn snapshot(context: Context, key: Key) -> Result<Option<Snapshot>, Status> {
    let uid = key.name.as_str();
    let known = find(&context.cache, uid);
    let Some((resource, cached)) = known else { return Ok(None) };
    let header = cached.header();
    if header.owners.is_empty() && !held(&cached) {
        return Ok(None);
    }
    let target = target_of(resource, &header.namespace, &header.name, None);
    let object = match context.client.transport().get(&target).await {
        Ok(object) if object.header().uid == uid => object,
        Ok(_) => return Ok(None),
        Err(status) if status.is_not_found() => return Ok(None),
        Err(status) => return Err(status),
    };
    let mut owners = Vec::new();
    if !object.header().deleting {
        for owner in &object.header().owners {
            owners.push(state_of(&context, &object, owner).await?);
        }
    }
    Ok(Some(Snapshot {
        dependents: dependents(&context.cache, uid).collect(),
        object,
        owners,
    }))
}

fn find(cache: &Cache, uid: &str) -> Option<(ResourceRef, Object)> {
    let resources = cache.resources().into_iter();
    resources
        .filter_map(|resource| cache.object_by_uid(&resource, uid).map(|object| (resource, object)))
        .next()
}

fn state(owner: &Object) -> OwnerState {
    if garbage::deletes_dependents(owner) {
        OwnerState::DeletingDependents
    } else {
        OwnerState::Solid
    }
}

/// What became of an owner: from the cache if it is there, else from the API, since the cache may only not have it yet.
async fn state_of(context: &Context, object: &Object, owner: &Owner) -> Result<OwnerState, Status> {
    let Some(resource) = context.kinds.resource(&owner.api_version, &owner.kind) else {
        return Err(Status::bad_request(format!(
            "no resource is known for the owner {} of {}",
            owner.kind, owner.api_version
        )));
    };
    let namespace = object.header().namespace.as_str();
    if resource.namespaced && namespace.is_empty() {
        return Ok(OwnerState::Invalid);
    }
    let namespace = if resource.namespaced { namespace } else { "" };
    if let Some((_, found)) = find(&context.cache, &owner.uid)
        && found.header().name == owner.name
        && found.header().namespace == namespace
    {
        return Ok(state(&found));
    }
    match context
        .client
        .transport()
        .get(&target_of(resource, namespace, &owner.name, None))
        .await
    {
        Ok(found) if found.header().uid == owner.uid => Ok(state(&found)),
        Ok(_) => Ok(OwnerState::Absent),
        Err(status) if status.is_not_found() => Ok(OwnerState::Absent),
        Err(status) => Err(status),
    }
}
