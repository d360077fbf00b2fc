//! The kubelet's boundary to a container runtime: the CRI v1 services with CRI's own names
//! (staging/src/k8s.io/cri-api/pkg/apis/runtime/v1). The embedded runtime implements it in process; a socket
//! transport to another runtime implements the same traits.
//!
//! Times are Unix nanoseconds, 0 where not known. Ids are opaque strings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Handlers of RuntimeClasses that mean the embedded runtime; the empty one is that of pods without a class.
pub const RUNTIME_HANDLERS: [&str; 2] = ["", "trireme"];

/// Why a call failed, one variant per decision of the kubelet.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CriError {
    /// The sandbox, container or image does not exist.
    #[error("{0} not found")]
    NotFound(String),
    /// The image could not be had; the kubelet shows ErrImagePull and the text.
    #[error("{0}")]
    ImagePull(String),
    /// The image reference cannot be parsed; the kubelet shows InvalidImageName.
    #[error("{0}")]
    InvalidImageName(String),
    /// The container could not be created; the kubelet shows CreateContainerError.
    #[error("{0}")]
    CreateContainer(String),
    /// The container could not be started (command absent, not executable); the kubelet shows RunContainerError.
    #[error("{0}")]
    StartContainer(String),
    /// An exec ran out of its time.
    #[error("command timed out after {0} s")]
    Timeout(u64),
    /// Anything else: try again.
    #[error("{0}")]
    Other(String),
}

/// `PodSandboxMetadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxMetadata {
    /// Pod name.
    pub name: String,
    /// Pod UID.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Grows each time the kubelet makes the sandbox anew.
    pub attempt: u32,
}

/// Which namespaces of the host the pod shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceOptions {
    /// hostNetwork.
    pub host_network: bool,
    /// hostPID.
    pub host_pid: bool,
    /// hostIPC.
    pub host_ipc: bool,
    /// shareProcessNamespace.
    pub share_process_namespace: bool,
    /// The user namespace of the pod (`hostUsers: false`); `None` is the host's.
    #[serde(default)]
    pub user: Option<IdMapping>,
}

/// `IDMapping`, for users and groups alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the host; the container's is 0.
    pub host_id: u32,
    /// How many.
    pub length: u32,
}

/// `PodSandboxConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxConfig {
    /// Which pod.
    pub metadata: PodSandboxMetadata,
    /// UTS host name.
    pub hostname: String,
    /// Directory for container logs (`/var/log/pods/ns_name_uid`).
    pub log_directory: PathBuf,
    /// Whole content of `/etc/resolv.conf` in the containers; `None` keeps the host's.
    pub resolv_conf: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// cgroup parent below the node's root, for example `kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Limits of the pod's own cgroup.
    pub resources: LinuxContainerResources,
    /// Namespaces.
    pub namespaces: NamespaceOptions,
    /// Kernel settings of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// `RunPodSandboxRequest.runtime_handler`: the handler of the pod's RuntimeClass, empty without one.
    #[serde(default)]
    pub runtime_handler: String,
}

/// State of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodSandboxState {
    /// Its shim lives and its namespaces exist.
    Ready,
    /// It was stopped or died.
    NotReady,
}

/// `PodSandboxStatus`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSandboxStatus {
    /// Id.
    pub id: String,
    /// Which pod.
    pub metadata: PodSandboxMetadata,
    /// State.
    pub state: PodSandboxState,
    /// Creation time.
    pub created_at: i64,
    /// Pod addresses, the first is primary; empty for host-network pods.
    pub ips: Vec<String>,
    /// Limits of the pod's own cgroup, as they were last applied.
    pub resources: LinuxContainerResources,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

impl PodSandboxConfig {
    /// What is told of a sandbox of this configuration; `created_at` in nanoseconds since 1970.
    #[must_use]
    pub fn status(&self, id: &str, state: PodSandboxState, created_at: i64, ips: Vec<String>) -> PodSandboxStatus {
        PodSandboxStatus {
            id: id.to_owned(),
            metadata: self.metadata.clone(),
            state,
            created_at,
            ips,
            resources: self.resources.clone(),
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

/// `ContainerMetadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Container name in the pod.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
}

/// `Mount`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path in the container.
    pub container_path: String,
    /// Path on the host.
    pub host_path: PathBuf,
    /// Read only.
    pub readonly: bool,
    /// Read only with every mount below it.
    #[serde(default)]
    pub recursive_read_only: bool,
    /// Mount propagation.
    pub propagation: MountPropagation,
    /// An image whose files are mounted instead of a path of the host, to be read and not to be executed.
    #[serde(default)]
    pub image: Option<String>,
    /// Path in that image, empty for all of it.
    #[serde(default)]
    pub image_sub_path: String,
}

/// `MountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Nothing is passed on.
    #[default]
    Private,
    /// The host's later mounts are seen.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// `LinuxContainerResources`; 0 or `None` means no limit, and in a change that what is there stays. A negative quota or
/// limit lifts it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxContainerResources {
    /// CFS period in microseconds.
    pub cpu_period: u64,
    /// CFS quota in microseconds per period.
    pub cpu_quota: i64,
    /// cgroup v1 shares (v2: converted to weight).
    pub cpu_shares: u64,
    /// Bytes.
    pub memory_limit_in_bytes: i64,
    /// oom_score_adj.
    pub oom_score_adj: i32,
    /// Maximum number of processes.
    pub pids_limit: Option<i64>,
}

impl LinuxContainerResources {
    /// These limits with the changes in `with`.
    #[must_use]
    pub fn changed(&self, with: &Self) -> Self {
        fn kept<T: Copy + Default + PartialEq>(new: T, old: T) -> T {
            if new == T::default() { old } else { new }
        }
        Self {
            cpu_period: kept(with.cpu_period, self.cpu_period),
            cpu_quota: kept(with.cpu_quota, self.cpu_quota),
            cpu_shares: kept(with.cpu_shares, self.cpu_shares),
            memory_limit_in_bytes: kept(with.memory_limit_in_bytes, self.memory_limit_in_bytes),
            oom_score_adj: kept(with.oom_score_adj, self.oom_score_adj),
            pids_limit: with.pids_limit.or(self.pids_limit),
        }
    }
}

/// Security settings of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxContainerSecurityContext {
    /// All capabilities, all devices, no masks.
    pub privileged: bool,
    /// `runAsUser`; `None` takes the image's.
    pub run_as_user: Option<i64>,
    /// `runAsGroup`.
    pub run_as_group: Option<i64>,
    /// `supplementalGroups` and `fsGroup`.
    pub supplemental_groups: Vec<i64>,
    /// `supplementalGroupsPolicy: Strict`: the user's groups in the image are not added.
    #[serde(default)]
    pub supplemental_groups_strict: bool,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// Capabilities to add, without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop.
    pub drop_capabilities: Vec<String>,
    /// Seccomp: `true` for the runtime's default profile.
    pub seccomp_runtime_default: bool,
    /// `NamespaceOption.target_id`: the container whose pid namespace this one joins.
    #[serde(default)]
    pub pid_target: Option<String>,
    /// `procMount: Unmasked`: no path below /proc and /sys is masked or made read-only.
    #[serde(default)]
    pub unmasked_proc: bool,
}

/// `ContainerConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Which container.
    pub metadata: ContainerMetadata,
    /// Image reference as the pod names it, or an image id.
    pub image: String,
    /// Replaces the image's entrypoint where not empty.
    pub command: Vec<String>,
    /// Replaces the image's command where not empty (or where `command` is set).
    pub args: Vec<String>,
    /// Working directory; empty takes the image's.
    pub working_dir: String,
    /// Environment, later entries win over the image's.
    pub envs: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Log file below the sandbox's log directory (`name/0.log`).
    pub log_path: String,
    /// Keep stdin open.
    pub stdin: bool,
    /// Close stdin after the first attach.
    pub stdin_once: bool,
    /// Terminal.
    pub tty: bool,
    /// cgroup limits.
    pub resources: LinuxContainerResources,
    /// Security.
    pub security_context: LinuxContainerSecurityContext,
    /// Signal to stop with; `None` takes the image's, or SIGTERM.
    pub stop_signal: Option<String>,
}

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Exited.
    Exited,
    /// Not known.
    Unknown,
}

/// `ContainerStatus`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Id.
    pub id: String,
    /// Sandbox it belongs to.
    pub pod_sandbox_id: String,
    /// Which container.
    pub metadata: ContainerMetadata,
    /// State.
    pub state: ContainerState,
    /// Times in Unix nanoseconds.
    pub created_at: i64,
    /// Start, 0 before.
    pub started_at: i64,
    /// End, 0 before.
    pub finished_at: i64,
    /// Exit code (128 + signal for a signal).
    pub exit_code: i32,
    /// Image reference as asked for.
    pub image: String,
    /// Image id or digest reference.
    pub image_ref: String,
    /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun` or empty.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Absolute path of the log.
    pub log_path: PathBuf,
    /// Limits of its cgroup, as they were last applied.
    pub resources: LinuxContainerResources,
}

/// Usage of a container or a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// When, Unix nanoseconds.
    pub timestamp: i64,
    /// Cumulative CPU nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory in use less inactive file cache, bytes.
    pub memory_working_set_bytes: u64,
    /// Memory in use, bytes.
    pub memory_usage_bytes: u64,
}

/// `ContainerStats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// Container id.
    pub id: String,
    /// Sandbox id.
    pub pod_sandbox_id: String,
    /// Container name.
    pub name: String,
    /// Usage.
    pub usage: Usage,
}

/// An image in the local store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:…` of the config.
    pub id: String,
    /// Names, fully qualified (`docker.io/library/nginx:1.16`).
    pub repo_tags: Vec<String>,
    /// `name@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// Numeric user the image runs as, if numeric.
    pub uid: Option<i64>,
    /// User name the image runs as, otherwise.
    pub username: String,
    /// Never collected (imported by hand).
    pub pinned: bool,
}

/// Result of a synchronous exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSyncResponse {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// What an interactive exec or an attach asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamRequest {
    /// Container id.
    pub container_id: String,
    /// Command; empty for attach.
    pub command: Vec<String>,
    /// Terminal.
    pub tty: bool,
    /// With stdin.
    pub stdin: bool,
}

/// The ends of a running exec or attach. Dropping it ends the exec's streams, not the container.
pub struct StreamSession {
    /// Writes to stdin; dropping it closes stdin.
    pub stdin: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    /// Reads stdout (or the terminal).
    pub stdout: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
    /// Reads stderr; absent with a terminal.
    pub stderr: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>,
    /// Terminal sizes (columns, rows) to apply.
    pub resize: Option<tokio::sync::mpsc::Sender<(u16, u16)>>,
    /// Resolves with the exit code.
    pub exit: tokio::sync::oneshot::Receiver<Result<i32, CriError>>,
}

/// Something the kubelet should look at soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Pod UID.
    pub pod_uid: String,
    /// Container id, or sandbox id when the sandbox itself changed.
    pub id: String,
}

/// Credentials for a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// `RuntimeService`.
#[async_trait]
pub trait RuntimeService: Send + Sync + 'static {
    /// Makes the pod's cgroup, namespaces, shim and network; returns the sandbox id.
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, CriError>;
    /// Kills what still runs and gives the network back. Idempotent.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError>;
    /// Removes the sandbox, its containers and its cgroup. Idempotent.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError>;
    /// All sandboxes with their status.
    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>, CriError>;
    /// Makes a container in a sandbox; returns its id.
    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String, CriError>;
    /// Starts it.
    async fn start_container(&self, id: &str) -> Result<(), CriError>;
    /// Sends the stop signal, and SIGKILL after `timeout_s`; returns when it has ended. Idempotent.
    async fn stop_container(&self, id: &str, timeout_s: i64) -> Result<(), CriError>;
    /// Removes a container that has ended. Idempotent.
    async fn remove_container(&self, id: &str) -> Result<(), CriError>;
    /// All containers with their status.
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, CriError>;
    /// Runs a command to its end; `timeout_s` 0 means no limit.
    async fn exec_sync(&self, container_id: &str, command: &[String], timeout_s: u64) -> Result<ExecSyncResponse, CriError>;
    /// Runs a command with streams.
    async fn exec(&self, request: &StreamRequest) -> Result<StreamSession, CriError>;
    /// Joins the streams of the container's first process.
    async fn attach(&self, request: &StreamRequest) -> Result<StreamSession, CriError>;
    /// A connection to a port inside the pod's network namespace.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream, CriError>;
    /// Usage of all containers.
    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, CriError>;
    /// Usage of everything in a sandbox together.
    async fn pod_sandbox_stats(&self, id: &str) -> Result<Usage, CriError>;
    /// Changes limits of a container, and with them annotations; both are remembered, or neither.
    async fn update_container_resources(
        &self,
        id: &str,
        resources: &LinuxContainerResources,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), CriError>;
    /// Changes limits of the pod's own cgroup.
    async fn update_pod_sandbox_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<(), CriError>;
    /// Changes as they happen; a lagging receiver relists.
    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<ContainerEvent>;
    /// Whether there are processes behind its containers, which read files and answer on ports. A hollow node's have none:
    /// nothing is written or mounted for them, and what would be asked of them over the network succeeds.
    fn runs_processes(&self) -> bool {
        true
    }
}

/// `ImageService`.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// The image of a reference or id, if present.
    async fn image_status(&self, reference: &str) -> Result<Option<Image>, CriError>;
    /// Pulls; returns the image id.
    async fn pull_image(&self, reference: &str, auth: Option<&AuthConfig>) -> Result<String, CriError>;
    /// All images.
    async fn list_images(&self) -> Result<Vec<Image>, CriError>;
    /// Removes by reference or id. Idempotent.
    async fn remove_image(&self, reference: &str) -> Result<(), CriError>;
}

/// How the runtime gets a network for a sandbox (CNI's ADD and DEL); the network crate's side is glued in by the node.
#[async_trait]
pub trait SandboxNetwork: Send + Sync + 'static {
    /// Joins the network namespace at `netns` to the pod network; returns the addresses, primary first. Idempotent.
    async fn attach(
        &self,
        sandbox_id: &str,
        netns: &std::path::Path,
        config: &PodSandboxConfig,
    ) -> Result<Vec<std::net::IpAddr>, CriError>;
    /// Gives the addresses back and removes the links. Idempotent.
    async fn detach(&self, sandbox_id: &str) -> Result<(), CriError>;
}
