//! The joining side: one request to a server that proved to hold the CA which the token names.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use trireme_api::Status;

use super::token::{Token, ca_hash};
use super::wire::{JOIN_PATH, JoinAnswer, JoinRequest};

/// A name that is in every server's certificate.
pub const SERVER_NAME: &str = "kubernetes.default.svc";
/// Longest wait for the answer: the member change may have to wait for an election.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Answers are keys, certificates and addresses.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Takes a chain whose authority has a known public key, whatever else is known of it.
#[derive(Debug)]
struct PinnedAuthority {
    hash: [u8; 32],
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mismatch = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let pinned = intermediates
            .iter()
            .find(|certificate| ca_hash(certificate) == Some(self.hash));
        let mut roots = RootCertStore::empty();
        roots.add(pinned.ok_or_else(mismatch)?.clone().into_owned())?;
        let name = ServerName::try_from(SERVER_NAME).expect("a constant");
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|_| mismatch())?
            .verify_server_cert(end_entity, &[], &name, ocsp_response, now)?;
        verify_server_name(&rustls::server::ParsedCertificate::try_from(end_entity)?, &name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why one is not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The URL is none.
    #[error("--join: \"{0}\" should look like https://192.0.2.1:6443")]
    Url(String),
    /// Nobody answers there, or not now.
    #[error("no server answers at {server}: {reason}")]
    Unreachable {
        /// `host:port`.
        server: String,
        /// Why, in one line.
        reason: String,
    },
    /// The server holds another CA than the token names.
    #[error(
        "the server at {0} does not belong to the cluster of this token: its CA is another one than the token's; check the \
         address, or make a new token there"
    )]
    OtherCluster(String),
    /// The token is unknown there, has expired or was revoked.
    #[error(
        "the token is not valid (any more) at {server}: it has expired or was revoked; make a new one with `trireme token create \
         --role {role}` on a server"
    )]
    Token {
        /// `host:port`.
        server: String,
        /// Of the token.
        role: &'static str,
    },
    /// The server says no, and why.
    #[error("the server at {server} refuses: {reason}")]
    Refused {
        /// `host:port`.
        server: String,
        /// Its words.
        reason: String,
    },
}

impl JoinError {
    /// Whether asking again, or asking another server, is pointless.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Unreachable { .. })
    }
}

/// `host:port` of `https://host:port`; the port may be left out.
///
/// # Errors
/// [`JoinError::Url`].
pub fn authority_of(url: &str) -> Result<String, JoinError> {
    let wrong = || JoinError::Url(url.to_owned());
    let uri: http::Uri = url.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    if uri.scheme_str() != Some("https") {
        return Err(wrong());
    }
    Ok(match authority.port_u16() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:6443"),
    })
}

/// Asks one server to be let in.
///
/// # Errors
/// See [`JoinError`]; each is one line that says what to do.
pub async fn join(url: &str, token: &Token, request: &JoinRequest) -> Result<JoinAnswer, JoinError> {
    let server = authority_of(url)?;
    let body = serde_json::to_vec(request).expect("a plain struct serialises");
    let unreachable = |reason: String| JoinError::Unreachable {
        server: server.clone(),
        reason,
    };
    let stream = match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(&server)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => return Err(unreachable("the connection was not answered in time".into())),
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, exchange(stream, &server, token, body)).await;
    let (code, body) = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.to_string().contains("UnknownIssuer") => return Err(JoinError::OtherCluster(server)),
        Ok(Err(error)) => return Err(unreachable(error.to_string())),
        Err(_) => {
            return Err(unreachable(
                "it took the request and does not answer; is there a leader?".into(),
            ));
        }
    };
    let said = || match serde_json::from_slice::<Status>(&body) {
        Ok(status) if !status.message.is_empty() => status.message,
        _ => format!("status {code}"),
    };
    match code {
        200 => serde_json::from_slice(&body).map_err(|error| unreachable(format!("its answer makes no sense: {error}"))),
        401 => {
            let role = token.role.name();
            Err(JoinError::Token { server, role })
        }
        429 | 500.. => Err(unreachable(said())),
        _ => {
            let reason = said();
            Err(JoinError::Refused { server, reason })
        }
    }
}

/// One request over TLS; the status code and the body.
async fn exchange(stream: TcpStream, server: &str, token: &Token, body: Vec<u8>) -> std::io::Result<(u16, Bytes)> {
    let other = std::io::Error::other::<Box<dyn std::error::Error + Send + Sync>>;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = PinnedAuthority {
        hash: token.ca_hash,
        provider: Arc::clone(&provider),
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| other(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::try_from(SERVER_NAME).expect("a constant");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| other(error.into()))?;
    let driver = tokio::spawn(connection);
    let request = http::Request::post(JOIN_PATH)
        .header(http::header::HOST, server)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::AUTHORIZATION, format!("Bearer {}", token.bearer()))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| other(error.into()))?;
    let response = sender.send_request(request).await.map_err(|error| other(error.into()))?;
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(other)?;
    driver.abort();
    Ok((code, body.to_bytes()))
}
