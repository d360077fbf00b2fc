//! The token that joins: role, hash of the cluster's CA, and an upstream bootstrap token.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What begins every token, and changes if its form does.
const PREFIX: &str = "trireme1";
/// Group of bearers is this and the role.
pub const GROUP_PREFIX: &str = "system:bootstrappers:trireme:";

/// What a token lets one become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A member that holds the cluster's keys.
    Server,
    /// A node.
    Agent,
}

impl Role {
    /// As tokens and groups spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }

    /// The group that bearers of such a token are in.
    #[must_use]
    pub fn group(self) -> String {
        format!("{GROUP_PREFIX}{}", self.name())
    }
}

/// `trireme1.ROLE.CAHASH.ID.SECRET`. Its text is a secret; `Debug` leaves that part out.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What its bearer may become.
    pub role: Role,
    /// SHA-256 of the CA's public key (DER, SubjectPublicKeyInfo), as kubeadm's discovery hash.
    pub ca_hash: [u8; 32],
    /// Six of a-z0-9: the name of the Secret.
    pub id: String,
    /// Sixteen of a-z0-9.
    pub secret: String,
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token: it should look like trireme1.server.HASH.ID.SECRET; make one with `trireme token create` on a server"
)]
pub struct TokenError;

impl Token {
    /// A new random token for the cluster of a CA.
    #[must_use]
    pub fn random(role: Role, authority: &CertificateDer<'_>) -> Option<Self> {
        Some(Self {
            role,
            ca_hash: ca_hash(authority)?,
            id: random_text(6),
            secret: random_text(16),
        })
    }

    /// What is sent as bearer token.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

fn random_text(length: usize) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..length)
        .map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]))
        .collect()
}

/// SHA-256 of a certificate's public key; `None` where it is no certificate.
#[must_use]
pub fn ca_hash(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Sha256::digest(parsed.public_key().raw).into())
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, hash) = (self.role.name(), hex::encode(self.ca_hash));
        write!(f, "{PREFIX}.{role}.{hash}.{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}.{}.…", self.role.name(), hex::encode(self.ca_hash), self.id)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [PREFIX, role, hash, id, secret] = parts.as_slice() else {
            return Err(TokenError);
        };
        let plain = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if !plain(id, 6) || !plain(secret, 16) {
            return Err(TokenError);
        }
        let mut ca_hash = [0; 32];
        hex::decode_to_slice(hash, &mut ca_hash).map_err(|_| TokenError)?;
        Ok(Self {
            role: match *role {
                "server" => Role::Server,
                "agent" => Role::Agent,
                _ => return Err(TokenError),
            },
            ca_hash,
            id: (*id).to_owned(),
            secret: (*secret).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written_and_hides_its_secret() {
        let token = Token {
            role: Role::Agent,
            ca_hash: [7; 32],
            id: random_text(6),
            secret: random_text(16),
        };
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.secret));
        let written = token.to_string();
        for wrong in [
            "",
            "abcdef.0123456789abcdef",
            &written[1..],
            &written[..written.len() - 1],
            &written.replace("agent", "admin"),
        ] {
            assert_eq!(wrong.parse::<Token>(), Err(TokenError), "{wrong}");
        }
    }
}
