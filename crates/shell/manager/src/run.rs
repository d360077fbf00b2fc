//! The manager: waits for the cache, feeds each controller's queue from changes, and runs its workers.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trireme_api::Status;
use trireme_client::{Cache, Client, Clock, EventRecorder, Kinds, ResourceRef};

use crate::definitions::{self, Told};
use crate::execute::{Executor, Stopped};
use crate::metrics::{ControllerMetrics, Metrics};
use crate::queue::{Outcome, Queue};
use crate::registration::{Context, Failure, Key, Registration};
use crate::workload_metrics::{Reconciled, WorkloadMetrics};
use crate::written::Written;

/// Races that a key loses in a row before somebody is told: by then it is more than a race.
const RACES_MAX: u32 = 8;
/// Wait before the API is asked again how far a resource has come.
const PRESENT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A look that takes this long is followed by a rest before the next at the same key: what changes meanwhile is seen by one.
const PACED_FROM: Duration = Duration::from_millis(20);
/// The rest, in times of what the look took, so that one key takes no more than a quarter of a processor.
const REST_TIMES: u32 = 3;
/// Longest rest.
const REST_MAX: Duration = Duration::from_secs(1);

/// How long a key rests after a look that took so long.
fn rest_after(took: Duration) -> Duration {
    match took {
        took if took < PACED_FROM => Duration::ZERO,
        took => (took * REST_TIMES).min(REST_MAX),
    }
}

type Access = Arc<dyn Fn(&'static str) -> Client + Send + Sync>;

/// Resources whose view is of this term, so that each is looked at once for all controllers.
type Present = Arc<Mutex<HashMap<ResourceRef, Arc<OnceCell<()>>>>>;

/// Runs controllers. One is made for each term as leader, and dropped afterwards.
pub struct Manager {
    access: Access,
    cache: Arc<Cache>,
    kinds: Arc<Kinds>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    written: Arc<Written>,
    registrations: Vec<Registration>,
}

impl Manager {
    /// A manager without controllers, where all of them act as one user.
    #[must_use]
    pub fn new(client: Client, cache: Arc<Cache>, kinds: Arc<Kinds>, clock: Arc<dyn Clock>) -> Self {
        Self::with_access(move |_| client.clone(), cache, kinds, clock)
    }

    /// A manager without controllers, where each acts as a user of its own: `access` is given the name of its service
    /// account in `kube-system`.
    #[must_use]
    pub fn with_access(
        access: impl Fn(&'static str) -> Client + Send + Sync + 'static,
        cache: Arc<Cache>,
        kinds: Arc<Kinds>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            access: Arc::new(access),
            cache,
            kinds,
            clock,
            metrics: Arc::default(),
            written: Arc::default(),
            registrations: Vec::new(),
        }
    }

    /// Adds a controller.
    #[must_use]
    pub fn register(mut self, registration: Registration) -> Self {
        self.registrations.push(registration);
        self
    }

    /// Adds several controllers, for example [`crate::controllers::all`].
    #[must_use]
    pub fn register_all(mut self, registrations: impl IntoIterator<Item = Registration>) -> Self {
        self.registrations.extend(registrations);
        self
    }

    /// The counters; they go on over the manager's end.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Uses counters that are there already (of an earlier term).
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Runs until `shutdown`; then no action is begun any more and all workers have ended.
    pub async fn run(self, shutdown: CancellationToken) {
        let ended = shutdown.child_token();
        let mut tasks = JoinSet::new();
        let present = Present::default();
        let mut told = Vec::new();
        for registration in self.registrations {
            let client = (self.access)(registration.account);
            let clock = Arc::clone(&self.clock);
            let metrics = self.metrics.controller(registration.name, registration.queue);
            let queue = Arc::new(Queue::new(Arc::clone(&metrics)));
            self.metrics.watch(registration.queue, &queue);
            told.extend(registration.custom.clone().map(|map| Told {
                map,
                queue: Arc::downgrade(&queue),
            }));
            let worker = Controller {
                metrics,
                context: Context {
                    events: EventRecorder::new(&client, registration.component, "", Arc::clone(&clock), ended.clone())
                        .counting_dropped(self.metrics.events_dropped(registration.component)),
                    client: client.with_field_manager("kube-controller-manager"),
                    cache: Arc::clone(&self.cache),
                    kinds: Arc::clone(&self.kinds),
                    clock,
                    failure: None,
                },
                written: Arc::clone(&self.written),
                present: Arc::clone(&present),
                workloads: self.metrics.workloads(),
                queue,
                failures: Mutex::default(),
                together: Mutex::default(),
                registration,
            };
            let ended = ended.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = Arc::new(worker).run() => {}
                }
            });
        }
        if !told.is_empty() {
            tasks.spawn(definitions::follow(Arc::clone(&self.cache), Arc::clone(&self.kinds), told));
        }
        shutdown.cancelled().await;
        tasks.shutdown().await;
    }
}

struct Controller {
    registration: Registration,
    context: Context,
    written: Arc<Written>,
    present: Present,
    workloads: WorkloadMetrics,
    queue: Arc<Queue>,
    /// What the last plans failed by; gone with the next that does not.
    failures: Mutex<HashMap<Key, Failure>>,
    /// How many objects the next plans may create together at first, of keys whose last one created some, all of them.
    together: Mutex<HashMap<Key, usize>>,
    metrics: Arc<ControllerMetrics>,
}

impl Controller {
    fn resources(&self) -> impl Iterator<Item = &ResourceRef> {
        self.registration.watches.iter().map(|watch| &watch.resource)
    }

    async fn run(self: Arc<Self>) {
        let resources: Vec<_> = self.resources().cloned().collect();
        self.context.cache.synced(&resources).await;
        for resource in &resources {
            self.reaches_present(resource).await;
        }
        self.subscribe();
        let mut workers = JoinSet::new();
        for _ in 0..self.registration.workers {
            let controller = Arc::clone(&self);
            workers.spawn(async move { controller.work().await });
        }
        while workers.join_next().await.is_some() {}
    }

    /// Waits until a resource is seen as it was when this manager began, or later. The server followed another leader until
    /// then, whose last writes may have come in for one resource and not for another.
    async fn reaches_present(&self, resource: &ResourceRef) {
        let cell = Arc::clone(self.present.lock().entry(resource.clone()).or_default());
        let reached = cell.get_or_init(|| async {
            while let Err(status) = self.context.cache.reaches_present(resource).await {
                tracing::debug!(resource = %resource.plural, "how far it has come is not known: {status}");
                tokio::time::sleep(PRESENT_AGAIN_AFTER).await;
            }
        });
        reached.await;
    }

    fn subscribe(&self) {
        for watch in &self.registration.watches {
            let Some(map) = watch.map.clone() else { continue };
            let queue = Arc::downgrade(&self.queue);
            let cache = Arc::downgrade(&self.context.cache);
            let tally = self.registration.tally.map(|tally| (tally, self.workloads.clone()));
            self.context.cache.on_change(&watch.resource, move |change| {
                let (Some(queue), Some(cache)) = (queue.upgrade(), cache.upgrade()) else {
                    return false;
                };
                if let Some((tally, workloads)) = &tally {
                    tally(workloads, &cache, change);
                }
                for key in map(&cache, change) {
                    queue.add(key);
                }
                true
            });
        }
    }

    async fn work(&self) {
        loop {
            let key = self.queue.next().await;
            let outcome = AssertUnwindSafe(self.reconcile(&key)).catch_unwind().await;
            let (outcome, rest) = outcome.unwrap_or_else(|_| {
                tracing::error!(
                    controller = self.registration.name,
                    namespace = key.namespace,
                    name = key.name,
                    "reconciliation panicked; it is tried again with back-off"
                );
                self.metrics.panicked.inc();
                (Outcome::Failed, Duration::ZERO)
            });
            self.queue.finish_and_rest(key, outcome, rest);
        }
    }

    /// What comes of a key, and how long it rests.
    async fn reconcile(&self, key: &Key) -> (Outcome, Duration) {
        if !self.written.seen(&self.context.cache, self.resources()).await {
            tracing::warn!(
                controller = self.registration.name,
                "the cache lags behind this process' own writes"
            );
            return (Outcome::Failed, Duration::ZERO);
        }
        let (now, begun) = (self.context.clock.now(), Instant::now());
        let measure = self.registration.measure.as_ref();
        let before = measure.and_then(|(resource, _)| self.context.cache.object(resource, &key.namespace, &key.name));
        let context = Context {
            failure: self.failures.lock().get(key).cloned(),
            ..self.context.clone()
        };
        let looked = (self.registration.step)(context, key.clone(), now).await;
        let mut rest = match self.registration.only_looks {
            true => rest_after(begun.elapsed()),
            false => Duration::ZERO,
        };
        let result = match looked {
            Ok(None) => {
                self.failures.lock().remove(key);
                Ok(None)
            }
            Ok(Some(plan)) => {
                let executor = Executor {
                    context: &self.context,
                    written: &self.written,
                    events: &self.context.events,
                    metrics: &self.metrics,
                };
                // Gone where the plan fails.
                let together = self.together.lock().remove(key).unwrap_or(1);
                let outcome = executor.execute(&plan, together).await;
                if let (Some((_, measure)), Some(before)) = (measure, &before) {
                    let stopped = outcome.as_ref().err().map(|stopped| stopped.at);
                    let look = Reconciled {
                        cache: &self.context.cache,
                        before,
                        done: &plan.actions[..stopped.unwrap_or(plan.actions.len())],
                        failed: stopped.map(|at| &plan.actions[at]),
                        took: begun.elapsed(),
                        now,
                    };
                    measure(&self.workloads, &look);
                }
                match outcome {
                    Ok(together) => {
                        self.failures.lock().remove(key);
                        if together > 1 {
                            // There may be more to make.
                            rest = Duration::ZERO;
                            self.together.lock().insert(key.clone(), together);
                        }
                        Ok(plan.requeue_after)
                    }
                    Err(stopped) => {
                        let Stopped { failure, status, .. } = *stopped;
                        self.failures.lock().insert(key.clone(), failure);
                        Err(status)
                    }
                }
            }
            Err(status) => Err(status),
        };
        match result {
            Ok(again) => {
                self.metrics.done.inc();
                (again.map_or(Outcome::Done, Outcome::Again), rest)
            }
            Err(status) => {
                self.metrics.failed.inc();
                if is_race(&status) && self.queue.failures(key) < RACES_MAX {
                    tracing::debug!(controller = self.registration.name, ?key, "{status}");
                } else {
                    tracing::warn!(
                        controller = self.registration.name,
                        namespace = key.namespace,
                        name = key.name,
                        code = status.code,
                        "{status}"
                    );
                }
                (Outcome::Failed, Duration::ZERO)
            }
        }
    }
}

/// Whether an action only came too late or too early: another writer was first, or what it was about is gone. That is
/// ordinary, and the next look sees what there is.
fn is_race(status: &Status) -> bool {
    status.is_conflict() || status.is_already_exists() || status.is_not_found()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
    use serde_json::json;
    use trireme_api::Status;
    use trireme_client::SystemClock;
    use trireme_client::testing::FakeTransport;
    use trireme_reconcile::plan::{Action, Plan};

    use super::*;
    use crate::controllers;

    fn namespace(fake: &FakeTransport, name: &str) {
        fake.seed(
            &ResourceRef::of::<Namespace>(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        );
    }

    fn manager(fake: &Arc<FakeTransport>, shutdown: &CancellationToken) -> (Manager, Arc<Cache>) {
        let client = Client::new(fake.clone());
        let cache = Cache::new(&client, shutdown.clone());
        let kinds = Arc::new(controllers::kinds());
        (Manager::new(client, Arc::clone(&cache), kinds, Arc::new(SystemClock)), cache)
    }

    /// A controller that wants so many accounts with generated names in each namespace.
    fn accounts(wanted: usize) -> Registration {
        Registration::new(
            "two",
            |context, key| {
                context.cache.get::<Namespace>("", &key.name)?;
                Some((key.name.clone(), context.cache.list::<ServiceAccount>(Some(&key.name)).len()))
            },
            move |(namespace, there): &(String, usize), _| {
                assert_ne!(namespace, "bad", "a controller's own bug");
                let missing = wanted.saturating_sub(*there);
                let object = json!({
                    "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"namespace": namespace, "generateName": "x-"},
                });
                Plan {
                    actions: vec![
                        Action::Create {
                            object,
                            exists_is_done: false
                        };
                        missing
                    ],
                    requeue_after: None,
                }
            },
        )
        .primary::<Namespace>()
        .watch::<ServiceAccount>(|_, change| vec![Key::new("", &change.namespace)])
    }

    #[test]
    fn a_long_look_is_followed_by_a_rest() {
        let table = [(0, 0), (19, 0), (20, 60), (200, 600), (5000, 1000)];
        for (took, rest) in table {
            assert_eq!(rest_after(Duration::from_millis(took)), Duration::from_millis(rest), "{took}");
        }
    }

    #[test]
    fn a_lost_race_is_told_apart_from_a_failure() {
        let race = [
            (409, "Conflict", true),
            (409, "AlreadyExists", true),
            (404, "NotFound", true),
            (403, "Forbidden", false),
            (500, "InternalError", false),
        ];
        for (code, reason, expected) in race {
            assert_eq!(is_race(&Status::failure(code, reason, "")), expected, "{reason}");
        }
    }

    #[tokio::test]
    async fn creations_go_together_and_a_refusal_is_met_before_many_follow() {
        let fake = FakeTransport::new();
        let shutdown = CancellationToken::new();
        namespace(&fake, "a");
        fake.fail_next("POST serviceaccounts", Status::internal("no"));
        let (manager, cache) = manager(&fake, &shutdown);
        let held = ResourceRef::of::<ServiceAccount>();
        cache.synced(std::slice::from_ref(&held)).await;
        let running = tokio::spawn(manager.register(accounts(300)).run(shutdown.clone()));
        while cache.count(&held) < 300 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(cache.count(&held), 300);
        let calls = fake.calls();
        let posts = calls.iter().filter(|call| call.starts_with("POST serviceaccounts")).count();
        assert_eq!(posts, 301, "one was refused, alone, and then each was made once");
        shutdown.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn makes_no_object_twice_though_the_cache_lags_and_calls_fail() {
        let fake = FakeTransport::new();
        let shutdown = CancellationToken::new();
        for name in ["a", "b", "bad", "c"] {
            namespace(&fake, name);
        }
        fake.fail_next("POST serviceaccounts", Status::internal("no"));
        let (manager, cache) = manager(&fake, &shutdown);
        let metrics = manager.metrics();
        let held = ResourceRef::of::<ServiceAccount>();
        cache.synced(std::slice::from_ref(&held)).await;
        fake.hold(&held, true);
        let running = tokio::spawn(manager.register(accounts(2)).run(shutdown.clone()));
        let posts = || {
            fake.calls()
                .iter()
                .filter(|call| call.starts_with("POST serviceaccounts"))
                .count()
        };
        while posts() < 3 {
            tokio::task::yield_now().await;
        }
        // Wake the keys while their own writes have not come back.
        for name in ["a", "b", "c"] {
            namespace(&fake, name);
        }
        fake.hold(&held, false);
        while cache.count(&held) < 6 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert_eq!(cache.count(&held), 6);
        let counters = metrics.controller("two", "two");
        assert!(counters.panicked.get() > 0);
        assert_eq!(counters.failed.get(), 1);
        assert!(metrics.render().contains("controller=\"two\""));
        shutdown.cancel();
        running.await.unwrap();
    }
}
