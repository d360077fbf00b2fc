//! The node's Lease: a sign of life every ten seconds.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use tokio::sync::Notify;
use trireme_api::Status;

use crate::shared::Shared;

const NAMESPACE: &str = "kube-node-lease";
const DURATION_SECONDS: i32 = 40;
const PERIOD: Duration = Duration::from_secs(10);
/// Pause after a failure; it doubles.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Renews it for ever. `back` is told when it could not be renewed for a while and can be again.
pub(super) async fn keep(shared: &Shared, back: &Notify) {
    let mut known: Option<Lease> = None;
    let mut pause = RETRY;
    loop {
        match renew(shared, known.take()).await {
            Ok(lease) => {
                known = Some(lease);
                if pause > RETRY {
                    back.notify_one();
                }
                pause = RETRY;
                tokio::time::sleep(PERIOD).await;
            }
            Err(error) => {
                tracing::debug!("renewing the node's lease: {error}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Renews from the last known object, or from a fresh read, or makes it.
async fn renew(shared: &Shared, known: Option<Lease>) -> Result<Lease, Status> {
    let name = &shared.config.node_name;
    let base = match known {
        Some(lease) => Some(lease),
        None => shared
            .client
            .find::<Lease>(NAMESPACE, name)
            .await?
            .map(|lease| (*lease).clone()),
    };
    let now = Some(MicroTime(Timestamp::now()));
    let written = match base {
        Some(mut lease) => {
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(name.clone());
            spec.lease_duration_seconds = Some(DURATION_SECONDS);
            spec.renew_time = now;
            shared.client.update(&lease).await?
        }
        None => {
            // Looked up each time: the Node may have been deleted, with the Lease, and be another one now.
            let node = shared.client.get::<Node>("", name).await?;
            let owner = OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..OwnerReference::default()
            };
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(NAMESPACE.into()),
                    owner_references: Some(vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(name.clone()),
                    lease_duration_seconds: Some(DURATION_SECONDS),
                    renew_time: now,
                    ..LeaseSpec::default()
                }),
            };
            shared.client.create(&lease).await?
        }
    };
    Ok((*written).clone())
}
