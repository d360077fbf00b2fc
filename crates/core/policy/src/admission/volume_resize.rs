//! PersistentVolumeClaimResize: a claim grows only once it is bound, and only where its class says that volumes may.
//!
//! Invariant: a claim that does not grow is not looked at; shrinking is validation's to judge.

use trireme_api::Status;
use trireme_api::volume::{Claim, class_of};

use super::{Operation, Request};

pub(super) fn check(request: &Request<'_>) -> Result<(), Status> {
    if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Update || !request.subresource.is_empty() {
        return Ok(());
    }
    let Some(old) = request.old else { return Ok(()) };
    if Claim::read(request.object).request <= Claim::read(old).request {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(request.forbid("Only bound persistent volume claims can be expanded"));
    }
    let class = class_of(request.object);
    let allowed = !class.is_empty()
        && class == class_of(old)
        && request
            .lookup
            .get("storage.k8s.io", "storageclasses", "", class)
            .is_some_and(|class| class["allowVolumeExpansion"] == true);
    if allowed {
        return Ok(());
    }
    Err(request.forbid(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}
