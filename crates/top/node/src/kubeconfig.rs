//! The kubeconfig of the first administrator.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::pki::Identity;

/// A kubeconfig with one cluster, one user by client certificate and one context, all called `trireme`.
#[must_use]
pub fn kubeconfig(server: &str, authority_pem: &str, identity: &Identity) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: trireme\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\n\
         users:\n- name: trireme\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
         contexts:\n- name: trireme\n  context:\n    cluster: trireme\n    user: trireme\ncurrent-context: trireme\n",
        STANDARD.encode(authority_pem),
        STANDARD.encode(&identity.certificate_pem),
        STANDARD.encode(&identity.key_pem),
    )
}
