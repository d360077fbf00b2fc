//! Ends containers: preStop inside the grace period, sidecars last, then the sandbox.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use trireme_client::EventType;
use trireme_pod::plan::{MINIMUM_GRACE_SECONDS, StopTarget};
use trireme_pod::spec;
use trireme_runtime::cri::CriError;

use crate::lifecycle;
use crate::shared::Shared;

/// Ends one container that may come back.
pub(super) async fn one(shared: &Shared, pod: &Pod, id: &str, name: &str, message: &str, grace_seconds: i64, pod_ip: &str) {
    shared.container_event(pod, name, EventType::Normal, "Killing", message);
    if let Err(error) = end(shared, pod, id, name, grace_seconds, Some(pod_ip), async {}).await {
        tracing::warn!(pod = spec::display(pod), container = name, "stopping: {error}");
    }
}

/// Ends all containers in their order and then the sandboxes. `again`: with less grace than an earlier call that still runs.
pub(super) async fn all(
    shared: &Shared,
    pod: &Pod,
    grace_seconds: i64,
    targets: Vec<StopTarget>,
    sandboxes: &[String],
    pod_ip: &str,
    again: bool,
) -> Result<(), String> {
    let ended: HashMap<String, watch::Sender<bool>> = targets
        .iter()
        .map(|target| (target.id.clone(), watch::channel(false).0))
        .collect();
    let ends = targets.iter().map(|target| {
        let before: Vec<_> = target
            .after
            .iter()
            .filter_map(|id| ended.get(id))
            .map(watch::Sender::subscribe)
            .collect();
        let own = ended.get(&target.id);
        async move {
            if !again {
                shared.container_event(
                    pod,
                    &target.name,
                    EventType::Normal,
                    "Killing",
                    format!("Stopping container {}", target.name),
                );
            }
            let turn = async move {
                for mut earlier in before {
                    if earlier.wait_for(|ended| *ended).await.is_err() {
                        break;
                    }
                }
            };
            // Hooks have been run, or still run, by the earlier call.
            let hooks = (!again).then_some(pod_ip);
            let result = end(shared, pod, &target.id, &target.name, grace_seconds, hooks, turn).await;
            if let Some(own) = own {
                own.send_replace(true);
            }
            result
        }
    });
    let failed = futures::future::join_all(ends).await.into_iter().find_map(Result::err);
    if let Some(error) = failed {
        return Err(error.to_string());
    }
    for id in sandboxes {
        match shared.runtime.stop_pod_sandbox(id).await {
            Ok(()) | Err(CriError::NotFound(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// Ends one container; `hooks` is the address for its preStop, `None` to run none.
async fn end(
    shared: &Shared,
    pod: &Pod,
    id: &str,
    name: &str,
    grace_seconds: i64,
    hooks: Option<&str>,
    turn: impl Future<Output = ()>,
) -> Result<(), CriError> {
    let began = Instant::now();
    let left = || grace_seconds - i64::try_from(began.elapsed().as_secs()).unwrap_or(0);
    let container = spec::container(pod, name);
    let hook = container
        .as_ref()
        .and_then(|container| container.lifecycle.as_ref())
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let (Some(container), Some(hook), Some(pod_ip)) = (&container, hook, hooks)
        && grace_seconds > 0
    {
        let run = lifecycle::run(shared.runtime.as_ref(), hook, container, id, pod_ip);
        match tokio::time::timeout(seconds(grace_seconds), run).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                tracing::info!(pod = spec::display(pod), container = name, "preStop: {why}");
                shared.container_event(pod, name, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => tracing::info!(
                pod = spec::display(pod),
                container = name,
                "preStop took all of the grace period"
            ),
        }
    }
    if tokio::time::timeout(seconds(left().max(0)), turn).await.is_err() {
        tracing::info!(
            pod = spec::display(pod),
            container = name,
            "others did not end within the grace period"
        );
    }
    match shared.runtime.stop_container(id, left().max(MINIMUM_GRACE_SECONDS)).await {
        Err(CriError::NotFound(_)) => Ok(()),
        done => done,
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
