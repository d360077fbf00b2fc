//! TLS settings: the API server's, and those of its way to kubelets.

use anyhow::{Context, Result};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use trireme_apiserver::authn::AskForCertificate;

use crate::pki::Identity;

/// The cluster's authority as what is trusted.
pub(crate) fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).context("the cluster's CA certificate")?;
    Ok(roots)
}

/// A server that asks for a client certificate and does without one. Whether one that is shown is good is for the
/// authenticator to say, in HTTP.
pub(crate) fn server(identity: &Identity, authority: &CertificateDer<'static>) -> Result<rustls::ServerConfig> {
    rustls::ServerConfig::builder()
        .with_client_cert_verifier(AskForCertificate::new(&roots(authority)?))
        .with_single_cert(vec![identity.certificate.clone()], identity.key())
        .context("the API server's certificate")
}

/// A client that shows a certificate and demands one of the cluster's CA.
pub(crate) fn client(identity: &Identity, authority: &CertificateDer<'static>) -> Result<rustls::ClientConfig> {
    rustls::ClientConfig::builder()
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key())
        .context("the API server's certificate for kubelets")
}
