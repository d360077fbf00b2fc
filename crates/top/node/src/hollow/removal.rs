//! Takes a pool's nodes out of the API, with their Leases and the pods on them.
//!
//! Invariant: only Nodes with the pool's label go, and only pods that are on one of those that went.

use std::collections::HashSet;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use trireme_api::Status;
use trireme_client::{ApiObject, Client, DeleteOptions, ListOptions};

use super::{POOL, Pool};

/// Requests at once.
const REQUESTS_MAX: usize = 64;
const LEASES: &str = "kube-node-lease";

/// Removes the nodes of this process, as the identity of the kubeconfig itself.
pub(super) async fn remove(client: &Client, pool: &Pool) -> Result<()> {
    let selected = ListOptions {
        label_selector: Some(format!("{POOL}={}", pool.options.name)),
        ..ListOptions::default()
    };
    let told = |status: Status| anyhow::anyhow!("{}", status.message);
    let nodes = client
        .list::<Node>(None, &selected)
        .await
        .map_err(told)
        .context("the nodes cannot be listed")?;
    let own: HashSet<String> = pool.numbers().map(|number| pool.name(number)).collect();
    let names: HashSet<String> = nodes
        .iter()
        .filter_map(|node| node.metadata.name.clone())
        .filter(|name| own.contains(name))
        .collect();
    // Nodes first, so that nobody places pods on them any more.
    delete_all::<Node>(client, names.iter().map(|name| (String::new(), name.clone()))).await?;
    delete_all::<Lease>(client, names.iter().map(|name| (LEASES.to_owned(), name.clone()))).await?;
    let pods = client
        .list::<Pod>(None, &ListOptions::default())
        .await
        .map_err(told)
        .context("the pods cannot be listed")?;
    let on_them = pods.iter().filter_map(|pod| {
        let node = pod.spec.as_ref()?.node_name.as_ref()?;
        names.contains(node).then(|| {
            let metadata = &pod.metadata;
            (
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            )
        })
    });
    delete_all::<Pod>(client, on_them).await?;
    tracing::info!(nodes = names.len(), "the hollow nodes are removed");
    Ok(())
}

async fn delete_all<K: ApiObject>(client: &Client, names: impl Iterator<Item = (String, String)>) -> Result<()> {
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    };
    let deletions = names.map(|(namespace, name)| {
        let options = &options;
        async move {
            match client.delete::<K>(&namespace, &name, options).await {
                Ok(_) => Ok(()),
                Err(status) if status.is_not_found() => Ok(()),
                Err(status) => Err(anyhow::anyhow!("{} {name} cannot be removed: {}", K::KIND, status.message)),
            }
        }
    });
    let mut running = futures::stream::iter(deletions).buffer_unordered(REQUESTS_MAX);
    let mut first = Ok(());
    while let Some(done) = running.next().await {
        if first.is_ok() {
            first = done;
        }
    }
    first
}
