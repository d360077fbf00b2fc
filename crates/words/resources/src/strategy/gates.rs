//! Fields behind feature gates that are off in this version (pkg/features/kube_features.go and the strategies'
//! dropDisabledFields): a request cannot begin to use them.
//!
//! Invariant: a field goes unless the object as it is uses the same feature already, anywhere.

use serde_json::Value;

use crate::rows::Resource;

/// Names of members; `[]` stands for every item of a list and `*` for every member of an object.
type Path = &'static [&'static str];

/// What a gate is for, with the fields that are its use.
struct Gate {
    fields: &'static [Path],
    /// Whether an object that had nothing but the field goes with it.
    with_parent: bool,
}

const fn gate(fields: &'static [Path]) -> Gate {
    Gate {
        fields,
        with_parent: false,
    }
}

/// In the spec of a pod or a template.
static POD_SPEC: &[Gate] = &[
    // ClusterTrustBundleProjection
    gate(&[&["volumes", "[]", "projected", "sources", "[]", "clusterTrustBundle"]]),
    // PodCertificateRequest
    gate(&[&["volumes", "[]", "projected", "sources", "[]", "podCertificate"]]),
    // GenericWorkload
    gate(&[&["schedulingGroup"]]),
    // ContainerStopSignals
    Gate {
        fields: &[
            &["containers", "[]", "lifecycle", "stopSignal"],
            &["initContainers", "[]", "lifecycle", "stopSignal"],
            &["ephemeralContainers", "[]", "lifecycle", "stopSignal"],
        ],
        with_parent: true,
    },
];

/// In a pod's status: DRANodeAllocatableResources, ImageVolumeWithDigest.
static POD_STATUS: &[Gate] = &[
    gate(&[&["nodeAllocatableResourceClaimStatuses"]]),
    gate(&[
        &["containerStatuses", "[]", "volumeMounts", "[]", "volumeStatus"],
        &["initContainerStatuses", "[]", "volumeMounts", "[]", "volumeStatus"],
        &["ephemeralContainerStatuses", "[]", "volumeMounts", "[]", "volumeStatus"],
    ]),
];

/// In the spec of objects of a storage.
static SPECS: &[(&str, &[Gate])] = &[
    // MaxUnavailableStatefulSet
    (
        "apps/statefulsets",
        &[gate(&[&["updateStrategy", "rollingUpdate", "maxUnavailable"]])],
    ),
    // CoordinatedLeaderElection
    (
        "coordination.k8s.io/leases",
        &[gate(&[&["preferredHolder"]]), gate(&[&["strategy"]])],
    ),
    // Removed for good.
    ("core/nodes", &[gate(&[&["configSource"]])]),
    // DRANodeAllocatableResources, DRAListTypeAttributes
    (
        "resource.k8s.io/resourceslices",
        &[
            gate(&[&["devices", "[]", "nodeAllocatableResourceMappings"]]),
            gate(&[
                &["devices", "[]", "attributes", "*", "bools"],
                &["devices", "[]", "attributes", "*", "ints"],
                &["devices", "[]", "attributes", "*", "strings"],
                &["devices", "[]", "attributes", "*", "versions"],
            ]),
        ],
    ),
    // VolumeLimitScaling
    ("storage.k8s.io/csidrivers", &[gate(&[&["preventPodSchedulingIfMissing"]])]),
];

/// Where objects of a row have the spec of a pod, as a JSON pointer.
#[must_use]
pub fn pod_spec_of(row: &Resource) -> Option<&'static str> {
    Some(match row.storage {
        "core/pods" => "/spec",
        "core/podtemplates" => "/template/spec",
        "batch/cronjobs" => "/spec/jobTemplate/spec/template/spec",
        "core/replicationcontrollers"
        | "apps/daemonsets"
        | "apps/deployments"
        | "apps/replicasets"
        | "apps/statefulsets"
        | "batch/jobs" => "/spec/template/spec",
        _ => return None,
    })
}

/// Takes out of an object what it may not begin to use.
pub(super) fn drop_disabled(row: &Resource, value: &mut Value, old: Option<&Value>) {
    if let Some(at) = pod_spec_of(row) {
        drop_at(value, old, at, POD_SPEC);
    }
    if let Some((_, gates)) = SPECS.iter().find(|(storage, _)| *storage == row.storage) {
        drop_at(value, old, "/spec", gates);
    }
}

/// Likewise from a status.
pub(super) fn drop_disabled_status(row: &Resource, value: &mut Value, old: Option<&Value>) {
    if row.storage == "core/pods" {
        drop_at(value, old, "/status", POD_STATUS);
    }
}

fn drop_at(value: &mut Value, old: Option<&Value>, at: &str, gates: &[Gate]) {
    let Some(part) = value.pointer_mut(at) else { return };
    let before = old.and_then(|old| old.pointer(at));
    for gate in gates {
        let used = before.is_some_and(|before| gate.fields.iter().any(|field| uses(before, field)));
        if !used {
            gate.fields.iter().for_each(|field| take(part, field, gate.with_parent));
        }
    }
}

fn uses(value: &Value, path: &[&str]) -> bool {
    let Some((step, rest)) = path.split_first() else {
        return !value.is_null();
    };
    match (*step, value) {
        ("[]", Value::Array(items)) => items.iter().any(|item| uses(item, rest)),
        ("*", Value::Object(members)) => members.values().any(|member| uses(member, rest)),
        (name, Value::Object(members)) => members.get(name).is_some_and(|member| uses(member, rest)),
        _ => false,
    }
}

fn take(value: &mut Value, path: &[&str], with_parent: bool) {
    match (path, value) {
        ([name], Value::Object(members)) => drop(members.remove(*name)),
        (["[]", rest @ ..], Value::Array(items)) => items.iter_mut().for_each(|item| take(item, rest, with_parent)),
        (["*", rest @ ..], Value::Object(members)) => {
            members.values_mut().for_each(|member| take(member, rest, with_parent));
        }
        ([name, rest @ ..], Value::Object(members)) => {
            let Some(member) = members.get_mut(*name) else { return };
            let held = uses(member, rest);
            take(member, rest, with_parent);
            let emptied = held && member.as_object().is_some_and(serde_json::Map::is_empty);
            if with_parent && rest.len() == 1 && emptied {
                members.remove(*name);
            }
        }
        _ => {}
    }
}
