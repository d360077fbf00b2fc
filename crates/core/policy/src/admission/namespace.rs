//! NamespaceLifecycle: nothing is made in a namespace that is absent or going, and some namespaces stay.

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
    let Some(namespace) = request.lookup.get("", "namespaces", "", request.namespace) else {
        return Err(Status::not_found("", "namespaces", request.namespace));
    };
    let going = !namespace["metadata"]["deletionTimestamp"].is_null() || namespace["status"]["phase"] == "Terminating";
    if request.operation != Operation::Create || !going {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        request.namespace
    );
    let mut status = request.forbid(&why);
    let details = status.details.get_or_insert_with(Box::<StatusDetails>::default);
    details.causes.push(StatusCause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {} is being terminated", request.namespace),
        field: "metadata.namespace".into(),
    });
    Err(status)
}
