//! One pod's loop: observe, plan, act, report, wait.
//!
//! Invariant: the loop itself never waits for an image, a container or a hook; those run as tasks whose outcomes come back
//! as messages, so a deletion is seen at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use trireme_client::{DeleteOptions, EventType};
use trireme_pod::admission::Refusal;
use trireme_pod::allocation::Allocation;
use trireme_pod::observed::{Verdict, Waiting};
use trireme_pod::{Backoff, KillReason, Observed, ResizeConditions, Step, admission, plan, spec, status};

use super::publish::Publisher;
use super::{Update, kill, resize, start};
use crate::probes::Probes;
use crate::shared::Shared;

/// Without any event, look again after this: a lost event, and volumes that follow their sources.
const RELIST: SignedDuration = SignedDuration::from_secs(60);
/// Pause after a failed sandbox or volume.
const RETRY: SignedDuration = SignedDuration::from_secs(2);
const RETRY_MAX: SignedDuration = SignedDuration::from_secs(30);
/// Pause after limits could not be changed, and between looks at a wish that waits.
const RETRY_RESIZE: SignedDuration = SignedDuration::from_secs(10);
const RETRY_WISH: SignedDuration = SignedDuration::from_secs(30);

/// How long the end of a pod waits for volumes or a sandbox that are being made. Both may wait for others (the API, the
/// pod network) without end.
const PREPARING_MAX: SignedDuration = SignedDuration::from_secs(10);

/// What a task has to tell its worker.
pub(crate) enum Outcome {
    Mounted(Result<BTreeMap<String, PathBuf>, String>),
    Sandbox(Result<(), String>),
    Starting { name: String, backoff: Backoff },
    Started { name: String, result: Result<(), Waiting> },
    Killed { name: String },
    Resized { result: Result<(), String> },
    Stopped { result: Result<(), String> },
}

pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    update: watch::Receiver<Update>,
    wake: Arc<Notify>,
    shutdown: CancellationToken,
    outcomes: (mpsc::UnboundedSender<Outcome>, mpsc::UnboundedReceiver<Outcome>),
    publisher: Publisher,
    pub(super) probes: Probes,
    /// Ends image pulls and hooks of starting containers when the pod is to stop.
    starting: CancellationToken,
    pub(super) state: State,
}

/// Labels and annotations.
type Metadata = (Option<BTreeMap<String, String>>, Option<BTreeMap<String, String>>);

/// What the runtime does not remember.
#[derive(Default)]
pub(super) struct State {
    pub(super) failures: BTreeMap<String, Waiting>,
    pub(super) backoffs: BTreeMap<String, Backoff>,
    pub(super) busy: BTreeSet<String>,
    /// Containers that are being made and started, their postStart hooks included.
    pub(super) starting: BTreeSet<String>,
    pub(super) preparing: bool,
    preparer: Option<tokio::task::AbortHandle>,
    stop_wanted: Option<Timestamp>,
    pub(super) retry_after: Option<Timestamp>,
    retries: u32,
    pub(super) volumes: Option<BTreeMap<String, PathBuf>>,
    volumes_at: Option<Timestamp>,
    pub(super) verdict: Option<Verdict>,
    /// Whether it was asked if the pod has a place here.
    pub(super) judged: bool,
    /// Why it has none.
    pub(super) unfit: Option<Refusal>,
    /// Why containers were killed, by id, as long as they are known to the runtime.
    pub(super) killed: BTreeMap<String, KillReason>,
    /// What the pod was granted.
    pub(super) granted: Option<Allocation>,
    pub(super) resize: ResizeConditions,
    pub(super) resizing: bool,
    pub(super) resize_after: Option<Timestamp>,
    pub(super) stopping: Option<i64>,
    stop_again_at: Option<Timestamp>,
    pub(super) stopped: bool,
    pub(super) previous: PodStatus,
    pub(super) messages: HashMap<String, String>,
    seen_generation: Option<i64>,
    seeded: bool,
    seen_metadata: Option<Metadata>,
    deleted: bool,
    cleaned: bool,
    backoff_told: BTreeMap<String, Timestamp>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        update: watch::Receiver<Update>,
        wake: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> Self {
        let pod = Arc::clone(&update.borrow().pod);
        let previous = pod.status.clone().unwrap_or_default();
        let probes = Probes::new(Arc::clone(&shared), Arc::clone(&wake), &previous);
        Self {
            publisher: Publisher::start(Arc::clone(&shared), update.clone()),
            shared,
            update,
            wake,
            shutdown,
            outcomes: mpsc::unbounded_channel(),
            probes,
            starting: CancellationToken::new(),
            state: State {
                resize: ResizeConditions::of(&previous),
                previous,
                ..State::default()
            },
        }
    }

    /// Runs until the pod is gone from the API and from this node.
    pub(super) async fn run(mut self) {
        loop {
            let update = self.update.borrow_and_update().clone();
            let pod = effective(&update);
            match self.sync(&update, &pod).await {
                Some(wait_until) => {
                    if !self.rest(wait_until).await {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    /// One round. The time to look again, or `None` when the pod is gone. `wished`: the pod before it is told from what it
    /// was granted.
    async fn sync(&mut self, update: &Update, wished: &Arc<Pod>) -> Option<Timestamp> {
        let now = Timestamp::now();
        if wished.metadata.generation != self.state.seen_generation {
            self.state.seen_generation = wished.metadata.generation;
            self.state.failures.clear();
        }
        let mut observed = match self.observe(wished).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(pod = spec::display(wished), "the runtime cannot be asked: {error}");
                return Some(now.saturating_add(RETRY).unwrap_or(Timestamp::MAX));
            }
        };
        if let Err(error) = self.admit(wished, &mut observed).await {
            tracing::warn!(pod = spec::display(wished), "the node cannot be read: {error}");
            return Some(now.saturating_add(RETRY).unwrap_or(Timestamp::MAX));
        }
        let pod = &self.allocate(wished, &mut observed).await;
        let observed = self.with_backoffs(observed);
        let actions = plan(pod, &observed, now);
        self.judge(update, pod, &observed, plan::verdict(pod, &observed, now));
        let stops = actions.steps.iter().any(|step| matches!(step, Step::StopPod { .. })) || self.state.stopped;
        self.probes.reconcile(pod, &observed, stops);
        if stops {
            self.starting.cancel();
            self.give_up_preparing(now);
        }
        self.act(pod, &observed, actions.steps);
        self.tell_backoffs(pod, &observed, now);

        let mut new = status(pod, &observed, now);
        new.start_time = new.start_time.or(Some(Time(now)));
        self.note_view(pod, &observed, &new);
        self.state.previous = new.clone();
        if !update.gone {
            self.publisher.publish(new, update.pod.status.as_ref());
        }
        if self.state.stopped && self.finish(update, pod, &observed).await {
            return None;
        }
        let changed = self.metadata_changed(pod);
        if changed || self.volumes_are_old(pod, now) {
            self.mount(pod, &observed);
        }
        let pause = match (stops, self.state.preparing) {
            (true, true) => PREPARING_MAX,
            (true, false) if self.state.stopping.is_none() && !self.state.stopped => RETRY,
            _ if self.state.resize.pending.is_some() => RETRY_WISH,
            _ => RELIST,
        };
        let relist = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        Some(actions.wait_until.map_or(relist, |until| until.min(relist)))
    }

    /// Notes why the node ends the pod, and tells so where nobody did yet.
    fn judge(&mut self, update: &Update, pod: &Pod, observed: &Observed, verdict: Option<Verdict>) {
        let told = self.state.verdict.is_some() || update.gone || spec::is_finished(pod);
        if let Some(verdict) = verdict.as_ref().filter(|_| !told) {
            match admission::refusal(pod, observed.unfit.as_ref()).filter(|refusal| refusal.verdict() == *verdict) {
                Some(refusal) => self
                    .shared
                    .pod_event(pod, EventType::Warning, &refusal.reason, refusal.message),
                None => self
                    .shared
                    .pod_event(pod, EventType::Normal, &verdict.reason, verdict.message.clone()),
            }
        }
        self.state.verdict = verdict;
    }

    /// Back-offs that an earlier life of the kubelet must have had, from restart counts: a restart is no amnesty.
    fn with_backoffs(&mut self, mut observed: Observed) -> Observed {
        if !self.state.seeded {
            self.state.seeded = true;
            for run in observed.containers.iter().rev() {
                if let Some(backoff) = Backoff::after_restarts(run.attempt, run.created_at) {
                    self.state.backoffs.insert(run.name.clone(), backoff);
                }
            }
            observed.backoffs.clone_from(&self.state.backoffs);
        }
        observed
    }

    /// Waits for something to do. False when the kubelet ends.
    async fn rest(&mut self, until: Timestamp) -> bool {
        let pause = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::select! {
            () = self.shutdown.cancelled() => return false,
            changed = self.update.changed() => if changed.is_err() { return false },
            () = self.wake.notified() => {}
            outcome = self.outcomes.1.recv() => if let Some(outcome) = outcome { self.note(outcome) },
            () = tokio::time::sleep(pause) => {}
        }
        while let Ok(outcome) = self.outcomes.1.try_recv() {
            self.note(outcome);
        }
        true
    }

    fn note(&mut self, outcome: Outcome) {
        let update = self.update.borrow().clone();
        let state = &mut self.state;
        match outcome {
            Outcome::Mounted(Ok(paths)) => {
                state.preparing = false;
                state.volumes = Some(paths);
                state.volumes_at = Some(Timestamp::now());
                state.retries = 0;
            }
            Outcome::Mounted(Err(why)) => {
                state.preparing = false;
                state.volumes_at = Some(Timestamp::now());
                if state.volumes.is_none() {
                    self.retry(&update.pod, "FailedMount", why);
                } else {
                    self.shared.pod_event(&update.pod, EventType::Warning, "FailedMount", why);
                }
            }
            Outcome::Sandbox(Ok(())) => {
                state.preparing = false;
                state.retries = 0;
            }
            Outcome::Sandbox(Err(why)) => {
                state.preparing = false;
                self.retry(
                    &update.pod,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {why}"),
                );
            }
            Outcome::Starting { name, backoff } => {
                state.backoffs.insert(name, backoff);
            }
            Outcome::Started { name, result } => {
                state.busy.remove(&name);
                state.starting.remove(&name);
                match result {
                    Ok(()) => state.failures.remove(&name),
                    Err(waiting) => state.failures.insert(name, waiting),
                };
            }
            Outcome::Killed { name } => {
                state.busy.remove(&name);
            }
            Outcome::Resized { result } => {
                state.resizing = false;
                state.resize_after = None;
                if let Err(why) = result {
                    state.resize_after = Timestamp::now().saturating_add(RETRY_RESIZE).ok();
                    let granted = state.granted.as_ref().map(|granted| granted.applied(&update.pod));
                    self.tell_resize_error(&granted.unwrap_or(update.pod), &why);
                }
            }
            Outcome::Stopped { result: Ok(()) } => state.stopped = true,
            Outcome::Stopped { result: Err(why) } => {
                state.stopping = None;
                state.stop_again_at = Timestamp::now().saturating_add(RETRY).ok();
                self.retry(&update.pod, "FailedKillPod", format!("error killing pod: {why}"));
            }
        }
    }

    fn retry(&mut self, pod: &Pod, reason: &str, why: String) {
        self.shared.pod_event(pod, EventType::Warning, reason, why);
        let pause = (RETRY * 2_i32.saturating_pow(self.state.retries.min(5))).min(RETRY_MAX);
        self.state.retries += 1;
        self.state.retry_after = Timestamp::now().saturating_add(pause).ok();
    }

    fn act(&mut self, pod: &Arc<Pod>, observed: &Observed, steps: Vec<Step>) {
        let mut starts = Vec::new();
        for step in steps {
            match step {
                Step::MountVolumes => self.mount(pod, observed),
                Step::CreateSandbox { attempt, stop } => {
                    self.state.preparing = true;
                    let (shared, pod, sender) = (Arc::clone(&self.shared), Arc::clone(pod), self.outcomes.0.clone());
                    let task = spawn(
                        async move { Outcome::Sandbox(start::sandbox(&shared, &pod, attempt, &stop).await) },
                        sender,
                    );
                    self.state.preparer = Some(task);
                }
                Step::StartContainer { .. } => starts.push(step),
                Step::KillContainer {
                    id,
                    name,
                    message,
                    grace_seconds,
                    reason,
                } => {
                    self.state.busy.insert(name.clone());
                    self.state.killed.insert(id.clone(), reason);
                    let (shared, pod, sender) = (Arc::clone(&self.shared), Arc::clone(pod), self.outcomes.0.clone());
                    let ip = pod_ip(observed);
                    spawn(
                        async move {
                            kill::one(&shared, &pod, &id, &name, &message, grace_seconds, &ip).await;
                            Outcome::Killed { name }
                        },
                        sender,
                    );
                }
                Step::Resize {
                    sandbox_id,
                    changes,
                    lowered,
                } => {
                    self.state.resizing = true;
                    let (shared, sender) = (Arc::clone(&self.shared), self.outcomes.0.clone());
                    spawn(
                        async move {
                            let result = resize::change(&shared, &sandbox_id, changes, lowered).await;
                            Outcome::Resized { result }
                        },
                        sender,
                    );
                }
                Step::StopPod {
                    grace_seconds,
                    targets,
                    sandboxes,
                } => {
                    let shorter = self.state.stopping.is_none_or(|running| grace_seconds < running);
                    // What is being started right now would be missed; it was told to give up and reports soon.
                    let failed = self.state.stop_again_at.is_some_and(|at| Timestamp::now() < at);
                    if !shorter || failed || !self.state.starting.is_empty() || self.state.preparing {
                        continue;
                    }
                    let again = self.state.stopping.replace(grace_seconds).is_some();
                    let (shared, pod, sender) = (Arc::clone(&self.shared), Arc::clone(pod), self.outcomes.0.clone());
                    let ip = pod_ip(observed);
                    spawn(
                        async move {
                            let result = kill::all(&shared, &pod, grace_seconds, targets, &sandboxes, &ip, again).await;
                            Outcome::Stopped { result }
                        },
                        sender,
                    );
                }
            }
        }
        if !starts.is_empty() {
            self.start(pod, observed, starts);
        }
    }

    /// Ends what holds up the end of the pod for too long.
    fn give_up_preparing(&mut self, now: Timestamp) {
        let since = *self.state.stop_wanted.get_or_insert(now);
        if self.state.preparing && now.duration_since(since) >= PREPARING_MAX {
            if let Some(task) = self.state.preparer.take() {
                task.abort();
            }
            self.state.preparing = false;
        }
    }

    fn start(&mut self, pod: &Arc<Pod>, observed: &Observed, steps: Vec<Step>) {
        for step in &steps {
            if let Step::StartContainer { name, .. } = step {
                self.state.busy.insert(name.clone());
                self.state.starting.insert(name.clone());
            }
        }
        let job = start::Job {
            shared: Arc::clone(&self.shared),
            pod: Arc::clone(pod),
            pod_ips: pod_ips(observed, &self.shared, pod),
            volumes: self.state.volumes.clone().unwrap_or_default(),
            backoffs: self.state.backoffs.clone(),
            cancel: self.starting.clone(),
            sender: self.outcomes.0.clone(),
        };
        tokio::spawn(job.run(steps));
    }

    fn mount(&mut self, pod: &Arc<Pod>, observed: &Observed) {
        if self.state.preparing {
            return;
        }
        // A refresh of volumes that are there holds nothing else up.
        self.state.preparing = self.state.volumes.is_none();
        self.state.volumes_at = Some(Timestamp::now());
        let facts = self.shared.node_facts(pod_ips(observed, &self.shared, pod));
        let (shared, pod, sender) = (Arc::clone(&self.shared), Arc::clone(pod), self.outcomes.0.clone());
        let task = spawn(
            async move { Outcome::Mounted(shared.volumes.mount(&pod, &facts).await.map_err(|error| error.to_string())) },
            sender,
        );
        if self.state.preparing {
            self.state.preparer = Some(task);
        }
    }

    fn volumes_are_old(&self, pod: &Pod, now: Timestamp) -> bool {
        let changing = spec::of(pod).volumes.iter().flatten().any(|volume| {
            volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some()
        });
        let old = self.state.volumes_at.is_some_and(|at| now.duration_since(at) >= RELIST);
        changing && old && self.state.volumes.is_some() && self.state.stopping.is_none() && !self.state.stopped
    }

    /// Whether labels or annotations changed since the volumes were made, which downwardAPI files follow.
    fn metadata_changed(&mut self, pod: &Pod) -> bool {
        let now = (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let before = self.state.seen_metadata.replace(now.clone());
        self.state.volumes.is_some()
            && self.state.stopping.is_none()
            && !self.state.stopped
            && before.is_some_and(|before| before != now)
    }

    /// Everything has ended: clean up, and tell the API when deletion was asked for. True when the pod is gone for good.
    async fn finish(&mut self, update: &Update, pod: &Pod, observed: &Observed) -> bool {
        let uid = spec::uid(pod).to_owned();
        if !self.state.cleaned {
            self.probes.stop();
            self.tear_down(pod);
            self.shared.images.forget(&uid);
            self.state.cleaned = true;
        }
        if update.gone {
            self.remove(pod, observed).await;
            return true;
        }
        if spec::is_deleting(pod) && !self.state.deleted {
            tokio::select! {
                () = self.publisher.flush() => {}
                () = self.shutdown.cancelled() => return false,
            }
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                uid: Some(uid),
                ..DeleteOptions::default()
            };
            match self
                .shared
                .client
                .delete::<Pod>(spec::namespace(pod), spec::name(pod), &options)
                .await
            {
                Ok(_) => self.state.deleted = true,
                // A conflict is another pod of this name: ours is gone.
                Err(status) if status.is_not_found() || status.is_conflict() => self.state.deleted = true,
                Err(error) => {
                    tracing::warn!(pod = spec::display(pod), "deleting: {error}");
                    let wake = Arc::clone(&self.wake);
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        wake.notify_one();
                    });
                }
            }
        }
        false
    }

    /// Takes the pod's directory away, and with it the claim to its range of ids.
    fn tear_down(&self, pod: &Pod) {
        match self.shared.volumes.tear_down(spec::uid(pod)) {
            Ok(()) => self.shared.user_namespaces.release(spec::uid(pod)),
            Err(error) => tracing::warn!(pod = spec::display(pod), "volumes stay: {error}"),
        }
    }

    async fn remove(&self, pod: &Pod, observed: &Observed) {
        // A refresh may have been under way when the volumes went.
        self.tear_down(pod);
        for sandbox in &observed.sandboxes {
            if let Err(error) = self.shared.runtime.remove_pod_sandbox(&sandbox.id).await {
                tracing::warn!(pod = spec::display(pod), "a sandbox stays: {error}");
            }
        }
        let logs = self.shared.log_directory(pod);
        if let Err(error) = std::fs::remove_dir_all(&logs)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("logs stay in {}: {error}", logs.display());
        }
        self.shared.pods.write().remove(spec::uid(pod));
        self.shared.allocations.forget(&self.shared, spec::uid(pod));
    }

    /// One BackOff event each time a container begins to wait.
    fn tell_backoffs(&mut self, pod: &Pod, observed: &Observed, now: Timestamp) {
        if self.state.stopped || self.state.stopping.is_some() {
            return;
        }
        for container in spec::of(pod).containers.iter().chain(spec::init_containers(spec::of(pod))) {
            let name = &container.name;
            let ended = observed.latest(name).and_then(|run| run.finished_at);
            let Some(ended) = ended.filter(|_| !observed.busy.contains(name)) else {
                continue;
            };
            let waits = Backoff::until(observed.backoffs.get(name), ended, now).is_some();
            if waits
                && trireme_pod::restart::should_start(container, pod, observed)
                && self.state.backoff_told.get(name) != Some(&ended)
            {
                self.state.backoff_told.insert(name.clone(), ended);
                let message = format!("Back-off restarting failed container {name} in pod {}", spec::display(pod));
                self.shared.container_event(pod, name, EventType::Warning, "BackOff", message);
            }
        }
    }
}

fn spawn(
    work: impl Future<Output = Outcome> + Send + 'static,
    sender: mpsc::UnboundedSender<Outcome>,
) -> tokio::task::AbortHandle {
    let task = tokio::spawn(async move {
        if sender.send(work.await).is_err() {
            tracing::debug!("a pod's worker ended before its task");
        }
    });
    task.abort_handle()
}

/// A pod that is gone from the API is one that is being deleted.
fn effective(update: &Update) -> Arc<Pod> {
    if !update.gone || spec::is_deleting(&update.pod) {
        return Arc::clone(&update.pod);
    }
    let mut pod = (*update.pod).clone();
    pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    Arc::new(pod)
}

fn pod_ip(observed: &Observed) -> String {
    let own = observed.sandboxes.first().and_then(|sandbox| sandbox.ips.first());
    own.or(observed.host_ips.first()).cloned().unwrap_or_default()
}

pub(super) fn pod_ips(observed: &Observed, shared: &Shared, pod: &Pod) -> Vec<String> {
    match observed.sandboxes.first().map(|sandbox| sandbox.ips.clone()) {
        Some(ips) if !ips.is_empty() => ips,
        _ if spec::is_host_network(pod) => shared.host_ips(),
        _ => Vec::new(),
    }
}
