//! QoS class, cgroup place and cgroup limits of pods and containers (pkg/kubelet/cm and qos).

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use crate::quantity::{milli_value, value};
use crate::resources::{Resources, effective};
use crate::spec;

/// CFS period, microseconds.
pub const CPU_PERIOD: u64 = 100_000;
/// Fewest shares.
pub const SHARES_MIN: u64 = 2;
/// Smallest limit of CPU that a quota can tell apart, thousandths of a core.
pub const MILLI_LIMIT_MIN: i64 = 10;

/// Quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Some container has a request or limit.
    Burstable,
    /// None has.
    BestEffort,
}

impl Class {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// cgroup limits; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Period in microseconds.
    pub cpu_period: u64,
    /// Quota in microseconds per period.
    pub cpu_quota: i64,
    /// Shares as in cgroup v1.
    pub cpu_shares: u64,
    /// Bytes.
    pub memory_bytes: i64,
}

fn amount(resources: Option<&Resources>, name: &str) -> Option<String> {
    resources.and_then(|all| all.get(name)).map(|quantity| quantity.0.clone())
}

fn compute(resources: Option<&ResourceRequirements>, name: &str, of: fn(&str) -> i64) -> (Option<i64>, Option<i64>) {
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    (
        amount(requests, name).map(|text| of(&text)),
        amount(limits, name).map(|text| of(&text)),
    )
}

/// QoS class of a pod.
#[must_use]
pub fn class(pod: &PodSpec) -> Class {
    let own = pod
        .resources
        .as_ref()
        .filter(|own| own.requests.is_some() || own.limits.is_some());
    let all: Vec<Option<&ResourceRequirements>> = match own {
        Some(own) => vec![Some(own)],
        None => pod
            .containers
            .iter()
            .chain(spec::init_containers(pod))
            .map(|container| container.resources.as_ref())
            .collect(),
    };
    let mut any = false;
    let mut guaranteed = true;
    for resources in all {
        for (name, of) in [("cpu", milli_value as fn(&str) -> i64), ("memory", value as fn(&str) -> i64)] {
            let (request, limit) = compute(resources, name, of);
            let (request, limit) = (request.filter(|value| *value != 0), limit.filter(|value| *value != 0));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Class::BestEffort,
        (true, true) => Class::Guaranteed,
        (true, false) => Class::Burstable,
    }
}

/// cgroup of a pod below the node's root.
#[must_use]
pub fn cgroup_parent(pod: &Pod) -> String {
    let uid = spec::uid(pod);
    match class(spec::of(pod)) {
        Class::Guaranteed => format!("kubepods/pod{uid}"),
        Class::Burstable => format!("kubepods/burstable/pod{uid}"),
        Class::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}

/// CPU shares from thousandths of a core: 1024 per core, between 2 and 262144.
#[must_use]
pub fn shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000)
        .unwrap_or(0)
        .clamp(SHARES_MIN, 262_144)
}

/// CFS quota per [`CPU_PERIOD`] from thousandths of a core, at least 1 ms; 0 for no limit.
#[must_use]
pub fn quota(milli: i64) -> i64 {
    if milli == 0 {
        0
    } else {
        (milli.saturating_mul(100_000) / 1000).max(1000)
    }
}

/// Limits of one container.
#[must_use]
pub fn container_limits(pod: &PodSpec, container: &Container) -> Limits {
    limits_of(&effective(pod, container))
}

/// Limits by requirements: the request sets the shares (or else the limit), the limit the quota.
#[must_use]
pub fn limits_of(resources: &ResourceRequirements) -> Limits {
    let (cpu_request, cpu_limit) = compute(Some(resources), "cpu", milli_value);
    let (_, memory_limit) = compute(Some(resources), "memory", value);
    let shares_of = match (cpu_request, cpu_limit) {
        (None, Some(limit)) if limit != 0 => limit,
        (request, _) => request.unwrap_or(0),
    };
    let quota = quota(cpu_limit.unwrap_or(0));
    Limits {
        cpu_period: CPU_PERIOD,
        cpu_quota: quota,
        cpu_shares: shares(shares_of),
        memory_bytes: memory_limit.unwrap_or(0),
    }
}

/// Thousandths of a core that shares stand for, rounded up; `None` below the smallest.
#[must_use]
pub fn milli_of_shares(shares: u64) -> Option<i64> {
    (shares >= SHARES_MIN).then(|| i64::try_from((shares * 1000).div_ceil(1024)).unwrap_or(i64::MAX))
}

/// Thousandths of a core that a quota stands for; `None` for no limit.
#[must_use]
pub fn milli_of_quota(limits: &Limits) -> Option<i64> {
    let period = i64::try_from(limits.cpu_period).ok().filter(|period| *period > 0)?;
    Some(limits.cpu_quota)
        .filter(|quota| *quota > 0)
        .map(|quota| quota.saturating_mul(1000) / period)
        .filter(|milli| *milli > 0)
}

/// Limits of the pod's own cgroup: sums over containers; init containers count by their largest; a limit only where
/// every container has one.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Limits {
    let spec = spec::of(pod);
    let class = class(spec);
    if class == Class::BestEffort {
        return Limits {
            cpu_shares: 2,
            ..Limits::default()
        };
    }
    let (cpu_request, _) = total(spec, "cpu", milli_value, false);
    let (cpu_limit, cpu_everywhere) = total(spec, "cpu", milli_value, true);
    let (memory_limit, memory_everywhere) = total(spec, "memory", value, true);
    Limits {
        cpu_period: CPU_PERIOD,
        cpu_quota: if cpu_everywhere { quota(cpu_limit) } else { 0 },
        cpu_shares: shares(cpu_request),
        memory_bytes: if memory_everywhere { memory_limit } else { 0 },
    }
}

fn total(pod: &PodSpec, name: &str, of: fn(&str) -> i64, limits: bool) -> (i64, bool) {
    if let Some(own) = &pod.resources {
        let (request, limit) = compute(Some(own), name, of);
        if let Some(value) = if limits { limit } else { request.or(limit) } {
            return (value, true);
        }
    }
    let mut everywhere = true;
    let mut pick = |container: &Container| {
        let (request, limit) = compute(container.resources.as_ref(), name, of);
        let value = if limits { limit } else { request.or(limit) }.unwrap_or(0);
        everywhere &= value != 0;
        value
    };
    let mut sum: i64 = pod.containers.iter().map(&mut pick).sum();
    let mut sidecars = 0;
    let mut largest = 0;
    for container in spec::init_containers(pod) {
        let value = pick(container);
        if spec::is_sidecar(container) {
            sidecars += value;
            largest = largest.max(sidecars);
        } else {
            largest = largest.max(sidecars + value);
        }
    }
    sum += sidecars;
    let overhead = pod
        .overhead
        .as_ref()
        .and_then(|all| all.get(name))
        .map_or(0, |quantity| of(&quantity.0));
    (sum.max(largest) + overhead, everywhere)
}

/// oom_score_adj of a container on a node of this much memory.
#[must_use]
pub fn oom_score_adj(pod: &PodSpec, container: &Container, node_memory_bytes: i64) -> i32 {
    let critical = pod.priority.is_some_and(|priority| priority >= 2_000_001_000)
        || pod.priority_class_name.as_deref() == Some("system-node-critical");
    match class(pod) {
        _ if critical => -997,
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let request = |container: &Container| compute(container.resources.as_ref(), "memory", value).0.unwrap_or(0);
            let score = |request: i64| 1000 - 1000 * request / node_memory_bytes.max(1);
            let mut result = score(request(container));
            if spec::is_sidecar(container) {
                let smallest = pod.containers.iter().map(request).min().unwrap_or(0);
                result = result.min(score(smallest));
            }
            i32::try_from(result.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "a", "resources": resources}]}}))
            .unwrap()
    }

    #[test]
    fn classes_and_limits() {
        // resources, class, parent, container (shares, quota, memory), oom of 1 GiB
        for (resources, class_, parent, limits, oom) in [
            (json!({}), Class::BestEffort, "kubepods/besteffort/podu", (2, 0, 0), 1000),
            (
                json!({"requests": {"cpu": "100m"}}),
                Class::Burstable,
                "kubepods/burstable/podu",
                (102, 0, 0),
                999,
            ),
            (
                json!({"requests": {"memory": "512Mi"}}),
                Class::Burstable,
                "kubepods/burstable/podu",
                (2, 0, 0),
                500,
            ),
            (
                json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "500m", "memory": "64Mi"}}),
                Class::Guaranteed,
                "kubepods/podu",
                (512, 50_000, 67_108_864),
                -997,
            ),
            (
                json!({"limits": {"cpu": "5m"}}),
                Class::Burstable,
                "kubepods/burstable/podu",
                (5, 1000, 0),
                999,
            ),
        ] {
            let pod = pod(resources);
            let spec = spec::of(&pod);
            assert_eq!(class(spec), class_);
            assert_eq!(cgroup_parent(&pod), parent);
            let found = container_limits(spec, &spec.containers[0]);
            assert_eq!((found.cpu_shares, found.cpu_quota, found.memory_bytes), limits);
            assert_eq!(oom_score_adj(spec, &spec.containers[0], 1 << 30), oom);
        }
    }
}
