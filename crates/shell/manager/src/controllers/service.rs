//! Addresses of LoadBalancer Services. One worker: two Services at once could be given the same address.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use trireme_client::{Cache, Change};
use trireme_reconcile::service::{self, Snapshot};

use crate::registration::{Context, Key, Registration};

pub(super) fn registration(pool: Vec<IpAddr>) -> Registration {
    Registration::new(
        "service-lb",
        move |context, key| snapshot(context, key, &pool),
        |snapshot: &Snapshot, _| service::reconcile(snapshot),
    )
    .component("service-controller")
    .account("service-controller")
    .queue("service")
    .workers(1)
    .watch::<Service>(|cache, change| {
        let mut keys = vec![Key::of(change)];
        if change.new.is_none() {
            keys.extend(load_balancers(cache));
        }
        keys
    })
    .watch::<Node>(|cache, change| {
        let keys = load_balancers(cache);
        if keys.is_empty() || !matters(cache, change) {
            return Vec::new();
        }
        keys
    })
}

fn load_balancers(cache: &Cache) -> Vec<Key> {
    let services = cache.list::<Service>(None);
    let wanting = services.iter().filter(|service| {
        let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        kind == Some("LoadBalancer")
    });
    wanting
        .map(|service| {
            let metadata = &service.metadata;
            Key::new(
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            )
        })
        .collect()
}

/// Whether more than a node's heartbeats changed.
fn matters(cache: &Cache, change: &Change) -> bool {
    let facts = |object: &Option<trireme_api::Object>| {
        let node = cache.typed::<Node>(object.as_ref()?)?;
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
        Some((
            status.and_then(|status| status.addresses.clone()),
            ready.map(|ready| ready.status.clone()),
            node.spec.clone(),
            node.metadata.labels.clone(),
        ))
    };
    facts(&change.old) != facts(&change.new)
}

fn snapshot(context: &Context, key: &Key, pool: &[IpAddr]) -> Option<Snapshot> {
    Some(Snapshot {
        service: context.cache.get::<Service>(&key.namespace, &key.name)?,
        services: context.cache.list::<Service>(None),
        nodes: context.cache.list::<Node>(None),
        pool: pool.to_vec(),
    })
}
