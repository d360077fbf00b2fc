//! Endpoints of Services with a selector.

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use trireme_client::{Cache, Change, ResourceRef};
use trireme_reconcile::endpoints::{self, Snapshot};
use trireme_reconcile::pods::CountedPod;

use crate::facts::{counted_pods, serves_alike};
use crate::registration::{Context, Key, Registration};

pub(super) fn registration() -> Registration {
    Registration::new("endpoints", snapshot, |snapshot: &Snapshot, _| endpoints::reconcile(snapshot))
        .component("endpoint-controller")
        .account("endpoint-controller")
        .queue("endpoint")
        .primary::<Service>()
        .watch::<Endpoints>(with_service)
        .watch::<Pod>(selecting)
}

/// Endpoints that have a Service, or that this controller left behind without one. Others are somebody's own: only the end
/// of a Service ends them.
fn with_service(cache: &Cache, change: &Change) -> Vec<Key> {
    let has_service = cache
        .object(&ResourceRef::of::<Service>(), &change.namespace, &change.name)
        .is_some();
    let is_ours = change
        .latest()
        .is_some_and(|object| object.header().labels.contains_key(endpoints::LABEL_MANAGED_BY));
    if has_service || is_ours {
        vec![Key::of(change)]
    } else {
        Vec::new()
    }
}

/// The Services that select a pod as it is or as it was.
pub(super) fn selecting(cache: &Cache, change: &Change) -> Vec<Key> {
    if serves_alike(change) {
        return Vec::new();
    }
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

/// The pods that a Service selects; none where it selects by nothing.
pub(super) fn selected(cache: &Cache, service: &Service) -> Vec<CountedPod> {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.filter(|selector| !selector.is_empty());
    let Some((selector, namespace)) = selector.zip(service.metadata.namespace.as_deref()) else {
        return Vec::new();
    };
    counted_pods(cache, namespace, |pod| {
        let labels = &pod.header().labels;
        selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    let service = context.cache.get::<Service>(&key.namespace, &key.name);
    Some(Snapshot {
        pods: service
            .as_ref()
            .map(|service| selected(&context.cache, service))
            .unwrap_or_default(),
        service,
        endpoints: context.cache.get::<Endpoints>(&key.namespace, &key.name),
    })
}
