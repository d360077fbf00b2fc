//! TLS settings: the API server's, and those of its way to kubelets.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;

use crate::pki::Identity;

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).context("the cluster's CA certificate")?;
    Ok(Arc::new(roots))
}

/// A server that asks for a client certificate and does without one.
pub(crate) fn server(identity: &Identity, authority: &CertificateDer<'static>) -> Result<rustls::ServerConfig> {
    let verifier = WebPkiClientVerifier::builder(roots(authority)?)
        .allow_unauthenticated()
        .build()?;
    rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
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
