//! What the certificate controllers share: reading a CertificateSigningRequest, and the rules of the kubelet's two kinds
//! (pkg/apis/certificates/helpers.go).
//!
//! Invariant: a request that cannot be read is nobody's. It verifies no signature; the signer does.

use core::net::IpAddr;
use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// Certificates with which kubelets are clients of the API.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Certificates that kubelets serve with.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Certificates of other clients of the API.
pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Anything, as before there were signers.
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";
/// The group of all nodes.
pub const NODES: &str = "system:nodes";
/// What the user names of nodes begin with.
pub const NODE_PREFIX: &str = "system:node:";

/// What a request asks to be certified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Common name of the subject.
    pub common_name: String,
    /// Its organisations.
    pub organisations: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether e-mail addresses are among the names.
    pub emails: bool,
    /// Whether URIs are among the names.
    pub uris: bool,
}

/// Why a request cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No PEM block of the right kind.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    /// Something else in the block.
    #[error("malformed certificate request")]
    Der,
}

/// The DER within the PEM of a request.
///
/// # Errors
/// [`Unreadable::Pem`].
pub fn der(pem: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| Unreadable::Pem)?;
    (block.label == "CERTIFICATE REQUEST")
        .then_some(block.contents)
        .ok_or(Unreadable::Pem)
}

/// Reads the PEM of a request.
///
/// # Errors
/// See [`Unreadable`].
pub fn read(pem: &[u8]) -> Result<Request, Unreadable> {
    let der = der(pem)?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|_| Unreadable::Der)?;
    let subject = &parsed.certification_request_info.subject;
    let mut request = Request {
        // As elsewhere the last one counts.
        common_name: text(subject.iter_common_name())?.pop().unwrap_or_default(),
        organisations: text(subject.iter_organization())?,
        ..Request::default()
    };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            continue;
        };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => request.dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => request.addresses.push(address(bytes).ok_or(Unreadable::Der)?),
                GeneralName::RFC822Name(_) => request.emails = true,
                GeneralName::URI(_) => request.uris = true,
                _ => {}
            }
        }
    }
    Ok(request)
}

/// All of them, or none: one that is passed over would be neither judged nor certified.
fn text<'a>(
    attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Result<Vec<String>, Unreadable> {
    attributes
        .map(|attribute| attribute.as_str().map(str::to_owned).map_err(|_| Unreadable::Der))
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// Why a request is not what its signer is for; the message is what users see as the failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Other organisations.
    #[error("subject organization is not system:nodes")]
    Organisation,
    /// Not a node's name.
    #[error("subject common name does not begin with system:node:")]
    CommonName,
    /// Neither name nor address.
    #[error("DNS or IP subjectAltName is required")]
    NamesRequired,
    /// Names of a kind that does not belong there.
    #[error("{0} subjectAltNames are not allowed")]
    Names(&'static str),
    /// Other usages.
    #[error("usages did not match {0:?}")]
    Usages(Vec<String>),
    /// A usage that clients have no use for.
    #[error("invalid usage for client certificate: {0}")]
    ClientUsage(String),
    /// Not for clients at all.
    #[error("missing required usage for client certificate: client auth")]
    NoClient,
}

/// Whether this is what a kubelet asks for to be a client.
///
/// # Errors
/// Why not.
pub fn is_kubelet_client(request: &Request, usages: &[String]) -> Result<(), Unfit> {
    if request.organisations != [NODES] {
        return Err(Unfit::Organisation);
    }
    let kinds = [
        ("DNS", !request.dns.is_empty()),
        ("Email", request.emails),
        ("IP", !request.addresses.is_empty()),
        ("URI", request.uris),
    ];
    if let Some((kind, _)) = kinds.into_iter().find(|(_, there)| *there) {
        return Err(Unfit::Names(kind));
    }
    if !request.common_name.starts_with(NODE_PREFIX) {
        return Err(Unfit::CommonName);
    }
    has_usages(usages, "client auth")
}

/// Whether this is what a kubelet asks for to serve.
///
/// # Errors
/// Why not.
pub fn is_kubelet_serving(request: &Request, usages: &[String]) -> Result<(), Unfit> {
    if request.organisations != [NODES] {
        return Err(Unfit::Organisation);
    }
    if request.dns.is_empty() && request.addresses.is_empty() {
        return Err(Unfit::NamesRequired);
    }
    if request.emails {
        return Err(Unfit::Names("Email"));
    }
    if request.uris {
        return Err(Unfit::Names("URI"));
    }
    has_usages(usages, "server auth")?;
    if !request.common_name.starts_with(NODE_PREFIX) {
        return Err(Unfit::CommonName);
    }
    Ok(())
}

fn has_usages(usages: &[String], purpose: &str) -> Result<(), Unfit> {
    let mut wanted = BTreeSet::from(["digital signature", purpose]);
    let held: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    if held == wanted {
        return Ok(());
    }
    wanted.insert("key encipherment");
    if held == wanted {
        return Ok(());
    }
    Err(Unfit::Usages(wanted.into_iter().map(str::to_owned).collect()))
}

/// Whether a condition is there and true.
#[must_use]
pub fn has_condition(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == kind && (condition.status == "True" || condition.status.is_empty()))
}

/// Whether the certificate is there.
#[must_use]
pub fn is_issued(csr: &CertificateSigningRequest) -> bool {
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|certificate| !certificate.0.is_empty())
}

#[cfg(test)]
pub(crate) mod testing {
    //! Requests as kubelets make them.

    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};
    use serde_json::json;

    /// PEM of a request.
    pub fn pem(common_name: &str, organisation: &str, names: &[&str]) -> String {
        pem_of(common_name, [Some(organisation.into()), None], names)
    }

    /// PEM of a request of one or two organisations.
    pub fn pem_of(common_name: &str, organisations: [Option<DnValue>; 2], names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        // The same type under its number, since each stands once in rcgen's names.
        let kinds = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        for (kind, organisation) in kinds.into_iter().zip(organisations) {
            if let Some(organisation) = organisation {
                parameters.distinguished_name.push(kind, organisation);
            }
        }
        parameters
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
            .unwrap()
    }

    /// An object with a request.
    pub fn csr(signer: &str, user: &str, usages: &[&str], pem: &str) -> CertificateSigningRequest {
        let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": "csr-1", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-05-01T12:00:00Z"},
            "spec": {"signerName": signer, "username": user, "request": "", "usages": usages},
        }))
        .unwrap();
        csr.spec.request = ByteString(pem.as_bytes().to_vec());
        csr
    }
}

#[cfg(test)]
mod tests {
    use rcgen::DnValue;
    use rcgen::string::BmpString;

    use super::testing::{pem, pem_of};
    use super::*;

    #[test]
    fn requests_are_read() {
        let request = read(pem("system:node:n1", NODES, &["n1", "192.0.2.1", "2001:db8::1"]).as_bytes()).unwrap();
        assert_eq!(request.common_name, "system:node:n1");
        assert_eq!(request.organisations, [NODES]);
        assert_eq!(request.dns, ["n1"]);
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(request.addresses, addresses);
        assert_eq!(read(b"nothing"), Err(Unreadable::Pem));
        assert_eq!(
            read(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
            Err(Unreadable::Der)
        );
    }

    #[test]
    fn a_kubelet_is_of_one_organisation() {
        let usages = |purpose: &str| ["digital signature".to_owned(), purpose.to_owned()];
        for organisations in [[NODES, "system:masters"], ["system:masters", NODES], [NODES, NODES]] {
            let text = organisations.map(|organisation| Some(DnValue::from(organisation)));
            let request = read(pem_of("system:node:n1", text, &[]).as_bytes()).unwrap();
            assert_eq!(request.organisations, organisations);
            assert_eq!(is_kubelet_client(&request, &usages("client auth")), Err(Unfit::Organisation));
            let serving = Request {
                dns: vec!["n1".to_owned()],
                ..request
            };
            assert_eq!(is_kubelet_serving(&serving, &usages("server auth")), Err(Unfit::Organisation));
        }
        // One in letters that are not read here does not go unseen.
        let odd = DnValue::BmpString(BmpString::try_from("system:masters").unwrap());
        let request = pem_of("system:node:n1", [Some(NODES.into()), Some(odd)], &[]);
        assert_eq!(read(request.as_bytes()), Err(Unreadable::Der));
    }

    #[test]
    fn kubelets_have_their_rules() {
        let usages = |list: &[&str]| list.iter().map(|usage| (*usage).to_owned()).collect::<Vec<_>>();
        let node = |names: &[&str]| read(pem("system:node:n1", NODES, names).as_bytes()).unwrap();
        let client = usages(&["digital signature", "client auth"]);
        let client_rsa = usages(&["key encipherment", "digital signature", "client auth"]);
        let serving = usages(&["digital signature", "server auth"]);
        let stranger = read(pem("alice", NODES, &[]).as_bytes()).unwrap();
        let elsewhere = read(pem("system:node:n1", "dev", &["n1"]).as_bytes()).unwrap();
        assert_eq!(is_kubelet_client(&node(&[]), &client), Ok(()));
        assert_eq!(is_kubelet_client(&node(&[]), &client_rsa), Ok(()));
        assert!(matches!(is_kubelet_client(&node(&[]), &serving), Err(Unfit::Usages(_))));
        assert_eq!(is_kubelet_client(&node(&["n1"]), &client), Err(Unfit::Names("DNS")));
        assert_eq!(is_kubelet_client(&node(&["192.0.2.1"]), &client), Err(Unfit::Names("IP")));
        assert_eq!(is_kubelet_client(&stranger, &client), Err(Unfit::CommonName));
        assert_eq!(is_kubelet_client(&elsewhere, &client), Err(Unfit::Organisation));
        assert_eq!(is_kubelet_serving(&node(&["n1"]), &serving), Ok(()));
        assert_eq!(is_kubelet_serving(&node(&[]), &serving), Err(Unfit::NamesRequired));
        assert!(matches!(is_kubelet_serving(&node(&["n1"]), &client), Err(Unfit::Usages(_))));
        assert_eq!(is_kubelet_serving(&elsewhere, &serving), Err(Unfit::Organisation));
    }
}
