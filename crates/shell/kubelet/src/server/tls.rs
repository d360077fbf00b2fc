//! The server's TLS settings, and who a client certificate names.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, ServerConnection, crypto};

use super::auth::Peer;
use crate::config::Tls;

/// A client without certificate gets through the handshake, to be told 401; one with a wrong certificate does not.
pub(super) fn server(tls: &Tls) -> Result<ServerConfig, String> {
    let provider = Arc::new(crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in &tls.client_ca {
        roots
            .add(CertificateDer::from(authority.clone()))
            .map_err(|error| error.to_string())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(&tls.certificate));
    // A resumed session would stand for a client certificate that may have expired since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The subject of the certificate that the client showed.
pub(super) fn peer(connection: &ServerConnection, address: SocketAddr) -> Option<Peer> {
    let certificate = connection.peer_certificates()?.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok().map(str::to_owned))
        .collect();
    Some(Peer { user, groups, address })
}
