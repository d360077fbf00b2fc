//! Grants a pod's wishes for resources, and changes the limits of what runs.
//!
//! Invariant: what was granted is on disk before anything is changed by it, so that a restart goes on from there; the worker
//! decides everything else by the granted pod.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use tokio::sync::Notify;
use trireme_api::Status;
use trireme_client::EventType;
use trireme_pod::admission::Refusal;
use trireme_pod::allocation::{Allocation, Capacity, Ledger, Seen};
use trireme_pod::observed::ContainerState;
use trireme_pod::resize::{Change, Lowered, in_progress};
use trireme_pod::resources::{Compute, effective, resizable};
use trireme_pod::{Observed, event_message, spec};
use trireme_runtime::cri::CriError;

use super::convert;
use super::worker::Worker;
use crate::shared::Shared;

/// The node's allocations, and the files that they are kept in where they are not what the pod wished for first.
pub(crate) struct Allocations {
    directory: PathBuf,
    /// UIDs of pods that an earlier life kept something of.
    kept: BTreeSet<String>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    ledger: Ledger,
    wakes: BTreeMap<String, Arc<Notify>>,
}

impl Allocations {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            kept: uids_in(&directory),
            directory,
            inner: Mutex::default(),
        }
    }

    /// Enters a pod by what it wishes for; its worker will know better what it was granted.
    pub(super) fn expect(&self, pod: &Arc<Pod>, wake: &Arc<Notify>) {
        let mut inner = self.inner.lock();
        inner.ledger.enter(pod, || Allocation::of(pod));
        inner.wakes.insert(spec::uid(pod).to_owned(), Arc::clone(wake));
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.directory.join(format!("{uid}.json"))
    }

    /// What an earlier life granted, if it differed from what the pod wished for first.
    async fn recorded(&self, uid: &str) -> Option<Allocation> {
        if !self.kept.contains(uid) {
            return None;
        }
        match tokio::fs::read(self.path(uid)).await {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(allocation) => Some(allocation),
                Err(error) => {
                    tracing::error!("{} cannot be read: {error}", self.path(uid).display());
                    None
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::error!("{}: {error}", self.path(uid).display());
                None
            }
        }
    }

    async fn record(&self, uid: &str, allocation: &Allocation) -> std::io::Result<()> {
        let (path, next) = (self.path(uid), self.directory.join(format!("{uid}.next")));
        tokio::fs::create_dir_all(&self.directory).await?;
        tokio::fs::write(&next, serde_json::to_vec(allocation)?).await?;
        tokio::fs::rename(next, path).await
    }

    /// Forgets a pod that is gone from this node.
    pub(super) fn forget(&self, shared: &Shared, uid: &str) {
        let woken = {
            let mut inner = self.inner.lock();
            inner.wakes.remove(uid);
            let granted = inner.ledger.remove(uid, &shared.capacity(), Timestamp::now());
            inner.wakes_of(&granted)
        };
        wake(&woken);
        self.discard(uid);
    }

    fn discard(&self, uid: &str) {
        if let Err(error) = std::fs::remove_file(self.path(uid))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{} stays: {error}", self.path(uid).display());
        }
    }

    /// Removes what is kept of pods that are not among the `living`.
    pub(super) fn keep_only(&self, living: &dyn Fn(&str) -> bool) {
        for uid in self.kept.iter().filter(|uid| !living(uid)) {
            self.discard(uid);
        }
    }
}

fn uids_in(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.split_once('.')?.0.to_owned()))
        .collect()
}

impl Inner {
    fn wakes_of(&self, uids: &[String]) -> Vec<Arc<Notify>> {
        uids.iter().filter_map(|uid| self.wakes.get(uid)).cloned().collect()
    }
}

fn wake(wakes: &[Arc<Notify>]) {
    for wake in wakes {
        wake.notify_one();
    }
}

impl Shared {
    /// What pods may ask for in all, as the Node says it.
    fn capacity(&self) -> Capacity {
        let whole_kibibytes = |bytes: i64| bytes & !1023;
        Capacity {
            milli_cpu: self.machine.cpus * 1000,
            memory: whole_kibibytes(self.machine.allocatable_memory(&self.config.eviction_hard)),
            storage: whole_kibibytes(self.machine.allocatable_storage(&self.config.eviction_hard)),
            pods: self.config.max_pods.into(),
        }
    }

    /// Why an entered pod has no place on this node, of which something may run already. Who is refused by what the cache
    /// knows of the node is judged once more by the node as it is now.
    async fn admission(&self, uid: &str, runs: bool) -> Result<Option<Refusal>, Status> {
        let name = &self.config.node_name;
        let ask = |node: &Node| {
            let mut inner = self.allocations.inner.lock();
            inner.ledger.admission(uid, runs, node, &self.capacity())
        };
        if let Some(node) = self.cache.get::<Node>("", name)
            && ask(&node).is_none()
        {
            return Ok(None);
        }
        let node = self.client.get::<Node>("", name).await?;
        Ok(ask(&node))
    }
}

impl Worker {
    /// Asks once whether the pod has a place on this node, before anything of it is made.
    ///
    /// # Errors
    /// Where nobody can say what the node is; ask again later.
    pub(super) async fn admit(&mut self, pod: &Pod, observed: &mut Observed) -> Result<(), Status> {
        let ends = self.state.stopped || self.state.verdict.is_some() || spec::is_finished(pod) || spec::is_deleting(pod);
        if !self.state.judged && !ends {
            let runs = !observed.sandboxes.is_empty() || !observed.containers.is_empty();
            self.state.unfit = self.shared.admission(spec::uid(pod), runs).await?;
            self.state.judged = true;
            observed.unfit.clone_from(&self.state.unfit);
        }
        Ok(())
    }

    /// The pod with what it was granted, which is what everything else goes by; and what is told of it.
    pub(super) async fn allocate(&mut self, pod: &Arc<Pod>, observed: &mut Observed) -> Arc<Pod> {
        let uid = spec::uid(pod);
        let shared = Arc::clone(&self.shared);
        let now = Timestamp::now();
        if self.state.granted.is_none() {
            let known = match shared.allocations.recorded(uid).await {
                Some(known) => known,
                None => first_allocation(pod, observed),
            };
            shared.allocations.inner.lock().ledger.recall(uid, known.clone());
            self.state.granted = Some(known);
        }
        let ended = self.state.stopped || self.state.stopping.is_some() || spec::is_finished(pod);
        let (allocation, refusal) = self.settle(pod, observed, ended, now);
        if self.state.granted.as_ref() != Some(&allocation) {
            if let Err(error) = shared.allocations.record(uid, &allocation).await {
                // Granted in memory only: the next round tries again before anything is changed.
                tracing::error!(pod = spec::display(pod), "a grant of resources cannot be kept: {error}");
                return self
                    .state
                    .granted
                    .as_ref()
                    .map_or_else(|| Arc::clone(pod), |granted| granted.applied(pod));
            }
            self.state.granted = Some(allocation.clone());
            self.state.resize_after = None;
            let generation = pod.metadata.generation.unwrap_or(0);
            self.state.resize.begin(generation, now);
            let message = event_message("Pod resize started", pod, generation, "");
            shared.pod_event(pod, EventType::Normal, "ResizeStarted", message);
        }
        self.tell_resize(pod, refusal, &allocation.applied(pod), observed, now);
        observed.resize = self.state.resize.clone();
        observed.resize_after = self.state.resize_after;
        allocation.applied(pod)
    }

    /// Notes in the ledger what is seen of the pod: what it is granted now, and why that is not what it wishes for.
    fn settle(&self, pod: &Arc<Pod>, observed: &Observed, ended: bool, now: Timestamp) -> (Allocation, Option<Refusal>) {
        let uid = spec::uid(pod);
        let running = resizable(spec::of(pod)).filter_map(|container| {
            let run = observed.latest(&container.name)?;
            let actuated = run.actuated.clone().filter(|_| run.state == ContainerState::Running)?;
            Some((container.name.clone(), actuated))
        });
        let seen = Seen {
            pod,
            actuated: running.collect(),
            active: !ended,
        };
        let (woken, allocation, refusal) = {
            let mut inner = self.shared.allocations.inner.lock();
            inner.ledger.enter(pod, || Allocation::of(pod));
            let mut granted = inner.ledger.note(seen, &self.shared.capacity(), now);
            granted.retain(|other| other != uid);
            (
                inner.wakes_of(&granted),
                inner.ledger.allocation(uid).cloned().unwrap_or_else(|| Allocation::of(pod)),
                inner.ledger.refusal(uid).cloned(),
            )
        };
        wake(&woken);
        (allocation, refusal)
    }

    fn tell_resize(&mut self, pod: &Pod, refusal: Option<Refusal>, granted: &Pod, observed: &Observed, now: Timestamp) {
        let generation = pod.metadata.generation.unwrap_or(0);
        let resize = &mut self.state.resize;
        match refusal {
            None => resize.pending = None,
            Some(refusal) => {
                if resize.wait(&refusal.message, generation, now) {
                    let what = format!("Pod resize {}", refusal.reason);
                    let message = event_message(&what, pod, generation, &refusal.message);
                    self.shared.pod_event(pod, EventType::Warning, "ResizeDeferred", message);
                }
            }
        }
        if in_progress(granted, observed, self.state.resize.in_progress.is_some()) {
            self.state.resize.go_on(generation, now);
        } else if let Some(generation) = self.state.resize.end() {
            let message = event_message("Pod resize completed", granted, generation, "");
            self.shared.pod_event(pod, EventType::Normal, "ResizeCompleted", message);
        }
    }

    /// Tells why limits could not be changed.
    pub(super) fn tell_resize_error(&mut self, pod: &Pod, why: &str) {
        let generation = pod.metadata.generation.unwrap_or(0);
        if let Some(generation) = self.state.resize.fail(why, generation, Timestamp::now()) {
            let message = event_message("Pod resize error", pod, generation, why);
            self.shared.pod_event(pod, EventType::Warning, "ResizeError", message);
        }
    }
}

/// What a pod was granted that nothing was recorded of: what its containers were made with, and for others what it wishes for.
fn first_allocation(pod: &Pod, observed: &Observed) -> Allocation {
    let mut allocation = Allocation::of(pod);
    let names: BTreeSet<String> = allocation.containers.keys().cloned().collect();
    for name in names {
        let made_with = observed.latest(&name).and_then(|run| run.actuated.clone());
        let wished = spec::container(pod, &name).map(|container| effective(spec::of(pod), &container));
        if let (Some(made_with), Some(wished)) = (made_with, wished)
            && Compute::of(&made_with) != Compute::of(&wished)
        {
            allocation.containers.insert(name, made_with);
        }
    }
    allocation
}

/// Changes limits one after the other; the text says what could not be done, and nothing after it was.
pub(super) async fn change(shared: &Shared, sandbox_id: &str, changes: Vec<Change>, lowered: Lowered) -> Result<(), String> {
    if !lowered.is_empty() {
        let of_pod = match lowered.pod {
            Some(_) => shared.runtime.pod_sandbox_stats(sandbox_id).await.ok(),
            None => None,
        };
        let stats = shared.runtime.list_container_stats().await.unwrap_or_default();
        let usage = |id: &str| {
            let own = stats.iter().find(|stats| stats.id == id);
            own.map(|stats| stats.usage.memory_usage_bytes)
        };
        if let Some(why) = lowered.refusal(of_pod.map(|usage| usage.memory_usage_bytes), usage) {
            return Err(why);
        }
    }
    for change in changes {
        let done = match change {
            Change::Pod(limits) => {
                let resources = convert::resources(limits);
                shared.runtime.update_pod_sandbox_resources(sandbox_id, &resources).await
            }
            Change::Container { id, limits, actuated } => {
                let annotations = convert::actuated_annotation(&actuated);
                let resources = convert::resources(limits);
                shared.runtime.update_container_resources(&id, &resources, &annotations).await
            }
        };
        match done {
            // It has ended meanwhile, and what it had with it.
            Ok(()) | Err(CriError::NotFound(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}
