//! EndpointSlices of Services with a selector.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use trireme_client::ResourceRef;
use trireme_reconcile::endpoint_slice::{self, Snapshot};

use super::{endpoints, suffix};
use crate::registration::{Context, Key, Registration};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn registration() -> Registration {
    Registration::new("endpointslice", snapshot, |snapshot: &Snapshot, _| {
        endpoint_slice::reconcile(snapshot, &mut suffix)
    })
    .component("endpoint-slice-controller")
    .account("endpointslice-controller")
    .queue("endpoint_slice")
    .primary::<Service>()
    .watch::<Pod>(endpoints::selecting)
    .watch::<EndpointSlice>(|_, change| {
        let states = change.old.iter().chain(&change.new);
        let names = states.filter_map(|object| object.header().labels.get(SERVICE_NAME));
        names.map(|name| Key::new(&change.namespace, name)).collect()
    })
    .reads::<Node>()
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    let cache = &context.cache;
    let service = cache.get::<Service>(&key.namespace, &key.name)?;
    let pods = endpoints::selected(cache, &service);
    let names: BTreeSet<&str> = pods.iter().map(|pod| &*pod.facts().node).collect();
    let zones = names.into_iter().filter_map(|name| {
        let node = cache.object(&ResourceRef::of::<Node>(), "", name)?;
        Some((name.to_owned(), node.header().labels.get(ZONE)?.clone()))
    });
    Some(Snapshot {
        slices: cache.select(Some(&key.namespace), |slice| {
            slice.header().labels.get(SERVICE_NAME) == Some(&key.name)
        }),
        zones: zones.collect(),
        pods,
        service,
    })
}
