//! Every active namespace has a ServiceAccount `default`.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde_json::json;

use crate::plan::{Action, Plan};

/// Name of the account.
pub const NAME: &str = "default";

/// A namespace and its account.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// Its account `default`.
    pub account: Option<Arc<ServiceAccount>>,
}

/// Creates the account where it is missing.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let namespace = &snapshot.namespace;
    if snapshot.account.is_some() || !is_active(namespace) {
        return Plan::default();
    }
    Plan {
        actions: vec![Action::Create {
            object: json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": NAME, "namespace": namespace.metadata.name},
            }),
            exists_is_done: true,
        }],
        requeue_after: None,
    }
}

/// Whether a namespace takes new objects.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_only_what_is_missing_in_an_active_namespace() {
        let namespace = |phase: &str| -> Arc<Namespace> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"phase": phase}})).unwrap())
        };
        let account = Some(Arc::new(ServiceAccount::default()));
        for (phase, account, actions) in [
            ("Active", None, 1),
            ("Active", account.clone(), 0),
            ("Terminating", None, 0),
            ("Terminating", account, 0),
        ] {
            let snapshot = Snapshot {
                namespace: namespace(phase),
                account,
            };
            assert_eq!(reconcile(&snapshot, Timestamp::UNIX_EPOCH).actions.len(), actions, "{phase}");
        }
    }
}
