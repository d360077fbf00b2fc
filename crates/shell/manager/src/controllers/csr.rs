//! Requests for certificates: approved where that is safe, signed with a key that is handed in, removed when done with; and
//! bootstrap tokens that have expired.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use trireme_api::Status;
use trireme_client::ResourceRef;
use trireme_client::typed::target_of;
use trireme_reconcile::csr_signing::{Order, Verdict};
use trireme_reconcile::{csr, csr_approving, csr_cleaner, csr_signing, token_cleaner};

use crate::registration::{Context, Key, Registration};

/// Signs certificates with the cluster's authority.
pub trait Signer: Send + Sync + 'static {
    /// PEM of the certificate that is ordered.
    ///
    /// # Errors
    /// Why it cannot be made, for the log.
    fn sign(&self, order: &Order) -> Result<String, String>;
}

/// All of them; without a signer nothing is signed.
pub(super) fn registrations(signer: Option<Arc<dyn Signer>>) -> Vec<Registration> {
    let mut all = vec![approving(), cleaner(), tokens()];
    all.extend(signer.map(signing));
    all
}

fn approving() -> Registration {
    Registration::with_live_snapshot(
        "certificatesigningrequest-approving-controller",
        review,
        csr_approving::reconcile,
    )
    .component("certificate-controller")
    .account("certificate-controller")
    .queue("certificate")
    .primary::<CertificateSigningRequest>()
    // A serving certificate waits for the node's addresses.
    .watch::<Node>(|cache, change| {
        let user = format!("{}{}", csr::NODE_PREFIX, change.name);
        let requests = cache.list::<CertificateSigningRequest>(None);
        let waiting = requests
            .iter()
            .filter(|request| request.spec.username.as_ref() == Some(&user) && csr_approving::is_open(request));
        waiting
            .filter_map(|request| Some(Key::new("", request.metadata.name.as_deref()?)))
            .collect()
    })
    .reads::<Service>()
    .reads::<EndpointSlice>()
}

async fn review(context: Context, key: Key) -> Result<Option<csr_approving::Snapshot>, Status> {
    let Some(csr) = context.cache.get::<CertificateSigningRequest>("", &key.name) else {
        return Ok(None);
    };
    let mut allowed = None;
    for review in csr_approving::reviews(&csr) {
        if is_allowed(&context, &csr, review.subresource).await? {
            allowed = Some(review);
            break;
        }
    }
    let node = csr_approving::serving_node(&csr).and_then(|name| context.cache.get::<Node>("", name));
    let others = match &node {
        Some(node) => addresses_of_others(&context, node),
        None => BTreeSet::new(),
    };
    Ok(Some(csr_approving::Snapshot {
        csr,
        allowed,
        node,
        others,
    }))
}

async fn is_allowed(context: &Context, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, Status> {
    let spec = &csr.spec;
    let body = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests",
                "subresource": subresource, "verb": "create",
            },
        },
    });
    let target = target_of(ResourceRef::of::<SubjectAccessReview>(), "", "", None);
    let transport = context.client.transport();
    let answer = transport
        .create(&target, body.to_string().into(), &context.client.write_options())
        .await?;
    Ok(answer.value()["status"]["allowed"] == true)
}

/// Addresses that a node must not serve with: those of other nodes, of servers and of Services.
fn addresses_of_others(context: &Context, own: &Node) -> BTreeSet<IpAddr> {
    let nodes = context.cache.list::<Node>(None);
    let nodes = nodes.iter().filter(|node| node.metadata.name != own.metadata.name);
    let mut others: BTreeSet<IpAddr> = nodes
        .flat_map(|node| csr_approving::addresses(node).collect::<Vec<_>>())
        .collect();
    for service in context.cache.list::<Service>(None) {
        let spec = service.spec.iter();
        let cluster = spec.flat_map(|spec| spec.cluster_ips.iter().flatten().chain(spec.external_ips.iter().flatten()));
        let status = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
        let balanced = status
            .flat_map(|balancer| balancer.ingress.iter().flatten())
            .filter_map(|ingress| ingress.ip.as_ref());
        others.extend(cluster.filter_map(|text| text.parse::<IpAddr>().ok()));
        // Without a pool a LoadBalancer has the nodes' own addresses.
        let own: Vec<IpAddr> = csr_approving::addresses(own).collect();
        let balanced = balanced.filter_map(|text| text.parse::<IpAddr>().ok());
        others.extend(balanced.filter(|address| !own.contains(address)));
    }
    if let Some(slice) = context.cache.get::<EndpointSlice>("default", "kubernetes") {
        let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
        others.extend(addresses.filter_map(|text| text.parse::<IpAddr>().ok()));
    }
    others
}

fn signing(signer: Arc<dyn Signer>) -> Registration {
    Registration::new(
        "certificatesigningrequest-signing-controller",
        move |context, key| {
            let csr = context.cache.get::<CertificateSigningRequest>("", &key.name)?;
            let verdict = csr_signing::judge(&csr, context.clock.now());
            let certificate = match &verdict {
                Verdict::Sign(order) => match signer.sign(order) {
                    Ok(pem) => Some(pem),
                    Err(error) => {
                        tracing::warn!(csr = key.name, error, "a certificate cannot be signed");
                        None
                    }
                },
                _ => None,
            };
            Some(csr_signing::Snapshot {
                csr,
                verdict,
                certificate,
            })
        },
        csr_signing::reconcile,
    )
    .component("certificate-controller")
    .account("certificate-controller")
    .queue("certificate")
    .primary::<CertificateSigningRequest>()
}

fn cleaner() -> Registration {
    Registration::new(
        "certificatesigningrequest-cleaner-controller",
        |context, key| {
            let csr = context.cache.get::<CertificateSigningRequest>("", &key.name)?;
            Some(csr_cleaner::Snapshot { csr })
        },
        csr_cleaner::reconcile,
    )
    .component("certificate-controller")
    .account("certificate-controller")
    .queue("certificate")
    .primary::<CertificateSigningRequest>()
}

fn tokens() -> Registration {
    Registration::new(
        "token-cleaner-controller",
        |context, key| {
            let secret = context.cache.get::<Secret>(&key.namespace, &key.name)?;
            Some(token_cleaner::Snapshot { secret })
        },
        token_cleaner::reconcile,
    )
    .component("token-cleaner")
    .account("token-cleaner")
    .queue("token_cleaner")
    .watch::<Secret>(|_, change| {
        let token = change.namespace == token_cleaner::NAMESPACE && change.name.starts_with("bootstrap-token-");
        if token { vec![Key::of(change)] } else { Vec::new() }
    })
}
