//! Requests and limits as values: what a container really gets, when two say the same, and what a pod asks for in all.
//!
//! Invariant: quantities are compared and added as numbers, never as texts; a list that is absent is an empty one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use trireme_api::quantity::{Format, Quantity as Number};

use crate::quantity::{milli_value, value};
use crate::spec;

/// Quantities by the name of their resource.
pub type Resources = BTreeMap<String, Quantity>;

/// What a cgroup and a restart policy look at; 0 for none. CPU in thousandths, memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// `requests.cpu`.
    pub cpu_request: i64,
    /// `limits.cpu`.
    pub cpu_limit: i64,
    /// `requests.memory`.
    pub memory_request: i64,
    /// `limits.memory`.
    pub memory_limit: i64,
}

impl Compute {
    /// Of one container, or of a pod as a whole.
    #[must_use]
    pub fn of(resources: &ResourceRequirements) -> Self {
        let read = |list: &Option<Resources>, name: &str, of: fn(&str) -> i64| {
            list.as_ref()
                .and_then(|list| list.get(name))
                .map_or(0, |quantity| of(&quantity.0))
        };
        Self {
            cpu_request: read(&resources.requests, "cpu", milli_value),
            cpu_limit: read(&resources.limits, "cpu", milli_value),
            memory_request: read(&resources.requests, "memory", value),
            memory_limit: read(&resources.limits, "memory", value),
        }
    }
}

/// What a container gets: where it has no limit of its own, the pod's is its limit, too.
#[must_use]
pub fn effective(pod: &PodSpec, container: &Container) -> ResourceRequirements {
    let mut own = container.resources.clone().unwrap_or_default();
    let of_pod = pod.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    for (name, of) in [("cpu", milli_value as fn(&str) -> i64), ("memory", value)] {
        let set = |list: Option<&Resources>| {
            list.and_then(|list| list.get(name))
                .filter(|quantity| of(&quantity.0) != 0)
                .cloned()
        };
        if set(own.limits.as_ref()).is_none()
            && let Some(limit) = set(of_pod)
        {
            own.limits.get_or_insert_default().insert(name.into(), limit);
        }
    }
    own
}

/// Containers whose resources may change while the pod runs.
pub fn resizable(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    spec::init_containers(pod).iter().chain(&pod.containers)
}

/// Whether both say the same.
#[must_use]
pub fn same(one: &ResourceRequirements, other: &ResourceRequirements) -> bool {
    let lists = |one: &Option<Resources>, other: &Option<Resources>| {
        let (one, other) = (one.as_ref(), other.as_ref());
        let entries = |list: Option<&Resources>| list.map_or(0, BTreeMap::len);
        entries(one) == entries(other)
            && one.into_iter().flatten().all(|(name, quantity)| {
                other
                    .and_then(|other| other.get(name))
                    .is_some_and(|other| other == quantity || number(other) == number(quantity))
            })
    };
    lists(&one.requests, &other.requests)
        && lists(&one.limits, &other.limits)
        && one.claims.as_deref().unwrap_or_default() == other.claims.as_deref().unwrap_or_default()
}

fn number(quantity: &Quantity) -> Number {
    Number::parse(&quantity.0).unwrap_or_else(|_| Number::zero(Format::DecimalSi))
}

fn add(sum: &mut Resources, more: &Resources) {
    for (name, quantity) in more {
        let mut total = sum.get(name).map_or_else(|| Number::zero(number(quantity).format()), number);
        total.add(&number(quantity));
        sum.insert(name.clone(), Quantity(total.to_string()));
    }
}

fn raise(most: &mut Resources, other: &Resources) {
    for (name, quantity) in other {
        if most.get(name).is_none_or(|known| number(known) < number(quantity)) {
            most.insert(name.clone(), quantity.clone());
        }
    }
}

/// Which list of resources is added up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Requests,
    Limits,
}

/// What the pod asks for in all. `actuated`: what running containers have, by name; of it and the specification the larger
/// counts, as long as a change is under way.
#[must_use]
pub fn pod_requests(pod: &PodSpec, actuated: &BTreeMap<String, ResourceRequirements>) -> Resources {
    total(pod, List::Requests, actuated)
}

/// What the pod may use in all, where it says so.
#[must_use]
pub fn pod_limits(pod: &PodSpec) -> Resources {
    total(pod, List::Limits, &BTreeMap::new())
}

fn total(pod: &PodSpec, list: List, actuated: &BTreeMap<String, ResourceRequirements>) -> Resources {
    let of = |resources: &ResourceRequirements| {
        let list = match list {
            List::Requests => &resources.requests,
            List::Limits => &resources.limits,
        };
        list.clone().unwrap_or_default()
    };
    let own = |container: &Container| {
        let mut own = container.resources.as_ref().map(of).unwrap_or_default();
        if let Some(actuated) = actuated.get(&container.name) {
            raise(&mut own, &of(actuated));
        }
        own
    };
    let mut sum = Resources::new();
    for container in &pod.containers {
        add(&mut sum, &own(container));
    }
    let mut sidecars = Resources::new();
    let mut largest = Resources::new();
    for container in spec::init_containers(pod) {
        let mut here = own(container);
        if spec::is_sidecar(container) {
            add(&mut sum, &here);
            add(&mut sidecars, &here);
            raise(&mut largest, &sidecars);
        } else {
            add(&mut here, &sidecars);
            raise(&mut largest, &here);
        }
    }
    raise(&mut sum, &largest);
    for (name, quantity) in pod.resources.as_ref().map(of).unwrap_or_default() {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            sum.insert(name, quantity);
        }
    }
    if let Some(overhead) = &pod.overhead {
        match list {
            List::Requests => add(&mut sum, overhead),
            List::Limits => {
                let limited: Resources = overhead
                    .iter()
                    .filter(|(name, _)| sum.get(*name).is_some_and(|limit| !number(limit).is_zero()))
                    .map(|(name, quantity)| (name.clone(), quantity.clone()))
                    .collect();
                add(&mut sum, &limited);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn requirements(value: serde_json::Value) -> ResourceRequirements {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_same_is_the_same_however_it_is_written() {
        for (one, other, expected) in [
            (json!({}), json!({"requests": {}}), true),
            (json!({"limits": {"cpu": "0.5"}}), json!({"limits": {"cpu": "500m"}}), true),
            (
                json!({"limits": {"memory": "1Gi"}}),
                json!({"limits": {"memory": "1024Mi"}}),
                true,
            ),
            (json!({"limits": {"cpu": "1"}}), json!({"requests": {"cpu": "1"}}), false),
            (
                json!({"limits": {"cpu": "1"}}),
                json!({"limits": {"cpu": "1", "memory": "1"}}),
                false,
            ),
            (json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}}), false),
        ] {
            assert_eq!(
                same(&requirements(one.clone()), &requirements(other.clone())),
                expected,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn pods_ask_for_sums_and_peaks() {
        let resources = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        let pod: PodSpec = serde_json::from_value(json!({
            "initContainers": [
                {"name": "i", "resources": resources("900m")},
                {"name": "s", "restartPolicy": "Always", "resources": resources("100m")},
                {"name": "j", "resources": resources("1")},
            ],
            "containers": [{"name": "a", "resources": resources("300m")}, {"name": "b", "resources": {"requests": {"memory": "1Mi"}}}],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }))
        .unwrap();
        let shown = |resources: Resources| serde_json::to_value(resources).unwrap();
        let none = BTreeMap::new();
        assert_eq!(shown(pod_requests(&pod, &none)), json!({"cpu": "1110m", "memory": "2Mi"}));
        assert_eq!(shown(pod_limits(&pod)), json!({"cpu": "1110m"}));
        let more = BTreeMap::from([("a".to_owned(), requirements(json!({"requests": {"cpu": "2"}})))]);
        assert_eq!(shown(pod_requests(&pod, &more)), json!({"cpu": "2110m", "memory": "2Mi"}));

        let whole: PodSpec = serde_json::from_value(json!({
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "3Mi"}},
            "containers": [{"name": "a", "resources": {"limits": {"memory": "1Mi"}}}],
        }))
        .unwrap();
        assert_eq!(shown(pod_limits(&whole)), json!({"cpu": "2", "memory": "3Mi"}));
        assert_eq!(
            effective(&whole, &whole.containers[0]),
            requirements(json!({"limits": {"cpu": "2", "memory": "1Mi"}}))
        );
    }
}
