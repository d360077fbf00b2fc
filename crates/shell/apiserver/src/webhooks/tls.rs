//! TLS to a webhook, and what goes wrong with it in Go's words.

use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

/// The settings of connections to who is certified by one of these authorities (in PEM), or by one of the system's where there
/// are none. Reads files the first time: not for an async worker.
pub(super) fn config(ca_bundle: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let roots = if ca_bundle.is_empty() {
        system_roots().clone()
    } else {
        let mut roots = RootCertStore::empty();
        let found = CertificateDer::pem_slice_iter(ca_bundle).flatten();
        if roots.add_parsable_certificates(found).0 == 0 {
            return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
        }
        roots
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Where there are several backends, an HTTP/2 connection would always reach the same one.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate of the system cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

/// A failed handshake with `host` in Go's words.
pub(super) fn told(error: &std::io::Error, host: &ServerName<'_>) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let Some(inner) = inner else {
        return match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            _ => super::client::io_told(error),
        };
    };
    let unverified = |why: &str| format!("tls: failed to verify certificate: x509: {why}");
    match inner {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => unverified("certificate signed by unknown authority"),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            unverified("certificate has expired or is not yet valid")
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            unverified("certificate has expired or is not yet valid")
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            unverified(&unnamed(host, presented))
        }
        Error::InvalidCertificate(CertificateError::NotValidForName) => unverified(&unnamed(host, &[])),
        Error::InvalidMessage(_) => "tls: first record does not look like a TLS handshake".to_owned(),
        other => format!("tls: {other}"),
    }
}

/// That a certificate is none of `host`, but of those names, which come as `DnsName("a")` or `a`, and `IpAddress(1.2.3.4)`.
fn unnamed(host: &ServerName<'_>, presented: &[String]) -> String {
    let address = |name: &String| Some(name.strip_prefix("IpAddress(")?.strip_suffix(')')?.to_owned());
    let of_address = matches!(host, ServerName::IpAddress(_));
    let plain = |name: &String| {
        let inner = name.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")"));
        inner.unwrap_or(name).to_owned()
    };
    let fitting = presented.iter().filter_map(|name| match (of_address, address(name)) {
        (true, found) => found,
        (false, None) => Some(plain(name)),
        (false, Some(_)) => None,
    });
    let names: Vec<String> = fitting.collect();
    let host = host.to_str();
    match (names.as_slice(), of_address) {
        ([], true) => format!("cannot validate certificate for {host} because it doesn't contain any IP SANs"),
        ([], false) => format!("certificate is not valid for any names, but wanted to match {host}"),
        (names, _) => format!("certificate is valid for {}, not {host}", names.join(", ")),
    }
}
