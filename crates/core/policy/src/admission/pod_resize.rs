//! PodResizeValidator and NodeDeclaredFeatureValidator: a pod on a node is changed only to what that node can do.

use serde_json::Value;
use trireme_api::{Status, StatusCause, StatusDetails, path};
use trireme_resources::quota;

use super::{Operation, Request};

pub(super) fn check(request: &Request<'_>) -> Result<(), Status> {
    let resizes = request.subresource == "resize";
    if !request.is("", "pods") || request.operation != Operation::Update || !(resizes || request.subresource.is_empty()) {
        return Ok(());
    }
    let (new, old) = (&request.object["spec"], &request.old.unwrap_or(&Value::Null)["spec"]);
    let node = path::str(new, &["nodeName"]);
    if node.is_empty() || new == old {
        return Ok(());
    }
    let needed = needed_features(new, old);
    if !resizes && needed.is_empty() {
        return Ok(());
    }
    let Some(stored) = request.lookup.get("", "nodes", "", node) else {
        return Err(request.forbid(&format!("node \"{node}\" not found")));
    };
    let declared = path::list(&stored, &["status", "declaredFeatures"]);
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|name| !declared.iter().any(|known| known == name))
        .collect();
    if !missing.is_empty() {
        let why = format!(
            "pod update requires features {} which are not available on node \"{node}\"",
            missing.join(", ")
        );
        return Err(request.forbid(&why));
    }
    if resizes { check_node(request, node, &stored) } else { Ok(()) }
}

/// Features of a node that a change asks for.
fn needed_features(new: &Value, old: &Value) -> Vec<&'static str> {
    let mut needed = Vec::new();
    if new["resources"] != old["resources"] {
        needed.push("InPlacePodLevelResourcesVerticalScaling");
    }
    let init = |spec: &Value| path::list(spec, &["initContainers"]).to_vec();
    let changed = init(old)
        .iter()
        .zip(&init(new))
        .any(|(old, new)| path::str(old, &["restartPolicy"]) != "Always" && old["resources"] != new["resources"]);
    if changed {
        needed.push("InPlacePodVerticalScalingInitContainers");
    }
    needed
}

fn check_node(request: &Request<'_>, name: &str, node: &Value) -> Result<(), Status> {
    let refuse = |why: &str, reason: &str| {
        let mut status = request.forbid(why);
        let details = status.details.get_or_insert_with(Box::<StatusDetails>::default);
        details.causes.push(StatusCause {
            reason: reason.into(),
            ..StatusCause::default()
        });
        Err(status)
    };
    let os = path::str(node, &["metadata", "labels", "kubernetes.io/os"]);
    if !matches!(os, "" | "linux") {
        let why = format!("pod resize is only supported on linux nodes, node \"{name}\" is \"{os}\"");
        return refuse(&why, "UnsupportedPlatform");
    }
    let requests = quota::pod_requests(&request.object["spec"]);
    let allocatable = quota::amounts(&node["status"]["allocatable"]);
    let mut over = Vec::new();
    for (resource, scale) in [("cpu", -3), ("memory", 0)] {
        let of = |amounts: &quota::Amounts| amounts.get(resource).cloned();
        let Some(requested) = of(&requests) else { continue };
        let there = of(&allocatable);
        if there.as_ref().map_or(requested.sign() > 0, |there| requested > *there) {
            over.push(format!(
                "{resource}, requested: {}, allocatable: {}",
                requested.scaled_value(scale),
                there.map_or(0, |there| there.scaled_value(scale))
            ));
        }
    }
    if over.is_empty() {
        return Ok(());
    }
    let why = format!("node didn't have enough allocatable resources: {}", over.join("; "));
    refuse(&why, "NodeCapacity")
}
