//! Service account tokens: JSON Web Tokens bound to an account, and to a pod, a node or a secret where asked
//! (pkg/serviceaccount, KEP-1205).
//!
//! Invariant: a token is as good as the objects it is bound to: when one is gone, or has another UID, the token is bad,
//! before its time is up. It will not log a token.

mod legacy;
mod signer;

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trireme_api::{Object, Status};
use trireme_store::Store;

use super::{Authenticator, PeerCertificate, bearer_token, unauthorized};
use crate::keys;
use crate::nodes::TokenIssuer;
use crate::server::show_time;
use crate::user::UserInfo;

pub use legacy::SecretTokens;
use signer::Signer;

/// What every key here signs with, and how verifiers are told.
const ALGORITHM: Algorithm = Algorithm::ES256;
const ALGORITHM_NAME: &str = "ES256";
/// Shortest life of a token.
const SECONDS_MIN: i64 = 600;
/// Life that is asked for by pods' mounts; such tokens live a year, so that clients that never reload keep working.
const SECONDS_MOUNTED: i64 = 3607;
/// What such tokens get.
const SECONDS_EXTENDED: i64 = 365 * 24 * 3600;
/// A kubelet's clock may be so far off.
const LEEWAY_SECONDS: u64 = 10;

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    private: Private,
    nbf: i64,
    sub: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Private {
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reference {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
}

/// Issues and verifies tokens with one ECDSA P-256 key.
pub struct ServiceAccountTokens {
    issuer: String,
    audiences: Vec<String>,
    signer: Signer,
    decoding: DecodingKey,
    key_set: Value,
    store: Weak<dyn Store>,
}

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the key that signs service account tokens is no ECDSA P-256 key in PKCS#8 PEM: {0}")]
pub struct KeyError(String);

impl ServiceAccountTokens {
    /// Takes the private key (PKCS#8 PEM), its public point (uncompressed, 65 bytes: 4, x, y), the issuer's URL and the
    /// audiences that this API server answers to; the first is given to tokens that ask for none.
    ///
    /// # Errors
    /// When the key is not usable.
    pub fn new(
        private_pem: &str,
        point: &[u8],
        issuer: &str,
        audiences: Vec<String>,
        store: &Arc<dyn Store>,
    ) -> Result<Self, KeyError> {
        let (x, y) = match point {
            [4, rest @ ..] if rest.len() == 64 => (URL_SAFE_NO_PAD.encode(&rest[..32]), URL_SAFE_NO_PAD.encode(&rest[32..])),
            _ => return Err(KeyError("the public point is not 65 bytes long".into())),
        };
        let signer = Signer::new(private_pem, point)?;
        let decoding = DecodingKey::from_ec_components(&x, &y).map_err(|error| KeyError(error.to_string()))?;
        let key_id = signer::key_id(point);
        let key_set =
            json!({"keys": [{"use": "sig", "kty": "EC", "kid": key_id, "crv": "P-256", "alg": ALGORITHM_NAME, "x": x, "y": y}]});
        Ok(Self {
            issuer: issuer.to_owned(),
            audiences,
            signer,
            decoding,
            key_set,
            store: Arc::downgrade(store),
        })
    }

    fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Object> {
        self.store.upgrade()?.get(&keys::object("", plural, namespace, name))
    }

    /// The object that a token is to be bound to.
    fn bound(&self, namespace: &str, reference: &Value) -> Result<(&'static str, Object), Status> {
        let text = |name: &str| reference[name].as_str().unwrap_or_default();
        let (key, plural, namespace) = match (text("apiVersion"), text("kind")) {
            ("v1", "Pod") => ("pod", "pods", namespace),
            ("v1", "Secret") => ("secret", "secrets", namespace),
            ("v1", "Node") => ("node", "nodes", ""),
            (version, kind) => {
                let slash = if version.contains('/') { "" } else { "/" };
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {slash}{version}, Kind={kind}"
                )));
            }
        };
        let name = text("name");
        let object = self
            .object(plural, namespace, name)
            .ok_or_else(|| Status::not_found("", plural, name))?;
        let uid = text("uid");
        if !uid.is_empty() && uid != object.header().uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict("", text("kind"), name, &why));
        }
        Ok((key, object))
    }

    fn check(&self, token: &str, wanted: &[String]) -> Option<UserInfo> {
        let mut validation = Validation::new(ALGORITHM);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(if wanted.is_empty() { &self.audiences } else { wanted });
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .ok()?
            .claims;
        let private = claims.private;
        let namespace = private.namespace;
        // A pod that is being deleted keeps its token for its grace period, and so does an account.
        let lives = |plural: &str, namespace: &str, reference: &Reference| {
            self.object(plural, namespace, &reference.name)
                .is_some_and(|object| object.header().uid == reference.uid)
        };
        let account = &private.serviceaccount;
        let bound = lives("serviceaccounts", &namespace, account)
            && private.pod.as_ref().is_none_or(|pod| lives("pods", &namespace, pod))
            && private
                .secret
                .as_ref()
                .is_none_or(|secret| lives("secrets", &namespace, secret))
            && (private.pod.is_some() || private.node.as_ref().is_none_or(|node| lives("nodes", "", node)));
        if !bound || claims.sub != format!("system:serviceaccount:{namespace}:{}", account.name) {
            return None;
        }
        let mut user = user(&namespace, &account.name, &account.uid);
        let mut extra =
            |key: &str, value: String| drop(user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]));
        extra("credential-id", format!("JTI={}", claims.jti));
        for (kind, reference) in [("pod", private.pod), ("node", private.node)] {
            if let Some(reference) = reference {
                extra(&format!("{kind}-name"), reference.name);
                if !reference.uid.is_empty() {
                    extra(&format!("{kind}-uid"), reference.uid);
                }
            }
        }
        Some(user)
    }
}

/// The user that a service account is.
fn user(namespace: &str, name: &str, uid: &str) -> UserInfo {
    let everyone = "system:serviceaccounts";
    UserInfo {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        uid: uid.to_owned(),
        groups: vec![
            everyone.to_owned(),
            format!("{everyone}:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        ..UserInfo::default()
    }
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        _peer: Option<&PeerCertificate>,
    ) -> Result<Option<UserInfo>, Status> {
        let Some(token) = bearer_token(parts) else { return Ok(None) };
        if token.split('.').count() != 3 {
            return Ok(None); // Somebody else's kind of token.
        }
        let audiences: Vec<String> = parts
            .headers
            .get_all(crate::reviews::AUDIENCE_HEADER)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let known = if legacy::is_legacy(&token) {
            self.check_legacy(&token, &audiences)
        } else {
            self.check(&token, &audiences)
        };
        known.map(Some).ok_or_else(unauthorized)
    }
}

#[async_trait]
impl TokenIssuer for ServiceAccountTokens {
    async fn issue(&self, account: &Object, mut request: Value, _user: &UserInfo) -> Result<Value, Status> {
        let account = account.header();
        let spec = &mut request["spec"];
        let asked = spec["expirationSeconds"].as_i64().unwrap_or(3600).max(SECONDS_MIN);
        let mut audiences: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|audience| audience.as_str().map(str::to_owned))
            .collect();
        if audiences.is_empty() {
            audiences.push(self.audiences.first().cloned().unwrap_or_else(|| self.issuer.clone()));
        }
        let now = jiff::Timestamp::now().as_second();
        let mut private = Private {
            namespace: account.namespace.clone(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: Reference {
                name: account.name.clone(),
                uid: account.uid.clone(),
            },
            warnafter: None,
        };
        let mut life = asked;
        let reference = spec["boundObjectRef"].clone();
        if reference.is_object() {
            let (kind, object) = self.bound(&account.namespace, &reference)?;
            let bound = Some(Reference {
                name: object.header().name.clone(),
                uid: object.header().uid.clone(),
            });
            match kind {
                "pod" => {
                    let pod = object.value();
                    if pod["spec"]["serviceAccountName"].as_str() != Some(&account.name) {
                        let used = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
                        return Err(Status::bad_request(format!(
                            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name \"{used}\"",
                            account.name
                        )));
                    }
                    private.pod = bound;
                    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                        let uid = self
                            .object("nodes", "", node)
                            .map(|node| node.header().uid.clone())
                            .unwrap_or_default();
                        private.node = Some(Reference {
                            name: node.to_owned(),
                            uid,
                        });
                    }
                    if asked == SECONDS_MOUNTED && audiences == self.audiences[..1] {
                        private.warnafter = Some(now + asked);
                        life = SECONDS_EXTENDED;
                    }
                }
                "secret" => private.secret = bound,
                _ => private.node = bound,
            }
        }
        let claims = Claims {
            aud: audiences.clone(),
            exp: now + life,
            iat: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            nbf: now,
            sub: format!("system:serviceaccount:{}:{}", account.namespace, account.name),
            private,
        };
        let token = self.signer.sign(&claims).map_err(|error| {
            tracing::error!(%error, "signing a service account token failed");
            Status::internal("failed to sign the token")
        })?;
        let expiry = jiff::Timestamp::from_second(now + asked).map(show_time).unwrap_or_default();
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = json!(asked);
        request["status"] = json!({"token": token, "expirationTimestamp": expiry});
        Ok(request)
    }

    fn audiences(&self) -> Vec<String> {
        self.audiences.clone()
    }

    fn key_set(&self) -> Value {
        self.key_set.clone()
    }

    fn issuer(&self) -> String {
        self.issuer.clone()
    }

    fn algorithm(&self) -> &'static str {
        ALGORITHM_NAME
    }
}
