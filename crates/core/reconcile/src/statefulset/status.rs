//! What the set says of itself.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::revisions::Revisions;
use super::{is_running_and_ready, is_terminating, pod};
use crate::plan::Action;
use crate::pods;
use crate::replicaset::to_value;

/// The status that these pods make.
pub(super) fn of<'a>(
    set: &StatefulSet,
    revisions: &Revisions,
    pods: impl Iterator<Item = &'a Pod>,
    now: Timestamp,
) -> StatefulSetStatus {
    let minimum = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    for pod in pods.filter(|pod| !pods::phase(pod).is_empty()) {
        replicas += 1;
        if is_running_and_ready(pod) {
            ready += 1;
            available += i32::from(pods::available_in(pod, minimum, now).is_some_and(|left| left.is_zero()));
        }
        if !is_terminating(pod) {
            current += i32::from(pod::revision(pod) == revisions.current_name());
            updated += i32::from(pod::revision(pod) == revisions.update_name());
        }
    }
    StatefulSetStatus {
        replicas,
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        current_replicas: Some(current),
        updated_replicas: Some(updated),
        current_revision: Some(revisions.current_name().into()),
        update_revision: Some(revisions.update_name().into()),
        collision_count: Some(revisions.collision_count),
        observed_generation: set.metadata.generation,
        conditions: None,
    }
}

/// Takes pods off that are deleted for being outdated.
pub(super) fn deleted(status: &mut StatefulSetStatus, outdated: i32) {
    status.current_replicas = status.current_replicas.map(|current| current - outdated);
}

/// Makes the update revision the current one once all pods are at it.
pub(super) fn complete(spec: &StatefulSetSpec, status: &mut StatefulSetStatus) {
    let strategy = spec.update_strategy.as_ref();
    let rolls = strategy.is_none_or(|strategy| strategy.type_.as_deref() == Some("RollingUpdate"));
    let wanted = spec.replicas.unwrap_or(1);
    let all = |count: Option<i32>| count == Some(wanted);
    if rolls && all(status.updated_replicas) && all(status.ready_replicas) && status.replicas == wanted {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}

/// The action that writes the status, if it says something new. It leaves out conditions: upstream sets none.
pub(super) fn write(set: &StatefulSet, mut status: StatefulSetStatus) -> Option<Action> {
    let old = set.status.clone().unwrap_or_default();
    let number = |count: Option<i32>| count.unwrap_or(0);
    let same = status.observed_generation <= old.observed_generation.or(Some(0))
        && status.replicas == old.replicas
        && number(status.current_replicas) == number(old.current_replicas)
        && number(status.ready_replicas) == number(old.ready_replicas)
        && number(status.available_replicas) == number(old.available_replicas)
        && number(status.updated_replicas) == number(old.updated_replicas)
        && status.current_revision == old.current_revision
        && status.update_revision == old.update_revision;
    if same {
        return None;
    }
    for count in [
        &mut status.ready_replicas,
        &mut status.current_replicas,
        &mut status.updated_replicas,
    ] {
        *count = count.filter(|count| *count != 0);
    }
    let changed = StatefulSet {
        status: Some(status),
        ..set.clone()
    };
    Some(Action::UpdateStatus {
        object: to_value(&changed),
    })
}
