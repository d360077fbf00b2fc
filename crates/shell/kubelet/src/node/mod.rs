//! The Node object and its Lease: registration, heartbeats, status.
//!
//! Invariant: the status is written when it means something new, which is looked for every ten seconds in what the node sees of
//! itself anyway, and every five minutes; the Lease every ten seconds (`a_node_that_stays_as_it_is_says_so_every_five_minutes`).

mod lease;
pub(crate) mod machine;
mod status;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use trireme_api::Status;
use trireme_client::{EventType, Patch, Regarding};

use crate::shared::Shared;
use crate::status_patch;

/// How often the status is computed, and at the latest written. After a change the first report that brings nothing new comes after
/// half that time to one and a half, so that nodes that changed together do not report together for ever.
const STATUS_PERIOD: Duration = Duration::from_secs(10);
const REPORT_PERIOD: Duration = Duration::from_secs(300);
/// Pause after a failed write: a node that was out of reach is ready again as soon as it is back.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Pause after the first failed registration; it doubles.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);

/// Registers the node and keeps it alive until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let work = async {
        let mut pause = RETRY;
        loop {
            match register(&shared).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!("registering node {}: {error}", shared.config.node_name);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
        let regarding = Regarding {
            api_version: String::new(),
            kind: "Node".into(),
            name: shared.config.node_name.clone(),
            uid: shared.config.node_name.clone(),
            ..Regarding::default()
        };
        shared
            .recorder
            .record(regarding, EventType::Normal, "Starting", "Starting kubelet.");
        let back = Notify::new();
        tokio::join!(lease::keep(&shared, &back), keep_status(&shared, &back));
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

/// Makes the Node, or brings an existing one up to date.
async fn register(shared: &Shared) -> Result<(), Status> {
    let name = &shared.config.node_name;
    let mut labels = shared.config.labels.clone();
    for (key, value) in well_known_labels(shared) {
        labels.entry(key).or_insert(value);
    }
    if let Some(found) = shared.client.find::<Node>("", name).await? {
        let stale = labels
            .iter()
            .any(|(key, value)| found.metadata.labels.as_ref().and_then(|has| has.get(key)) != Some(value));
        if stale {
            let change = |node: &mut Node| {
                node.metadata.labels.get_or_insert_default().extend(labels.clone());
                true
            };
            shared.client.modify::<Node>("", name, change).await?;
        }
    } else {
        let taints: Vec<_> = shared.config.taints.iter().map(status::taint).collect();
        // Its pods go on with the addresses that they have: a Node that was deleted comes back with the same range.
        let pod_cidrs = shared.pod_cidr.get().map(|range| vec![range.clone()]);
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                annotations: Some(
                    [(
                        "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                        "true".to_owned(),
                    )]
                    .into(),
                ),
                ..ObjectMeta::default()
            },
            spec: Some(k8s_openapi::api::core::v1::NodeSpec {
                taints: (!taints.is_empty()).then_some(taints),
                unschedulable: shared.config.unschedulable.then_some(true),
                pod_cidr: shared.pod_cidr.get().cloned(),
                pod_cidrs,
                ..Default::default()
            }),
            status: Some(status::of(shared, &NodeStatus::default()).await),
        };
        match shared.client.create(&node).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
        }
    }
    write_status(shared, true, true).await.map(drop)
}

fn well_known_labels(shared: &Shared) -> [(String, String); 5] {
    let architecture = status::architecture().to_owned();
    [
        ("kubernetes.io/hostname".into(), shared.config.hostname.clone()),
        ("kubernetes.io/os".into(), "linux".into()),
        ("kubernetes.io/arch".into(), architecture.clone()),
        ("beta.kubernetes.io/os".into(), "linux".into()),
        ("beta.kubernetes.io/arch".into(), architecture),
    ]
}

/// What became of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It says nothing new, and it was not time to say so.
    Nothing,
    /// Nothing new, but when.
    Again,
    /// Something new.
    Changed,
}

/// Writes the status if it changed, or in any case. `live` says that the Node is to be read anew, not as it was seen last.
async fn write_status(shared: &Shared, always: bool, live: bool) -> Result<Told, Status> {
    let name = &shared.config.node_name;
    let seen = if live { None } else { shared.cache.get::<Node>("", name) };
    let node = match seen {
        Some(node) => node,
        None => shared.client.get::<Node>("", name).await?,
    };
    let old = node.status.clone().unwrap_or_default();
    let own = status::of(shared, &old).await;
    let turned = status::turned(&old, &own);
    let new = status::merged(old.clone(), own);
    let changed = status::differs(&old, &new);
    if !always && !changed {
        return Ok(Told::Nothing);
    }
    let value = |status: &NodeStatus| serde_json::to_value(status).map_err(|error| Status::internal(&error.to_string()));
    if let Some(patch) = status_patch::between("Node", &value(&old)?, &value(&new)?) {
        let patch = Patch::Strategic(json!({"status": patch}).to_string().into());
        shared.client.patch::<Node>("", name, Some("status"), &patch).await?;
    }
    for reason in turned {
        let regarding = Regarding {
            kind: "Node".into(),
            name: name.clone(),
            uid: name.clone(),
            ..Regarding::default()
        };
        shared.recorder.record(
            regarding,
            EventType::Normal,
            reason,
            format!("Node {name} status is now: {reason}"),
        );
    }
    Ok(if changed { Told::Changed } else { Told::Again })
}

/// After how long a node that has just said something reports next if nothing changes.
fn next_report(told: Told) -> Duration {
    match told {
        Told::Again => REPORT_PERIOD,
        Told::Nothing | Told::Changed => REPORT_PERIOD.mul_f64(0.5 + rand::random::<f64>()),
    }
}

/// Looks every ten seconds at the Node as it was seen last; at the Node itself where that failed, or where the API was out of reach
/// (`back`): what is seen may be from before then, and others may believe the node to be dead.
async fn keep_status(shared: &Shared, back: &Notify) {
    let mut due = tokio::time::Instant::now() + next_report(Told::Changed);
    let mut failed = false;
    loop {
        let pause = if failed { AGAIN_AFTER } else { STATUS_PERIOD };
        let live = tokio::select! {
            () = tokio::time::sleep(pause) => failed,
            () = back.notified() => true,
        };
        let now = tokio::time::Instant::now();
        let outcome = write_status(shared, now >= due, live).await;
        let fails = outcome.is_err();
        match outcome {
            Ok(Told::Nothing) => {}
            Ok(told) => due = now + next_report(told),
            Err(error) if error.is_not_found() => {
                if let Err(error) = register(shared).await {
                    tracing::warn!("registering node {} anew: {error}", shared.config.node_name);
                }
            }
            Err(error) if failed => tracing::debug!("writing the node's status: {error}"),
            Err(error) => tracing::warn!("writing the node's status: {error}; tried again until it succeeds"),
        }
        failed = fails;
    }
}
