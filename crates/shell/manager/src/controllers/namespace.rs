//! Deletion of namespaces. The snapshot of a namespace that is being deleted lists every resource live.

use k8s_openapi::api::core::v1::Namespace;
use trireme_api::Status;
use trireme_client::{Cache, Change, Kinds, ListOptions, ResourceRef};
use trireme_reconcile::namespace::{self, Contents, Snapshot};

use crate::registration::{Context, Key, Registration};

pub(super) fn registration(kinds: &Kinds) -> Registration {
    // Events come and go in numbers; they are listed like all else, but nobody waits for their end.
    let contents = kinds.collectable().into_iter();
    let contents = contents.filter(|resource| resource.namespaced && resource.plural != "events");
    Registration::with_live_snapshot("namespace", snapshot, namespace::reconcile)
        .component("namespace-controller")
        .account("namespace-controller")
        .workers(10)
        .watch::<Namespace>(|_, change| vec![Key::new("", &change.name)])
        .watch_resources(contents, emptied)
        .watch_custom(emptied)
}

/// A deletion within a namespace that is itself being deleted.
fn emptied(cache: &Cache, change: &Change) -> Vec<Key> {
    if change.new.is_some() {
        return Vec::new();
    }
    let namespace = cache.object(&ResourceRef::of::<Namespace>(), "", &change.namespace);
    match namespace {
        Some(namespace) if namespace.header().deleting => vec![Key::new("", &change.namespace)],
        _ => Vec::new(),
    }
}

async fn snapshot(context: Context, key: Key) -> Result<Option<Snapshot>, Status> {
    let Some(namespace) = context.cache.get::<Namespace>("", &key.name) else {
        return Ok(None);
    };
    let (mut contents, mut failures) = (Vec::new(), Vec::new());
    if namespace.metadata.deletion_timestamp.is_some() {
        for resource in context.kinds.collectable() {
            if !resource.namespaced {
                continue;
            }
            let listed = context
                .client
                .transport()
                .list(&resource, Some(&key.name), &ListOptions::default())
                .await;
            match listed {
                Ok(list) => contents.push(Contents {
                    group: resource.group.to_string(),
                    plural: resource.plural.to_string(),
                    objects: list.items,
                }),
                Err(status) => failures.push(status.message),
            }
        }
    }
    Ok(Some(Snapshot {
        namespace,
        contents,
        failures,
    }))
}
