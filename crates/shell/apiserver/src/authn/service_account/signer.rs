//! Signs JSON Web Tokens with the cluster's key.
//!
//! Invariant: the key is read once. (The library that verifies tokens reads it anew for each that it signs, which costs
//! several times the signature, and every pod that starts asks for a token.)

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Header;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{ALGORITHM, KeyError};

/// An ECDSA P-256 key and what every token that it signs begins with.
pub(super) struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// Header and dot.
    start: String,
}

/// How verifiers are told which key a token was signed with.
pub(super) fn key_id(point: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(point))
}

impl Signer {
    /// Takes the private key (PKCS#8 PEM) and its public point.
    pub(super) fn new(private_pem: &str, point: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(private_pem.as_bytes()).map_err(|error| KeyError(error.to_string()))?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random);
        let header = Header {
            kid: Some(key_id(point)),
            typ: None,
            ..Header::new(ALGORITHM)
        };
        Ok(Self {
            key: key.map_err(|error| KeyError(error.to_string()))?,
            random,
            start: format!("{}.", encoded(&header)?),
        })
    }

    /// The token that says this.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        let mut token = format!("{}{}", self.start, encoded(claims)?);
        let signature = self.key.sign(&self.random, token.as_bytes());
        let signature = signature.map_err(|error| KeyError(error.to_string()))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

fn encoded(value: &impl Serialize) -> Result<String, KeyError> {
    let json = serde_json::to_vec(value).map_err(|error| KeyError(error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}
