//! What an object counts against a ResourceQuota: the names of resources it uses, how much of each, and which scopes it
//! is in (pkg/quota/v1/evaluator).
//!
//! Invariant: pure; the same object always counts the same. It decides nothing: admission and the controller do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use trireme_api::path;
use trireme_api::quantity::{Format, Quantity};

use crate::strategy::pod_qos;

/// Amounts by name of resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// Resources of pods that a quota may name in full.
const POD: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Resources that each container must set where a quota counts them.
const DEMANDED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];
const SERVICE: [&str; 4] = ["count/services", "services", "services.loadbalancers", "services.nodeports"];
const CLAIM: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Amounts of a JSON object such as `status.hard`; what is no quantity is left out.
#[must_use]
pub fn amounts(value: &Value) -> Amounts {
    let members = value.as_object().into_iter().flatten();
    let parsed = members.filter_map(|(name, value)| {
        let quantity = match value {
            Value::String(text) => Quantity::parse(text),
            other => Quantity::parse(&other.to_string()),
        };
        Some((name.clone(), quantity.ok()?))
    });
    parsed.collect()
}

/// Adds all of `more`.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        match total.get_mut(name) {
            Some(held) => held.add(quantity),
            None => drop(total.insert(name.clone(), quantity.clone())),
        }
    }
}

/// The name under which objects of a resource are counted.
#[must_use]
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    }
}

/// Whether objects of that resource count against that name.
#[must_use]
pub fn counts(group: &str, plural: &str, name: &str) -> bool {
    match (group, plural) {
        ("", "pods") => {
            POD.contains(&name)
                || ["hugepages-", "requests.hugepages-"]
                    .iter()
                    .any(|start| name.starts_with(start))
                || is_extended(name)
        }
        ("", "services") => SERVICE.contains(&name),
        ("", "persistentvolumeclaims") => {
            let of_class = name.split_once(OF_CLASS).is_some_and(|(_, rest)| CLAIM.contains(&rest));
            name == "count/persistentvolumeclaims" || CLAIM.contains(&name) || of_class
        }
        ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") if name == plural => true,
        _ => name == count_name(group, plural),
    }
}

fn is_extended(name: &str) -> bool {
    name.strip_prefix("requests.").is_some_and(|name| {
        (name.contains('/') && !name.contains("kubernetes.io/")) || name.starts_with("deviceclass.resource.kubernetes.io/")
    })
}

/// What an object uses.
#[must_use]
pub fn usage(group: &str, plural: &str, object: &Value) -> Amounts {
    let one = || Quantity::new(1, Format::DecimalSi);
    let mut used = Amounts::from([(count_name(group, plural), one())]);
    match (group, plural) {
        ("", "pods") if !matches!(path::str(object, &["status", "phase"]), "Failed" | "Succeeded") => {
            let spec = &object["spec"];
            used.extend(compute(&with_overhead(spec, "requests"), &with_overhead(spec, "limits")));
        }
        ("", "services") => {
            let ports = path::list(object, &["spec", "ports"]);
            let explicit = || {
                ports
                    .iter()
                    .filter(|port| path::i64(port, &["nodePort"]).unwrap_or(0) != 0)
                    .count()
            };
            let (balancers, nodes) = match path::str(object, &["spec", "type"]) {
                "NodePort" => (0, ports.len()),
                "LoadBalancer" if object["spec"]["allocateLoadBalancerNodePorts"] == false => (1, explicit()),
                "LoadBalancer" => (1, ports.len()),
                _ => (0, 0),
            };
            let count = |count: usize| Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi);
            used.insert("services".into(), one());
            used.insert("services.loadbalancers".into(), count(balancers));
            used.insert("services.nodeports".into(), count(nodes));
        }
        ("", "persistentvolumeclaims") => {
            let beta = path::str(
                object,
                &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"],
            );
            let class = if beta.is_empty() {
                path::str(object, &["spec", "storageClassName"])
            } else {
                beta
            };
            let requested = amounts(&object["spec"]["resources"]["requests"]).remove("storage");
            let allocated = amounts(&object["status"]["allocatedResources"]).remove("storage");
            let mut claim = Amounts::from([("persistentvolumeclaims".to_owned(), one())]);
            if let Some(requested) = requested {
                let storage = allocated.filter(|allocated| *allocated > requested).unwrap_or(requested);
                claim.insert("requests.storage".into(), storage);
            }
            if !class.is_empty() {
                used.extend(
                    claim
                        .iter()
                        .map(|(name, amount)| (format!("{class}{OF_CLASS}{name}"), amount.clone())),
                );
            }
            used.extend(claim);
        }
        ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
            used.insert(plural.to_owned(), one());
        }
        _ => {}
    }
    used
}

/// The names that requests and limits are counted under.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), Quantity::new(1, Format::DecimalSi))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            used.insert(name.to_owned(), request.clone());
            used.insert(format!("requests.{name}"), request.clone());
        }
        if let Some(limit) = limits.get(name) {
            used.insert(format!("limits.{name}"), limit.clone());
        }
    }
    for (name, request) in requests {
        let under = format!("requests.{name}");
        if name.starts_with("hugepages-") {
            used.insert(name.clone(), request.clone());
            used.insert(under, request.clone());
        } else if is_extended(&under) {
            used.insert(under, request.clone());
        }
    }
    used
}

/// What a pod of this specification asks for in all: its own figures or its containers', and its overhead on top.
#[must_use]
pub fn pod_requests(spec: &Value) -> Amounts {
    with_overhead(spec, "requests")
}

/// What a pod's quota counts: with its overhead on top.
fn with_overhead(spec: &Value, list: &str) -> Amounts {
    let mut total = of_pod(spec, list);
    let mut overhead = amounts(&spec["overhead"]);
    if list == "limits" {
        overhead.retain(|name, _| total.get(name).is_some_and(|held| !held.is_zero()));
    }
    add(&mut total, &overhead);
    total
}

/// `requests` or `limits` of a pod by its spec: what it says itself, and else what its containers need.
#[must_use]
pub fn of_pod(spec: &Value, list: &str) -> Amounts {
    let mut total = of_containers(spec, list);
    let whole = amounts(&spec["resources"][list]);
    total.extend(whole.into_iter().filter(|(name, _)| is_of_pods(name)));
    total
}

/// Whether a pod may say itself how much it asks of that resource.
#[must_use]
pub fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// `requests` or `limits` of a pod's containers and sidecars together, or of the greediest moment of the start.
#[must_use]
pub fn of_containers(spec: &Value, list: &str) -> Amounts {
    let own = |container: &Value| amounts(&container["resources"][list]);
    let mut total = Amounts::new();
    for container in path::list(spec, &["containers"]) {
        add(&mut total, &own(container));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in path::list(spec, &["initContainers"]) {
        let mut now = own(container);
        if path::str(container, &["restartPolicy"]) == "Always" {
            add(&mut total, &now);
            add(&mut sidecars, &now);
            now.clone_from(&sidecars);
        } else {
            add(&mut now, &sidecars);
        }
        at_least(&mut starting, now);
    }
    at_least(&mut total, starting);
    total
}

fn at_least(total: &mut Amounts, least: Amounts) {
    for (name, quantity) in least {
        if total.get(&name).is_none_or(|held| *held < quantity) {
            total.insert(name, quantity);
        }
    }
}

/// Resources among `names` that containers of a pod leave open though a quota counts them, with the containers' names.
#[must_use]
pub fn unset<'a>(pod: &Value, names: impl Iterator<Item = &'a String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut missing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if pod["spec"]["resources"]
        .as_object()
        .is_some_and(|resources| !resources.is_empty())
    {
        return missing;
    }
    let demanded: Vec<&String> = names.filter(|name| DEMANDED.contains(&name.as_str())).collect();
    for list in ["containers", "initContainers"] {
        for container in path::list(pod, &["spec", list]) {
            let resources = &container["resources"];
            let set = compute(&amounts(&resources["requests"]), &amounts(&resources["limits"]));
            for name in demanded.iter().filter(|name| !set.contains_key(name.as_str())) {
                let container = path::str(container, &["name"]).to_owned();
                missing.entry((*name).clone()).or_default().insert(container);
            }
        }
    }
    missing
}

/// Whether a quota counts objects like this one: it names a resource of theirs, and all its scopes hold.
#[must_use]
pub fn covers(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let named = path::object(quota, &["status", "hard"])
        .into_iter()
        .flatten()
        .any(|(name, _)| counts(group, plural, name));
    let scopes = path::list(quota, &["spec", "scopes"]);
    let exists = Value::from("Exists");
    let expressions = path::list(quota, &["spec", "scopeSelector", "matchExpressions"]);
    named
        && scopes
            .iter()
            .all(|scope| in_scope(group, plural, object, scope, &exists, &[]))
        && expressions.iter().all(|expression| {
            let values = path::list(expression, &["values"]);
            in_scope(
                group,
                plural,
                object,
                &expression["scopeName"],
                &expression["operator"],
                values,
            )
        })
}

fn in_scope(group: &str, plural: &str, object: &Value, scope: &Value, operator: &Value, values: &[Value]) -> bool {
    let selects = |held: &[&str]| {
        let among = held.iter().any(|held| values.iter().any(|value| value == held));
        match operator.as_str() {
            Some("In") => among,
            Some("NotIn") => !among,
            Some("DoesNotExist") => held.is_empty(),
            _ => !held.is_empty(),
        }
    };
    let held = |at: &[&str]| Some(path::str(object, at)).filter(|name| !name.is_empty());
    match (group, plural, scope.as_str().unwrap_or_default()) {
        ("", "pods", "Terminating") => is_terminating(object),
        ("", "pods", "NotTerminating") => !is_terminating(object),
        ("", "pods", "BestEffort") => pod_qos(object) == "BestEffort",
        ("", "pods", "NotBestEffort") => pod_qos(object) != "BestEffort",
        ("", "pods", "PriorityClass") => selects(held(&["spec", "priorityClassName"]).as_slice()),
        ("", "pods", "CrossNamespacePodAffinity") => crosses_namespaces(object),
        ("", "persistentvolumeclaims", "VolumeAttributesClass") => {
            let names = [
                held(&["spec", "volumeAttributesClassName"]),
                held(&["status", "currentVolumeAttributesClassName"]),
                held(&["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]),
            ];
            selects(&names.into_iter().flatten().collect::<Vec<_>>())
        }
        _ => false,
    }
}

/// Whether a pod ends by itself.
#[must_use]
pub fn is_terminating(pod: &Value) -> bool {
    path::i64(pod, &["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0)
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !path::list(term, &["namespaces"]).is_empty() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        let required = path::list(affinity, &["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = path::list(affinity, &["preferredDuringSchedulingIgnoredDuringExecution"]);
        required.iter().any(crosses) || preferred.iter().any(|term| crosses(&term["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn used(plural: &str, object: &Value, name: &str) -> String {
        usage("", plural, object)
            .get(name)
            .map_or_else(String::new, ToString::to_string)
    }

    #[test]
    fn objects_use_what_they_ask_for() {
        let container = |cpu: &str| json!({"name": "a", "resources": {"requests": {"cpu": cpu}, "limits": {"memory": "1Gi"}}});
        let pod = json!({"spec": {"containers": [container("100m"), container("200m")], "initContainers": [container("250m")],
            "overhead": {"cpu": "50m"}}});
        let balanced = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {"nodePort": 30000}]}});
        let quiet =
            json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{}, {"nodePort": 30000}]}});
        let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}}});
        let ended = json!({"spec": {"containers": [container("1")]}, "status": {"phase": "Succeeded"}});
        for (plural, object, name, wanted) in [
            ("pods", &pod, "requests.cpu", "350m"),
            ("pods", &pod, "limits.memory", "2Gi"),
            ("pods", &pod, "pods", "1"),
            ("pods", &ended, "pods", ""),
            ("pods", &ended, "count/pods", "1"),
            ("services", &balanced, "services.nodeports", "2"),
            ("services", &quiet, "services.nodeports", "1"),
            ("services", &quiet, "services.loadbalancers", "1"),
            (
                "persistentvolumeclaims",
                &claim,
                "fast.storageclass.storage.k8s.io/requests.storage",
                "5Gi",
            ),
            ("secrets", &claim, "secrets", "1"),
        ] {
            assert_eq!(used(plural, object, name), wanted, "{plural} {name}");
        }
    }

    #[test]
    fn quotas_cover_by_name_and_scope() {
        let quota = |hard: &str, spec: Value| json!({"spec": spec, "status": {"hard": {hard: "1"}}});
        let pod = json!({"spec": {"priorityClassName": "high", "containers": []}});
        let high = |operator: &str| {
            json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}})
        };
        for (quota, plural, wanted) in [
            (quota("pods", json!({})), "pods", true),
            (quota("pods", json!({})), "secrets", false),
            (quota("count/secrets", json!({})), "secrets", true),
            (quota("count/secrets", json!({"scopes": ["BestEffort"]})), "secrets", false),
            (quota("requests.example.com/gpu", json!({})), "pods", true),
            (
                quota("pods", json!({"scopes": ["BestEffort", "NotTerminating"]})),
                "pods",
                true,
            ),
            (quota("pods", json!({"scopes": ["Terminating"]})), "pods", false),
            (quota("pods", high("In")), "pods", true),
            (quota("pods", high("NotIn")), "pods", false),
        ] {
            assert_eq!(covers(&quota, "", plural, &pod), wanted, "{quota}");
        }
    }
}
