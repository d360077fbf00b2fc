//! NamespaceLifecycle: nothing is made in a namespace that is absent or going, and some namespaces stay.

use serde_json::Value;
use trireme_api::{Status, StatusCause, StatusDetails};

use super::{Operation, Request};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn check(request: &Request<'_>) -> Result<(), Status> {
    let of_namespace = request.is("", "namespaces");
    if of_namespace && request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
        return Err(Status::forbidden(
            "",
            "namespaces",
            request.name,
            "this namespace may not be deleted",
        ));
    }
    if of_namespace || request.namespace.is_empty() || request.operation == Operation::Delete {
        return Ok(());
    }
    // Access reviews ask about namespaces that need not exist.
    if request.group == "authorization.k8s.io" {
        return Ok(());
    }
    let namespace = request.lookup.get("", "namespaces", "", request.namespace);
    let going = namespace.as_ref().map(is_going);
    check_lives(request.namespace, going, request.operation == Operation::Create, |why| {
        request.forbid(why)
    })
}

/// Whether a namespace is being deleted.
fn is_going(namespace: &Value) -> bool {
    !namespace["metadata"]["deletionTimestamp"].is_null() || namespace["status"]["phase"] == "Terminating"
}

/// Refuses what is to be done in a namespace that is absent (`going` is `None`), and what is to be created in one that is
/// being deleted. `forbid` makes the refusal of the object that is to be created.
///
/// # Errors
/// The refusal.
pub fn check_lives(
    namespace: &str,
    going: Option<bool>,
    creates: bool,
    forbid: impl FnOnce(&str) -> Status,
) -> Result<(), Status> {
    match going {
        None => Err(Status::not_found("", "namespaces", namespace)),
        Some(true) if creates => {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut status = forbid(&why);
            let details = status.details.get_or_insert_with(Box::<StatusDetails>::default);
            details.causes.push(StatusCause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            });
            Err(status)
        }
        Some(_) => Ok(()),
    }
}
