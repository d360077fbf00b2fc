//! Pods of an earlier life that the API does not have any more: stopped and cleaned up at the start.

use std::collections::HashSet;
use std::sync::Arc;

use trireme_runtime::cri::ContainerState;

use super::convert;
use crate::shared::Shared;

/// Grace for who did not say, seconds.
const GRACE_SECONDS: i64 = 30;

/// Ends every sandbox whose pod is not among the `known`, and removes what such pods left on disk.
pub(super) async fn clean(shared: Arc<Shared>, known: HashSet<String>) {
    let sandboxes = match shared.runtime.list_pod_sandboxes().await {
        Ok(sandboxes) => sandboxes,
        Err(error) => {
            tracing::warn!("orphaned pods are not looked for: {error}");
            return;
        }
    };
    let containers = shared.runtime.list_containers().await.unwrap_or_default();
    let mut living: HashSet<String> = known.clone();
    let orphans: Vec<_> = sandboxes
        .into_iter()
        .filter(|sandbox| !known.contains(&sandbox.metadata.uid))
        .collect();
    let ends = orphans.iter().map(|sandbox| {
        let own: Vec<_> = containers
            .iter()
            .filter(|run| run.pod_sandbox_id == sandbox.id && run.state != ContainerState::Exited)
            .collect();
        let shared = &shared;
        async move {
            tracing::info!(
                uid = sandbox.metadata.uid,
                "stopping {}/{}, which the API does not know",
                sandbox.metadata.namespace,
                sandbox.metadata.name
            );
            let grace = sandbox
                .annotations
                .get(convert::GRACE)
                .and_then(|text| text.parse().ok())
                .unwrap_or(GRACE_SECONDS);
            futures::future::join_all(own.iter().map(|run| shared.runtime.stop_container(&run.id, grace))).await;
            shared.runtime.stop_pod_sandbox(&sandbox.id).await?;
            shared.runtime.remove_pod_sandbox(&sandbox.id).await
        }
    });
    for (sandbox, result) in orphans.iter().zip(futures::future::join_all(ends).await) {
        if let Err(error) = result {
            tracing::warn!(uid = sandbox.metadata.uid, "an orphaned pod stays: {error}");
            living.insert(sandbox.metadata.uid.clone());
        }
    }
    shared
        .allocations
        .keep_only(&|uid| living.contains(uid) || shared.pods.read().contains_key(uid));
    for uid in shared.volumes.pods_on_disk().into_iter().filter(|uid| !living.contains(uid)) {
        // A pod may have come since the list was made; its worker has noted it then.
        if shared.pods.read().contains_key(&uid) {
            continue;
        }
        match shared.volumes.tear_down(&uid) {
            Ok(()) => shared.user_namespaces.release(&uid),
            Err(error) => tracing::warn!(uid, "volumes of an orphaned pod stay: {error}"),
        }
    }
}
