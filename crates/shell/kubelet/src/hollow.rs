//! A container runtime without containers, for hollow nodes: a kubelet over it sends the API what it would send with real
//! ones.
//!
//! Invariant: nothing of the machine is touched: no process, file, mount, cgroup or address. All of it is in memory and
//! ends with the process, which is to its pods what a power cut is. What a pod's containers do is read from the pod as the
//! API shows it: they run until they are told to end, but for init containers, which succeed at once, those of Jobs, which
//! succeed after a while, and those of pods with the annotations below.

mod addresses;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use trireme_client::Cache;
use trireme_pod::spec;
use trireme_runtime::cri::{
    AuthConfig, ContainerConfig, ContainerEvent, ContainerState, ContainerStats, ContainerStatus, CriError, ExecSyncResponse,
    Image, ImageService, LinuxContainerResources, PodSandboxConfig, PodSandboxState, PodSandboxStatus, RuntimeService,
    StreamRequest, StreamSession, Usage,
};

use self::addresses::Addresses;

/// Annotation of a pod: seconds after which its containers end by themselves.
pub const RUN_SECONDS: &str = "hollow.trireme.io/run-seconds";
/// Annotation of a pod: the exit code with which they do, 0 where it is absent.
pub const EXIT_CODE: &str = "hollow.trireme.io/exit-code";
/// Annotation of a pod: seconds that its containers take to end when they are told to, at most their grace period.
pub const STOP_SECONDS: &str = "hollow.trireme.io/stop-seconds";

/// Events that a slow kubelet may have before it; then it looks at everything anew.
const EVENTS_MAX: usize = 256;
/// Images that a node remembers; others are pulled again, which costs nothing.
const IMAGES_MAX: usize = 200;
/// Size that images are said to have, bytes.
const IMAGE_BYTES: u64 = 1 << 20;
/// The user that images are said to run as: not root, so that no pod is refused for it.
const IMAGE_USER: i64 = 65_532;
/// Exit codes of what ends by SIGTERM and by SIGKILL.
const TERMINATED: i32 = 143;
const KILLED: i32 = 137;

/// What runs "on" one hollow node.
pub struct HollowRuntime {
    own: Weak<Self>,
    /// Where the node's pods are looked up.
    cache: Arc<Cache>,
    /// How long containers of Jobs run.
    job_time: Duration,
    addresses: watch::Sender<Option<Addresses>>,
    state: Mutex<State>,
    events: broadcast::Sender<ContainerEvent>,
}

#[derive(Default)]
struct State {
    next: u64,
    sandboxes: HashMap<String, PodSandboxStatus>,
    containers: HashMap<String, ContainerStatus>,
    images: BTreeMap<String, Image>,
}

/// How a container ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    after: Duration,
    exit_code: i32,
}

impl HollowRuntime {
    /// A runtime that looks its pods up in the node's cache; containers of Jobs succeed after `job_time`.
    #[must_use]
    pub fn new(cache: Arc<Cache>, job_time: Duration) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            own: Weak::clone(own),
            cache,
            job_time,
            addresses: watch::channel(None).0,
            state: Mutex::default(),
            events: broadcast::channel(EVENTS_MAX).0,
        })
    }

    /// Pods get their addresses from this range; until it is known, sandboxes wait. Only the first call counts.
    pub fn set_range(&self, first: Ipv4Addr, prefix: u8) {
        self.addresses.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                *known = Some(Addresses::of(first, prefix));
            }
            is_first
        });
    }

    /// An address for a sandbox, once the node has a range.
    async fn address(&self) -> Result<Ipv4Addr, CriError> {
        let mut changes = self.addresses.subscribe();
        if changes.wait_for(Option::is_some).await.is_err() {
            return Err(CriError::Other("the node ends".into()));
        }
        let mut taken = None;
        self.addresses.send_if_modified(|known| {
            taken = known.as_mut().and_then(Addresses::take);
            false
        });
        taken.ok_or_else(|| CriError::Other("no addresses are left in the node's range".into()))
    }

    fn release(&self, addresses: &[String]) {
        self.addresses.send_if_modified(|known| {
            for address in addresses.iter().filter_map(|address| address.parse().ok()) {
                if let Some(known) = known.as_mut() {
                    known.give_back(address);
                }
            }
            false
        });
    }

    fn fresh(&self) -> String {
        let mut state = self.state.lock();
        state.next += 1;
        format!("{:064x}", state.next)
    }

    /// The pod of a sandbox as the API shows it.
    fn pod(&self, sandbox: &PodSandboxStatus) -> Option<Arc<Pod>> {
        let found = self.cache.get::<Pod>(&sandbox.metadata.namespace, &sandbox.metadata.name)?;
        (spec::uid(&found) == sandbox.metadata.uid).then_some(found)
    }

    /// Ends a container that runs; others have ended already.
    fn end(&self, id: &str, exit_code: i32) {
        let mut state = self.state.lock();
        if let Some(run) = state.containers.get_mut(id)
            && run.state != ContainerState::Exited
        {
            run.state = ContainerState::Exited;
            run.exit_code = exit_code;
            run.finished_at = now();
        }
        drop(state);
        self.tell(id);
    }

    fn tell(&self, id: &str) {
        let state = self.state.lock();
        let sandbox = state.containers.get(id).map_or(id, |run| run.pod_sandbox_id.as_str());
        let uid = state.sandboxes.get(sandbox).map(|sandbox| sandbox.metadata.uid.clone());
        drop(state);
        if let Some(pod_uid) = uid {
            // Without a receiver the kubelet has ended.
            drop(self.events.send(ContainerEvent { pod_uid, id: id.into() }));
        }
    }
}

/// How a container of a pod ends by itself, if it does.
fn ends(pod: &Pod, container: &str, job_time: Duration) -> Option<End> {
    let mut init = spec::init_containers(spec::of(pod)).iter();
    if init.any(|init| init.name == container && !spec::is_sidecar(init)) {
        let (after, exit_code) = (Duration::ZERO, 0);
        return Some(End { after, exit_code });
    }
    let exit_code = annotation(pod, EXIT_CODE).unwrap_or(0);
    if let Some(seconds) = annotation(pod, RUN_SECONDS) {
        let after = Duration::from_secs(seconds);
        return Some(End { after, exit_code });
    }
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let of_job = owners.any(|owner| owner.kind == "Job" && owner.controller == Some(true));
    of_job.then_some(End {
        after: job_time,
        exit_code,
    })
}

/// A pod's annotation that is a number; what is none counts as absent.
fn annotation<T: std::str::FromStr>(pod: &Pod, key: &str) -> Option<T> {
    pod.metadata.annotations.as_ref()?.get(key)?.parse().ok()
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn nothing_runs<T>() -> Result<T, CriError> {
    Err(CriError::Other(
        "the node is hollow: no process runs in its containers".into(),
    ))
}

#[async_trait]
impl RuntimeService for HollowRuntime {
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, CriError> {
        let ips = match config.namespaces.host_network {
            true => Vec::new(),
            false => vec![self.address().await?.to_string()],
        };
        let id = self.fresh();
        let status = config.status(&id, PodSandboxState::Ready, now(), ips);
        self.state.lock().sandboxes.insert(id.clone(), status);
        self.tell(&id);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let mut state = self.state.lock();
        let runs = state.containers.values();
        let running: Vec<String> = runs
            .filter(|run| run.pod_sandbox_id == id)
            .map(|run| run.id.clone())
            .collect();
        let mut addresses = Vec::new();
        if let Some(sandbox) = state.sandboxes.get_mut(id)
            && sandbox.state == PodSandboxState::Ready
        {
            sandbox.state = PodSandboxState::NotReady;
            addresses.clone_from(&sandbox.ips);
        }
        drop(state);
        self.release(&addresses);
        for container in running {
            self.end(&container, KILLED);
        }
        self.tell(id);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let mut state = self.state.lock();
        let removed = state.sandboxes.remove(id);
        state.containers.retain(|_, run| run.pod_sandbox_id != id);
        drop(state);
        if let Some(sandbox) = removed.filter(|sandbox| sandbox.state == PodSandboxState::Ready) {
            self.release(&sandbox.ips);
        }
        Ok(())
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>, CriError> {
        Ok(self.state.lock().sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String, CriError> {
        let id = self.fresh();
        let mut state = self.state.lock();
        if !state.sandboxes.contains_key(sandbox_id) {
            return Err(CriError::NotFound(sandbox_id.into()));
        }
        let status = ContainerStatus {
            id: id.clone(),
            pod_sandbox_id: sandbox_id.into(),
            metadata: config.metadata.clone(),
            state: ContainerState::Created,
            created_at: now(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            image_ref: image_id(&config.image),
            image: config.image.clone(),
            reason: String::new(),
            message: String::new(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: config.log_path.clone().into(),
            resources: config.resources.clone(),
        };
        state.containers.insert(id.clone(), status);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let mut state = self.state.lock();
        let missing = || CriError::NotFound(id.into());
        let run = state.containers.get_mut(id).ok_or_else(missing)?;
        run.state = ContainerState::Running;
        run.started_at = now();
        let name = run.metadata.name.clone();
        let sandbox = run.pod_sandbox_id.clone();
        let sandbox = state.sandboxes.get(&sandbox).cloned().ok_or_else(missing)?;
        drop(state);
        let end = self.pod(&sandbox).and_then(|pod| ends(&pod, &name, self.job_time));
        if let Some(end) = end {
            let (own, id) = (Weak::clone(&self.own), id.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(end.after).await;
                if let Some(own) = own.upgrade() {
                    own.end(&id, end.exit_code);
                }
            });
        }
        self.tell(id);
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout_s: i64) -> Result<(), CriError> {
        let (runs, seconds) = {
            let state = self.state.lock();
            let run = state.containers.get(id).ok_or_else(|| CriError::NotFound(id.into()))?;
            let sandbox = state.sandboxes.get(&run.pod_sandbox_id);
            let told = sandbox.and_then(|sandbox| sandbox.annotations.get(STOP_SECONDS));
            (
                run.state == ContainerState::Running,
                told.and_then(|seconds| seconds.parse::<u64>().ok()),
            )
        };
        let (seconds, grace) = (seconds.unwrap_or(0), u64::try_from(timeout_s).unwrap_or(0));
        if runs && seconds > 0 {
            tokio::time::sleep(Duration::from_secs(seconds.min(grace))).await;
        }
        self.end(id, if seconds > grace { KILLED } else { TERMINATED });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, CriError> {
        Ok(self.state.lock().containers.values().cloned().collect())
    }

    /// Whatever is asked of a container succeeds and says nothing: probes and hooks by command do.
    async fn exec_sync(&self, _: &str, _: &[String], _: u64) -> Result<ExecSyncResponse, CriError> {
        Ok(ExecSyncResponse::default())
    }

    async fn exec(&self, _: &StreamRequest) -> Result<StreamSession, CriError> {
        nothing_runs()
    }

    async fn attach(&self, _: &StreamRequest) -> Result<StreamSession, CriError> {
        nothing_runs()
    }

    async fn port_forward(&self, _: &str, _: u16) -> Result<tokio::net::TcpStream, CriError> {
        nothing_runs()
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, CriError> {
        Ok(Vec::new())
    }

    async fn pod_sandbox_stats(&self, _: &str) -> Result<Usage, CriError> {
        Ok(Usage::default())
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: &LinuxContainerResources,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), CriError> {
        let mut state = self.state.lock();
        let run = state.containers.get_mut(id).ok_or_else(|| CriError::NotFound(id.into()))?;
        run.resources = run.resources.changed(resources);
        run.annotations.extend(annotations.clone());
        Ok(())
    }

    async fn update_pod_sandbox_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<(), CriError> {
        let mut state = self.state.lock();
        let sandbox = state.sandboxes.get_mut(id).ok_or_else(|| CriError::NotFound(id.into()))?;
        sandbox.resources = sandbox.resources.changed(resources);
        Ok(())
    }

    fn subscribe(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }

    fn runs_processes(&self) -> bool {
        false
    }
}

/// The id that an image of this name is said to have: the same on every node.
fn image_id(reference: &str) -> String {
    if reference.starts_with("sha256:") {
        return reference.to_owned();
    }
    // FNV-1a, four times with another start: only to tell names apart.
    let word = |start: u64| {
        reference
            .bytes()
            .fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let words: Vec<String> = (0..4_u64)
        .map(|turn| format!("{:016x}", word(0xcbf2_9ce4_8422_2325 ^ turn)))
        .collect();
    format!("sha256:{}", words.concat())
}

#[async_trait]
impl ImageService for HollowRuntime {
    async fn image_status(&self, reference: &str) -> Result<Option<Image>, CriError> {
        let state = self.state.lock();
        let by_id = || state.images.values().find(|image| image.id == reference);
        Ok(state.images.get(reference).or_else(by_id).cloned())
    }

    /// Every image is there at once.
    async fn pull_image(&self, reference: &str, _: Option<&AuthConfig>) -> Result<String, CriError> {
        let id = image_id(reference);
        let image = Image {
            id: id.clone(),
            repo_tags: vec![reference.to_owned()],
            size: IMAGE_BYTES,
            uid: Some(IMAGE_USER),
            ..Image::default()
        };
        let mut state = self.state.lock();
        if state.images.len() >= IMAGES_MAX {
            state.images.pop_first();
        }
        state.images.insert(reference.to_owned(), image);
        Ok(id)
    }

    async fn list_images(&self) -> Result<Vec<Image>, CriError> {
        Ok(self.state.lock().images.values().cloned().collect())
    }

    async fn remove_image(&self, reference: &str) -> Result<(), CriError> {
        self.state
            .lock()
            .images
            .retain(|name, image| name != reference && image.id != reference);
        Ok(())
    }
}
