//! Jobs; pods that wait to be counted by a Job that will not do it; and Jobs whose time after their end is over.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use trireme_client::{Cache, Change};
use trireme_reconcile::job::{self, Backoff, FINALIZER, Snapshot, orphans};
use trireme_reconcile::ownership::{self, controller_of};
use trireme_reconcile::ttl_after_finished;

use super::suffix;
use crate::registration::{Context, Failure, Key, Registration};
use crate::workload_metrics::WorkloadMetrics;

/// What is remembered of the failures of Jobs that are not over, by UID.
type Backoffs = Arc<Mutex<HashMap<Key, (String, Backoff)>>>;

pub(super) fn registrations() -> [Registration; 3] {
    let backoffs = Backoffs::default();
    let held = Arc::clone(&backoffs);
    let jobs = Registration::new(
        "job",
        move |context, key| snapshot(context, key, &held),
        move |snapshot: &Snapshot, now| {
            let (plan, backoff) = job::reconcile(snapshot, now, &mut suffix);
            remember(&backoffs, &snapshot.job, backoff);
            plan
        },
    )
    .component("job-controller")
    .account("job-controller")
    .primary::<Job>()
    .controlled::<Pod, Job>()
    .watch::<Pod>(orphaned)
    .measured::<Job>(WorkloadMetrics::job);
    let pods = Registration::new("job-orphan-pod", orphan, orphans_step)
        .component("job-controller")
        .account("job-controller")
        .queue("job_orphan_pod")
        .watch::<Pod>(|_, change| {
            let tracked = change.new.as_ref().is_some_and(|pod| is_tracked(&pod.header().finalizers));
            if tracked { vec![Key::of(change)] } else { Vec::new() }
        })
        .watch::<Job>(left_behind)
        .tallied(WorkloadMetrics::tracking);
    let ttl = Registration::with_live_snapshot("ttl-after-finished", expired, |job: &Arc<Job>, now| {
        ttl_after_finished::reconcile(job, now)
    })
    .component("ttl-after-finished-controller")
    .account("ttl-after-finished-controller")
    .queue("ttl_jobs_to_delete")
    .primary::<Job>()
    .measured::<Job>(WorkloadMetrics::expired);
    [jobs, pods, ttl]
}

fn is_tracked(finalizers: &[String]) -> bool {
    finalizers.iter().any(|name| name == FINALIZER)
}

fn key_of(job: &Job) -> Key {
    let metadata = &job.metadata;
    Key::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

fn remember(backoffs: &Backoffs, job: &Job, backoff: Backoff) {
    let mut backoffs = backoffs.lock();
    if backoff == Backoff::default() {
        backoffs.remove(&key_of(job));
    } else {
        backoffs.insert(key_of(job), (job.metadata.uid.clone().unwrap_or_default(), backoff));
    }
}

/// A pod without a controller may be adopted by whichever Job selects it.
fn orphaned(cache: &Cache, change: &Change) -> Vec<Key> {
    let Some(new) = &change.new else { return Vec::new() };
    if new.header().owners.iter().any(|owner| owner.controller) {
        return Vec::new();
    }
    let jobs = cache.list::<Job>(Some(&change.namespace));
    let selecting = jobs.iter().filter(|job| {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| ownership::selects(selector, Some(&new.header().labels)))
    });
    selecting.map(|job| key_of(job)).collect()
}

fn snapshot(context: &Context, key: &Key, backoffs: &Backoffs) -> Option<Snapshot> {
    let Some(job) = context.cache.get::<Job>(&key.namespace, &key.name) else {
        backoffs.lock().remove(key);
        return None;
    };
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let mut pods = context.cache.by_owner::<Pod>(&uid);
    pods.retain(|pod| controller_of(&pod.metadata).is_some_and(|owner| owner.uid == uid));
    if let Some(selector) = job.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
        let selected = context
            .cache
            .list_where::<Pod>(Some(&key.namespace), |labels| ownership::selects(selector, Some(labels)));
        pods.extend(selected.into_iter().filter(|pod| controller_of(&pod.metadata).is_none()));
    }
    let held = backoffs.lock().get(key).cloned();
    Some(Snapshot {
        job,
        pods,
        backoff: held
            .filter(|(held, _)| *held == uid)
            .map(|(_, backoff)| backoff)
            .unwrap_or_default(),
        creation_failed: matches!(context.failure, Some(Failure::Create(_))),
    })
}

fn orphan(context: &Context, key: &Key) -> Option<orphans::Snapshot> {
    let pod = context.cache.get::<Pod>(&key.namespace, &key.name)?;
    let owner = controller_of(&pod.metadata);
    let job = owner.and_then(|owner| {
        let job = context.cache.get::<Job>(&key.namespace, &owner.name)?;
        (job.metadata.uid.as_ref() == Some(&owner.uid)).then_some(job)
    });
    Some(orphans::Snapshot { pod, job })
}

fn orphans_step(snapshot: &orphans::Snapshot, _: jiff::Timestamp) -> trireme_reconcile::plan::Plan {
    orphans::reconcile(snapshot)
}

/// The pods of a Job that is gone or over and that nobody will count.
fn left_behind(cache: &Cache, change: &Change) -> Vec<Key> {
    let uid = match (&change.old, &change.new) {
        (Some(old), None) => old.header().uid.clone(),
        (_, Some(new)) => {
            let over = cache.typed::<Job>(new).is_some_and(|job| job::finished(&job).is_some());
            if !over {
                return Vec::new();
            }
            new.header().uid.clone()
        }
        (None, None) => return Vec::new(),
    };
    let pods = cache.objects_by_owner(&trireme_client::ResourceRef::of::<Pod>(), &uid);
    let tracked = pods.iter().map(trireme_api::Object::header);
    tracked
        .filter(|header| is_tracked(&header.finalizers))
        .map(|header| Key::new(&header.namespace, &header.name))
        .collect()
}

/// The Job; as the API has it now, where its time seems to be over.
async fn expired(context: Context, key: Key) -> Result<Option<Arc<Job>>, trireme_api::Status> {
    let Some(job) = context.cache.get::<Job>(&key.namespace, &key.name) else {
        return Ok(None);
    };
    match ttl_after_finished::remaining(&job, context.clock.now()) {
        Some(left) if left.is_zero() => context.client.find::<Job>(&key.namespace, &key.name).await,
        _ => Ok(Some(job)),
    }
}
