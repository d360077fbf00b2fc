//! A runtime in memory for tests: containers run until they are stopped or told to exit.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{broadcast, watch};
use trireme_runtime::cri::{
    AuthConfig, ContainerConfig, ContainerEvent, ContainerState, ContainerStats, ContainerStatus, CriError, ExecSyncResponse,
    Image, ImageService, LinuxContainerResources, PodSandboxConfig, PodSandboxState, PodSandboxStatus, RuntimeService,
    StreamRequest, StreamSession, Usage,
};

pub(crate) struct FakeRuntime {
    state: Mutex<State>,
    events: broadcast::Sender<ContainerEvent>,
    /// Whether execs and stops come to an end.
    execs_end: watch::Sender<bool>,
    stops_end: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    next: u32,
    sandboxes: BTreeMap<String, PodSandboxStatus>,
    sandbox_configs: Vec<PodSandboxConfig>,
    containers: BTreeMap<String, (ContainerStatus, ContainerConfig)>,
    images: BTreeMap<String, Image>,
    calls: Vec<String>,
    /// Exit codes of the next execs; 0 when there is none.
    execs: Vec<i32>,
    /// Commands that cannot be started.
    broken: Vec<String>,
}

impl FakeRuntime {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            events: broadcast::channel(64).0,
            execs_end: watch::channel(true).0,
            stops_end: watch::channel(true).0,
        })
    }

    pub(crate) fn add_image(&self, name: &str) {
        let image = Image {
            id: format!("sha256:{name}"),
            repo_tags: vec![name.into()],
            size: 1000,
            ..Image::default()
        };
        self.state.lock().images.insert(name.into(), image);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    pub(crate) fn exec_results(&self, codes: &[i32]) {
        self.state.lock().execs = codes.iter().rev().copied().collect();
    }

    /// Keeps execs from ending until they are let go.
    pub(crate) fn hold_execs(&self, hold: bool) {
        self.execs_end.send_replace(!hold);
    }

    /// Keeps containers from ending when they are told to, until they are let go.
    pub(crate) fn hold_stops(&self, hold: bool) {
        self.stops_end.send_replace(!hold);
    }

    pub(crate) fn break_command(&self, command: &str) {
        self.state.lock().broken.push(command.into());
    }

    pub(crate) fn config(&self, container: &str) -> Option<ContainerConfig> {
        let state = self.state.lock();
        let mut runs: Vec<_> = state
            .containers
            .values()
            .filter(|(run, _)| run.metadata.name == container)
            .collect();
        runs.sort_by_key(|(run, _)| run.metadata.attempt);
        runs.last().map(|(_, config)| config.clone())
    }

    /// Id of the newest run of a container.
    pub(crate) fn id(&self, container: &str) -> Option<String> {
        let state = self.state.lock();
        let runs = state.containers.values().filter(|(run, _)| run.metadata.name == container);
        runs.max_by_key(|(run, _)| run.metadata.attempt)
            .map(|(run, _)| run.id.clone())
    }

    /// How the newest sandbox of a pod was to be.
    pub(crate) fn sandbox_config(&self, pod: &str) -> Option<PodSandboxConfig> {
        let state = self.state.lock();
        let found = state.sandbox_configs.iter().rev().find(|config| config.metadata.name == pod);
        found.cloned()
    }

    /// Ends the running container of a name.
    pub(crate) fn exit(&self, container: &str, code: i32) {
        let id = self
            .state
            .lock()
            .containers
            .values()
            .find(|(run, _)| run.metadata.name == container && run.state == ContainerState::Running)
            .map(|(run, _)| run.id.clone());
        if let Some(id) = id {
            self.end(&id, code);
        }
    }

    fn end(&self, id: &str, code: i32) {
        let mut state = self.state.lock();
        if let Some((run, _)) = state.containers.get_mut(id)
            && run.state == ContainerState::Running
        {
            run.state = ContainerState::Exited;
            run.exit_code = code;
            run.finished_at = now();
        }
        drop(state);
        self.tell(id);
    }

    fn tell(&self, id: &str) {
        let uid = {
            let state = self.state.lock();
            let sandbox = state.containers.get(id).map_or(id, |(run, _)| run.pod_sandbox_id.as_str());
            state.sandboxes.get(sandbox).map(|sandbox| sandbox.metadata.uid.clone())
        };
        if let Some(pod_uid) = uid {
            drop(self.events.send(ContainerEvent { pod_uid, id: id.into() }));
        }
    }

    fn called(&self, text: String) {
        self.state.lock().calls.push(text);
    }

    fn fresh(&self, prefix: &str) -> String {
        let mut state = self.state.lock();
        state.next += 1;
        format!("{prefix}{}", state.next)
    }
}

/// What everything uses.
const USAGE: Usage = Usage {
    timestamp: 0,
    cpu_nanoseconds: 0,
    memory_working_set_bytes: 4 << 20,
    memory_usage_bytes: 5 << 20,
};

/// Memory, quota and shares.
fn limits(resources: &LinuxContainerResources) -> String {
    format!(
        "{} {} {}",
        resources.memory_limit_in_bytes, resources.cpu_quota, resources.cpu_shares
    )
}

async fn until(open: &watch::Sender<bool>) {
    open.subscribe().wait_for(|open| *open).await.unwrap();
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap()
}

#[async_trait]
impl RuntimeService for FakeRuntime {
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, CriError> {
        if !config.runtime_handler.is_empty() {
            let text = format!("no runtime for {:?} is configured", config.runtime_handler);
            return Err(CriError::Other(text));
        }
        let id = self.fresh("s");
        self.state.lock().sandbox_configs.push(config.clone());
        self.called(format!("sandbox {} {}", config.metadata.name, config.cgroup_parent));
        let ips = match config.namespaces.host_network {
            true => Vec::new(),
            false => vec!["127.0.0.1".into()],
        };
        let status = config.status(&id, PodSandboxState::Ready, now(), ips);
        self.state.lock().sandboxes.insert(id.clone(), status);
        self.tell(&id);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.called(format!("stop-sandbox {id}"));
        let running: Vec<String> = self
            .state
            .lock()
            .containers
            .values()
            .filter(|(run, _)| run.pod_sandbox_id == id)
            .map(|(run, _)| run.id.clone())
            .collect();
        for container in running {
            self.end(&container, 137);
        }
        if let Some(sandbox) = self.state.lock().sandboxes.get_mut(id) {
            sandbox.state = PodSandboxState::NotReady;
        }
        self.tell(id);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.called(format!("remove-sandbox {id}"));
        let mut state = self.state.lock();
        state.sandboxes.remove(id);
        state.containers.retain(|_, (run, _)| run.pod_sandbox_id != id);
        Ok(())
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>, CriError> {
        Ok(self.state.lock().sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String, CriError> {
        let id = self.fresh("c");
        self.called(format!("create {} {}", config.metadata.name, config.metadata.attempt));
        let status = ContainerStatus {
            id: id.clone(),
            pod_sandbox_id: sandbox_id.into(),
            metadata: config.metadata.clone(),
            state: ContainerState::Created,
            created_at: now(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            image: config.image.clone(),
            image_ref: format!("sha256:{}", config.image),
            reason: String::new(),
            message: String::new(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: config.log_path.clone().into(),
            resources: config.resources.clone(),
        };
        self.state.lock().containers.insert(id.clone(), (status, config.clone()));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let mut state = self.state.lock();
        let broken = state.broken.clone();
        let (run, config) = state.containers.get_mut(id).ok_or_else(|| CriError::NotFound(id.into()))?;
        let name = run.metadata.name.clone();
        run.started_at = now();
        let fails = config.command.first().is_some_and(|command| broken.contains(command));
        if fails {
            run.state = ContainerState::Exited;
            run.exit_code = 128;
            run.reason = "StartError".into();
            run.finished_at = now();
        } else {
            run.state = ContainerState::Running;
        }
        let command = config.command.first().cloned().unwrap_or_default();
        state.calls.push(format!("start {name}"));
        drop(state);
        self.tell(id);
        if fails {
            Err(CriError::StartContainer(format!(
                "exec: \"{command}\": executable file not found in $PATH"
            )))
        } else {
            Ok(())
        }
    }

    async fn stop_container(&self, id: &str, timeout_s: i64) -> Result<(), CriError> {
        let name = self
            .state
            .lock()
            .containers
            .get(id)
            .map(|(run, _)| run.metadata.name.clone())
            .unwrap_or_default();
        self.called(format!("stop {name} {timeout_s}"));
        until(&self.stops_end).await;
        self.end(id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, CriError> {
        Ok(self.state.lock().containers.values().map(|(run, _)| run.clone()).collect())
    }

    async fn exec_sync(&self, container_id: &str, command: &[String], _: u64) -> Result<ExecSyncResponse, CriError> {
        self.called(format!("exec {container_id} {}", command.join(" ")));
        until(&self.execs_end).await;
        let exit_code = self.state.lock().execs.pop().unwrap_or(0);
        Ok(ExecSyncResponse {
            stdout: b"said".to_vec(),
            exit_code,
            ..ExecSyncResponse::default()
        })
    }

    /// Echoes stdin to stdout, all of it or as many bytes as the last argument says, and ends with 7.
    async fn exec(&self, request: &StreamRequest) -> Result<StreamSession, CriError> {
        self.called(format!("exec-stream {} {}", request.container_id, request.command.join(" ")));
        let (ours, theirs) = tokio::io::duplex(1024);
        let (read, mut write) = tokio::io::split(theirs);
        let bytes = request.command.last().and_then(|last| last.parse().ok());
        let mut read = read.take(bytes.unwrap_or(u64::MAX));
        let (done, exit) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let copied = tokio::io::copy(&mut read, &mut write).await;
            drop(write);
            drop(done.send(copied.map(|_| 7).map_err(|error| CriError::Other(error.to_string()))));
        });
        let (stdout, stdin) = tokio::io::split(ours);
        Ok(StreamSession {
            stdin: request.stdin.then(|| Box::new(stdin) as _),
            stdout: Box::new(stdout),
            stderr: None,
            resize: None,
            exit,
        })
    }

    async fn attach(&self, request: &StreamRequest) -> Result<StreamSession, CriError> {
        self.exec(request).await
    }

    async fn port_forward(&self, _: &str, port: u16) -> Result<tokio::net::TcpStream, CriError> {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|error| CriError::Other(error.to_string()))
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, CriError> {
        let state = self.state.lock();
        let time = now();
        Ok(state
            .containers
            .values()
            .map(|(run, _)| ContainerStats {
                id: run.id.clone(),
                pod_sandbox_id: run.pod_sandbox_id.clone(),
                name: run.metadata.name.clone(),
                // A quarter of a core.
                usage: Usage {
                    timestamp: time,
                    cpu_nanoseconds: u64::try_from(time).unwrap() / 4,
                    ..USAGE
                },
            })
            .collect())
    }

    async fn pod_sandbox_stats(&self, _: &str) -> Result<Usage, CriError> {
        Ok(USAGE)
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: &LinuxContainerResources,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), CriError> {
        let mut state = self.state.lock();
        let (run, _) = state.containers.get_mut(id).ok_or_else(|| CriError::NotFound(id.into()))?;
        run.resources = run.resources.changed(resources);
        run.annotations.extend(annotations.clone());
        let (name, resources) = (run.metadata.name.clone(), run.resources.clone());
        state.calls.push(format!("limit {name} {}", limits(&resources)));
        Ok(())
    }

    async fn update_pod_sandbox_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<(), CriError> {
        let mut state = self.state.lock();
        let sandbox = state.sandboxes.get_mut(id).ok_or_else(|| CriError::NotFound(id.into()))?;
        sandbox.resources = sandbox.resources.changed(resources);
        let resources = sandbox.resources.clone();
        state.calls.push(format!("limit pod {}", limits(&resources)));
        Ok(())
    }

    fn subscribe(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}

#[async_trait]
impl ImageService for FakeRuntime {
    async fn image_status(&self, reference: &str) -> Result<Option<Image>, CriError> {
        let state = self.state.lock();
        Ok(state
            .images
            .get(reference)
            .or_else(|| state.images.values().find(|image| image.id == reference))
            .cloned())
    }

    async fn pull_image(&self, reference: &str, _: Option<&AuthConfig>) -> Result<String, CriError> {
        self.called(format!("pull {reference}"));
        if reference.contains("absent") {
            return Err(CriError::ImagePull(format!("{reference}: not found")));
        }
        self.add_image(reference);
        Ok(format!("sha256:{reference}"))
    }

    async fn list_images(&self) -> Result<Vec<Image>, CriError> {
        Ok(self.state.lock().images.values().cloned().collect())
    }

    async fn remove_image(&self, reference: &str) -> Result<(), CriError> {
        self.state.lock().images.remove(reference);
        Ok(())
    }
}
