//! Per resource: which parts a request cannot set, when the generation counts up, which kinds a PUT may create.
//!
//! Invariant: these are tables; a row that is not named follows the common rule.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::apply::set::Set;
use crate::rows::Resource;

/// When `metadata.generation` counts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    /// When `spec` changes.
    Spec,
    /// When that top-level field changes.
    Field(&'static str),
    /// When `spec` or the annotations change.
    SpecAndAnnotations,
    /// When anything but metadata changes.
    AllButMetadata,
    /// When anything but metadata changes, or the labels do.
    AllAndLabels,
    /// Set to 1 at creation only.
    CreateOnly,
    /// When `spec` changes, but not set at creation.
    SpecLater,
}

/// The name that the tables below go by; that of a custom resource means nothing to them.
fn named(row: &Resource) -> &'static str {
    if row.is_custom() { "" } else { row.plural }
}

/// Whether the generation counts what was sent, before fields that are not enabled are dropped.
pub(super) fn counts_dropped(row: &Resource) -> bool {
    matches!(named(row), "endpointslices" | "resourceslices")
}

pub(super) fn generation(row: &Resource) -> Option<Generation> {
    if row.is_custom() {
        return Some(Generation::AllButMetadata);
    }
    Some(match row.plural {
        "deployments" => Generation::SpecAndAnnotations,
        "endpointslices" => Generation::AllAndLabels,
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => Generation::Field("webhooks"),
        "podtemplates" => Generation::Field("template"),
        "priorityclasses" => Generation::CreateOnly,
        "csidrivers" => Generation::SpecLater,
        "customresourcedefinitions"
        | "cronjobs"
        | "daemonsets"
        | "deviceclasses"
        | "flowschemas"
        | "ingressclasses"
        | "ingresses"
        | "jobs"
        | "mutatingadmissionpolicies"
        | "mutatingadmissionpolicybindings"
        | "networkpolicies"
        | "poddisruptionbudgets"
        | "pods"
        | "prioritylevelconfigurations"
        | "replicasets"
        | "replicationcontrollers"
        | "resourceslices"
        | "statefulsets"
        | "validatingadmissionpolicies"
        | "validatingadmissionpolicybindings" => Generation::Spec,
        _ => return None,
    })
}

/// Whether create and main update leave the status to its own door.
pub(super) fn clears_status(row: &Resource) -> bool {
    row.has_status() || named(row) == "customresourcedefinitions"
}

/// Whether the status door keeps labels, annotations, finalizers and owners.
pub(super) fn status_keeps_metadata(row: &Resource) -> bool {
    row.is_custom()
        || matches!(
            named(row),
            "servicecidrs"
                | "resourceclaims"
                | "volumeattachments"
                | "validatingadmissionpolicies"
                | "flowschemas"
                | "prioritylevelconfigurations"
                | "apiservices"
        )
}

/// Whether PUT on an absent object creates it.
#[must_use]
pub fn allow_create_on_update(row: &Resource) -> bool {
    matches!(
        named(row),
        "leases"
            | "endpoints"
            | "events"
            | "limitranges"
            | "services"
            | "runtimeclasses"
            | "clusterroles"
            | "clusterrolebindings"
            | "roles"
            | "rolebindings"
    )
}

/// Whether an apply to the status of an absent object creates it.
#[must_use]
pub fn status_apply_creates(row: &Resource) -> bool {
    allow_create_on_update(row) || named(row) == "validatingadmissionpolicies"
}

/// Whether PUT may leave out the resourceVersion.
#[must_use]
pub fn allow_unconditional_update(row: &Resource) -> bool {
    !row.is_custom()
        && !matches!(
            row.plural,
            "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
                | "mutatingwebhookconfigurations"
                | "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "validatingwebhookconfigurations"
                | "leases"
                | "runtimeclasses"
                | "poddisruptionbudgets"
                | "csidrivers"
                | "csinodes"
                | "csistoragecapacities"
                | "volumeattachments"
                | "customresourcedefinitions"
                | "apiservices"
        )
}

/// The fields that a request through that door cannot own, because the server resets them.
#[must_use]
pub fn reset_fields(row: &Resource, subresource: Option<&str>) -> Option<&'static Set> {
    static SETS: LazyLock<HashMap<&str, Set>> = LazyLock::new(|| {
        let set = |paths: &[&[&str]]| {
            let mut out = Set::default();
            for path in paths {
                out.insert(path);
            }
            out
        };
        let owners = ["f:metadata", "f:ownerReferences"];
        let deletion = ["f:metadata", "f:deletionTimestamp"];
        HashMap::from([
            ("status", set(&[&["f:status"]])),
            ("spec", set(&[&["f:spec"]])),
            ("both", set(&[&["f:spec"], &["f:status"]])),
            ("pods", set(&[&["f:spec"], &deletion, &owners])),
            ("deployments", set(&[&["f:spec"], &["f:metadata", "f:labels"]])),
            ("metadata", set(&[&["f:spec"], &["f:metadata"]])),
            ("csr-status", set(&[&["f:spec"], &["f:status", "f:conditions"]])),
            ("csr-approval", set(&[&["f:spec"], &["f:status", "f:certificate"]])),
        ])
    });
    let plural = if row.is_custom() { "" } else { row.plural };
    let name = match (plural, subresource) {
        ("certificatesigningrequests", None) => "both",
        ("certificatesigningrequests", Some("status")) => "csr-status",
        ("certificatesigningrequests", Some("approval")) => "csr-approval",
        ("namespaces", Some("finalize")) => "status",
        ("pods", Some("status")) => "pods",
        ("deployments", Some("status")) => "deployments",
        (_, None) if clears_status(row) => "status",
        (_, Some("status")) if status_keeps_metadata(row) => "metadata",
        (_, Some("status")) => "spec",
        _ => return None,
    };
    SETS.get(name)
}
