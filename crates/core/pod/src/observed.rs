//! What the shell sees of one pod: the runtime's sandboxes and containers, probe results and the memory of failed tries.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodStatus, ResourceRequirements};

use crate::admission::Refusal;
use crate::plan::KillReason;
use crate::qos::Limits;
use crate::{Backoff, ResizeConditions};

/// A sandbox as the runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Id.
    pub id: String,
    /// How often a sandbox was made before.
    pub attempt: u32,
    /// Whether its namespaces exist.
    pub ready: bool,
    /// Addresses, primary first; empty with the host's network.
    pub ips: Vec<String>,
    /// Limits of the pod's own cgroup.
    pub limits: Limits,
    /// When it was made.
    pub created_at: Timestamp,
}

/// State of a container in the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started: it has not run yet, or its postStart hook has not ended. Nothing counts on it: it waits in the
    /// status, is not ready, is not probed, and holds what comes after it.
    Created,
    /// Started.
    Running,
    /// Ended.
    Exited,
    /// Not known.
    Unknown,
}

/// A container as the runtime reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Id, without a scheme.
    pub id: String,
    /// Sandbox it is in.
    pub sandbox_id: String,
    /// Container name in the spec.
    pub name: String,
    /// Restart count it was made with.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Exit code.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// Termination message.
    pub message: String,
    /// Image as asked for.
    pub image: String,
    /// Image id.
    pub image_ref: String,
    /// Hash of the spec fields it was made from; `None` is never compared.
    pub spec_hash: Option<String>,
    /// Limits of its cgroup.
    pub limits: Limits,
    /// What it was given last; `None` where nobody knows.
    pub actuated: Option<ResourceRequirements>,
}

/// Latest results of the probes of one container; `None` where a probe has not decided yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    /// Startup probe.
    pub startup: Option<bool>,
    /// Readiness probe.
    pub readiness: Option<bool>,
    /// Liveness probe.
    pub liveness: Option<bool>,
}

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase reason.
    pub reason: String,
    /// Text.
    pub message: String,
    /// When to try again; until then this is why the container waits.
    pub retry_at: Timestamp,
}

/// A reason of the node's own to end the pod, as Failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `DeadlineExceeded`, `Evicted`, …
    pub reason: String,
    /// Text.
    pub message: String,
}

/// Everything the shell knows about one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Containers, newest first.
    pub containers: Vec<Container>,
    /// Whether all volumes are mounted.
    pub volumes_ready: bool,
    /// Probe results, by container id.
    pub probes: BTreeMap<String, ProbeResults>,
    /// Why the last try to start a container failed, by container name.
    pub failures: BTreeMap<String, Waiting>,
    /// Restart back-off, by container name.
    pub backoffs: BTreeMap<String, Backoff>,
    /// Why the node has no place for the pod, if it was not admitted.
    pub unfit: Option<Refusal>,
    /// Why the node ended the pod, if it did.
    pub verdict: Option<Verdict>,
    /// Not before this time try the sandbox or the volumes again.
    pub retry_after: Option<Timestamp>,
    /// Containers that are being started or stopped right now.
    pub busy: BTreeSet<String>,
    /// Volumes are being mounted or the sandbox is being made or stopped.
    pub preparing: bool,
    /// The node's addresses, primary first.
    pub host_ips: Vec<String>,
    /// Why containers were ended by the node, by id, while they are to come back.
    pub killed: BTreeMap<String, KillReason>,
    /// Limits are being changed right now.
    pub resizing: bool,
    /// Not before this time try again to change limits.
    pub resize_after: Option<Timestamp>,
    /// What is told of changes of resources.
    pub resize: ResizeConditions,
    /// Everything was stopped for good; what has ended will not start again.
    pub stopped: bool,
    /// The status as it was last computed, or else the API's.
    pub previous: PodStatus,
}

impl Observed {
    /// The newest container of a name.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The newest sandbox if it can take containers.
    #[must_use]
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// Results for a container id.
    #[must_use]
    pub fn probe(&self, id: &str) -> ProbeResults {
        self.probes.get(id).copied().unwrap_or_default()
    }
}
