//! The ServiceAccount `default` of each namespace.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use trireme_reconcile::service_account::{self, Snapshot};

use crate::registration::{Context, Key, Registration};

pub(super) fn registration() -> Registration {
    Registration::new("service-account", snapshot, service_account::reconcile)
        .component("service-account-controller")
        .account("service-account-controller")
        .queue("serviceaccount")
        .watch::<Namespace>(|_, change| vec![Key::new("", &change.name)])
        .watch::<ServiceAccount>(|_, change| vec![Key::new("", &change.namespace)])
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    Some(Snapshot {
        namespace: context.cache.get::<Namespace>("", &key.name)?,
        account: context.cache.get::<ServiceAccount>(&key.name, service_account::NAME),
    })
}
