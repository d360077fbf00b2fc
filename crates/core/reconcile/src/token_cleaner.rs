//! Removes bootstrap tokens that have expired (pkg/controller/bootstrap/tokencleaner.go).
//!
//! Invariant: a token whose expiry cannot be read counts as expired, as it does for the API server.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::ownership::object_ref;
use crate::plan::{Action, Plan};

/// Type of such Secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Their namespace.
pub const NAMESPACE: &str = "kube-system";

/// One Secret.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The Secret.
    pub secret: Arc<Secret>,
}

/// Removes an expired token, or says when it will have expired.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let secret = &snapshot.secret;
    let mut plan = Plan::default();
    if secret.type_.as_deref() != Some(SECRET_TYPE) || secret.metadata.namespace.as_deref() != Some(NAMESPACE) {
        return plan;
    }
    let held = secret.data.as_ref().and_then(|data| data.get("expiration"));
    let Some(text) = held
        .map(|bytes| String::from_utf8_lossy(&bytes.0))
        .filter(|text| !text.is_empty())
    else {
        return plan;
    };
    let left = text
        .parse::<Timestamp>()
        .map_or(0, |end| end.as_millisecond() - now.as_millisecond());
    match u64::try_from(left) {
        Ok(left @ 1..) => plan.requeue_after = Some(Duration::from_millis(left)),
        _ => plan.actions.push(Action::Delete {
            target: object_ref("v1", "Secret", &secret.metadata),
            grace_period_seconds: None,
            propagation: None,
        }),
    }
    plan
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_go_when_they_have_expired() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        for (kind, namespace, expiry, gone, again) in [
            (SECRET_TYPE, NAMESPACE, Some("2026-05-01T12:00:00Z"), true, None),
            (SECRET_TYPE, NAMESPACE, Some("soon"), true, None),
            (SECRET_TYPE, NAMESPACE, Some("2026-05-01T12:00:30Z"), false, Some(30)),
            (SECRET_TYPE, NAMESPACE, None, false, None),
            (SECRET_TYPE, "default", Some("2026-05-01T11:00:00Z"), false, None),
            ("Opaque", NAMESPACE, Some("2026-05-01T11:00:00Z"), false, None),
        ] {
            let mut secret: Secret = serde_json::from_value(json!({
                "metadata": {"name": "bootstrap-token-abcdef", "namespace": namespace, "uid": "u"}, "type": kind,
            }))
            .unwrap();
            secret.data = expiry.map(|text| [("expiration".to_owned(), ByteString(text.as_bytes().to_vec()))].into());
            let plan = reconcile(
                &Snapshot {
                    secret: Arc::new(secret),
                },
                now,
            );
            assert_eq!(plan.actions.len(), usize::from(gone), "{expiry:?}");
            assert_eq!(plan.requeue_after, again.map(Duration::from_secs), "{expiry:?}");
        }
    }
}
