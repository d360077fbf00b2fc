//! The ConfigMap `kube-root-ca.crt` of each namespace.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use trireme_reconcile::root_ca::{self, Snapshot};

use crate::registration::{Context, Key, Registration};

pub(super) fn registration(pem: &str) -> Registration {
    let pem: Arc<str> = pem.into();
    Registration::new(
        "root-ca-certificate-publisher",
        move |context, key| snapshot(context, key, &pem),
        root_ca::reconcile,
    )
    .component("root-ca-certificate-publisher-controller")
    .account("root-ca-cert-publisher")
    .queue("root_ca_cert_publisher")
    .watch::<Namespace>(|_, change| vec![Key::new("", &change.name)])
    .watch::<ConfigMap>(|_, change| match change.name.as_str() {
        root_ca::NAME => vec![Key::new("", &change.namespace)],
        _ => Vec::new(),
    })
}

fn snapshot(context: &Context, key: &Key, pem: &Arc<str>) -> Option<Snapshot> {
    Some(Snapshot {
        namespace: context.cache.get::<Namespace>("", &key.name)?,
        map: context.cache.get::<ConfigMap>(&key.name, root_ca::NAME),
        pem: Arc::clone(pem),
    })
}
