//! The scheduler: keeps a snapshot of nodes and pods up to date from the cache, takes pending pods by priority, asks
//! [`trireme_scheduling::schedule`] where they go and binds them.
//!
//! Invariant: a pod counts on its node from the decision on (it is assumed), so two pods never get the same room. One
//! task decides; bindings run beside it.

mod queue;
mod state;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trireme_api::Status;
use trireme_client::{Cache, Change, Client, Clock, EventRecorder, EventType, Patch, Regarding, ResourceRef, Subscription};

use crate::metrics::{Attempt, Metrics, SchedulerMetrics};

use self::queue::PodQueue;
use self::state::ClusterState;

/// `spec.schedulerName` of the pods that this scheduler takes.
pub const NAME: &str = "default-scheduler";
/// Bindings under way at once.
const BINDINGS_MAX: usize = 64;

/// The scheduler. One is made for each term as leader.
pub struct Scheduler {
    client: Client,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Scheduler {
    /// A scheduler over a cache.
    #[must_use]
    pub fn new(client: Client, cache: Arc<Cache>, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            cache,
            clock,
            metrics: Arc::default(),
        }
    }

    /// Uses counters that are there already (the manager's, or of an earlier term).
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let resources = [
            ResourceRef::of::<Namespace>(),
            ResourceRef::of::<Node>(),
            ResourceRef::of::<Pod>(),
        ];
        let ended = shutdown.child_token();
        let work = async {
            self.cache.synced(&resources).await;
            let changes = self.cache.subscribe(&resources);
            let events = EventRecorder::new(&self.client, NAME, "", Arc::clone(&self.clock), ended.clone());
            let (results, done) = mpsc::channel(BINDINGS_MAX);
            let running = Running {
                client: self.client.with_field_manager("kube-scheduler"),
                cache: self.cache,
                clock: self.clock,
                events,
                cluster: ClusterState::default(),
                queue: PodQueue::new(self.metrics.scheduler()),
                metrics: self.metrics.scheduler(),
                results,
                permits: Arc::new(Semaphore::new(BINDINGS_MAX)),
                seed: 0,
            };
            running.run(changes, done).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
        ended.cancel();
    }
}

struct Bound {
    pod: Arc<Pod>,
    begun: Instant,
    /// Failed attempts before this one, and the pod's arrival.
    history: Option<(u32, Instant)>,
    result: Result<(), Status>,
}

struct Running {
    client: Client,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    events: EventRecorder,
    cluster: ClusterState,
    queue: PodQueue,
    metrics: SchedulerMetrics,
    results: mpsc::Sender<Bound>,
    permits: Arc<Semaphore>,
    seed: u64,
}

impl Running {
    async fn run(mut self, mut changes: Subscription, mut done: mpsc::Receiver<Bound>) {
        loop {
            while let Some(change) = changes.try_next() {
                self.take(&change);
            }
            while let Ok(bound) = done.try_recv() {
                self.settle(&bound);
            }
            self.queue.flush(Instant::now());
            if let Some(pod) = self.queue.pop() {
                self.place(&pod).await;
                continue;
            }
            self.queue.measure();
            let timer = async {
                match self.queue.deadline() {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.next() => self.take(&change),
                bound = done.recv() => if let Some(bound) = bound { self.settle(&bound) },
                () = timer => {}
            }
        }
    }

    fn take(&mut self, change: &Change) {
        let room = match change.resource.plural.as_ref() {
            "pods" => self.take_pod(change),
            "nodes" => {
                let node = change.new.as_ref().and_then(|object| self.cache.typed::<Node>(object));
                self.cluster.take_node(&change.name, node)
            }
            _ => self.cluster.take_namespace(change),
        };
        if room {
            self.queue.retry_all(Instant::now());
        }
    }

    /// Takes a changed pod; whether others may now have a chance.
    fn take_pod(&mut self, change: &Change) -> bool {
        let typed = |object: &trireme_api::Object| self.cache.typed::<Pod>(object);
        let (old, new) = (change.old.as_ref().and_then(typed), change.new.as_ref().and_then(typed));
        let uid_of = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap_or_default();
        let mut room = false;
        if let Some(old) = &old
            && new.as_ref().is_none_or(|new| uid_of(new) != uid_of(old))
        {
            self.queue.remove(&uid_of(old));
            room |= self.cluster.remove_pod(&uid_of(old));
        }
        let Some(new) = new else { return room };
        if is_bound(&new) {
            self.queue.remove(&uid_of(&new));
            room | self.cluster.take_pod(new)
        } else {
            if is_ours(&new) {
                self.queue.put(new, Instant::now());
            } else {
                self.queue.remove(&uid_of(&new));
            }
            room
        }
    }

    async fn place(&mut self, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if self.cluster.is_assumed(&uid) {
            return;
        }
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let begun = Instant::now();
        let placed = trireme_scheduling::schedule(self.cluster.snapshot(), pod, self.seed >> 33);
        self.metrics.chose(begun.elapsed());
        match placed {
            Ok(placement) => {
                self.cluster.assume(Arc::clone(pod), &placement.node);
                self.bind(pod, placement.node, begun).await;
            }
            Err(why) => {
                self.metrics.attempt(Attempt::Unschedulable, begun.elapsed());
                self.queue.give_up(Arc::clone(pod), Instant::now());
                self.refuse(pod, &why.message);
            }
        }
    }

    async fn bind(&self, pod: &Arc<Pod>, node: String, begun: Instant) {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return;
        };
        let (client, events, results) = (self.client.clone(), self.events.clone(), self.results.clone());
        let pod = Arc::clone(pod);
        let history = self.queue.history(pod.metadata.uid.as_deref().unwrap_or_default());
        tokio::spawn(async move {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let name = pod.metadata.name.clone().unwrap_or_default();
            let body = json!({
                "apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            let result = client.create_subresource::<Pod>(&namespace, &name, "binding", &body).await;
            if result.is_ok() {
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                events.record(Regarding::of(&*pod), EventType::Normal, "Scheduled", message);
            }
            drop(permit);
            // Without a receiver the scheduler has ended, and nobody needs the result.
            drop(
                results
                    .send(Bound {
                        pod,
                        begun,
                        history,
                        result: result.map(|_| ()),
                    })
                    .await,
            );
        });
    }

    fn settle(&mut self, bound: &Bound) {
        let Err(status) = &bound.result else {
            self.metrics.attempt(Attempt::Scheduled, bound.begun.elapsed());
            if let Some((failed, arrived)) = bound.history {
                self.metrics.placed(failed + 1, arrived.elapsed());
            }
            return;
        };
        self.metrics.attempt(Attempt::Error, bound.begun.elapsed());
        let uid = bound.pod.metadata.uid.clone().unwrap_or_default();
        self.cluster.forget(&uid);
        // A pod that is gone or bound by another leaves the queue as soon as the cache tells; till then it backs off.
        if status.is_not_found() || status.is_conflict() {
            tracing::debug!(uid, "binding lost a race: {status}");
            self.queue.back_off(Arc::clone(&bound.pod), Instant::now());
            return;
        }
        let message = format!("binding rejected: {status}");
        self.events
            .record(Regarding::of(&*bound.pod), EventType::Warning, "FailedScheduling", message);
        self.queue.back_off(Arc::clone(&bound.pod), Instant::now());
    }

    /// Tells that a pod fits nowhere: event and condition.
    fn refuse(&self, pod: &Arc<Pod>, message: &str) {
        self.events
            .record(Regarding::of(&**pod), EventType::Warning, "FailedScheduling", message);
        let Some(patch) = refusal(pod, message, self.clock.now()) else {
            return;
        };
        let (client, pod) = (self.client.clone(), Arc::clone(pod));
        tokio::spawn(async move {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if let Err(status) = client.patch::<Pod>(namespace, name, Some("status"), &patch).await
                && !status.is_not_found()
            {
                tracing::warn!(
                    namespace,
                    name,
                    "the pod's PodScheduled condition could not be written: {status}"
                );
            }
        });
    }
}

/// The patch that sets `PodScheduled` to False, unless it says so already.
fn refusal(pod: &Pod, message: &str, now: Timestamp) -> Option<Patch> {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let same = old.is_some_and(|old| {
        old.status == "False" && old.reason.as_deref() == Some("Unschedulable") && old.message.as_deref() == Some(message)
    });
    if same {
        return None;
    }
    let since = old
        .filter(|old| old.status == "False")
        .and_then(|old| old.last_transition_time.clone());
    let patch = json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": since.unwrap_or(Time(now)),
            "observedGeneration": pod.metadata.generation,
        }]},
    });
    Some(Patch::Strategic(Bytes::from(patch.to_string())))
}

fn is_bound(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.is_some_and(|node| !node.is_empty())
}

fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let name = spec.scheduler_name.as_deref().unwrap_or(NAME);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    name == NAME && !gated && pod.metadata.deletion_timestamp.is_none() && !trireme_scheduling::node::is_finished(pod)
}

#[cfg(test)]
mod tests;
