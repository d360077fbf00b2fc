//! TLS settings: the API server's, and those of its way to kubelets.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use trireme_apiserver::authn::AskForCertificate;

use crate::live::LiveIdentity;

/// The cluster's authority as what is trusted.
pub(crate) fn roots(authority: &CertificateDer<'static>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).context("the cluster's CA certificate")?;
    Ok(roots)
}

/// A server that asks for a client certificate and does without one. Whether one that is shown is good is for the
/// authenticator to say, in HTTP.
pub(crate) fn server(identity: &Arc<LiveIdentity>, authority: &CertificateDer<'static>) -> Result<rustls::ServerConfig> {
    Ok(rustls::ServerConfig::builder()
        .with_client_cert_verifier(AskForCertificate::new(&roots(authority)?))
        .with_cert_resolver(Arc::clone(identity) as _))
}

/// A client that shows a certificate and demands one of the cluster's CA. It resumes no session, since a resumed one
/// stands for the certificate that was shown in the first.
pub(crate) fn client(identity: &Arc<LiveIdentity>, authority: &CertificateDer<'static>) -> Result<rustls::ClientConfig> {
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots(authority)?)
        .with_client_cert_resolver(Arc::clone(identity) as _);
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
