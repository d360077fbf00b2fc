//! CronJobs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use parking_lot::Mutex;
use trireme_api::Status;
use trireme_reconcile::cron_job::{self, Snapshot};
use trireme_reconcile::ownership::controller_of;

use crate::registration::{Context, Key, Registration};
use crate::workload_metrics::WorkloadMetrics;

/// UID, schedule and zone at the last look, by which a change of them is known.
type Schedules = Arc<Mutex<HashMap<Key, (Option<String>, String, Option<String>)>>>;

pub(super) fn registration() -> Registration {
    let schedules = Schedules::default();
    Registration::with_live_snapshot(
        "cronjob",
        move |context, key| snapshot(context, key, Arc::clone(&schedules)),
        cron_job::reconcile,
    )
    .component("cronjob-controller")
    .account("cronjob-controller")
    .primary::<CronJob>()
    .controlled::<Job, CronJob>()
    .measured::<CronJob>(WorkloadMetrics::cron_job)
}

async fn snapshot(context: Context, key: Key, schedules: Schedules) -> Result<Option<Snapshot>, Status> {
    let Some(cron_job) = context.cache.get::<CronJob>(&key.namespace, &key.name) else {
        schedules.lock().remove(&key);
        return Ok(None);
    };
    let spec = &cron_job.spec;
    let now = (cron_job.metadata.uid.clone(), spec.schedule.clone(), spec.time_zone.clone());
    let before = schedules.lock().insert(key.clone(), now.clone());
    let rescheduled = before.is_some_and(|before| before.0 == now.0 && before != now);
    let mut jobs = context.cache.list::<Job>(Some(&key.namespace));
    // A Job of anybody's whose name begins like those to be made may be in the way.
    let prefix = format!("{}-", key.name);
    jobs.retain(|job| {
        let named = job.metadata.name.as_ref().is_some_and(|name| name.starts_with(&prefix));
        named || controller_of(&job.metadata).is_some_and(|owner| owner.name == key.name)
    });
    let mut found = BTreeSet::new();
    let active = cron_job.status.iter().flat_map(|status| status.active.iter().flatten());
    for active in active {
        let name = active.name.as_deref().unwrap_or_default();
        let held = jobs.iter().any(|job| job.metadata.uid == active.uid);
        if !held && context.client.find::<Job>(&key.namespace, name).await?.is_some() {
            found.insert(name.to_owned());
        }
    }
    Ok(Some(Snapshot {
        cron_job,
        jobs,
        found,
        rescheduled,
    }))
}
