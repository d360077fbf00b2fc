//! The scheduler: keeps a snapshot of nodes and pods up to date from the cache, takes pending pods by priority, asks
//! [`trireme_scheduling::decide`] where they go, and binds them or makes room for them by preemption.
//!
//! Invariant: a pod counts on its node from the decision on (it is assumed), so two pods never get the same room. One
//! task decides; bindings and evictions run beside it. Decisions that follow each other are bound together, in one task and
//! mostly in one flush of the log; each is a transaction of its own, which fails alone, and whose revision is its pod's alone:
//! a watch that ends between two events of one revision would go on behind the second.

mod act;
mod feed;
mod queue;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trireme_api::Status;
use trireme_client::{Cache, Client, Clock, EventRecorder, EventType, ResourceRef, Subscription};
use trireme_scheduling::configuration::Configuration;
use trireme_scheduling::volumes::Written;
use trireme_scheduling::{PodRecord, Preemption, Profile, Refused};

use crate::metrics::{Attempt, Metrics, SchedulerMetrics};

use self::feed::Feed;
use self::queue::PodQueue;
use self::volumes::{Outcome, Waiting, WaitingPods};

/// Bindings under way at once.
const BINDINGS_MAX: usize = 256;
/// Decisions that are bound together at most.
const TOGETHER_MAX: usize = 64;
/// A decision waits no longer than this for others to be bound with.
const TOGETHER_WITHIN: Duration = Duration::from_millis(5);

/// The scheduler. One is made for each term as leader.
pub struct Scheduler {
    client: Client,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    configuration: Configuration,
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
            configuration: Configuration::default(),
        }
    }

    /// Uses other profiles than upstream's default one.
    #[must_use]
    pub fn with_configuration(mut self, configuration: Configuration) -> Self {
        self.configuration = configuration;
        self
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
            ResourceRef::of::<Service>(),
            ResourceRef::of::<ReplicationController>(),
            ResourceRef::of::<ReplicaSet>(),
            ResourceRef::of::<StatefulSet>(),
            ResourceRef::of::<PodDisruptionBudget>(),
            ResourceRef::of::<StorageClass>(),
            ResourceRef::of::<PersistentVolume>(),
            ResourceRef::of::<PersistentVolumeClaim>(),
            ResourceRef::of::<CSINode>(),
            ResourceRef::of::<CSIDriver>(),
            ResourceRef::of::<CSIStorageCapacity>(),
            ResourceRef::of::<VolumeAttachment>(),
            ResourceRef::of::<Pod>(),
        ];
        let ended = shutdown.child_token();
        let work = async {
            self.cache.synced(&resources).await;
            let changes = self.cache.subscribe(&resources);
            let Configuration { profiles, backoff, .. } = self.configuration;
            let names = profiles.iter().map(|profile| profile.scheduler_name.clone()).collect();
            let lane = |profile: Profile| Lane {
                name: profile.scheduler_name.as_str().into(),
                events: EventRecorder::new(
                    &self.client,
                    &profile.scheduler_name,
                    "",
                    Arc::clone(&self.clock),
                    ended.clone(),
                )
                .counting_dropped(self.metrics.events_dropped(&profile.scheduler_name)),
                profile,
            };
            let lanes = profiles.into_iter().map(lane).collect();
            let (results, done) = mpsc::channel(BINDINGS_MAX);
            let running = Running {
                client: self.client.with_field_manager("kube-scheduler"),
                cache: self.cache,
                clock: self.clock,
                lanes,
                feed: Feed::new(names),
                queue: PodQueue::new(self.metrics.scheduler(), backoff),
                waiting: WaitingPods::default(),
                metrics: self.metrics.scheduler(),
                results,
                permits: Arc::new(Semaphore::new(BINDINGS_MAX)),
                decided: Vec::new(),
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

/// What became of a write that ran beside the decisions.
enum Done {
    Bound(Bound),
    /// What a pod's volumes need was written, or could not be.
    Written(Waiting, Result<Written, Status>),
    /// A preemption is under way, or failed.
    Preempted(Arc<PodRecord>, Result<(), Status>),
}

/// A pod that is to be bound.
struct Decided {
    pod: Arc<PodRecord>,
    node: Box<str>,
    begun: Instant,
    /// Failed attempts before this one, and the pod's arrival.
    history: Option<(u32, Instant)>,
    events: EventRecorder,
}

struct Bound {
    pod: Arc<PodRecord>,
    begun: Instant,
    /// Failed attempts before this one, and the pod's arrival.
    history: Option<(u32, Instant)>,
    result: Result<(), Status>,
}

/// A profile, and who tells of what it did.
struct Lane {
    /// The profile's name.
    name: Arc<str>,
    profile: Profile,
    events: EventRecorder,
}

struct Running {
    client: Client,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
    /// One for each name that pods ask for.
    lanes: Vec<Lane>,
    feed: Feed,
    queue: PodQueue,
    waiting: WaitingPods,
    metrics: SchedulerMetrics,
    results: mpsc::Sender<Done>,
    permits: Arc<Semaphore>,
    /// What is to be bound next, at most [`TOGETHER_MAX`].
    decided: Vec<Decided>,
    seed: u64,
}

impl Running {
    async fn run(mut self, mut changes: Subscription, mut done: mpsc::Receiver<Done>) {
        loop {
            while let Some(change) = changes.try_next() {
                self.feed.take(&change, &mut self.queue);
            }
            while let Ok(done) = done.try_recv() {
                self.settle(done);
            }
            self.look_at_waiting().await;
            self.queue.flush(Instant::now());
            if let Some(pod) = self.queue.pop() {
                self.place(&pod).await;
                if self
                    .decided
                    .first()
                    .is_some_and(|first| first.begun.elapsed() > TOGETHER_WITHIN)
                {
                    self.bind_decided().await;
                }
                continue;
            }
            self.bind_decided().await;
            self.queue.measure();
            let timer = async {
                match self.queue.deadline().into_iter().chain(self.waiting.deadline()).min() {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.next() => self.feed.take(&change, &mut self.queue),
                done = done.recv() => if let Some(done) = done { self.settle(done) },
                () = timer => {}
            }
        }
    }

    /// Index of the profile that a pod asks for.
    fn lane(&self, pod: &PodRecord) -> usize {
        let name = &pod.template.scheduler_name;
        let found = self.lanes.iter().position(|lane| lane.profile.scheduler_name == *name);
        found.expect("the queue takes only pods of these profiles")
    }

    /// The next number of a sequence without pattern, to choose among equals.
    fn seed(&mut self) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.seed >> 33
    }

    async fn place(&mut self, pod: &Arc<PodRecord>) {
        if self.feed.is_assumed(&pod.uid) {
            return;
        }
        let seed = self.seed();
        let begun = Instant::now();
        let lane = self.lane(pod);
        let placed = trireme_scheduling::decide(&mut self.feed.snapshot, &self.lanes[lane].profile, pod, seed);
        self.metrics.chose(begun.elapsed());
        match placed {
            Ok(placement) => {
                self.feed.assume(pod, &placement.node);
                match placement.volumes {
                    None => self.bind(pod, placement.node, begun).await,
                    Some(plan) => {
                        self.feed.snapshot.storage.assume(&plan, &placement.node);
                        let waiting = Waiting {
                            pod: Arc::clone(pod),
                            node: placement.node,
                            plan,
                            begun,
                        };
                        self.prepare(waiting).await;
                    }
                }
            }
            Err(refused) => {
                self.metrics
                    .attempt(Attempt::Unschedulable, &self.lanes[lane].name, begun.elapsed());
                self.refuse(pod, &refused);
            }
        }
    }

    async fn bind(&mut self, pod: &Arc<PodRecord>, node: Box<str>, begun: Instant) {
        self.decided.push(Decided {
            pod: Arc::clone(pod),
            node,
            begun,
            history: self.queue.history(&pod.uid),
            events: self.lanes[self.lane(pod)].events.clone(),
        });
        if self.decided.len() >= TOGETHER_MAX {
            self.bind_decided().await;
        }
    }

    /// Binds what was decided.
    async fn bind_decided(&mut self) {
        let decided = std::mem::take(&mut self.decided);
        if decided.is_empty() {
            return;
        }
        let count = u32::try_from(decided.len()).expect("they are few");
        let Ok(mut permits) = Arc::clone(&self.permits).acquire_many_owned(count).await else {
            return;
        };
        let (client, results) = (self.client.clone(), self.results.clone());
        tokio::spawn(async move {
            let bindings = decided.into_iter().map(|decided| {
                let (permit, client, results) = (permits.split(1), &client, &results);
                async move {
                    let Decided {
                        pod,
                        node,
                        begun,
                        history,
                        events,
                    } = decided;
                    let result = act::bind(client, &events, &pod, &node).await;
                    drop(permit);
                    let bound = Bound {
                        pod,
                        begun,
                        history,
                        result,
                    };
                    // Without a receiver the scheduler has ended, and nobody needs the result.
                    drop(results.send(Done::Bound(bound)).await);
                }
            });
            join_all(bindings).await;
        });
    }

    /// Writes what a pod's volumes need before it can be bound.
    async fn prepare(&self, waiting: Waiting) {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return;
        };
        let (client, results) = (self.client.clone(), self.results.clone());
        tokio::spawn(async move {
            let written = volumes::write(&client, &waiting).await;
            drop(permit);
            // Without a receiver the scheduler has ended, and nobody needs the result.
            drop(results.send(Done::Written(waiting, written)).await);
        });
    }

    /// Goes on with the pods whose volumes are there, or will not come.
    async fn look_at_waiting(&mut self) {
        let now = Instant::now();
        let mut outcomes: Vec<Outcome> = Vec::new();
        for uid in std::mem::take(&mut self.feed.unassumed) {
            outcomes.extend(self.waiting.remove(&uid).map(Outcome::Gone));
        }
        let changed = std::mem::take(&mut self.feed.changed_claims);
        if changed.is_empty() && self.waiting.deadline().is_none_or(|at| at > now) && outcomes.is_empty() {
            return;
        }
        outcomes.extend(self.waiting.look(&changed, &self.feed.snapshot, now));
        for outcome in outcomes {
            match outcome {
                Outcome::Bound(waiting) => self.bind(&waiting.pod, waiting.node, waiting.begun).await,
                Outcome::Failed(waiting, failed) => self.fail(&waiting, &failed),
                Outcome::Gone(waiting) => self.feed.snapshot.storage.restore(&waiting.plan),
            }
        }
    }

    /// A pod's volumes will not come: it is placed anew.
    fn fail(&mut self, waiting: &Waiting, failed: &volumes::Failed) {
        let lane = self.lane(&waiting.pod);
        self.metrics
            .attempt(Attempt::Error, &self.lanes[lane].name, waiting.begun.elapsed());
        self.feed.snapshot.storage.restore(&waiting.plan);
        self.feed.forget(&waiting.pod, &mut self.queue);
        let pod = self
            .queue
            .known(&waiting.pod.uid)
            .map_or_else(|| Arc::clone(&waiting.pod), Arc::clone);
        self.queue.back_off(&pod.uid, Instant::now());
        let message = failed.to_string();
        self.lanes[lane]
            .events
            .record(act::regarding(&pod), EventType::Warning, "FailedScheduling", message.as_str());
        let object = self
            .cache
            .object(&ResourceRef::of::<Pod>(), &pod.template.namespace, &pod.name);
        let condition = act::Condition {
            reason: act::ERROR,
            message: &message,
        };
        let patch = object.and_then(|object| act::refusal(&pod, &object, condition, Some(None), self.clock.now()));
        self.feed.clear_nomination(&pod.uid);
        self.carry_out(&pod, Preemption::Ineligible(""), patch, Vec::new());
    }

    fn settle(&mut self, done: Done) {
        match done {
            Done::Bound(bound) => self.settle_bound(&bound),
            Done::Written(waiting, _) if !self.feed.is_assumed(&waiting.pod.uid) => {
                self.feed.snapshot.storage.restore(&waiting.plan);
            }
            Done::Written(waiting, Ok(written)) => {
                // Some may be seen as bound by now.
                let claims = written.bindings.iter().map(|(claim, ..)| claim);
                let claims = claims.chain(written.provisions.iter().map(|(claim, _)| claim));
                self.feed.changed_claims.extend(claims.cloned());
                let deadline = Instant::now() + self.lanes[self.lane(&waiting.pod)].profile.bind_timeout;
                self.waiting.add(waiting, written, deadline);
            }
            Done::Written(waiting, Err(status)) => self.fail(&waiting, &volumes::Failed::Write(status)),
            Done::Preempted(_, Ok(())) => {}
            Done::Preempted(pod, Err(status)) => {
                tracing::warn!(pod = &*pod.name, "a preemption could not be carried out: {status}");
                self.feed.clear_nomination(&pod.uid);
                self.queue.back_off(&pod.uid, Instant::now());
            }
        }
    }

    fn settle_bound(&mut self, bound: &Bound) {
        let lane = self.lane(&bound.pod);
        let name = &self.lanes[lane].name;
        let Err(status) = &bound.result else {
            self.metrics.attempt(Attempt::Scheduled, name, bound.begun.elapsed());
            if let Some((failed, arrived)) = bound.history {
                self.metrics.placed(failed + 1, arrived.elapsed());
            }
            return;
        };
        self.metrics.attempt(Attempt::Error, name, bound.begun.elapsed());
        let uid = &*bound.pod.uid;
        self.feed.forget(&bound.pod, &mut self.queue);
        // A pod that is gone or bound by another leaves the queue as soon as the cache tells; till then it backs off.
        if status.is_not_found() || status.is_conflict() {
            tracing::debug!(uid, "binding lost a race: {status}");
            self.queue.back_off(uid, Instant::now());
            return;
        }
        let message = format!("binding rejected: {status}");
        self.lanes[lane]
            .events
            .record(act::regarding(&bound.pod), EventType::Warning, "FailedScheduling", message);
        self.queue.back_off(uid, Instant::now());
    }

    /// A pod fits nowhere: room is made for it if others are less important; event and condition tell.
    fn refuse(&mut self, pod: &Arc<PodRecord>, refused: &Refused) {
        let seed = self.seed();
        let lane = self.lane(pod);
        let preemption = trireme_scheduling::preempt(&mut self.feed.snapshot, &self.lanes[lane].profile, pod, refused, seed);
        self.queue.give_up(&pod.uid, refused.plugins(), Instant::now());
        let message = match &preemption {
            Preemption::Remove { .. } => refused.message(""),
            Preemption::Hopeless(why) => refused.message(why),
            Preemption::Ineligible(why) => refused.message(why),
        };
        self.lanes[lane]
            .events
            .record(act::regarding(pod), EventType::Warning, "FailedScheduling", message.as_str());
        let nominate = match &preemption {
            Preemption::Remove { node, .. } => Some(Some(&**node)),
            Preemption::Hopeless(_) => Some(None),
            Preemption::Ineligible(_) => None,
        };
        let object = self
            .cache
            .object(&ResourceRef::of::<Pod>(), &pod.template.namespace, &pod.name);
        let condition = act::Condition {
            reason: act::UNSCHEDULABLE,
            message: &message,
        };
        let patch = object.and_then(|object| act::refusal(pod, &object, condition, nominate, self.clock.now()));
        if nominate == Some(None) && pod.nominated.is_some() {
            self.feed.clear_nomination(&pod.uid);
        }
        let mut lower = Vec::new();
        if let Preemption::Remove { node, .. } = &preemption {
            let others = self.feed.snapshot.nominated_to(node).iter();
            lower = others
                .filter(|other| other.template.priority < pod.template.priority)
                .map(Arc::clone)
                .collect();
            self.feed.nominate(pod, node, &mut self.queue);
        }
        self.carry_out(pod, preemption, patch, lower);
    }

    /// Writes the condition, and removes the victims of a preemption. `lower` are less important pods that waited for the
    /// same node; they may look elsewhere.
    fn carry_out(
        &self,
        pod: &Arc<PodRecord>,
        preemption: Preemption,
        patch: Option<serde_json::Value>,
        lower: Vec<Arc<PodRecord>>,
    ) {
        let events = self.lanes[self.lane(pod)].events.clone();
        let (client, results) = (self.client.clone(), self.results.clone());
        let (pod, clock) = (Arc::clone(pod), Arc::clone(&self.clock));
        tokio::spawn(async move {
            if let Some(patch) = patch
                && let Err(status) = act::patch_status(&client, &pod, &patch).await
            {
                tracing::warn!(
                    pod = &*pod.name,
                    "the pod's PodScheduled condition could not be written: {status}"
                );
            }
            let Preemption::Remove { node, victims } = preemption else {
                return;
            };
            for other in lower {
                if let Err(status) = act::clear_nomination(&client, &other).await {
                    tracing::warn!(pod = &*other.name, "the pod's nomination could not be taken back: {status}");
                }
            }
            let mut result = Ok(());
            for victim in victims.iter().filter(|victim| !victim.deleting) {
                result = act::evict(&client, &events, victim, (&pod, &node), clock.now()).await;
                if result.is_err() {
                    break;
                }
            }
            // Without a receiver the scheduler has ended, and nobody needs the result.
            drop(results.send(Done::Preempted(pod, result)).await);
        });
    }
}

#[cfg(test)]
mod tests;
