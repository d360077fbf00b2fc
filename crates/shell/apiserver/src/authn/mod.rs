//! The seam that authenticators plug into, a chain of them, and those that need nothing but the request: client
//! certificates and the static token file.
//!
//! Invariant: an authenticator that finds no credentials of its kind answers `None`; one that finds bad ones answers an
//! error, and then nobody may take the request for anonymous.

pub mod bootstrap_token;
pub mod certificate;
pub mod service_account;
pub mod token_file;

use std::sync::Arc;

use async_trait::async_trait;
use trireme_api::Status;

use crate::user::UserInfo;

pub use bootstrap_token::BootstrapTokens;
pub use certificate::{AskForCertificate, ClientCertificate, PeerCertificate, PeerCertificates};
pub use service_account::{SecretTokens, ServiceAccountTokens};
pub use token_file::TokenFile;

/// Finds out who a request comes from.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The user, or `None` where the request carries no credentials of this kind. `peer` is what the client showed in
    /// the TLS handshake: it has the certificate's key, and nothing else is known of it.
    ///
    /// # Errors
    /// 401 where there are credentials and they are bad.
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        peer: Option<&PeerCertificate>,
    ) -> Result<Option<UserInfo>, Status>;
}

/// Asks authenticators in order; the first user wins, and an error counts only when nobody finds a user.
#[derive(Clone, Default)]
pub struct Chain(Vec<Arc<dyn Authenticator>>);

impl Chain {
    /// A chain of these.
    #[must_use]
    pub fn new(members: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(members)
    }
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        peer: Option<&PeerCertificate>,
    ) -> Result<Option<UserInfo>, Status> {
        let mut failure = None;
        for member in &self.0 {
            match member.authenticate(parts, peer).await {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(status) => failure = Some(status),
            }
        }
        failure.map_or(Ok(None), Err)
    }
}

/// The 401 of every failed authentication.
#[must_use]
pub fn unauthorized() -> Status {
    Status::failure(401, "Unauthorized", "Unauthorized")
}

/// The bearer token of a request: the `Authorization` header, or the WebSocket subprotocol that browsers must use.
#[must_use]
pub fn bearer_token(parts: &http::request::Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(http::header::AUTHORIZATION) {
        let text = String::from_utf8_lossy(value.as_bytes());
        // As upstream: what stands between the first and the second space.
        let mut words = text.trim().splitn(3, ' ');
        let (scheme, token) = (words.next()?, words.next()?);
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let protocols = parts.headers.get_all("sec-websocket-protocol");
    for value in protocols {
        for protocol in value.to_str().ok()?.split(',') {
            if let Some(encoded) = protocol.trim().strip_prefix(PREFIX) {
                use base64::Engine as _;
                let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
                return String::from_utf8(bytes).ok();
            }
        }
    }
    None
}
