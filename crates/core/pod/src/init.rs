//! Progress of init containers and sidecars (kuberuntime's `computeInitContainerActions`).
//!
//! Invariant: init containers are looked at from the last to the first, as earlier ones may have been removed; only runs
//! in the present sandbox count.

use k8s_openapi::api::core::v1::Pod;

use crate::observed::{Container, ContainerState, Observed};
use crate::plan::{KillReason, Step, changed, kill};
use crate::{restart, spec};

/// Where initialisation stands.
pub(crate) enum Init {
    /// One failed and may not run again.
    Failed,
    /// Main containers have to wait.
    Going { start: Vec<String>, kill: Vec<Step> },
    /// Main containers may run; sidecars may have to be started again.
    Done { start: Vec<String>, kill: Vec<Step> },
}

pub(crate) fn plan(pod: &Pod, observed: &Observed, sandbox_id: &str) -> Init {
    let pod_spec = spec::of(pod);
    let containers = spec::init_containers(pod_spec);
    let mut start: Vec<usize> = Vec::new();
    let mut kills: Vec<Step> = Vec::new();
    if containers.is_empty() {
        return Init::Done {
            start: Vec::new(),
            kill: kills,
        };
    }
    let here = |name: &str| -> Option<&Container> {
        observed
            .containers
            .iter()
            .find(|run| run.name == name && run.sandbox_id == sandbox_id)
    };
    let mut done = pod_spec.containers.iter().any(|container| {
        here(&container.name).is_some_and(|run| matches!(run.state, ContainerState::Created | ContainerState::Running))
            || observed.busy.contains(&container.name)
            // Main containers that ended in this very sandbox were started after initialisation.
            || here(&container.name).is_some_and(|run| run.state == ContainerState::Exited)
    });
    let mut later_began = done;

    for (index, container) in containers.iter().enumerate().rev() {
        let sidecar = spec::is_sidecar(container);
        let last = index + 1 == containers.len();
        let Some(run) = here(&container.name) else {
            if observed.busy.contains(&container.name) {
                later_began = true;
            } else if later_began && sidecar {
                start.push(index);
            }
            continue;
        };
        if later_began && !sidecar {
            continue;
        }
        let passed = |start: &mut Vec<usize>, done: &mut bool| {
            if last {
                *done = true;
            } else if !later_began {
                start.push(index + 1);
            }
        };
        match run.state {
            ContainerState::Created => start.push(index),
            ContainerState::Running if !sidecar => {}
            ContainerState::Running => {
                let probes = observed.probe(&run.id);
                let startup = if container.startup_probe.is_some() {
                    probes.startup
                } else {
                    Some(true)
                };
                match startup {
                    None => {}
                    Some(false) => {
                        let message = format!("Init container {} failed startup probe", container.name);
                        kills.push(kill(pod, container, run, message, KillReason::StartupProbe));
                    }
                    Some(true) => {
                        passed(&mut start, &mut done);
                        if changed(container, run) {
                            let message = format!("Init container {} definition changed", container.name);
                            kills.push(kill(pod, container, run, message, KillReason::Replaced));
                        } else if container.liveness_probe.is_some() && probes.liveness == Some(false) {
                            let message = format!("Init container {} failed liveness probe", container.name);
                            kills.push(kill(pod, container, run, message, KillReason::LivenessProbe));
                        }
                    }
                }
            }
            ContainerState::Exited if sidecar => start.push(index),
            ContainerState::Exited => {
                if run.exit_code == 0 {
                    passed(&mut start, &mut done);
                } else if restart::after_exit(container, pod_spec, run.exit_code) {
                    start.push(index);
                } else {
                    return Init::Failed;
                }
            }
            ContainerState::Unknown => {
                if !sidecar && !restart::after_probe(container, pod_spec) {
                    return Init::Failed;
                }
                let message = format!(
                    "Init container is in \"unknown\" state, try killing it before restart of {}",
                    container.name
                );
                kills.push(kill(pod, container, run, message, KillReason::Replaced));
                start.push(index);
            }
        }
        later_began = true;
    }
    if !later_began {
        start.push(0);
    }
    // What is being killed starts in a later round, when its end was seen.
    kills.retain(|step| !matches!(step, Step::KillContainer { name, .. } if observed.busy.contains(name)));
    start.sort_unstable();
    start.dedup();
    let start = start.into_iter().map(|index| containers[index].name.clone()).collect();
    if done {
        Init::Done { start, kill: kills }
    } else {
        Init::Going { start, kill: kills }
    }
}
