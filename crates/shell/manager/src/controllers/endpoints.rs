//! Endpoints of Services with a selector.

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use trireme_client::{Cache, Change};
use trireme_reconcile::endpoints::{self, Snapshot};

use crate::registration::{Context, Key, Registration};

pub(super) fn registration() -> Registration {
    Registration::new("endpoints", snapshot, |snapshot: &Snapshot, _| endpoints::reconcile(snapshot))
        .component("endpoint-controller")
        .account("endpoint-controller")
        .queue("endpoint")
        .primary::<Service>()
        .primary::<Endpoints>()
        .watch::<Pod>(selecting)
}

/// The Services that select a pod as it is or as it was.
pub(super) fn selecting(cache: &Cache, change: &Change) -> Vec<Key> {
    let states: Vec<_> = change
        .old
        .iter()
        .chain(&change.new)
        .map(|object| &object.header().labels)
        .collect();
    let services = cache.list::<Service>(Some(&change.namespace));
    let concerned = services.iter().filter(|service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.filter(|selector| !selector.is_empty()).is_some_and(|selector| {
            let selects = |labels: &&std::collections::BTreeMap<String, String>| {
                selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            };
            states.iter().any(selects)
        })
    });
    concerned
        .map(|service| Key::new(&change.namespace, service.metadata.name.clone().unwrap_or_default()))
        .collect()
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    Some(Snapshot {
        service: context.cache.get::<Service>(&key.namespace, &key.name)?,
        pods: context.cache.list::<Pod>(Some(&key.namespace)),
        endpoints: context.cache.get::<Endpoints>(&key.namespace, &key.name),
    })
}
