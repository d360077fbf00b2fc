//! Users by client certificate: the common name is the user, every organisation a group.
//!
//! Invariant: only certificates whose chain the TLS layer has verified come here. It will not check expiry again.

use async_trait::async_trait;
use trireme_api::Status;

use super::Authenticator;
use crate::user::UserInfo;

/// Authenticates by the subject of the peer's certificate.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientCertificate;

#[async_trait]
impl Authenticator for ClientCertificate {
    async fn authenticate(&self, _parts: &http::request::Parts, peer_cert: Option<&[u8]>) -> Result<Option<UserInfo>, Status> {
        Ok(peer_cert.and_then(user_of))
    }
}

/// The user that a certificate names; `None` where it has no common name.
#[must_use]
pub fn user_of(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|organisation| organisation.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some(UserInfo {
        name,
        groups,
        ..UserInfo::default()
    })
}
