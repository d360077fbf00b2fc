//! Who may use the kubelet's API.
//!
//! Invariant: a request without a verified client certificate is never let through.

use std::net::SocketAddr;

/// Who asks: the subject of a client certificate that was checked against the client CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Common name.
    pub user: String,
    /// Organisations.
    pub groups: Vec<String>,
    /// Where from.
    pub address: SocketAddr,
}

/// What an authorizer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// Decides on requests of verified peers. `verb` and `subresource` are upstream's: GET is `get`, the rest `create`;
/// subresources of nodes are `log`, `stats`, `metrics`, `healthz` and `proxy`.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether the peer may do it.
    fn authorize(&self, peer: &Peer, verb: &str, subresource: &str) -> Decision;
}

/// Lets the API server and administrators in, nobody else.
pub struct CertificateAuthorizer;

impl Authorizer for CertificateAuthorizer {
    fn authorize(&self, peer: &Peer, _: &str, _: &str) -> Decision {
        let admin = peer
            .groups
            .iter()
            .any(|group| group == "system:masters" || group == "kubeadm:cluster-admins");
        if admin || peer.user == "kube-apiserver-kubelet-client" {
            Decision::Allow
        } else {
            Decision::Deny
        }
    }
}
