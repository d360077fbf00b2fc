//! Writes a pod's status, the newest only, and only when it means something new.
//!
//! Invariant: it says what differs from the object that it was made from, whose uid and resourceVersion are the precondition: what
//! others say stays, and a pod that has ended does not come back to life.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use trireme_api::{Object, Status};
use trireme_client::{Client, Patch};
use trireme_pod::spec;
use trireme_pod::status::is_owned_condition;

use super::Update;
use crate::shared::Shared;
use crate::status_patch;

/// Pause after a failed write.
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Publisher {
    wanted: watch::Sender<(u64, PodStatus)>,
    done: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Publisher {
    pub(super) fn start(shared: Arc<Shared>, update: watch::Receiver<Update>) -> Self {
        let (wanted, requests) = watch::channel((0, PodStatus::default()));
        let (written, done) = watch::channel(0);
        let task = tokio::spawn(write_all(shared, update, requests, written));
        Self {
            wanted,
            done,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Has a status written soon, unless it was and the API still shows it: others change it, too, when they believe this
    /// node to be dead.
    pub(super) fn publish(&self, status: PodStatus, shown: Option<&PodStatus>) {
        self.wanted.send_if_modified(|(number, current)| {
            if *number > 0
                && *current == status
                && shown.is_none_or(|shown| merged(&status, Some(shown), Timestamp::now()) == *shown)
            {
                return false;
            }
            *number += 1;
            *current = status;
            true
        });
    }

    /// Waits until the last one was written, or cannot be.
    pub(super) async fn flush(&mut self) {
        let wanted = self.wanted.borrow().0;
        if self.done.wait_for(|done| *done >= wanted).await.is_err() {
            tracing::debug!("a status writer ended early");
        }
    }
}

async fn write_all(
    shared: Arc<Shared>,
    update: watch::Receiver<Update>,
    mut requests: watch::Receiver<(u64, PodStatus)>,
    written: watch::Sender<u64>,
) {
    let mut last: Option<Object> = None;
    while requests.changed().await.is_ok() {
        let mut fresh = false;
        loop {
            let (number, status) = requests.borrow_and_update().clone();
            let known = update.borrow().object.clone();
            let base = last
                .clone()
                .filter(|last| last.header().resource_version > known.header().resource_version)
                .unwrap_or(known);
            match write(&shared, base, &status, fresh).await {
                Ok(object) => {
                    last = object.or(last);
                    written.send_replace(number);
                    break;
                }
                // To a node whose pod is gone, it may be said that it has nothing to do with it.
                Err(error) if error.is_not_found() || error.code == 403 => {
                    tracing::debug!("a pod's status was not written: {error}");
                    written.send_replace(number);
                    break;
                }
                Err(error) => {
                    if matches!(error.code, 400 | 422) {
                        // Trying the same again would get the same answer.
                        tracing::error!("a pod's status was refused: {error}");
                        written.send_replace(number);
                        break;
                    }
                    if error.is_conflict() && !fresh {
                        fresh = true;
                        continue;
                    }
                    tracing::warn!("writing a pod's status: {error}");
                    fresh = true;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Writes a status over an object, read anew where `fresh`. `None` when it says so already.
async fn write(shared: &Shared, base: Object, status: &PodStatus, fresh: bool) -> Result<Option<Object>, Status> {
    let header = base.header();
    let target = Client::target::<Pod>(&header.namespace, &header.name, Some("status"));
    let base = if fresh {
        let read = shared
            .client
            .transport()
            .get(&Client::target::<Pod>(&header.namespace, &header.name, None))
            .await?;
        if read.header().uid != header.uid {
            return Err(Status::not_found("", "pods", &header.name));
        }
        read
    } else {
        base
    };
    let current: Arc<Pod> = base.typed().map_err(|error| Status::internal(&error.to_string()))?;
    let status = merged(status, current.status.as_ref(), Timestamp::now());
    if current.status.as_ref() == Some(&status) {
        return Ok(None);
    }
    let Some(patch) = status_patch::between("Pod", &base.value()["status"], &as_sent(&status)?) else {
        return Ok(None);
    };
    let header = base.header();
    let metadata = json!({"uid": header.uid, "resourceVersion": header.resource_version.to_string()});
    let body = json!({"metadata": metadata, "status": patch}).to_string();
    let written = shared
        .client
        .transport()
        .patch(&target, &Patch::Strategic(body.into()), &shared.client.write_options())
        .await?;
    tracing::debug!(pod = spec::display(&current), phase = status.phase, "status written");
    Ok(Some(written))
}

/// Ours, with the conditions of others as they are now; a final phase stays.
fn merged(ours: &PodStatus, theirs: Option<&PodStatus>, now: Timestamp) -> PodStatus {
    let mut status = ours.clone();
    // Which claims a pod has, controllers and the scheduler say; a node that says otherwise is refused.
    status.resource_claim_statuses = theirs.and_then(|status| status.resource_claim_statuses.clone());
    status.extended_resource_claim_status = theirs.and_then(|status| status.extended_resource_claim_status.clone());
    let foreign: Vec<PodCondition> = theirs
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .filter(|known| !is_owned_condition(&known.type_))
        .cloned()
        .collect();
    let own = status
        .conditions
        .take()
        .unwrap_or_default()
        .into_iter()
        .filter(|known| is_owned_condition(&known.type_))
        .map(|own| with_transition(own, theirs, now));
    status.conditions = Some(foreign.into_iter().chain(own).collect());
    status
}

/// Where somebody else said the contrary meanwhile, it changes back now; where it is said already, the later time stays.
fn with_transition(mut own: PodCondition, theirs: Option<&PodStatus>, now: Timestamp) -> PodCondition {
    let mut theirs = theirs.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let Some(known) = theirs.find(|known| known.type_ == own.type_) else {
        return own;
    };
    if known.last_transition_time >= own.last_transition_time {
        own.last_transition_time = if known.status == own.status {
            known.last_transition_time.clone()
        } else {
            Some(Time(now))
        };
    }
    own
}

/// A status as it is sent.
fn as_sent(status: &PodStatus) -> Result<Value, Status> {
    let mut new = serde_json::to_value(status).map_err(|error| Status::internal(&error.to_string()))?;
    for condition in new["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(condition) = condition.as_object_mut() {
            // Upstream's clients always write this one.
            condition.entry("lastProbeTime").or_insert(Value::Null);
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(ready: &str, since: &str) -> PodStatus {
        serde_json::from_value(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": since},
        ]}))
        .unwrap()
    }

    #[test]
    fn what_somebody_else_said_meanwhile_is_put_right() {
        let (early, late) = ("2026-05-01T12:00:00Z", "2026-05-01T12:00:30Z");
        let now: Timestamp = "2026-05-01T12:01:00Z".parse().unwrap();
        let ours = status("True", early);
        for (shown, wanted) in [
            (status("True", early), status("True", early)),
            // A node that was given up, and comes back: its word is newer.
            (status("False", late), status("True", "2026-05-01T12:01:00Z")),
            // Said already.
            (status("True", late), status("True", late)),
            (status("False", "2026-05-01T11:00:00Z"), status("True", early)),
        ] {
            assert_eq!(merged(&ours, Some(&shown), now), wanted, "{shown:?}");
        }
    }

    #[test]
    fn claims_are_told_as_others_said_them() {
        let claims = |name: &str| -> PodStatus {
            serde_json::from_value(json!({"resourceClaimStatuses": [{"name": "r", "resourceClaimName": name}],
                "extendedResourceClaimStatus": {"resourceClaimName": name, "requestMappings": []}}))
            .unwrap()
        };
        let (old, new) = (claims("old"), claims("new"));
        let told = merged(&old, Some(&new), Timestamp::UNIX_EPOCH);
        assert_eq!(told.resource_claim_statuses, new.resource_claim_statuses);
        assert_eq!(told.extended_resource_claim_status, new.extended_resource_claim_status);
        assert_eq!(merged(&old, None, Timestamp::UNIX_EPOCH).resource_claim_statuses, None);
    }
}
