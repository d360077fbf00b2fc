//! NodeRestriction: a kubelet changes its own Node, its own Lease and the pods bound to it, and nothing else
//! (plugin/pkg/admission/noderestriction; CVE-2025-4563, CVE-2025-5187).

use std::collections::BTreeSet;

use serde_json::Value;
use trireme_api::Status;

use super::{Operation, Request};

/// Labels in Kubernetes' own domains that a kubelet may set on its Node.
const LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "node.kubernetes.io/windows-build",
];
const LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn check(request: &Request<'_>) -> Result<(), Status> {
    let Some(node) = request.user.strip_prefix("system:node:") else {
        return Ok(());
    };
    if !request.groups.iter().any(|group| group == "system:nodes") {
        return Ok(());
    }
    match (request.group, request.resource, request.subresource) {
        ("", "pods", "") => own_pod(request, node),
        ("", "pods", "status") => own_pod_status(request, node),
        ("", "pods", "eviction") => own_eviction(request, node),
        ("", "nodes", _) => own_node(request, node),
        ("", "serviceaccounts", "token") => own_token(request, node),
        ("coordination.k8s.io", "leases", _) => own_lease(request, node),
        ("resource.k8s.io", "resourceslices", _) => own_slice(request, node),
        _ => Ok(()),
    }
}

fn own_pod(request: &Request<'_>, node: &str) -> Result<(), Status> {
    match request.operation {
        Operation::Delete => {
            let held = request
                .old
                .and_then(|old| old["spec"]["nodeName"].as_str())
                .unwrap_or_default();
            if held == node {
                Ok(())
            } else {
                Err(request.forbid(&format!(
                    "node \"{node}\" can only delete pods with spec.nodeName set to itself"
                )))
            }
        }
        Operation::Create => {
            let pod = &*request.object;
            if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
                return Err(request.forbid(&format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
                )));
            }
            if pod["spec"]["nodeName"] != node {
                return Err(request.forbid(&format!(
                    "node \"{node}\" can only create pods with spec.nodeName set to itself"
                )));
            }
            Ok(())
        }
        Operation::Update => Err(request.forbid(&format!(
            "unexpected operation \"UPDATE\", node \"{node}\" can only create and delete mirror pods"
        ))),
        Operation::Connect => Ok(()),
    }
}

fn own_pod_status(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let Some(old) = request.old else { return Ok(()) };
    if old["spec"]["nodeName"] != node {
        return Err(request.forbid(&format!(
            "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
        )));
    }
    if old["metadata"]["labels"] != request.object["metadata"]["labels"] {
        return Err(request.forbid(&format!("node \"{node}\" cannot update labels through pod status")));
    }
    Ok(())
}

fn own_node(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.shown_name() != node {
        return Err(request.forbid(&format!(
            "node \"{node}\" is not allowed to modify node \"{}\"",
            request.shown_name()
        )));
    }
    let empty = Value::Null;
    let (old, new) = match request.operation {
        Operation::Create => (&empty, &*request.object),
        Operation::Update => (request.old.unwrap_or(&empty), &*request.object),
        _ => return Ok(()),
    };
    if request.operation == Operation::Update && old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"] {
        return Err(request.forbid(&format!("node \"{node}\" is not allowed to modify ownerReferences")));
    }
    if request.operation == Operation::Update && request.subresource.is_empty() && old["spec"]["taints"] != new["spec"]["taints"]
    {
        return Err(request.forbid(&format!("node \"{node}\" is not allowed to modify taints")));
    }
    let changed: Vec<String> = changed_labels(&old["metadata"]["labels"], &new["metadata"]["labels"])
        .into_iter()
        .filter(|label| is_reserved(label))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let (verb, what) = if request.operation == Operation::Create {
        ("set", "the following labels")
    } else {
        ("modify", "labels")
    };
    Err(request.forbid(&format!("is not allowed to {verb} {what}: {}", changed.join(", "))))
}

fn changed_labels(old: &Value, new: &Value) -> BTreeSet<String> {
    let members = |labels: &Value| labels.as_object().cloned().unwrap_or_default();
    let (old, new) = (members(old), members(new));
    let keys = old.keys().chain(new.keys());
    keys.filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

/// Labels in Kubernetes' own domains, but for those that a kubelet is there to set.
fn is_reserved(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return false;
    };
    let within = |domain: &str, of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if within(domain, "node-restriction.kubernetes.io") {
        return true;
    }
    let ours = within(domain, "kubernetes.io") || within(domain, "k8s.io");
    ours && !LABELS.contains(&label) && !LABEL_DOMAINS.iter().any(|allowed| within(domain, allowed))
}

fn own_token(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let reference = &request.object["spec"]["boundObjectRef"];
    if reference["kind"] != "Pod" || reference["apiVersion"] != "v1" {
        return Err(request.forbid("node requested token not bound to a pod"));
    }
    let name = reference["name"].as_str().unwrap_or_default();
    let Some(pod) = request.lookup.get("", "pods", request.namespace, name) else {
        return Err(Status::not_found("", "pods", name));
    };
    if reference["uid"] != pod["metadata"]["uid"] {
        return Err(request.forbid("the UID in the bound object reference does not match the UID in record"));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(request.forbid("node requested token bound to a pod scheduled on a different node"));
    }
    Ok(())
}

fn own_eviction(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let pod = request.lookup.get("", "pods", request.namespace, request.name);
    let Some(pod) = pod else {
        return Err(Status::not_found("", "pods", request.name));
    };
    if pod["spec"]["nodeName"] == node {
        return Ok(());
    }
    Err(request.forbid(&format!("node {node} can only evict pods with spec.nodeName set to itself")))
}

/// A kubelet tells of the devices of its own node.
fn own_slice(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let (held, why) = match request.operation {
        Operation::Create => (
            Some(&*request.object),
            "can only create ResourceSlice with the same NodeName as the requesting node",
        ),
        Operation::Update => (
            request.old,
            "can only update ResourceSlice with the same NodeName as the requesting node",
        ),
        Operation::Delete => (
            request.old,
            "can only delete ResourceSlice with the same NodeName as the requesting node",
        ),
        Operation::Connect => return Ok(()),
    };
    if held.is_none_or(|slice| slice["spec"]["nodeName"] == node) {
        Ok(())
    } else {
        Err(request.forbid(why))
    }
}

fn own_lease(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.namespace != "kube-node-lease" {
        return Err(request.forbid("can only access leases in the \"kube-node-lease\" system namespace"));
    }
    if request.shown_name() != node {
        return Err(request.forbid("can only access node lease with the same name as the requesting node"));
    }
    Ok(())
}
