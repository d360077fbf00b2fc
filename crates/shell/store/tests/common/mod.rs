//! What the store's tests share: small objects, and a count of what was acknowledged.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use trireme_store::{
    Applied, Body, Command, Member, OpenError, Operation, Precondition, RaftStore, Start, Store, StoreConfig, Write, WriteError,
};

/// A key of a ConfigMap.
pub fn key(name: &str) -> Arc<str> {
    format!("/configmaps/default/{name}").into()
}

/// An object with this value.
pub fn body(name: &str, value: &str) -> Body {
    Body::new(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "uid": "4bd7ec3b-3c0a-4e5f-8f0e-0a4f6a2c7a10"},
        "data": {"value": value},
    }))
}

/// A transaction of one put.
pub fn put(name: &str, value: &str) -> Command {
    put_if(name, value, Precondition::None)
}

/// A transaction of one put with a precondition.
pub fn put_if(name: &str, value: &str, precondition: Precondition) -> Command {
    let operation = Operation::Put {
        body: body(name, value),
        ttl_seconds: None,
    };
    let write = Write {
        key: key(name),
        precondition,
        operation,
    };
    Command::Transaction {
        writes: vec![write],
        now_ms: 0,
        fence: None,
        guards: Vec::new(),
    }
}

/// Commits a put; gives its revision.
pub async fn write(store: &dyn Store, name: &str, value: &str) -> Result<u64, WriteError> {
    match store.commit(put(name, value)).await? {
        Applied::Committed { revision, .. } => Ok(revision),
        other => panic!("an unconditional put commits: {other:?}"),
    }
}

/// The value at a key.
pub fn value(store: &dyn Store, name: &str) -> Option<String> {
    let object = store.get(&key(name))?;
    Some(object.value()["data"]["value"].as_str()?.to_owned())
}

/// A server that makes a group of its own.
pub fn alone(id: u64) -> Start {
    Start::Cluster(Member {
        id,
        name: format!("server-{id}"),
        ..Member::default()
    })
}

/// A configuration whose segments and snapshots are small.
pub fn small(dir: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(dir, alone(1));
    config.segment_bytes = 256 << 10;
    config.snapshot_log_bytes = 1 << 20;
    config
}

/// Opens, waiting for a store of this process that was dropped and whose tasks are on their way out.
pub async fn open(config: StoreConfig) -> Result<Arc<RaftStore>, OpenError> {
    for _ in 0..500 {
        match RaftStore::open(config.clone()).await {
            Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other,
        }
    }
    RaftStore::open(config).await
}
