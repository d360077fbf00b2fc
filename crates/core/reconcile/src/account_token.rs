//! A Secret of the type `kubernetes.io/service-account-token` that names a service account is given its token, and goes
//! with the account (pkg/controller/serviceaccount/tokens_controller.go).
//!
//! Invariant: a token that is there is never replaced, and a Secret is deleted only where its account is not there.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use crate::ownership::object_ref;
use crate::plan::{Action, Plan};

/// Type of such Secrets.
pub const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// Annotation: the account.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// Annotation: its UID.
const UID: &str = "kubernetes.io/service-account.uid";
const TOKEN_KEY: &str = "token";
const NAMESPACE_KEY: &str = "namespace";
const CA_KEY: &str = "ca.crt";

/// What a token is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Namespace of Secret and account.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of the account.
    pub account: String,
    /// UID of the account.
    pub account_uid: String,
}

/// A Secret and the account that it names.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The Secret.
    pub secret: Arc<Secret>,
    /// The account, where it is there and the one that is meant.
    pub account: Option<Arc<ServiceAccount>>,
    /// A new token, where [`order`] asked for one and it could be signed.
    pub token: Option<String>,
    /// PEM of the cluster's CA; empty: none is put into Secrets.
    pub root_ca: Arc<str>,
}

/// The name and UID (empty: any) of the account that a Secret wants a token of; `None` for other Secrets.
#[must_use]
pub fn account_of(secret: &Secret) -> Option<(&str, &str)> {
    if secret.type_.as_deref() != Some(SECRET_TYPE) {
        return None;
    }
    let annotation = |name: &str| {
        let annotations = secret.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(name)).map_or("", String::as_str)
    };
    let name = annotation(ACCOUNT);
    (!name.is_empty()).then(|| (name, annotation(UID)))
}

/// Whether an account is the one that a Secret means.
#[must_use]
pub fn is_meant(secret: &Secret, account: &ServiceAccount) -> bool {
    account_of(secret).is_some_and(|(name, uid)| {
        let metadata = &account.metadata;
        metadata.name.as_deref() == Some(name) && (uid.is_empty() || metadata.uid.as_deref() == Some(uid))
    })
}

/// The token that a Secret lacks.
#[must_use]
pub fn order(secret: &Secret, account: &ServiceAccount) -> Option<Order> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    (is_meant(secret, account) && held(secret, TOKEN_KEY).is_empty()).then(|| Order {
        namespace: text(&secret.metadata.namespace),
        secret: text(&secret.metadata.name),
        account: text(&account.metadata.name),
        account_uid: text(&account.metadata.uid),
    })
}

fn held<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    let data = secret.data.as_ref().and_then(|data| data.get(key));
    data.map_or(&[], |bytes| &bytes.0)
}

/// Fills the Secret in, or deletes it.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let secret = &snapshot.secret;
    let mut plan = Plan::default();
    if account_of(secret).is_none() {
        return plan;
    }
    let Some(account) = &snapshot.account else {
        plan.actions.push(Action::Delete {
            target: object_ref("v1", "Secret", &secret.metadata),
            grace_period_seconds: None,
            propagation: None,
        });
        return plan;
    };
    let mut missing: Vec<(&str, Vec<u8>)> = Vec::new();
    let root_ca = snapshot.root_ca.as_bytes();
    if !root_ca.is_empty() && held(secret, CA_KEY) != root_ca {
        missing.push((CA_KEY, root_ca.to_vec()));
    }
    if held(secret, NAMESPACE_KEY).is_empty() {
        let namespace = secret.metadata.namespace.clone().unwrap_or_default();
        missing.push((NAMESPACE_KEY, namespace.into_bytes()));
    }
    if order(secret, account).is_some()
        && let Some(token) = &snapshot.token
    {
        missing.push((TOKEN_KEY, token.clone().into_bytes()));
    }
    if missing.is_empty() {
        return plan;
    }
    let mut filled = Secret::clone(secret);
    let data = filled.data.get_or_insert_default();
    for (key, bytes) in missing {
        data.insert(key.to_owned(), ByteString(bytes));
    }
    let annotations = filled.metadata.annotations.get_or_insert_default();
    for (key, value) in [(ACCOUNT, &account.metadata.name), (UID, &account.metadata.uid)] {
        annotations.insert(key.to_owned(), value.clone().unwrap_or_default());
    }
    plan.actions.push(Action::Update {
        object: serde_json::to_value(&filled).expect("a Secret serialises"),
    });
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(kind: &str, annotations: Value, data: Value) -> Arc<Secret> {
        let value = json!({"metadata": {"name": "s", "namespace": "ns", "uid": "us", "resourceVersion": "7", "annotations": annotations},
            "type": kind, "data": data});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn account(uid: &str) -> Arc<ServiceAccount> {
        let value = json!({"metadata": {"name": "robot", "namespace": "ns", "uid": uid}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn plan(secret: &Arc<Secret>, account: Option<&Arc<ServiceAccount>>) -> Vec<Action> {
        let meant = account.filter(|account| is_meant(secret, account)).cloned();
        let token = meant
            .as_ref()
            .and_then(|account| order(secret, account))
            .map(|_| "new".to_owned());
        let snapshot = Snapshot {
            secret: Arc::clone(secret),
            account: meant,
            token,
            root_ca: "pem".into(),
        };
        reconcile(&snapshot, Timestamp::UNIX_EPOCH).actions
    }

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let named = json!({ACCOUNT: "robot"});
        let bound = json!({ACCOUNT: "robot", UID: "ua"});
        // "pem", "ns" and "old" in base64.
        let full = json!({"ca.crt": "cGVt", "namespace": "bnM=", "token": "b2xk"});
        let empty = secret(SECRET_TYPE, named.clone(), Value::Null);
        let robot = account("ua");
        let [Action::Update { object }] = &plan(&empty, Some(&robot))[..] else {
            panic!("an update")
        };
        assert_eq!(
            object["data"],
            json!({"ca.crt": "cGVt", "namespace": "bnM=", "token": "bmV3"})
        );
        assert_eq!(object["metadata"]["annotations"], bound);
        assert_eq!(object["metadata"]["resourceVersion"], "7");
        let wanted = Order {
            namespace: "ns".into(),
            secret: "s".into(),
            account: "robot".into(),
            account_uid: "ua".into(),
        };
        assert_eq!(order(&empty, &robot), Some(wanted));

        let done = secret(SECRET_TYPE, bound.clone(), full.clone());
        assert_eq!(plan(&done, Some(&robot)), []);
        let mut other_ca = full.clone();
        other_ca["ca.crt"] = json!("eA==");
        let [Action::Update { object }] = &plan(&secret(SECRET_TYPE, bound.clone(), other_ca), Some(&robot))[..] else {
            panic!("an update")
        };
        assert_eq!(object["data"], full, "the token stays");

        for (name, secret, account) in [
            ("no account", secret(SECRET_TYPE, named, full.clone()), None),
            ("an account made anew", done.clone(), Some(account("new"))),
        ] {
            let actions = plan(&secret, account.as_ref());
            let deleted = matches!(&actions[..], [Action::Delete { target, .. }] if target.uid == "us");
            assert!(deleted, "{name}: {actions:?}");
        }
        for other in [
            secret("Opaque", bound, Value::Null),
            secret(SECRET_TYPE, json!({}), Value::Null),
        ] {
            assert_eq!(plan(&other, None), []);
        }
    }
}
