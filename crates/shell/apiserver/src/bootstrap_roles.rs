//! The bootstrap roles and bindings: made where they are absent, and given what they lack where they are not, at each start
//! of a server.
//!
//! Invariant: idempotent, and one transaction: either all roles are as this version expects them or nothing has changed.

use serde_json::Value;
use trireme_api::Status;
use trireme_policy::bootstrap::{self, Reconciled};
use trireme_store::{Applied, Body, Key, Operation, Precondition, Write};

use crate::keys;
use crate::server::{ApiServer, now};

const GROUP: &str = "rbac.authorization.k8s.io";
/// How often others may change a role between look and write.
const ATTEMPTS_MAX: usize = 8;
/// Roles that take in roles that take in others: `admin`, `edit`, `view`, and one to see that nothing changes any more.
const AGGREGATIONS_MAX: usize = 4;

/// One role or binding and what becomes of it.
struct Planned {
    key: Key,
    precondition: Option<Precondition>,
    value: Value,
}

/// Makes the bootstrap roles and bindings that are absent, and adds what present ones lack.
///
/// # Errors
/// The write that fails; 409 where others change roles all the time.
pub async fn bootstrap_roles(server: &ApiServer) -> Result<(), Status> {
    for _ in 0..ATTEMPTS_MAX {
        let mut planned: Vec<Planned> = bootstrap::objects().into_iter().map(|object| plan(server, object)).collect();
        aggregate(&mut planned);
        let writes: Vec<Write> = planned.into_iter().filter_map(write).collect();
        if writes.is_empty() {
            return Ok(());
        }
        tracing::info!(objects = writes.len(), "bootstrap roles and bindings are brought up to date");
        if let Applied::Committed { .. } = server.commit(writes, None).await? {
            return Ok(());
        }
        server.barrier().await?;
    }
    Err(Status::conflict(
        GROUP,
        "clusterroles",
        "",
        "bootstrap roles are changed by others all the time",
    ))
}

fn plan(server: &ApiServer, expected: Value) -> Planned {
    let plural = match expected["kind"].as_str() {
        Some("ClusterRole") => "clusterroles",
        Some("Role") => "roles",
        Some("ClusterRoleBinding") => "clusterrolebindings",
        _ => "rolebindings",
    };
    let text = |name: &str| expected["metadata"][name].as_str().unwrap_or_default();
    let key = keys::object(GROUP, plural, text("namespace"), text("name"));
    let (precondition, value) = match server.store.get(&key) {
        None => (Some(Precondition::Absent), fresh(expected)),
        Some(existing) => {
            let revision = Precondition::Revision(existing.header().resource_version);
            let value = existing.value();
            match bootstrap::reconcile(&value, &expected) {
                Reconciled::Keep => (None, value),
                Reconciled::Update(value) => (Some(revision), value),
                Reconciled::Recreate => (Some(revision), fresh(expected)),
            }
        }
    };
    Planned {
        key,
        precondition,
        value,
    }
}

fn fresh(mut object: Value) -> Value {
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = now().into();
    object
}

fn write(planned: Planned) -> Option<Write> {
    Some(Write {
        key: planned.key,
        precondition: planned.precondition?,
        operation: Operation::Put {
            body: Body::new(planned.value),
            ttl_seconds: None,
        },
    })
}

/// Fills the rules of aggregated roles that are made here, so that `admin`, `edit` and `view` grant something from the
/// first moment. From then on their controller does it.
fn aggregate(planned: &mut [Planned]) {
    for _ in 0..AGGREGATIONS_MAX {
        for at in 0..planned.len() {
            if planned[at].precondition != Some(Precondition::Absent) {
                continue;
            }
            let selectors = planned[at].value["aggregationRule"]["clusterRoleSelectors"].as_array();
            let labels: Vec<String> = selectors
                .into_iter()
                .flatten()
                .filter_map(|selector| selector["matchLabels"].as_object())
                .flat_map(|labels| labels.keys().cloned())
                .collect();
            if labels.is_empty() {
                continue;
            }
            let mut rules: Vec<Value> = Vec::new();
            let selected = planned.iter().map(|other| &other.value).filter(|other| {
                labels
                    .iter()
                    .any(|label| other["metadata"]["labels"][label.as_str()] == "true")
            });
            for rule in selected.flat_map(|other| other["rules"].as_array().into_iter().flatten()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            planned[at].value["rules"] = rules.into();
        }
    }
}
