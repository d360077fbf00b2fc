//! What to do next for a pod (kuberuntime's `computePodActions`, pod worker and termination order, as one function).
//!
//! Invariant: a step never names what is busy, and each is safe to repeat; the shell leaves no choice to itself.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use crate::Backoff;
use crate::init::{self, Init};
use crate::observed::{Container, ContainerState, Observed, Verdict};
use crate::resize::{self, Change, Lowered};
use crate::{admission, restart, spec};

/// Shortest time that a container gets between SIGTERM and SIGKILL, seconds.
pub const MINIMUM_GRACE_SECONDS: i64 = 1;

/// Which list of the spec a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to its end before the others.
    Init,
    /// Init container with restartPolicy Always.
    Sidecar,
    /// Main container.
    Regular,
    /// Added to a running pod for debugging.
    Ephemeral,
}

/// Why a container is killed; it decides which grace period counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// Its definition changed or its state is not known.
    Replaced,
    /// Its resources changed, and its resizePolicy asks for a restart.
    Resized,
    /// Startup probe.
    StartupProbe,
    /// Liveness probe.
    LivenessProbe,
}

/// A container to be ended with the whole pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopTarget {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Ids of containers that must have ended before this one is told to.
    pub after: Vec<String>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Mount all volumes.
    MountVolumes,
    /// Make a sandbox after stopping the earlier ones.
    CreateSandbox {
        /// How many there were before.
        attempt: u32,
        /// Earlier sandboxes to stop first.
        stop: Vec<String>,
    },
    /// Get the image, make and start a container; a list of these is done one after another.
    StartContainer {
        /// Name.
        name: String,
        /// Where it is in the spec.
        kind: ContainerKind,
        /// Sandbox to start it in.
        sandbox_id: String,
        /// Restart count; `None` where the runtime knows none and log files decide.
        attempt: Option<u32>,
        /// End of the run before, which back-off counts from; `None` where it does not count.
        ended: Option<Timestamp>,
        /// Runs before the last, to be removed.
        obsolete: Vec<String>,
    },
    /// Stop one container that may come back.
    KillContainer {
        /// Id.
        id: String,
        /// Name.
        name: String,
        /// For the event.
        message: String,
        /// Why.
        reason: KillReason,
        /// Seconds for preStop and SIGTERM together.
        grace_seconds: i64,
    },
    /// Change limits of running containers and of the pod, in this order.
    Resize {
        /// Sandbox whose pod it is.
        sandbox_id: String,
        /// What to write.
        changes: Vec<Change>,
        /// What must not be used any more before anything is written.
        lowered: Lowered,
    },
    /// End everything for good.
    StopPod {
        /// Seconds for preStop and SIGTERM together.
        grace_seconds: i64,
        /// Containers that may run.
        targets: Vec<StopTarget>,
        /// Sandboxes to stop afterwards.
        sandboxes: Vec<String>,
    },
}

/// What to do now, and when to look again though nothing happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// Steps; those that start containers are in order, the others may run side by side.
    pub steps: Vec<Step>,
    /// Look again at this time.
    pub wait_until: Option<Timestamp>,
}

impl Actions {
    pub(crate) fn wait(&mut self, until: Timestamp) {
        self.wait_until = Some(self.wait_until.map_or(until, |known| known.min(until)));
    }
}

/// Why the node ends the pod by itself: what was decided before, that it refuses it, or its deadline.
#[must_use]
pub fn verdict(pod: &Pod, observed: &Observed, now: Timestamp) -> Option<Verdict> {
    if observed.verdict.is_some() {
        return observed.verdict.clone();
    }
    if observed.sandboxes.is_empty()
        && let Some(refusal) = admission::refusal(pod, observed.unfit.as_ref())
    {
        return Some(refusal.verdict());
    }
    let deadline = deadline(pod, observed)?;
    (now >= deadline).then(|| Verdict {
        reason: "DeadlineExceeded".into(),
        message: "Pod was active on the node longer than the specified deadline".into(),
    })
}

fn deadline(pod: &Pod, observed: &Observed) -> Option<Timestamp> {
    let seconds = spec::of(pod).active_deadline_seconds?;
    let start = observed.previous.start_time.as_ref()?.0;
    start.saturating_add(SignedDuration::from_secs(seconds)).ok()
}

/// The grace period of the whole pod in seconds.
#[must_use]
pub fn pod_grace_seconds(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .filter(|_| spec::is_deleting(pod))
        .or(spec::of(pod).termination_grace_period_seconds)
        .unwrap_or(30)
        .max(MINIMUM_GRACE_SECONDS)
}

/// Decides what to do for a pod.
#[must_use]
pub fn plan(pod: &Pod, observed: &Observed, now: Timestamp) -> Actions {
    let mut actions = Actions::default();
    if observed.stopped {
        return actions;
    }
    if spec::is_deleting(pod) || spec::is_finished(pod) || verdict(pod, observed, now).is_some() {
        actions.steps.push(stop_pod(pod, observed));
        return actions;
    }
    if let Some(deadline) = deadline(pod, observed) {
        actions.wait(deadline);
    }
    let mut planner = Planner {
        pod,
        observed,
        now,
        actions,
    };
    match observed
        .sandbox()
        .filter(|_| observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count() == 1)
    {
        Some(sandbox) => planner.with_sandbox(&sandbox.id),
        None => planner.without_sandbox(),
    }
    planner.actions
}

struct Planner<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    now: Timestamp,
    actions: Actions,
}

impl Planner<'_> {
    fn without_sandbox(&mut self) {
        let pod = spec::of(self.pod);
        let restarts = pod.restart_policy.as_deref() != Some("Never");
        let attempt = self.observed.sandboxes.first().map_or(0, |sandbox| sandbox.attempt + 1);
        let had_containers = !self.observed.containers.is_empty();
        let initialized = pod
            .containers
            .iter()
            .any(|container| self.observed.latest(&container.name).is_some());
        let nothing_to_run = initialized
            && pod.containers.iter().all(|container| {
                self.observed.latest(&container.name).is_some_and(|latest| {
                    latest.state == ContainerState::Exited && !restart::after_end(container, pod, self.observed, latest.exit_code)
                })
            });
        if (!restarts && attempt != 0 && had_containers) || nothing_to_run {
            if self.observed.busy.is_empty() {
                self.actions.steps.push(stop_pod(self.pod, self.observed));
            }
            return;
        }
        if self.prepared() {
            self.actions.steps.push(Step::CreateSandbox {
                attempt,
                stop: self
                    .observed
                    .sandboxes
                    .iter()
                    .filter(|sandbox| sandbox.ready || attempt != 0)
                    .map(|sandbox| sandbox.id.clone())
                    .collect(),
            });
        }
    }

    /// Whether volumes are there and nothing waits; asks for the volumes otherwise.
    fn prepared(&mut self) -> bool {
        if self.observed.preparing {
            return false;
        }
        if let Some(retry) = self.observed.retry_after.filter(|retry| self.now < *retry) {
            self.actions.wait(retry);
            return false;
        }
        if !self.observed.volumes_ready {
            self.actions.steps.push(Step::MountVolumes);
            return false;
        }
        true
    }

    fn with_sandbox(&mut self, sandbox_id: &str) {
        let pod = spec::of(self.pod);
        let can_start = self.prepared();
        let mut start: Vec<(Spec, ContainerKind)> = spec::ephemeral_containers(pod)
            .into_iter()
            .filter(|container| self.observed.latest(&container.name).is_none())
            .map(|container| (container, ContainerKind::Ephemeral))
            .collect();

        let init = init::plan(self.pod, self.observed, sandbox_id);
        let mut kills = Vec::new();
        let mut give_up = false;
        match init {
            Init::Failed => give_up = true,
            Init::Going { start: names, kill } => {
                push_init(pod, &names, &mut start);
                kills = kill;
            }
            Init::Done { start: names, kill } => {
                kills = kill;
                let mut kept = 0;
                let mut wanted = 0;
                for container in &pod.containers {
                    match self.regular(container) {
                        Regular::Keep => kept += 1,
                        Regular::Start => {
                            wanted += 1;
                            start.push((container.clone(), ContainerKind::Regular));
                        }
                        Regular::Kill { step, comes_back } => {
                            kills.push(step);
                            wanted += usize::from(comes_back);
                        }
                        Regular::Over => {}
                    }
                }
                if kept + wanted == 0 {
                    give_up = true;
                } else {
                    // Sidecars start before what needs them.
                    let mut sidecars = Vec::new();
                    push_init(pod, &names, &mut sidecars);
                    sidecars.append(&mut start);
                    start = sidecars;
                }
            }
        }
        if give_up {
            if self.observed.busy.is_empty() {
                self.actions.steps.push(stop_pod(self.pod, self.observed));
            }
            return;
        }
        let leave = kills.iter().filter_map(|step| match step {
            Step::KillContainer { name, .. } => Some(name.clone()),
            _ => None,
        });
        let resize = self.resize(&leave.collect());
        // What starts gets its limits within the pod's new ones.
        let held = self.observed.resizing || resize.iter().any(|step| matches!(step, Step::Resize { .. }));
        self.actions.steps.extend(kills);
        self.actions.steps.extend(resize);
        for (container, kind) in start {
            self.start(&container, kind, sandbox_id, can_start && !held);
        }
    }

    fn resize(&mut self, leave: &BTreeSet<String>) -> Vec<Step> {
        let steps = resize::plan(self.pod, self.observed, leave);
        match self.observed.resize_after.filter(|retry| self.now < *retry) {
            Some(retry) if !steps.is_empty() => {
                self.actions.wait(retry);
                Vec::new()
            }
            _ => steps,
        }
    }

    fn regular(&self, container: &Spec) -> Regular {
        if self.observed.busy.contains(&container.name) {
            return Regular::Keep;
        }
        let Some(latest) = self
            .observed
            .latest(&container.name)
            .filter(|latest| latest.state == ContainerState::Running)
        else {
            return if restart::should_start(container, self.pod, self.observed) {
                Regular::Start
            } else {
                Regular::Over
            };
        };
        let probes = self.observed.probe(&latest.id);
        let restarts = restart::after_probe(container, spec::of(self.pod));
        let (message, reason, comes_back) = if changed(container, latest) {
            (
                format!("Container {} definition changed", container.name),
                KillReason::Replaced,
                true,
            )
        } else if probes.liveness == Some(false) {
            (
                format!("Container {} failed liveness probe", container.name),
                KillReason::LivenessProbe,
                restarts,
            )
        } else if probes.startup == Some(false) {
            (
                format!("Container {} failed startup probe", container.name),
                KillReason::StartupProbe,
                restarts,
            )
        } else {
            return Regular::Keep;
        };
        let message = if comes_back {
            format!("{message}, will be restarted")
        } else {
            message
        };
        Regular::Kill {
            step: kill(self.pod, container, latest, message, reason),
            comes_back,
        }
    }

    fn start(&mut self, container: &Spec, kind: ContainerKind, sandbox_id: &str, can_start: bool) {
        if self.observed.busy.contains(&container.name) {
            return;
        }
        if let Some(until) = waits_until(container, self.observed, self.now) {
            self.actions.wait(until);
            return;
        }
        if !can_start {
            return;
        }
        let latest = self.observed.latest(&container.name);
        let ended = latest.filter(|latest| !made_anew(latest, self.observed));
        self.actions.steps.push(Step::StartContainer {
            name: container.name.clone(),
            kind,
            sandbox_id: sandbox_id.into(),
            attempt: latest.map(|latest| latest.attempt + 1),
            ended: ended.and_then(|latest| latest.finished_at),
            obsolete: obsolete(container, self.observed),
        });
    }
}

enum Regular {
    Keep,
    Start,
    Kill { step: Step, comes_back: bool },
    Over,
}

fn push_init(pod: &k8s_openapi::api::core::v1::PodSpec, names: &[String], start: &mut Vec<(Spec, ContainerKind)>) {
    for container in spec::init_containers(pod)
        .iter()
        .filter(|container| names.contains(&container.name))
    {
        let kind = if spec::is_sidecar(container) {
            ContainerKind::Sidecar
        } else {
            ContainerKind::Init
        };
        start.push((container.clone(), kind));
    }
}

/// Until when a container that is to start waits: for a failed try, or its restart back-off.
pub(crate) fn waits_until(container: &Spec, observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let failure = observed
        .failures
        .get(&container.name)
        .map(|failure| failure.retry_at)
        .filter(|retry| now < *retry);
    failure.max(crash_loop_until(container, observed, now))
}

/// Whether a run was ended to make the container anew, which is no crash.
fn made_anew(run: &Container, observed: &Observed) -> bool {
    matches!(observed.killed.get(&run.id), Some(KillReason::Replaced | KillReason::Resized))
}

/// Until when restart back-off holds a container. One that is being started has a back-off already, for its next run.
pub(crate) fn crash_loop_until(container: &Spec, observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    if observed.busy.contains(&container.name) {
        return None;
    }
    let latest = observed
        .latest(&container.name)
        .filter(|latest| latest.state == ContainerState::Exited && !made_anew(latest, observed))?;
    Backoff::until(observed.backoffs.get(&container.name), latest.finished_at?, now)
}

/// All but the newest ended run, and runs that never started: the newest is kept for `lastState` and its logs.
fn obsolete(container: &Spec, observed: &Observed) -> Vec<String> {
    let mut kept = false;
    let mut ids = Vec::new();
    for run in observed.containers.iter().filter(|run| run.name == container.name) {
        if run.state == ContainerState::Exited && !kept {
            kept = true;
        } else if run.state != ContainerState::Running {
            ids.push(run.id.clone());
        }
    }
    ids
}

pub(crate) fn changed(container: &Spec, run: &Container) -> bool {
    run.spec_hash.as_ref().is_some_and(|hash| *hash != spec::hash(container))
}

pub(crate) fn kill(pod: &Pod, container: &Spec, run: &Container, message: String, reason: KillReason) -> Step {
    let of_probe = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds)
    };
    let own = match reason {
        KillReason::Replaced | KillReason::Resized => None,
        KillReason::StartupProbe => of_probe(&container.startup_probe),
        KillReason::LivenessProbe => of_probe(&container.liveness_probe),
    };
    Step::KillContainer {
        id: run.id.clone(),
        name: run.name.clone(),
        message,
        reason,
        grace_seconds: own.unwrap_or_else(|| pod_grace_seconds(pod)).max(MINIMUM_GRACE_SECONDS),
    }
}

/// The end of all containers: main and init containers at once, then sidecars from the last to the first.
fn stop_pod(pod: &Pod, observed: &Observed) -> Step {
    let sidecars: Vec<&str> = spec::init_containers(spec::of(pod))
        .iter()
        .filter(|container| spec::is_sidecar(container))
        .map(|container| container.name.as_str())
        .collect();
    let rank = |name: &str| sidecars.iter().position(|sidecar| *sidecar == name);
    let alive: Vec<&Container> = observed
        .containers
        .iter()
        .filter(|run| run.state != ContainerState::Exited)
        .collect();
    let targets = alive
        .iter()
        .map(|run| StopTarget {
            id: run.id.clone(),
            name: run.name.clone(),
            after: match rank(&run.name) {
                None => Vec::new(),
                Some(own) => alive
                    .iter()
                    .filter(|other| rank(&other.name).is_none_or(|other| other > own))
                    .map(|other| other.id.clone())
                    .collect(),
            },
        })
        .collect();
    Step::StopPod {
        grace_seconds: pod_grace_seconds(pod),
        targets,
        sandboxes: observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect(),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
