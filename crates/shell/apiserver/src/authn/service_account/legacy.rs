//! Tokens that hand-made Secrets hold (pkg/serviceaccount/legacy.go): they name no audience and no end.
//!
//! Invariant: such a token is good only while the Secret that it names holds it, letter by letter, and its account is the
//! one that it was made for. Nobody is told when it was last used.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::Validation;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::signer::Signer;
use super::{ALGORITHM, KeyError, ServiceAccountTokens, user};
use crate::user::UserInfo;

const ISSUER: &str = "kubernetes/serviceaccount";
/// Label of a Secret whose token counts no more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
    sub: String,
}

/// Whether a token, not verified yet, says that it is of this kind.
pub(super) fn is_legacy(token: &str) -> bool {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims = claims.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    claims.is_some_and(|claims| claims["iss"] == ISSUER)
}

impl ServiceAccountTokens {
    pub(super) fn check_legacy(&self, token: &str, wanted: &[String]) -> Option<UserInfo> {
        // They are for this API server and whoever else its audiences mean.
        if !wanted.is_empty() && !wanted.iter().any(|audience| self.audiences.contains(audience)) {
            return None;
        }
        let mut validation = Validation::new(ALGORITHM);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&[ISSUER]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .ok()?
            .claims;
        if claims.sub != format!("system:serviceaccount:{}:{}", claims.namespace, claims.account) || claims.uid.is_empty() {
            return None;
        }
        let secret = self.object("secrets", &claims.namespace, &claims.secret)?;
        let invalid = secret
            .header()
            .labels
            .get(INVALID_SINCE)
            .is_some_and(|since| !since.is_empty());
        let value = secret.value();
        let held = value["data"]["token"].as_str().and_then(|text| STANDARD.decode(text).ok())?;
        // Who could try out a copy byte by byte would have to sign each try.
        if secret.header().deleting || invalid || held != token.as_bytes() {
            return None;
        }
        let account = self.object("serviceaccounts", &claims.namespace, &claims.account)?;
        let header = account.header();
        (!header.deleting && header.uid == claims.uid).then(|| user(&claims.namespace, &claims.account, &claims.uid))
    }
}

/// Signs the tokens of Secrets with the cluster's key for service accounts.
pub struct SecretTokens {
    signer: Signer,
}

impl SecretTokens {
    /// Takes the private key (PKCS#8 PEM) and its public point, as [`ServiceAccountTokens::new`] does.
    ///
    /// # Errors
    /// When the key is not usable.
    pub fn new(private_pem: &str, point: &[u8]) -> Result<Self, KeyError> {
        Ok(Self {
            signer: Signer::new(private_pem, point)?,
        })
    }

    /// The token of an account for a Secret to hold.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(&self, namespace: &str, secret: &str, account: &str, uid: &str) -> Result<String, KeyError> {
        let claims = Claims {
            iss: ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            uid: uid.to_owned(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
        };
        self.signer.sign(&claims)
    }
}
