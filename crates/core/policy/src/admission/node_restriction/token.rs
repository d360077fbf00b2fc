//! Tokens that a kubelet asks for: of an account whose pod runs on its node, for an audience that the pod is to have.
//!
//! Invariant: a node gets a token for no audience that neither a volume of the pod, nor the driver of one, nor a role of
//! the node names (KEP-4935).

use serde_json::Value;
use trireme_api::Status;
use trireme_resources::references::{self, Referent};

use super::super::{Operation, Permission, Request};

/// The verb that lets a node ask for any audience of this name.
const VERB: &str = "request-serviceaccounts-token-audience";

pub(super) fn check(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let reference = &request.object["spec"]["boundObjectRef"];
    let text = |name: &str| reference[name].as_str().unwrap_or_default();
    let (name, uid) = (text("name"), text("uid"));
    if text("kind") != "Pod" || text("apiVersion") != "v1" || name.is_empty() {
        return Err(request.forbid("node requested token not bound to a pod"));
    }
    if uid.is_empty() {
        return Err(request.forbid("node requested token with a pod binding without a uid"));
    }
    let Some(pod) = request.lookup.get("", "pods", request.namespace, name) else {
        return Err(Status::not_found("", "pods", name));
    };
    if pod["metadata"]["uid"] != uid {
        return Err(request.forbid(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and \
             then recreated"
        )));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(request.forbid("node requested token bound to a pod scheduled on a different node"));
    }
    check_audience(request, &pod)
}

fn check_audience(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    let audiences = request.object["spec"]["audiences"].as_array().map_or(&[][..], Vec::as_slice);
    let audience = match audiences {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Err(request.forbid("node may only request 0 or 1 audiences")),
    };
    match has_audience(request, pod, audience) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(why) => return Err(request.forbid(&format!("error validating audience {audience:?}: {why}"))),
    }
    let permission = Permission {
        verb: VERB,
        group: "",
        resource: audience,
        namespace: request.namespace,
        name: request.name,
    };
    if request.authority.allows(&permission) {
        return Ok(());
    }
    Err(request.forbid(&format!(
        "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        request.user
    )))
}

/// Whether a volume of the pod, or the driver that serves one, is to have a token for this audience.
fn has_audience(request: &Request<'_>, pod: &Value, audience: &str) -> Result<bool, String> {
    let means = |holder: &Value| holder["audience"].as_str().unwrap_or_default() == audience;
    let mut problems = Vec::new();
    for reference in references::of(pod) {
        let driver = match reference.referent {
            Referent::ServiceAccount => {
                // The source of a projected volume; the account of the pod itself is no volume.
                if reference
                    .items
                    .last()
                    .is_some_and(|(_, source)| means(&source["serviceAccountToken"]))
                {
                    return Ok(true);
                }
                continue;
            }
            Referent::CsiDriver => Ok(reference.name.into_owned()),
            Referent::PersistentVolumeClaim => driver_of_claim(request, &reference.name),
            _ => continue,
        };
        let driver = match driver {
            Ok(driver) if driver.is_empty() => continue,
            Ok(driver) => driver,
            Err(why) => {
                problems.push(why);
                continue;
            }
        };
        match request.lookup.get("storage.k8s.io", "csidrivers", "", &driver) {
            Some(known) => {
                let wanted = known["spec"]["tokenRequests"].as_array();
                if wanted.into_iter().flatten().any(means) {
                    return Ok(true);
                }
            }
            None => problems.push(format!("csidriver.storage.k8s.io {driver:?} not found")),
        }
    }
    match problems.as_slice() {
        [] => Ok(false),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// The CSI driver behind a claim; empty where it is no driver's.
fn driver_of_claim(request: &Request<'_>, claim: &str) -> Result<String, String> {
    let found = request.lookup.get("", "persistentvolumeclaims", request.namespace, claim);
    let found = found.ok_or_else(|| format!("persistentvolumeclaim {claim:?} not found"))?;
    let name = found["spec"]["volumeName"].as_str().unwrap_or_default();
    let volume = request.lookup.get("", "persistentvolumes", "", name);
    let volume = volume.ok_or_else(|| format!("persistentvolume {name:?} not found"))?;
    Ok(volume["spec"]["csi"]["driver"].as_str().unwrap_or_default().to_owned())
}
