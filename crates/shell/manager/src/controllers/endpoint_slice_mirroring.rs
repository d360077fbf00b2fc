//! EndpointSlices for Endpoints that somebody wrote by hand.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use trireme_reconcile::endpoint_slice_mirroring::{self as mirroring, LABEL_MANAGED_BY, LABEL_SERVICE, MANAGED_BY, Snapshot};

use super::suffix;
use crate::registration::{Context, Key, Registration};

pub(super) fn registration() -> Registration {
    Registration::new("endpointslicemirroring", snapshot, |snapshot: &Snapshot, _| {
        mirroring::reconcile(snapshot, &mut suffix)
    })
    .component("endpoint-slice-mirroring-controller")
    .account("endpointslicemirroring-controller")
    .queue("endpoint_slice_mirroring")
    .primary::<Endpoints>()
    .primary::<Service>()
    .watch::<EndpointSlice>(|_, change| {
        let states = change.old.iter().chain(&change.new).map(|object| &object.header().labels);
        let ours = states.filter(|labels| labels.get(LABEL_MANAGED_BY).is_some_and(|by| by == MANAGED_BY));
        let names = ours.filter_map(|labels| labels.get(LABEL_SERVICE));
        names.map(|name| Key::new(&change.namespace, name)).collect()
    })
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    let labels = [(LABEL_SERVICE, key.name.as_str()), (LABEL_MANAGED_BY, MANAGED_BY)];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Some(Snapshot {
        service: context.cache.get::<Service>(&key.namespace, &key.name),
        endpoints: context.cache.get::<Endpoints>(&key.namespace, &key.name),
        slices: context.cache.list_by_label::<EndpointSlice>(Some(&key.namespace), &labels),
    })
}
