//! Users by bootstrap token `ID.SECRET`, held in the Secret `bootstrap-token-ID` of `kube-system`
//! (plugin/pkg/auth/authenticator/token/bootstrap).
//!
//! Invariant: a token counts only while its Secret exists, is not being deleted, has not expired and allows
//! authentication; the secret part is compared in constant time. It will not log a token.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use trireme_api::Status;
use trireme_store::Store;

use super::{Authenticator, PeerCertificate, bearer_token, unauthorized};
use crate::keys;
use crate::user::UserInfo;

/// Namespace of the Secrets.
const NAMESPACE: &str = "kube-system";
/// What the Secrets' names begin with.
const NAME_PREFIX: &str = "bootstrap-token-";
/// Their type.
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// What user names begin with; the token's id follows.
pub const USER_PREFIX: &str = "system:bootstrap:";
/// The group of all such users; further ones begin with it and a colon.
pub const GROUP: &str = "system:bootstrappers";
/// Length of the id.
const ID_LENGTH: usize = 6;
/// Length of the secret part.
const SECRET_LENGTH: usize = 16;
/// Longest name of a further group after its prefix.
const GROUP_LENGTH_MAX: usize = 256;

/// Authenticates by bootstrap token.
#[derive(Clone, Debug)]
pub struct BootstrapTokens(Weak<dyn Store>);

impl BootstrapTokens {
    /// Reads the Secrets of this store.
    #[must_use]
    pub fn new(store: &Arc<dyn Store>) -> Self {
        Self(Arc::downgrade(store))
    }

    /// The user of a token; `None` where it is none, is unknown, has expired or must not authenticate.
    #[must_use]
    pub fn user(&self, token: &str, now: Timestamp) -> Option<UserInfo> {
        let (id, secret) = split(token)?;
        let key = keys::object("", "secrets", NAMESPACE, &format!("{NAME_PREFIX}{id}"));
        let object = self.0.upgrade()?.get(&key)?.value();
        match accepts(&object, id, secret, now) {
            Ok(groups) => Some(UserInfo {
                name: format!("{USER_PREFIX}{id}"),
                groups,
                ..UserInfo::default()
            }),
            Err(reason) => {
                tracing::debug!(id, reason, "a bootstrap token is refused");
                None
            }
        }
    }
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        _peer: Option<&PeerCertificate>,
    ) -> Result<Option<UserInfo>, Status> {
        let Some(token) = bearer_token(parts) else { return Ok(None) };
        if split(&token).is_none() {
            return Ok(None); // Somebody else's kind of token.
        }
        self.user(&token, Timestamp::now()).map(Some).ok_or_else(unauthorized)
    }
}

/// Id and secret part of a well-formed token.
fn split(token: &str) -> Option<(&str, &str)> {
    let part = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    token
        .split_once('.')
        .filter(|(id, secret)| part(id, ID_LENGTH) && part(secret, SECRET_LENGTH))
}

/// The groups of a token's user, or why its Secret does not accept it.
fn accepts(object: &Value, id: &str, secret: &str, now: Timestamp) -> Result<Vec<String>, &'static str> {
    let data = |key: &str| {
        let text = object["data"][key].as_str()?;
        String::from_utf8(STANDARD.decode(text).ok()?).ok()
    };
    if object["metadata"]["deletionTimestamp"].is_string() {
        return Err("its Secret is being deleted");
    }
    if object["type"] != SECRET_TYPE {
        return Err("its Secret is of another type");
    }
    if !same(data("token-secret").unwrap_or_default().as_bytes(), secret.as_bytes()) {
        return Err("the secret part is wrong");
    }
    if data("token-id").as_deref() != Some(id) {
        return Err("its Secret names another id");
    }
    if let Some(text) = data("expiration").filter(|text| !text.is_empty()) {
        // A time that cannot be read may be past.
        let lives = text.parse::<Timestamp>().is_ok_and(|end| now < end);
        if !lives {
            return Err("it has expired");
        }
    }
    if data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err("it is not for authentication");
    }
    groups(&data("auth-extra-groups").unwrap_or_default()).ok_or("its Secret names an impossible group")
}

/// The common group and further ones, comma separated.
fn groups(further: &str) -> Option<Vec<String>> {
    let mut groups = vec![GROUP.to_owned()];
    if further.is_empty() {
        return Some(groups);
    }
    for group in further.split(',') {
        let name = group.strip_prefix(GROUP)?.strip_prefix(':')?;
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = (1..=GROUP_LENGTH_MAX).contains(&name.len())
            && name.bytes().all(|byte| letter(byte) || byte == b':' || byte == b'-')
            && name.bytes().next_back().is_some_and(letter);
        if !fits {
            return None;
        }
        if !groups.iter().any(|known| known == group) {
            groups.push(group.to_owned());
        }
    }
    groups.sort();
    Some(groups)
}

/// Equality in a time that depends on the lengths alone.
fn same(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0_u8, |sum, (left, right)| sum | (left ^ right));
    left.len() == right.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn secret(changes: &[(&str, Option<&str>)]) -> Value {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": NAMESPACE},
            "data": {},
        });
        let usual = [
            ("token-id", Some("abcdef")),
            ("token-secret", Some(SECRET)),
            ("usage-bootstrap-authentication", Some("true")),
            ("auth-extra-groups", Some("system:bootstrappers:trireme:agent")),
        ];
        for (key, value) in usual.iter().chain(changes) {
            match value {
                Some(value) => object["data"][key] = STANDARD.encode(value).into(),
                None => {
                    object["data"].as_object_mut().unwrap().remove(*key);
                }
            }
        }
        object
    }

    #[test]
    fn a_token_counts_while_its_secret_says_so() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let check = |object: &Value, part: &str| accepts(object, "abcdef", part, now);
        assert_eq!(
            check(&secret(&[]), SECRET).unwrap(),
            ["system:bootstrappers", "system:bootstrappers:trireme:agent"]
        );
        assert_eq!(
            check(&secret(&[("auth-extra-groups", None)]), SECRET).unwrap(),
            ["system:bootstrappers"]
        );
        assert!(check(&secret(&[("expiration", Some("2026-05-01T12:00:01Z"))]), SECRET).is_ok());
        let refused: [&[(&str, Option<&str>)]; 9] = [
            &[("token-secret", Some("fedcba9876543210"))],
            &[("token-secret", None)],
            &[("token-id", Some("abcdeg"))],
            &[("expiration", Some("2026-05-01T12:00:00Z"))],
            &[("expiration", Some("soon"))],
            &[("usage-bootstrap-authentication", Some("false"))],
            &[("usage-bootstrap-authentication", None)],
            &[("auth-extra-groups", Some("system:masters"))],
            &[("auth-extra-groups", Some("system:bootstrappers:x-"))],
        ];
        for changes in refused {
            assert!(check(&secret(changes), SECRET).is_err(), "{changes:?}");
        }
        assert!(check(&secret(&[]), "0123456789abcdee").is_err());
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(check(&other, SECRET).is_err());
        let mut leaving = secret(&[]);
        leaving["metadata"]["deletionTimestamp"] = "2026-05-01T11:00:00Z".into();
        assert!(check(&leaving, SECRET).is_err());
    }

    #[test]
    fn only_well_formed_tokens_are_looked_up() {
        assert_eq!(split("abcdef.0123456789abcdef"), Some(("abcdef", SECRET)));
        for other in [
            "abcdef0123456789abcdef",
            "abcde.0123456789abcdef",
            "abcdeF.0123456789abcdef",
            "a.b.c",
            "",
        ] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
