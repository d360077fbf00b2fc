//! What the API is told about a pod (pkg/kubelet `generateAPIPodStatus` and `getPhase`).
//!
//! Invariant: a final phase never changes back; conditions of others are carried over as they are; transition times move
//! only when a condition's status does.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus};

use crate::conditions;
use crate::observed::{Container, ContainerState, Observed};
use crate::plan::verdict;
use crate::resources::pod_requests;
use crate::status_container::{self, List, seconds};
use crate::{qos, restart, spec, status_resources};

pub use crate::status_container::ID_SCHEME;

/// Whether a condition type is written by the kubelet.
#[must_use]
pub fn is_owned_condition(kind: &str) -> bool {
    conditions::OWNED.contains(&kind)
}

/// The status of a pod. `pod.status` is what the API shows now, `observed.previous` what was computed last.
#[must_use]
pub fn status(pod: &Pod, observed: &Observed, now: Timestamp) -> PodStatus {
    let pod_spec = spec::of(pod);
    let api = pod.status.clone().unwrap_or_default();
    let old = &observed.previous;
    let init = status_container::list(
        pod,
        observed,
        now,
        spec::init_containers(pod_spec),
        List::Init,
        old.init_container_statuses.as_deref().unwrap_or_default(),
    );
    let regular = status_container::list(
        pod,
        observed,
        now,
        &pod_spec.containers,
        List::Regular,
        old.container_statuses.as_deref().unwrap_or_default(),
    );
    let ephemeral = spec::ephemeral_containers(pod_spec);
    let ephemeral = status_container::list(
        pod,
        observed,
        now,
        &ephemeral,
        List::Ephemeral,
        old.ephemeral_container_statuses.as_deref().unwrap_or_default(),
    );

    let started = |run: &Container| matches!(run.state, ContainerState::Running | ContainerState::Exited);
    let initialized = pod_spec.containers.iter().any(|container| {
        observed
            .containers
            .iter()
            .any(|run| run.name == container.name && started(run))
    });
    let mut phase = phase(pod_spec, observed, &init, &regular, initialized).to_owned();
    let known = |status: &PodStatus| {
        status
            .phase
            .clone()
            .filter(|phase| matches!(phase.as_str(), "Succeeded" | "Failed"))
    };
    if let Some(last) = known(&api).or_else(|| known(old)) {
        phase = last;
    }
    let mut reason = None;
    let mut message = None;
    if Some(&phase) == old.phase.as_ref() {
        reason = old.reason.clone().or_else(|| api.reason.clone());
        message = old.message.clone().or_else(|| api.message.clone());
    }
    if let Some(verdict) = verdict(pod, observed, now)
        && known(&api).is_none()
    {
        phase = "Failed".into();
        reason = Some(verdict.reason);
        message = Some(verdict.message);
    }

    let foreign: Vec<PodCondition> = api
        .conditions
        .iter()
        .flatten()
        .filter(|condition| !is_owned_condition(&condition.type_))
        .cloned()
        .collect();
    let resize = match observed.stopped {
        true => Vec::new(),
        false => observed.resize.conditions(),
    };
    let mut own = conditions::generate(pod, observed, &phase, &foreign, &init, &regular);
    for condition in &mut own {
        let before = [&api, old].into_iter().find_map(|status| {
            status
                .conditions
                .iter()
                .flatten()
                .find(|known| known.type_ == condition.type_ && known.status == condition.status)
        });
        condition.last_transition_time = Some(match before.and_then(|known| known.last_transition_time.clone()) {
            Some(time) => time,
            None => seconds(now),
        });
    }

    let (pod_ips, host_ips) = addresses(pod, observed, old);
    let resources = status_resources::of_pod(pod_spec, observed, &phase);
    PodStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: Some(foreign.into_iter().chain(resize).chain(own).collect()),
        observed_generation: pod.metadata.generation.or(api.observed_generation),
        start_time: old
            .start_time
            .clone()
            .or_else(|| api.start_time.clone())
            .or_else(|| Some(seconds(now))),
        qos_class: api
            .qos_class
            .clone()
            .or_else(|| Some(qos::class(pod_spec).as_str().to_owned())),
        host_ip: host_ips.first().cloned(),
        host_ips: (!host_ips.is_empty()).then(|| host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(regular),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        nominated_node_name: api.nominated_node_name,
        resize: api.resize,
        resource_claim_statuses: api.resource_claim_statuses,
        allocated_resources: Some(pod_requests(pod_spec, &BTreeMap::new())).filter(|requests| !requests.is_empty()),
        resources: Some(resources),
        extended_resource_claim_status: api.extended_resource_claim_status,
        node_allocatable_resource_claim_statuses: api.node_allocatable_resource_claim_statuses,
    }
}

fn addresses(pod: &Pod, observed: &Observed, old: &PodStatus) -> (Vec<String>, Vec<String>) {
    let host = observed.host_ips.clone();
    let mut own = observed
        .sandboxes
        .iter()
        .find(|sandbox| !sandbox.ips.is_empty())
        .map(|sandbox| sandbox.ips.clone())
        .unwrap_or_default();
    if own.is_empty() {
        // A sandbox that is gone leaves its addresses in the status of a pod that has ended.
        own = old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    if spec::is_host_network(pod) && own.is_empty() {
        own.clone_from(&host);
    }
    (own, host)
}

fn phase(
    pod: &PodSpec,
    observed: &Observed,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    initialized: bool,
) -> &'static str {
    let stopped = observed.stopped;
    let for_good = |container: &Spec, code: i32| !restart::after_end(container, pod, observed, code);
    let mut pending_init = 0;
    let mut pending_sidecars = 0;
    let mut init_failed_for_good = false;
    let (mut unknown, mut running, mut waiting, mut ended, mut ended_for_good, mut succeeded) = (0, 0, 0, 0, 0, 0);

    for container in spec::init_containers(pod) {
        let state = init.iter().find(|status| status.name == container.name).map(Shape::of);
        if spec::is_sidecar(container) {
            match state {
                None | Some(Shape::Nothing) => {
                    pending_sidecars += usize::from(state.is_some());
                    unknown += 1;
                }
                Some(Shape::Running { started }) => {
                    pending_sidecars += usize::from(!started);
                    running += 1;
                }
                Some(Shape::Waiting) => {
                    pending_sidecars += 1;
                    waiting += 1;
                }
                Some(Shape::Ended(_) | Shape::WaitingAfter(_)) => {}
            }
            continue;
        }
        match state {
            Some(Shape::Ended(code) | Shape::WaitingAfter(code)) => {
                init_failed_for_good |= code != 0 && (stopped || for_good(container, code));
            }
            _ => pending_init += 1,
        }
    }
    for container in &pod.containers {
        match regular.iter().find(|status| status.name == container.name).map(Shape::of) {
            Some(Shape::Running { .. }) => running += 1,
            Some(Shape::Ended(code)) => {
                ended += 1;
                ended_for_good += usize::from(for_good(container, code));
                succeeded += usize::from(code == 0);
            }
            Some(Shape::WaitingAfter(code)) => {
                ended += 1;
                ended_for_good += usize::from(for_good(container, code));
            }
            Some(Shape::Waiting) => waiting += 1,
            None | Some(Shape::Nothing) => unknown += 1,
        }
    }

    if init_failed_for_good {
        return "Failed";
    }
    if pending_init > 0 || (pending_sidecars > 0 && !initialized) || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if ended > 0 && unknown == 0 {
        if !stopped && ended != ended_for_good {
            return "Running";
        }
        return if ended == succeeded { "Succeeded" } else { "Failed" };
    }
    "Pending"
}

enum Shape {
    Running { started: bool },
    Ended(i32),
    Waiting,
    WaitingAfter(i32),
    Nothing,
}

impl Shape {
    fn of(status: &ContainerStatus) -> Self {
        let Some(state) = &status.state else { return Self::Nothing };
        if state.running.is_some() {
            return Self::Running {
                started: status.started == Some(true),
            };
        }
        if let Some(ended) = &state.terminated {
            return Self::Ended(ended.exit_code);
        }
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        match (&state.waiting, last) {
            (Some(_), Some(last)) => Self::WaitingAfter(last.exit_code),
            (Some(_), None) => Self::Waiting,
            (None, _) => Self::Nothing,
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
