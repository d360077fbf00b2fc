//! The rules of aggregated ClusterRoles.

use k8s_openapi::api::rbac::v1::ClusterRole;
use trireme_reconcile::cluster_role_aggregation::{self, Snapshot, is_aggregated};

use crate::registration::{Context, Key, Registration};

pub(super) fn registration() -> Registration {
    Registration::new(
        "clusterrole-aggregation-controller",
        snapshot,
        cluster_role_aggregation::reconcile,
    )
    .queue("ClusterRoleAggregator")
    .watch::<ClusterRole>(|cache, _| {
        // Any role may be one that another takes in.
        let roles = cache.list::<ClusterRole>(None);
        let aggregated = roles.iter().filter(|role| is_aggregated(role));
        let names = aggregated.filter_map(|role| role.metadata.name.clone());
        names.map(|name| Key::new("", name)).collect()
    })
}

fn snapshot(context: &Context, key: &Key) -> Option<Snapshot> {
    Some(Snapshot {
        role: context.cache.get::<ClusterRole>("", &key.name)?,
        all: context.cache.list::<ClusterRole>(None),
    })
}
