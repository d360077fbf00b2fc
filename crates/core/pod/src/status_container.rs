//! Container statuses as the API shows them (pkg/kubelet `convertToAPIContainerStatuses` and the prober's
//! `UpdatePodStatus`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::backoff::go_duration;
use crate::observed::{Container, ContainerState, Observed};
use crate::plan::crash_loop_until;
use crate::{restart, spec, status_resources};

/// Scheme of container ids in the API.
pub const ID_SCHEME: &str = "trireme://";

/// Which list of the status is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Init,
    Regular,
    Ephemeral,
}

pub(crate) fn list(
    pod: &Pod,
    observed: &Observed,
    now: Timestamp,
    containers: &[Spec],
    list: List,
    previous: &[ContainerStatus],
) -> Vec<ContainerStatus> {
    containers
        .iter()
        .filter(|container| list != List::Ephemeral || !container.name.is_empty())
        .map(|container| {
            let old = previous.iter().find(|status| status.name == container.name);
            one(pod, observed, now, container, list, old)
        })
        .collect()
}

fn one(
    pod: &Pod,
    observed: &Observed,
    now: Timestamp,
    container: &Spec,
    list: List,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let pod_spec = spec::of(pod);
    // A run that has not started says nothing: the container waits as it did before.
    let mut runs = observed
        .containers
        .iter()
        .filter(|run| run.name == container.name && run.state != ContainerState::Created);
    let latest = runs.next();
    let before = runs.find(|run| run.state == ContainerState::Exited);
    let mut status = match latest {
        Some(run) => of_run(pod, container, run, before, old),
        None => without_run(pod, container, old),
    };

    let over = list == List::Init
        && latest.is_some_and(|run| run.state == ContainerState::Exited && run.exit_code == 0)
        && !spec::is_sidecar(container);
    let main_ran = pod_spec.containers.iter().any(|main| observed.latest(&main.name).is_some());
    if list == List::Init && latest.is_none() && main_ran && !spec::is_sidecar(container) && is_waiting(&status) {
        status.state = Some(ApiState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("Completed".into()),
                message: Some(
                    "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally".into(),
                ),
                ..ContainerStateTerminated::default()
            }),
            ..ApiState::default()
        });
    } else if !over && !observed.stopped && restart::should_start(container, pod, observed) {
        waiting_reason(pod, observed, now, container, &mut status);
    }
    probe_results(observed, container, list, latest, &mut status);
    status
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.waiting.is_some())
}

/// Why a container waits that nothing is known of.
fn default_reason(pod: &Pod) -> &'static str {
    if spec::init_containers(spec::of(pod)).is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    }
}

/// No run is known: what the API said last, or the default.
fn without_run(pod: &Pod, container: &Spec, old: Option<&ContainerStatus>) -> ContainerStatus {
    if let Some(old) = old.filter(|old| old.state.as_ref().is_some_and(|state| state.terminated.is_some())) {
        return old.clone();
    }
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(default_reason(pod), None)),
        last_state: Some(ApiState::default()),
        volume_mounts: volume_mounts(container),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return status };
    status.restart_count = old.restart_count;
    status.last_state.clone_from(&old.last_state);
    let was_running = old.state.as_ref().is_some_and(|state| state.running.is_some());
    let has_last = old.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    if was_running && !has_last {
        status.last_state = Some(ApiState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("ContainerStatusUnknown".into()),
                message: Some(
                    "The container could not be located when the pod was deleted.  The container used to be Running".into(),
                ),
                exit_code: 137,
                ..ContainerStateTerminated::default()
            }),
            ..ApiState::default()
        });
        if !spec::is_deleting(pod) {
            status.restart_count += 1;
        }
    }
    status
}

fn of_run(
    pod: &Pod,
    container: &Spec,
    run: &Container,
    before: Option<&Container>,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let id = format!("{ID_SCHEME}{}", run.id);
    let state = match run.state {
        ContainerState::Running => ApiState {
            running: Some(ContainerStateRunning {
                started_at: Some(seconds(run.started_at.unwrap_or(run.created_at))),
            }),
            ..ApiState::default()
        },
        ContainerState::Exited => terminated(run),
        ContainerState::Created | ContainerState::Unknown => waiting(default_reason(pod), None),
    };
    let same_run = old.filter(|old| {
        let running = old.state.as_ref().is_some_and(|state| state.running.is_some());
        running && old.container_id.as_deref() == Some(id.as_str())
    });
    let last_state = match before {
        Some(before) => terminated(before),
        None => old
            .and_then(|old| {
                let replaced = old.container_id.as_deref() != Some(id.as_str());
                let ended = old.state.clone().filter(|state| replaced && state.terminated.is_some());
                ended.or_else(|| old.last_state.clone())
            })
            .unwrap_or_default(),
    };
    ContainerStatus {
        name: run.name.clone(),
        restart_count: i32::try_from(run.attempt)
            .unwrap_or(i32::MAX)
            .max(old.map_or(0, |old| old.restart_count)),
        image: run.image.clone(),
        image_id: run.image_ref.clone(),
        container_id: Some(id),
        state: Some(state),
        last_state: Some(last_state),
        volume_mounts: volume_mounts(container),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources: Some(status_resources::of_container(container, run, same_run)),
        ..ContainerStatus::default()
    }
}

fn waiting_reason(pod: &Pod, observed: &Observed, now: Timestamp, container: &Spec, status: &mut ContainerStatus) {
    let failure = observed.failures.get(&container.name);
    let looping = crash_loop_until(container, observed, now);
    let (reason, message) = match (failure, looping) {
        (Some(failure), _) if now < failure.retry_at => (failure.reason.clone(), failure.message.clone()),
        (_, Some(_)) => {
            let delay = observed
                .backoffs
                .get(&container.name)
                .map_or_else(String::new, |entry| go_duration(entry.delay));
            let text = format!(
                "back-off {delay} restarting failed container={} pod={}",
                container.name,
                spec::display(pod)
            );
            ("CrashLoopBackOff".to_owned(), text)
        }
        (Some(failure), None) => (failure.reason.clone(), failure.message.clone()),
        (None, None) => return,
    };
    if let Some(ended) = status.state.take().filter(|state| state.terminated.is_some()) {
        status.last_state = Some(ended);
    }
    status.state = Some(waiting(&reason, Some(&message)));
}

fn probe_results(observed: &Observed, container: &Spec, list: List, latest: Option<&Container>, status: &mut ContainerStatus) {
    let running = latest
        .filter(|run| run.state == ContainerState::Running && status.state.as_ref().is_some_and(|state| state.running.is_some()));
    if list == List::Ephemeral {
        return;
    }
    let probes = running.map(|run| observed.probe(&run.id)).unwrap_or_default();
    let started = running.is_some() && (container.startup_probe.is_none() || probes.startup == Some(true));
    status.started = Some(started);
    if list == List::Init && !spec::is_sidecar(container) {
        let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        status.ready = terminated.is_some_and(|state| state.exit_code == 0);
        return;
    }
    status.ready = started && (container.readiness_probe.is_none() || probes.readiness == Some(true));
}

/// A container never waits without a reason.
fn waiting(reason: &str, message: Option<&str>) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: message.filter(|text| !text.is_empty()).map(str::to_owned),
        }),
        ..ApiState::default()
    }
}

fn terminated(run: &Container) -> ApiState {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ApiState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(format!("{ID_SCHEME}{}", run.id)),
            exit_code: run.exit_code,
            reason: text(&run.reason),
            message: text(&run.message),
            started_at: run.started_at.or(run.finished_at).map(seconds),
            finished_at: run.finished_at.map(seconds),
            signal: None,
        }),
        ..ApiState::default()
    }
}

fn volume_mounts(container: &Spec) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| {
                // What may be recursive is.
                let is = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
                if is { "Enabled" } else { "Disabled" }.to_owned()
            }),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// Times in the API have whole seconds.
pub(crate) fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}
