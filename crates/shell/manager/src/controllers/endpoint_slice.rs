//! EndpointSlices of Services with a selector.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use trireme_reconcile::endpoint_slice::{self, Snapshot};

use super::{endpoints, suffix};
use crate::registration::{Context, Key, Registration};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

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
    let names: BTreeSet<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    Some(Snapshot {
        slices: cache.select(Some(&key.namespace), |slice| {
            slice.header().labels.get(SERVICE_NAME) == Some(&key.name)
        }),
        nodes: names.iter().filter_map(|name| cache.get::<Node>("", name)).collect(),
        pods,
        service,
    })
}
