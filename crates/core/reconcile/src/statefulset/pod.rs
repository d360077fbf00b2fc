//! Who a pod is: its name, ordinal, labels and host name.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::claims;
use crate::history;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The set's name and the ordinal that a pod's name is made of. No ordinal where the number is too large.
#[must_use]
pub fn parent_and_ordinal(pod: &Pod) -> Option<(&str, Option<i32>)> {
    let (parent, digits) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| (parent, digits.parse().ok()))
}

pub(super) fn ordinal(pod: &Pod) -> Option<i32> {
    parent_and_ordinal(pod)?.1
}

/// The name of the revision that a pod is of.
pub(super) fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(history::REVISION_LABEL))
        .map_or("", String::as_str)
}

/// Whether a member of the set is named and labelled as one.
pub(super) fn has_identity(set: &StatefulSet, pod: &Pod) -> bool {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let labels = pod.metadata.labels.as_ref();
    let own_name = ordinal(pod).map(|ordinal| name_of(set, ordinal));
    own_name.as_deref() == Some(name) && labels.and_then(|labels| labels.get(POD_NAME)).map(String::as_str) == Some(name)
}

/// Labels a pod with its name and its ordinal.
pub(super) fn give_identity(set: &StatefulSet, pod: &mut Pod) {
    let Some(ordinal) = ordinal(pod) else { return };
    let name = name_of(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    pod.metadata.name = Some(name);
}

fn name_of(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

/// The pod of an ordinal, of a template that is the revision of that name.
pub(super) fn of_template(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    owner: &OwnerReference,
    ordinal: i32,
    template: &PodTemplateSpec,
    revision: &str,
) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let name = name_of(set, ordinal);
    let mut pod = Pod {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            generate_name: Some(format!("{}-", owner.name)),
            namespace: set.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    };
    give_identity(set, &mut pod);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(history::REVISION_LABEL.into(), revision.into());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(name);
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    claims::mount(&owner.name, spec, &mut pod);
    pod
}
