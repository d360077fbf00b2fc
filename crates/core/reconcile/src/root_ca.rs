//! Every active namespace has a ConfigMap `kube-root-ca.crt` with the cluster's CA certificate.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::json;

use crate::plan::{Action, Plan};
use crate::service_account::is_active;

/// Name of the ConfigMap.
pub const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const ANNOTATION: &str = "kubernetes.io/description";
/// What users see as the object's description; tools compare it.
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such \
                           as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions \
                           of Kubernetes clusters.";

/// A namespace, its ConfigMap and what should be in it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// The ConfigMap.
    pub map: Option<Arc<ConfigMap>>,
    /// PEM of the CA certificates.
    pub pem: Arc<str>,
}

/// Creates the ConfigMap or puts right what was changed in it.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if !is_active(&snapshot.namespace) {
        return plan;
    }
    let data = json!({FILE: &*snapshot.pem});
    match &snapshot.map {
        None => plan.actions.push(Action::Create {
            object: json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": NAME,
                    "namespace": snapshot.namespace.metadata.name,
                    "annotations": {ANNOTATION: DESCRIPTION},
                },
                "data": data,
            }),
            exists_is_done: true,
        }),
        Some(map) => {
            let right = map
                .data
                .as_ref()
                .is_some_and(|has| has.len() == 1 && has.get(FILE).map(String::as_str) == Some(&*snapshot.pem));
            let annotations = map.metadata.annotations.as_ref();
            let described = annotations
                .and_then(|has| has.get(ANNOTATION))
                .is_some_and(|text| !text.is_empty());
            if right && described {
                return plan;
            }
            let mut object = serde_json::to_value(&**map).expect("a ConfigMap serialises");
            object["data"] = data;
            object["metadata"]["annotations"][ANNOTATION] = DESCRIPTION.into();
            plan.actions.push(Action::Update { object });
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_repairs_and_leaves_alone() {
        let described = json!({ANNOTATION: DESCRIPTION});
        for (name, map, writes) in [
            ("missing", None, 1),
            (
                "right",
                Some(json!({"metadata": {"annotations": described}, "data": {FILE: "pem"}})),
                0,
            ),
            (
                "other data",
                Some(json!({"metadata": {"annotations": described}, "data": {FILE: "x"}})),
                1,
            ),
            (
                "more data",
                Some(json!({"metadata": {"annotations": described}, "data": {FILE: "pem", "y": ""}})),
                1,
            ),
            ("no annotation", Some(json!({"metadata": {}, "data": {FILE: "pem"}})), 1),
        ] {
            let snapshot = Snapshot {
                namespace: Arc::default(),
                map: map.map(|map| serde_json::from_value(map).unwrap()),
                pem: "pem".into(),
            };
            let plan = reconcile(&snapshot, Timestamp::UNIX_EPOCH);
            assert_eq!(plan.actions.len(), writes, "{name}");
            if let [Action::Update { object }] = &plan.actions[..] {
                assert_eq!(object["data"], json!({FILE: "pem"}), "{name}");
                assert_eq!(object["metadata"]["annotations"][ANNOTATION], DESCRIPTION, "{name}");
            }
        }
    }
}
