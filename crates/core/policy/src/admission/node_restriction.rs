//! NodeRestriction: a kubelet changes its own Node, its own Lease and the pods bound to it, and nothing else
//! (plugin/pkg/admission/noderestriction; CVE-2025-4563, CVE-2025-5187).

mod token;

use std::collections::BTreeSet;

use serde_json::Value;
use trireme_api::Status;
use trireme_resources::references::{self, Reference, Referent};

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
    let node = request.user.strip_prefix("system:node:");
    let Some(node) = node.filter(|_| request.groups.iter().any(|group| group == "system:nodes")) else {
        return Ok(());
    };
    if node.is_empty() {
        return Err(request.forbid(&format!("could not determine node from user {:?}", request.user)));
    }
    if request.operation == Operation::Connect {
        return Ok(());
    }
    match (request.group, request.resource, request.subresource) {
        ("", "pods", "") => own_pod(request, node),
        ("", "pods", "status") => own_pod_status(request, node),
        ("", "pods", "eviction") => own_eviction(request, node),
        ("", "pods", subresource) => Err(request.forbid(&format!(
            "unexpected pod subresource {subresource:?}, only 'status' and 'eviction' are allowed"
        ))),
        ("", "nodes", _) => own_node(request, node),
        ("", "persistentvolumeclaims", "status") => own_claim_status(request, node),
        ("", "persistentvolumeclaims", _) => Err(request.forbid("may only update PVC status")),
        ("", "serviceaccounts", "token") => token::check(request, node),
        ("certificates.k8s.io", "podcertificaterequests", _) => {
            Err(request.forbid("PodCertificateRequest feature gate is disabled"))
        }
        ("coordination.k8s.io", "leases", _) => own_lease(request, node),
        ("storage.k8s.io", "csinodes", _) => own_csi_node(request, node),
        ("resource.k8s.io", "resourceslices", _) => own_slice(request, node),
        _ => Ok(()),
    }
}

fn own_pod(request: &Request<'_>, node: &str) -> Result<(), Status> {
    match request.operation {
        Operation::Delete if request.old.is_none_or(|old| old["spec"]["nodeName"] == node) => Ok(()),
        Operation::Delete => Err(request.forbid(&format!(
            "node \"{node}\" can only delete pods with spec.nodeName set to itself"
        ))),
        Operation::Create => own_mirror_pod(request, node),
        _ => Err(request.forbid(&format!(
            "unexpected operation \"UPDATE\", node \"{node}\" can only create and delete mirror pods"
        ))),
    }
}

/// A node shows the pods that it runs by itself: owned by its Node, and referring to nothing of the API.
fn own_mirror_pod(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let pod = &*request.object;
    let forbid = |why: String| Err(request.forbid(&why));
    if !references::is_mirror(pod) {
        return forbid(format!(
            "pod does not have \"{}\" annotation, node \"{node}\" can only create mirror pods",
            references::MIRROR
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return forbid(format!(
            "node \"{node}\" can only create pods with spec.nodeName set to itself"
        ));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let owner = match owners.map_or(&[][..], Vec::as_slice) {
        [owner] => owner,
        [] => {
            return forbid(format!(
                "node \"{node}\" can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return forbid(format!(
                "node \"{node}\" can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return forbid(format!(
            "node \"{node}\" can only create pods with an owner reference set to itself"
        ));
    }
    if owner["controller"] != true {
        return forbid(format!(
            "node \"{node}\" can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return forbid(format!(
            "node \"{node}\" must not set blockOwnerDeletion on an owner reference"
        ));
    }
    let Some(known) = request.lookup.get("", "nodes", "", node) else {
        return Err(Status::not_found("", "nodes", node));
    };
    let uid = |object: &Value| object["uid"].as_str().unwrap_or_default().to_owned();
    if uid(owner) != uid(&known["metadata"]) {
        return forbid(format!(
            "node {node} UID mismatch: expected {} got {}",
            uid(owner),
            uid(&known["metadata"])
        ));
    }
    match referred(pod) {
        Some(what) => forbid(format!("node \"{node}\" can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// What a pod refers to, in upstream's words and order: what has a name first, then volumes that need the API, named or not.
fn referred(pod: &Value) -> Option<&'static str> {
    let first = |wanted: &dyn Fn(&Reference<'_>) -> bool| {
        references::find(pod, |reference| {
            wanted(reference).then_some((reference.referent, reference.path))
        })
    };
    for to in [
        Referent::ServiceAccount,
        Referent::Secret,
        Referent::ConfigMap,
        Referent::ResourceClaim,
    ] {
        let wanted = |reference: &Reference<'_>| {
            let named = match to {
                // The account itself; tokens are told as volumes.
                Referent::ServiceAccount => reference.path == "spec",
                Referent::ResourceClaim => reference.path.starts_with("spec."),
                _ => !reference.name.is_empty(),
            };
            reference.referent == to && named
        };
        if first(&wanted).is_some() {
            return Some(to.plural());
        }
    }
    let (referent, path) = first(&|reference| reference.path.starts_with("spec.volumes[]"))?;
    let projected = path.contains(".projected.");
    Some(match referent {
        Referent::ConfigMap if projected => "configmaps (via projected volumes)",
        Referent::ConfigMap => "configmaps (via configmap volumes)",
        Referent::Secret if projected => "secrets (via projected volumes)",
        Referent::Secret if path.ends_with(".azureFile") => "secrets (via azureFile volumes)",
        Referent::Secret => "secrets (via secret volumes)",
        Referent::ServiceAccount => "serviceaccounts (via projected volumes)",
        Referent::CsiDriver => "csidrivers (via CSI volumes)",
        Referent::Endpoints => "endpoints (via glusterFS volumes)",
        Referent::PersistentVolumeClaim if path.ends_with(".ephemeral") => "persistentvolumeclaims (via ephemeral volumes)",
        Referent::PodCertificate => "podcertificates",
        other => other.plural(),
    })
}

/// Whether two values are equal where Go sees no difference between absent and empty.
fn same(old: &Value, new: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    old == new || empty(old) && empty(new)
}

fn own_pod_status(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else {
        return Err(request.forbid(&format!("unexpected operation {:?}", request.operation.name())));
    };
    let new = &*request.object;
    let forbid = |why: String| Err(request.forbid(&why));
    if old["spec"]["nodeName"] != node {
        return forbid(format!(
            "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if !same(&old["metadata"]["labels"], &new["metadata"]["labels"]) {
        return forbid(format!("node \"{node}\" cannot update labels through pod status"));
    }
    // A node reads the claims that these name.
    let (old, new) = (&old["status"], &new["status"]);
    if !same(&old["resourceClaimStatuses"], &new["resourceClaimStatuses"]) {
        return forbid(format!("node \"{node}\" cannot update resource claim statues"));
    }
    if old["extendedResourceClaimStatus"] != new["extendedResourceClaimStatus"] {
        return forbid(format!("node \"{node}\" cannot update extended resource claim status"));
    }
    Ok(())
}

/// Of a claim a node tells how large it has become, and nothing else.
fn own_claim_status(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else {
        return Err(request.forbid(&format!("unexpected operation {:?}", request.operation.name())));
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, names) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            (
                "status",
                &["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"],
            ),
        ] {
            let Some(members) = claim[part].as_object_mut() else {
                continue;
            };
            members.retain(|name, value| !names.contains(&name.as_str()) && !same(value, &Value::Null));
        }
        if same(&claim["status"], &Value::Null) {
            claim["status"] = Value::Null;
        }
        claim
    };
    let (old, new) = (rest(old), rest(request.object));
    if old == new {
        return Ok(());
    }
    let parts = ["metadata", "spec", "status"];
    let changed: Vec<&str> = parts.into_iter().filter(|part| old[part] != new[part]).collect();
    Err(request.forbid(&format!(
        "node \"{node}\" is not allowed to update fields other than status.quantity and status.conditions: {} differs",
        changed.join(", ")
    )))
}

fn own_node(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let forbid = |why: String| Err(request.forbid(&why));
    if request.shown_name() != node {
        return forbid(format!(
            "node \"{node}\" is not allowed to modify node \"{}\"",
            request.shown_name()
        ));
    }
    let new = &*request.object;
    let reserved = |old: &Value| -> String {
        let changed = changed_labels(&old["metadata"]["labels"], &new["metadata"]["labels"]);
        changed
            .into_iter()
            .filter(|label| is_reserved(label))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (request.operation, request.old) {
        (Operation::Create, _) => {
            if !new["spec"]["configSource"].is_null() {
                return forbid(format!(
                    "node \"{node}\" is not allowed to create pods with a non-nil configSource"
                ));
            }
            match reserved(&Value::Null) {
                labels if labels.is_empty() => Ok(()),
                labels => forbid(format!(
                    "node \"{node}\" is not allowed to set the following labels: {labels}"
                )),
            }
        }
        (Operation::Update, Some(old)) => {
            let source = &new["spec"]["configSource"];
            if !source.is_null() && *source != old["spec"]["configSource"] {
                return forbid(format!(
                    "node \"{node}\" is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if !same(&old["spec"]["taints"], &new["spec"]["taints"]) {
                return forbid(format!("node \"{node}\" is not allowed to modify taints"));
            }
            if !same(&old["metadata"]["ownerReferences"], &new["metadata"]["ownerReferences"]) {
                return forbid(format!("node \"{node}\" is not allowed to modify ownerReferences"));
            }
            match reserved(old) {
                labels if labels.is_empty() => Ok(()),
                labels => forbid(format!("is not allowed to modify labels: {labels}")),
            }
        }
        _ => Ok(()),
    }
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

fn own_csi_node(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.shown_name() == node {
        return Ok(());
    }
    Err(request.forbid("can only access CSINode with the same name as the requesting node"))
}

/// A kubelet tells of the devices of its own node. Whose slices it may change, the authoriser knows.
fn own_slice(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let (held, verb) = match request.operation {
        Operation::Create => (Some(&*request.object), "create"),
        Operation::Delete => (request.old, "delete"),
        _ => return Ok(()),
    };
    if held.is_some_and(|slice| slice["spec"]["nodeName"] == node) {
        return Ok(());
    }
    Err(request.forbid(&format!(
        "can only {verb} ResourceSlice with the same NodeName as the requesting node"
    )))
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
