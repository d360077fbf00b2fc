//! What an agent that starts while no server answers lives by: nodes, Services and their endpoints as last seen, on disk.
//!
//! Invariant: a file that cannot be read is as good as none. Pods are not among it: whether one may run is the API's to say.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio_util::sync::CancellationToken;
use trireme_api::Object;
use trireme_client::{Cache, ResourceRef};

use crate::files;

/// How often what has changed is written.
const INTERVAL: Duration = Duration::from_secs(15);

fn kept() -> [ResourceRef; 3] {
    [
        ResourceRef::of::<Node>(),
        ResourceRef::of::<Service>(),
        ResourceRef::of::<EndpointSlice>(),
    ]
}

fn path(directory: &Path, resource: &ResourceRef) -> PathBuf {
    directory.join(format!("{}.jsonl", resource.plural))
}

/// Has the cache begin with what is on disk.
pub(super) fn recall(cache: &Cache, directory: &Path) {
    for resource in kept() {
        let path = path(directory, &resource);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::warn!("what was last seen is not known: reading {}: {error}", path.display());
                continue;
            }
        };
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let objects: Result<Vec<Object>, _> = lines.map(|line| Object::parse(Bytes::copy_from_slice(line))).collect();
        match objects {
            Ok(objects) => cache.ensure_known(&resource, objects),
            Err(error) => tracing::warn!("what was last seen is not known: {}: {error}", path.display()),
        }
    }
}

/// Writes what has changed now and then, until the end.
pub(super) async fn remember(cache: Arc<Cache>, directory: PathBuf, shutdown: CancellationToken) {
    let mut written: HashMap<ResourceRef, u64> = HashMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        for resource in kept() {
            // Zero until the API has answered: then there is nothing newer than the file.
            let revision = newest(&cache, &resource);
            if revision == 0 || written.get(&resource) == Some(&revision) {
                continue;
            }
            match write(&cache, &directory, &resource).await {
                Ok(()) => drop(written.insert(resource, revision)),
                Err(error) => tracing::warn!("what was last seen is not kept: {error:#}"),
            }
        }
    }
}

/// Changes with every change of the content; bookmarks alone do not change it.
fn newest(cache: &Cache, resource: &ResourceRef) -> u64 {
    if cache.revision(resource) == 0 {
        return 0;
    }
    let objects = cache.objects(resource, None);
    let newest = objects.iter().map(|object| object.header().resource_version).max();
    // A deletion leaves the newest as it was.
    newest.unwrap_or_default() * 1_000_003 + objects.len() as u64 + 1
}

async fn write(cache: &Cache, directory: &Path, resource: &ResourceRef) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for object in cache.objects(resource, None) {
        text.extend_from_slice(object.bytes());
        text.push(b'\n');
    }
    let path = path(directory, resource);
    tokio::task::spawn_blocking(move || files::write_atomically(&path, &text, 0o600)).await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trireme_client::Client;
    use trireme_client::testing::FakeTransport;

    use super::*;

    #[tokio::test]
    async fn what_was_seen_is_there_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let services = ResourceRef::of::<Service>();
        let fake = FakeTransport::new();
        fake.seed(
            &services,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}}),
        );
        let cache = Cache::new(&Client::new(fake.clone()), CancellationToken::new());
        cache.synced(std::slice::from_ref(&services)).await;
        let before = newest(&cache, &services);
        assert_ne!(before, 0);
        write(&cache, directory.path(), &services).await.unwrap();

        // Before anybody answers:
        let next = Cache::new(&Client::new(FakeTransport::new()), CancellationToken::new());
        recall(&next, directory.path());
        assert!(next.is_synced(&services) && !next.is_synced(&ResourceRef::of::<Node>()));
        assert!(next.object(&services, "default", "web").is_some());
        assert_eq!(newest(&next, &services), 0, "nothing newer than the file");

        std::fs::write(directory.path().join("nodes.jsonl"), "nonsense\n").unwrap();
        let other = Cache::new(&Client::new(FakeTransport::new()), CancellationToken::new());
        recall(&other, directory.path());
        assert!(!other.is_synced(&ResourceRef::of::<Node>()));
    }
}
