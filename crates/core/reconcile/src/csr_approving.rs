//! Approves what kubelets ask for (pkg/controller/certificates/approver): client certificates where access reviews allow
//! it and, unlike upstream (which leaves them to the administrator), serving certificates whose names are the node's own.
//!
//! Invariant: a serving certificate is approved only for the node that asks, and only with the node's name and addresses
//! that nobody else in the cluster has: the same authority certifies the API servers.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::csr::{self, KUBELET_CLIENT, KUBELET_SERVING, NODE_PREFIX, NODES, Request};
use crate::ownership::object_ref;
use crate::plan::{Action, Plan};

/// What an access review is asked about: a subresource of `certificatesigningrequests`, and the message of the approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Review {
    /// The subresource that the requester must be allowed to create.
    pub subresource: &'static str,
    message: &'static str,
}

const SELF_NODE_CLIENT: Review = Review {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const NODE_CLIENT: Review = Review {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};
const SERVING_MESSAGE: &str = "Auto approving kubelet serving certificate with the node's own name and addresses.";
/// A request that is not allowed (yet) is looked at again after this time; upstream's queue backs off likewise.
const AGAIN: Duration = Duration::from_secs(10);
/// Names of the API that no node may serve with.
const API_NAMES: [&str; 4] = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];

/// A request, and what is known around it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The request.
    pub csr: Arc<CertificateSigningRequest>,
    /// The first of [`reviews`] that was allowed.
    pub allowed: Option<Review>,
    /// For a serving certificate: the node that asks.
    pub node: Option<Arc<Node>>,
    /// Addresses of others: of other nodes, servers, Services.
    pub others: BTreeSet<IpAddr>,
}

/// Whether anything is to be decided.
#[must_use]
pub fn is_open(csr: &CertificateSigningRequest) -> bool {
    !csr::is_issued(csr) && !csr::has_condition(csr, "Approved") && !csr::has_condition(csr, "Denied")
}

/// The access reviews that would have this request approved, in order.
#[must_use]
pub fn reviews(csr: &CertificateSigningRequest) -> Vec<Review> {
    let spec = &csr.spec;
    let usages = spec.usages.as_deref().unwrap_or_default();
    let Ok(request) = csr::read(&spec.request.0) else {
        return Vec::new();
    };
    if !is_open(csr) || spec.signer_name != KUBELET_CLIENT || csr::is_kubelet_client(&request, usages).is_err() {
        return Vec::new();
    }
    if spec.username.as_deref() == Some(&request.common_name) {
        vec![SELF_NODE_CLIENT, NODE_CLIENT]
    } else {
        vec![NODE_CLIENT]
    }
}

/// The node that asks for a serving certificate, by its user name.
#[must_use]
pub fn serving_node(csr: &CertificateSigningRequest) -> Option<&str> {
    let spec = &csr.spec;
    let of_nodes = spec.groups.iter().flatten().any(|group| group == NODES);
    (of_nodes && spec.signer_name == KUBELET_SERVING)
        .then(|| spec.username.as_deref()?.strip_prefix(NODE_PREFIX))
        .flatten()
}

/// Approves, or leaves the request to people.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let csr = &snapshot.csr;
    let mut plan = Plan::default();
    if !is_open(csr) {
        return plan;
    }
    let message = match snapshot.allowed {
        Some(review) => Some(review.message),
        None if may_serve(snapshot) => Some(SERVING_MESSAGE),
        None => None,
    };
    match message {
        Some(message) => plan.actions.push(approve(csr, message, now)),
        None if !reviews(csr).is_empty() || serving_node(csr).is_some() => plan.requeue_after = Some(AGAIN),
        None => {}
    }
    plan
}

fn may_serve(snapshot: &Snapshot) -> bool {
    let csr = &snapshot.csr;
    let (Some(name), Some(node)) = (serving_node(csr), &snapshot.node) else {
        return false;
    };
    let Ok(request) = csr::read(&csr.spec.request.0) else {
        return false;
    };
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    csr::is_kubelet_serving(&request, usages).is_ok()
        && request.common_name.strip_prefix(NODE_PREFIX) == Some(name)
        && node.metadata.name.as_deref() == Some(name)
        && names_are_own(&request, name, node, &snapshot.others)
}

fn names_are_own(request: &Request, name: &str, node: &Node, others: &BTreeSet<IpAddr>) -> bool {
    let own: BTreeSet<IpAddr> = addresses(node).collect();
    let is_api = API_NAMES.contains(&name) || name.starts_with("kubernetes.default.svc.");
    let names = request.dns.iter().all(|dns| dns == name && !is_api);
    let numbers = request.addresses.iter().all(|address| {
        let usable = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
        own.contains(address) && usable && !others.contains(address)
    });
    names && numbers
}

/// Addresses that a node's status names.
pub fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|address| address.address.parse().ok())
}

fn approve(csr: &CertificateSigningRequest, message: &str, now: Timestamp) -> Action {
    let mut object = serde_json::to_value(csr).expect("a request serialises");
    let condition = json!({
        "type": "Approved", "status": "True", "reason": "AutoApproved", "message": message,
        "lastUpdateTime": trireme_api::time::format(now), "lastTransitionTime": trireme_api::time::format(now),
    });
    match &mut object["status"]["conditions"] {
        Value::Array(conditions) => conditions.push(condition),
        other => *other = json!([condition]),
    }
    Action::UpdateSubresource {
        target: object_ref("certificates.k8s.io/v1", "CertificateSigningRequest", &csr.metadata),
        subresource: "approval",
        object,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::testing::{csr, pem, pem_of};

    const CLIENT: [&str; 2] = ["digital signature", "client auth"];
    const SERVING: [&str; 2] = ["digital signature", "server auth"];

    fn decide(csr: CertificateSigningRequest, allowed: Option<Review>) -> Plan {
        let node = json!({
            "metadata": {"name": "n1"},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "192.0.2.9"},
                {"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": "api.example"},
            ]},
        });
        let snapshot = Snapshot {
            csr: Arc::new(csr),
            allowed,
            node: Some(Arc::new(serde_json::from_value(node).unwrap())),
            others: BTreeSet::from(["192.0.2.9".parse().unwrap()]),
        };
        reconcile(&snapshot, "2026-05-01T12:00:00Z".parse().unwrap())
    }

    fn approved(plan: &Plan) -> bool {
        match &plan.actions[..] {
            [] => false,
            [Action::UpdateSubresource { subresource, object, .. }] => {
                assert_eq!(*subresource, "approval");
                assert_eq!(object["status"]["conditions"][0]["reason"], "AutoApproved");
                true
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn client_certificates_follow_access_reviews() {
        let request = pem("system:node:n1", NODES, &[]);
        let joining = csr(KUBELET_CLIENT, "system:bootstrap:abcdef", &CLIENT, &request);
        assert_eq!(reviews(&joining), [NODE_CLIENT]);
        assert!(approved(&decide(joining.clone(), Some(NODE_CLIENT))));
        let refused = decide(joining, None);
        assert!(!approved(&refused) && refused.requeue_after.is_some());
        let renewing = csr(KUBELET_CLIENT, "system:node:n1", &CLIENT, &request);
        assert_eq!(reviews(&renewing), [SELF_NODE_CLIENT, NODE_CLIENT]);
        // A second organisation would be a second group: nobody is asked, and it is left to people.
        let two = pem_of("system:node:n1", [Some(NODES.into()), Some("system:masters".into())], &[]);
        let two = csr(KUBELET_CLIENT, "system:node:n1", &CLIENT, &two);
        assert_eq!((reviews(&two), decide(two, None)), (vec![], Plan::default()));
        let other = csr("kubernetes.io/kube-apiserver-client", "system:node:n1", &CLIENT, &request);
        assert_eq!((reviews(&other), decide(other, None)), (vec![], Plan::default()));
        let mut done = csr(KUBELET_CLIENT, "system:node:n1", &CLIENT, &request);
        done.status = serde_json::from_value(json!({"conditions": [{"type": "Denied", "status": "True"}]})).unwrap();
        assert_eq!((reviews(&done), decide(done, Some(NODE_CLIENT))), (vec![], Plan::default()));
    }

    #[test]
    fn serving_certificates_name_the_node_that_asks_and_nobody_else() {
        for (what, user, common_name, names, expected) in [
            ("its own", "system:node:n1", "system:node:n1", &["n1", "192.0.2.1"][..], true),
            ("its name", "system:node:n1", "system:node:n1", &["n1"], true),
            ("another's name", "system:node:n1", "system:node:n1", &["n2"], false),
            (
                "what its status calls it",
                "system:node:n1",
                "system:node:n1",
                &["api.example"],
                false,
            ),
            (
                "the API's name",
                "system:node:n1",
                "system:node:n1",
                &["n1", "kubernetes.default.svc"],
                false,
            ),
            ("another's address", "system:node:n1", "system:node:n1", &["192.0.2.9"], false),
            ("a strange address", "system:node:n1", "system:node:n1", &["192.0.2.2"], false),
            ("loopback", "system:node:n1", "system:node:n1", &["127.0.0.1"], false),
            ("for another", "system:node:n1", "system:node:n2", &["n1"], false),
            ("by another", "system:node:n2", "system:node:n1", &["n1"], false),
            ("by somebody", "alice", "system:node:n1", &["n1"], false),
        ] {
            let mut csr = csr(KUBELET_SERVING, user, &SERVING, &pem(common_name, NODES, names));
            csr.spec.groups = Some(vec![NODES.into()]);
            assert_eq!(approved(&decide(csr, None)), expected, "{what}");
        }
        let outside = csr(
            KUBELET_SERVING,
            "system:node:n1",
            &SERVING,
            &pem("system:node:n1", NODES, &["n1"]),
        );
        assert!(!approved(&decide(outside, None)), "not in the group of nodes");
    }
}
