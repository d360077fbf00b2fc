//! Service account tokens of pods: asked for, kept, and renewed at 80 % of their life (or after 24 h).
//!
//! Invariant: a token that still works is never lost because a new one could not be had.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use parking_lot::Mutex;
use serde_json::json;
use trireme_client::Client;
use trireme_pod::spec;

/// Life of a token that says nothing else, seconds.
const DEFAULT_SECONDS: i64 = 3600;
/// Age at which any token is renewed.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone)]
struct Token {
    text: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl Token {
    fn is_fresh(&self, now: Timestamp) -> bool {
        let life = self.expires.duration_since(self.issued);
        now < self.expires.saturating_add(-(life / 5)).unwrap_or(self.expires) && now.duration_since(self.issued) < MAX_AGE
    }
}

/// Tokens by pod UID, volume and path.
pub(crate) struct Tokens {
    client: Client,
    known: Mutex<HashMap<(String, String, String), Token>>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.known.lock().retain(|(owner, _, _), _| owner != uid);
    }

    pub(crate) async fn get(&self, pod: &Pod, volume: &str, source: &ServiceAccountTokenProjection) -> Result<String, String> {
        let now = Timestamp::now();
        let key = (spec::uid(pod).to_owned(), volume.to_owned(), source.path.clone());
        let known = self.known.lock().get(&key).cloned();
        if let Some(token) = known.as_ref().filter(|token| token.is_fresh(now)) {
            return Ok(token.text.clone());
        }
        match self.request(pod, source, now).await {
            Ok(token) => {
                self.known.lock().insert(key, token.clone());
                Ok(token.text)
            }
            Err(why) => match known.filter(|token| now < token.expires) {
                Some(token) => {
                    tracing::warn!(
                        pod = spec::display(pod),
                        "a service account token could not be renewed: {why}"
                    );
                    Ok(token.text)
                }
                None => Err(why),
            },
        }
    }

    async fn request(&self, pod: &Pod, source: &ServiceAccountTokenProjection, now: Timestamp) -> Result<Token, String> {
        let account = spec::of(pod)
            .service_account_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("default");
        let namespace = spec::namespace(pod);
        let seconds = source.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
        let audiences: Vec<&str> = source
            .audience
            .as_deref()
            .filter(|audience| !audience.is_empty())
            .into_iter()
            .collect();
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "metadata": {"name": account, "namespace": namespace},
            "spec": {
                "audiences": audiences, "expirationSeconds": seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": spec::name(pod), "uid": spec::uid(pod)}
            }
        });
        let target = Client::target::<ServiceAccount>(namespace, account, Some("token"));
        let failed = |why: String| format!("failed to fetch token: {why}");
        let made = self
            .client
            .transport()
            .create(&target, Bytes::from(body.to_string()), &self.client.write_options())
            .await
            .map_err(|status| failed(status.message))?
            .value();
        let text = made["status"]["token"]
            .as_str()
            .ok_or_else(|| failed("no token in the answer".into()))?
            .to_owned();
        let expires = made["status"]["expirationTimestamp"]
            .as_str()
            .and_then(|text| text.parse().ok());
        let expires = expires.unwrap_or_else(|| {
            now.saturating_add(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MAX)
        });
        Ok(Token {
            text,
            issued: now,
            expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_four_fifths_of_life_or_after_a_day() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let token = |life| Token {
            text: String::new(),
            issued: at(0),
            expires: at(life),
        };
        for (life, now, fresh) in [
            (1000, 799, true),
            (1000, 800, false),
            (1_000_000, 86_399, true),
            (1_000_000, 86_400, false),
        ] {
            assert_eq!(token(life).is_fresh(at(now)), fresh, "{life} {now}");
        }
    }
}
