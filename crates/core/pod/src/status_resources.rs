//! What the API is told of the resources that containers and pods really have (pkg/kubelet `convertContainerStatusResources`
//! and `convertToAPIPodLevelResourcesStatus`).
//!
//! Invariant: a value that a cgroup holds is the cgroup's; the pod's specification fills in what no cgroup holds. Values too
//! small for a cgroup to tell apart are the specification's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as Spec, ContainerStatus, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use trireme_api::quantity::{Format, Quantity as Number};

use crate::observed::{Container, ContainerState, Observed};
use crate::qos::{MILLI_LIMIT_MIN, SHARES_MIN, milli_of_quota, milli_of_shares};
use crate::resources::{Compute, Resources, pod_limits, pod_requests};

/// What a run has. `before`: what was told of the same run while it ran.
pub(crate) fn of_container(container: &Spec, run: &Container, before: Option<&ContainerStatus>) -> ResourceRequirements {
    let mut told = container.resources.clone().unwrap_or_default();
    if run.state != ContainerState::Running {
        return told;
    }
    let asked = Compute::of(&told);
    let before = before.and_then(|before| before.resources.as_ref());
    if let Some(limits) = &mut told.limits {
        let old = before.and_then(|before| before.limits.as_ref());
        match milli_of_quota(&run.limits) {
            Some(milli) if milli.max(asked.cpu_limit) > MILLI_LIMIT_MIN => drop(limits.insert("cpu".into(), cpu(milli))),
            Some(_) => {}
            None => keep(limits, old, "cpu"),
        }
        match run.limits.memory_bytes {
            bytes if bytes > 0 => drop(limits.insert("memory".into(), memory(bytes))),
            _ => keep(limits, old, "memory"),
        }
    }
    if let Some(requests) = &mut told.requests {
        let old = before.and_then(|before| before.requests.as_ref());
        match milli_of_shares(run.limits.cpu_shares) {
            Some(milli) if tells(milli, asked.cpu_request) => drop(requests.insert("cpu".into(), cpu(milli))),
            Some(_) => {}
            None => keep(requests, old, "cpu"),
        }
        let actuated = run
            .actuated
            .as_ref()
            .and_then(|actuated| actuated.requests.as_ref()?.get("memory"));
        match actuated {
            Some(quantity) => drop(requests.insert("memory".into(), quantity.clone())),
            None => keep(requests, old, "memory"),
        }
    }
    told
}

/// What the pod has as a whole.
pub(crate) fn of_pod(pod: &PodSpec, observed: &Observed, phase: &str) -> ResourceRequirements {
    let some = |list: Resources| (!list.is_empty()).then_some(list);
    let sums = pod_requests(pod, &BTreeMap::new());
    let Some(sandbox) = observed.sandbox().filter(|_| phase == "Running") else {
        return ResourceRequirements {
            requests: some(sums),
            limits: some(pod_limits(pod)),
            claims: None,
        };
    };
    let own = pod.resources.clone().unwrap_or_default();
    let asked = Compute::of(&own);
    let (mut requests, mut limits) = (own.requests.unwrap_or_default(), own.limits.unwrap_or_default());
    if let Some(milli) = milli_of_shares(sandbox.limits.cpu_shares).filter(|milli| tells(*milli, asked.cpu_request)) {
        requests.insert("cpu".into(), cpu(milli));
    }
    if let Some(quantity) = sums.get("memory") {
        requests.entry("memory".into()).or_insert_with(|| quantity.clone());
    }
    if let Some(milli) = milli_of_quota(&sandbox.limits).filter(|milli| (*milli).max(asked.cpu_limit) > MILLI_LIMIT_MIN) {
        limits.insert("cpu".into(), cpu(milli));
    }
    if sandbox.limits.memory_bytes > 0 {
        limits.insert("memory".into(), memory(sandbox.limits.memory_bytes));
    }
    ResourceRequirements {
        requests: some(requests),
        limits: some(limits),
        claims: None,
    }
}

/// Whether shares tell an amount of CPU from the least.
fn tells(milli: i64, asked: i64) -> bool {
    u64::try_from(milli.max(asked)).is_ok_and(|milli| milli > SHARES_MIN)
}

fn keep(list: &mut Resources, old: Option<&Resources>, name: &str) {
    if let Some(quantity) = old.and_then(|old| old.get(name)) {
        list.insert(name.into(), quantity.clone());
    }
}

fn cpu(milli: i64) -> Quantity {
    Quantity(Number::from_milli(milli, Format::DecimalSi).to_string())
}

fn memory(bytes: i64) -> Quantity {
    Quantity(Number::new(bytes, Format::BinarySi).to_string())
}
