//! PodSecurity: pods meet the standard that their namespace enforces; templates and looser standards are only warned of.
//!
//! Invariant: a request that is refused carries no warning, and an update that changes no image is never refused.

use std::collections::BTreeMap;

use serde_json::Value;
use trireme_api::Status;
use trireme_api::field::{FieldError, FieldErrorType};

use super::{Operation, Request};
use crate::pod_security::{BadLabel, Level, Standard, details, policy, reasons};

/// How many pods of a namespace a new standard is tried on.
const PODS_MAX: usize = 3000;

/// Doors of a pod that cannot change what it may do.
const HARMLESS: [&str; 8] = [
    "exec",
    "attach",
    "binding",
    "eviction",
    "log",
    "portforward",
    "proxy",
    "status",
];

pub(super) fn check(request: &mut Request<'_>) -> Result<(), Status> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    match (request.group, request.resource) {
        ("", "namespaces") if request.subresource.is_empty() => check_namespace(request),
        ("", "pods") if !HARMLESS.contains(&request.subresource) => check_pod(request),
        _ if request.subresource.is_empty() => {
            check_template(request);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_pod(request: &mut Request<'_>) -> Result<(), Status> {
    let Some(namespace) = request.lookup.get("", "namespaces", "", request.namespace) else {
        return Ok(());
    };
    let (policy, _) = policy(&namespace);
    let open = [policy.enforce, policy.warn]
        .iter()
        .all(|standard| standard.level == Level::Privileged);
    if open
        || request
            .old
            .is_some_and(|old| same_images(&old["spec"], &request.object["spec"]))
    {
        return Ok(());
    }
    let (metadata, spec) = (&request.object["metadata"], &request.object["spec"]);
    let found = policy.enforce.violations(metadata, spec);
    if !found.is_empty() {
        return Err(request.forbid(&format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&found))));
    }
    if let Some(warning) = warning(policy.warn, metadata, spec) {
        request.warn(warning);
    }
    Ok(())
}

fn warning(standard: Standard, metadata: &Value, spec: &Value) -> Option<String> {
    let found = standard.violations(metadata, spec);
    (!found.is_empty()).then(|| format!("would violate PodSecurity \"{standard}\": {}", details(&found)))
}

/// Whether no container came or went and none has another image.
fn same_images(old: &Value, new: &Value) -> bool {
    let images = |spec: &Value, list: &str| -> Vec<Value> {
        let containers = spec[list].as_array().into_iter().flatten();
        containers.map(|container| container["image"].clone()).collect()
    };
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .all(|list| images(old, list) == images(new, list))
}

fn check_template(request: &mut Request<'_>) {
    let object = &*request.object;
    let template = match (request.group, request.resource) {
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return,
    };
    if !template.is_object() {
        return;
    }
    let Some(namespace) = request.lookup.get("", "namespaces", "", request.namespace) else {
        return;
    };
    if let Some(warning) = warning(policy(&namespace).0.warn, &template["metadata"], &template["spec"]) {
        request.warn(warning);
    }
}

fn check_namespace(request: &mut Request<'_>) -> Result<(), Status> {
    let (new, bad) = policy(request.object);
    let before = request.old.map(policy);
    if !bad.is_empty() && before.as_ref().is_none_or(|(_, before)| *before != bad) {
        let errors: Vec<FieldError> = bad.into_iter().map(shown).collect();
        return Err(Status::invalid("", "Namespace", request.name, &errors));
    }
    let Some((old, _)) = before else { return Ok(()) };
    let (new, old) = (new.enforce, old.enforce);
    if new == old || new.level == Level::Privileged || (new.minor == old.minor && new.level <= old.level) {
        return Ok(());
    }
    let pods = request.lookup.list("", "pods", Some(request.name));
    for warning in warn_of_pods(request.name, new, &pods) {
        request.warn(warning);
    }
    Ok(())
}

fn shown(bad: BadLabel) -> FieldError {
    FieldError {
        kind: FieldErrorType::Invalid,
        path: format!("metadata.labels[{}]", bad.label),
        value: format!("{:?}", bad.value),
        detail: bad.problem.to_owned(),
    }
}

/// What pods that are already there would be refused for.
fn warn_of_pods(namespace: &str, standard: Standard, pods: &[Value]) -> Vec<String> {
    let mut warnings = Vec::new();
    let checked = pods.len().min(PODS_MAX);
    if checked < pods.len() {
        let all = pods.len();
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {all} existing pods"
        ));
    }
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in &pods[..checked] {
        let found = standard.violations(&pod["metadata"], &pod["spec"]);
        if !found.is_empty() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            by_reason.entry(reasons(&found)).or_default().push(name);
        }
    }
    if by_reason.is_empty() {
        return warnings;
    }
    warnings.push(format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
    ));
    let mut told: Vec<String> = by_reason
        .into_iter()
        .map(|(reason, names)| {
            let first = names.iter().min().copied().unwrap_or_default();
            match names.len() {
                1 => format!("{first}: {reason}"),
                2 => format!("{first} (and 1 other pod): {reason}"),
                count => format!("{first} (and {} other pods): {reason}", count - 1),
            }
        })
        .collect();
    told.sort();
    warnings.extend(told);
    warnings
}
