//! LimitRanger: defaults and bounds that a namespace's LimitRanges set for containers, pods and claims.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use trireme_api::Status;
use trireme_api::quantity::Quantity;
use trireme_resources::quota::{self, Amounts};

use super::{Operation, Request};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Largest value that is compared in thousandths.
const MILLI_MAX: i64 = i64::MAX / 1000;

pub(super) fn fill(request: &mut Request<'_>) {
    for range in request.lookup.list("", "limitranges", Some(request.namespace)) {
        let mut requests = Map::new();
        let mut limits = Map::new();
        for item in items(&range, "Container") {
            requests.extend(item["defaultRequest"].as_object().cloned().unwrap_or_default());
            limits.extend(item["default"].as_object().cloned().unwrap_or_default());
        }
        let mut notes = Vec::new();
        for (list, title) in [("containers", "container"), ("initContainers", "init container")] {
            for container in request.object["spec"]
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                // Limits first, as upstream; told the other way round.
                let set_limits = merge(container, "limits", &limits);
                let set_requests = merge(container, "requests", &requests);
                for (set, what) in [(set_requests, "request"), (set_limits, "limit")] {
                    if !set.is_empty() {
                        notes.push(format!("{} {what} for {title} {name}", set.join(", ")));
                    }
                }
            }
        }
        if !notes.is_empty() {
            let metadata = &mut request.object["metadata"];
            if !metadata["annotations"].is_object() {
                metadata["annotations"] = json!({});
            }
            metadata["annotations"][ANNOTATION] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
        }
    }
}

fn items<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    range["spec"]["limits"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(move |item| item["type"] == kind)
}

/// Adds absent members; returns their names, sorted.
fn merge(container: &mut Value, list: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, value) in defaults {
        if !container["resources"].is_object() {
            container["resources"] = json!({});
        }
        let resources = &mut container["resources"];
        if !resources[list].is_object() {
            resources[list] = json!({});
        }
        if resources[list].get(name).is_none() {
            resources[list][name] = value.clone();
            set.push(name.clone());
        }
    }
    set
}

pub(super) fn check(request: &Request<'_>) -> Result<(), Status> {
    let (create, update) = (request.operation == Operation::Create, request.operation == Operation::Update);
    let pod =
        request.is("", "pods") && ((create && request.subresource.is_empty()) || (update && request.subresource == "resize"));
    let claim = request.is("", "persistentvolumeclaims") && (create || update) && request.subresource.is_empty();
    let going = request.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null());
    if !(pod || claim) || going {
        return Ok(());
    }
    for range in request.lookup.list("", "limitranges", Some(request.namespace)) {
        let mut problems = Vec::new();
        if pod {
            check_pod(&range, &request.object["spec"], &mut problems);
        } else {
            let resources = resources(&request.object["spec"]["resources"], "requests");
            for item in items(&range, "PersistentVolumeClaim") {
                let bounds = Bounds {
                    kind: "PersistentVolumeClaim",
                    requests: &resources,
                    limits: &Amounts::new(),
                };
                bounds.minimum(item, &mut problems);
                bounds.maximum_request(item, &mut problems);
            }
        }
        // The first range that refuses is told, with all that it says, each once.
        let mut told = BTreeSet::new();
        problems.retain(|problem| told.insert(problem.clone()));
        match problems.as_slice() {
            [] => {}
            [one] => return Err(request.forbid(one)),
            several => return Err(request.forbid(&format!("[{}]", several.join(", ")))),
        }
    }
    Ok(())
}

fn check_pod(range: &Value, spec: &Value, problems: &mut Vec<String>) {
    let containers = |list: &str| spec[list].as_array().into_iter().flatten();
    for item in range["spec"]["limits"].as_array().into_iter().flatten() {
        match item["type"].as_str() {
            Some("Container") => {
                for container in containers("containers").chain(containers("initContainers")) {
                    let (requests, limits) = (
                        resources(&container["resources"], "requests"),
                        resources(&container["resources"], "limits"),
                    );
                    Bounds {
                        kind: "Container",
                        requests: &requests,
                        limits: &limits,
                    }
                    .all(item, problems);
                }
            }
            Some("Pod") => {
                let (requests, limits) = (quota::of_pod(spec, "requests"), quota::of_pod(spec, "limits"));
                Bounds {
                    kind: "Pod",
                    requests: &requests,
                    limits: &limits,
                }
                .all(item, problems);
            }
            _ => {}
        }
    }
}

fn resources(resources: &Value, list: &str) -> Amounts {
    quota::amounts(&resources[list])
}

struct Bounds<'a> {
    kind: &'a str,
    requests: &'a Amounts,
    limits: &'a Amounts,
}

/// Values to compare, in thousandths where none overflows.
fn comparable<const N: usize>(quantities: [Option<&Quantity>; N]) -> [i64; N] {
    let whole = quantities.map(|quantity| quantity.map_or(0, Quantity::value));
    if whole.iter().all(|value| *value <= MILLI_MAX) {
        quantities.map(|quantity| quantity.map_or(0, Quantity::milli_value))
    } else {
        whole
    }
}

impl Bounds<'_> {
    fn all(&self, item: &Value, problems: &mut Vec<String>) {
        self.minimum(item, problems);
        for (name, bound) in resources(item, "max") {
            let (request, limit) = (self.requests.get(&name), self.limits.get(&name));
            let [requested, limited, most] = comparable([request, limit, Some(&bound)]);
            let start = format!("maximum {name} usage per {} is {bound}", self.kind);
            match (request, limit) {
                (_, None) => problems.push(format!("{start}.  No limit is specified")),
                (_, Some(limit)) if limited > most => problems.push(format!("{start}, but limit is {limit}")),
                (Some(request), _) if requested > most => problems.push(format!("{start}, but request is {request}")),
                _ => {}
            }
        }
        for (name, bound) in resources(item, "maxLimitRequestRatio") {
            let [requested, limited] = comparable([self.requests.get(&name), self.limits.get(&name)]);
            let start = format!("{name} max limit to request ratio per {} is {bound}", self.kind);
            if requested == 0 {
                problems.push(format!("{start}, but no request is specified or request is 0"));
            } else if limited == 0 {
                problems.push(format!("{start}, but no limit is specified or limit is 0"));
            } else {
                #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
                let ratio = limited as f64 / requested as f64;
                if ratio > bound.as_f64() {
                    problems.push(format!("{start}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }

    fn minimum(&self, item: &Value, problems: &mut Vec<String>) {
        for (name, bound) in resources(item, "min") {
            let (request, limit) = (self.requests.get(&name), self.limits.get(&name));
            let [requested, limited, least] = comparable([request, limit, Some(&bound)]);
            let start = format!("minimum {name} usage per {} is {bound}", self.kind);
            match (request, limit) {
                (None, _) => problems.push(format!("{start}.  No request is specified")),
                (Some(request), _) if requested < least => problems.push(format!("{start}, but request is {request}")),
                (_, Some(limit)) if limited < least => problems.push(format!("{start}, but limit is {limit}")),
                _ => {}
            }
        }
    }

    fn maximum_request(&self, item: &Value, problems: &mut Vec<String>) {
        for (name, bound) in resources(item, "max") {
            let request = self.requests.get(&name);
            let [requested, most] = comparable([request, Some(&bound)]);
            let start = format!("maximum {name} usage per {} is {bound}", self.kind);
            match request {
                None => problems.push(format!("{start}.  No request is specified")),
                Some(request) if requested > most => problems.push(format!("{start}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
}
