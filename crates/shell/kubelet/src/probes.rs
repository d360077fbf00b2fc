//! Startup, readiness and liveness probes of one pod's containers, each container's in a task of its own.
//!
//! Invariant: probes of a run end with it; readiness and liveness begin when startup has succeeded. Results wake the
//! pod's worker only when they change.

mod check;
mod grpc;
pub(crate) mod http;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Probe};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use trireme_client::EventType;
use trireme_pod::observed::{ContainerState, ProbeResults};
use trireme_pod::{Observed, spec};

use crate::shared::Shared;

/// First pause of the series of readiness probes after a start, doubled each time up to the period.
const EAGER_FIRST: Duration = Duration::from_millis(100);
/// Failures before the pause has grown to this are not told: the application is still starting.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

type Results = Arc<Mutex<BTreeMap<String, ProbeResults>>>;

pub(crate) struct Probes {
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    results: Results,
    tasks: BTreeMap<String, AbortOnDropHandle<()>>,
    /// Ends startup and liveness probes when the pod is to stop; readiness goes on.
    ending: CancellationToken,
}

impl Probes {
    /// Results that the API already shows are taken over, so that a restart of the kubelet makes nothing unready.
    pub(crate) fn new(shared: Arc<Shared>, wake: Arc<Notify>, status: &PodStatus) -> Self {
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let known = lists.into_iter().flatten().flatten().filter_map(|status| {
            let id = status.container_id.as_deref()?.strip_prefix(trireme_pod::status::ID_SCHEME)?;
            let results = ProbeResults {
                startup: status.started.filter(|started| *started),
                readiness: Some(status.ready).filter(|ready| *ready),
                liveness: None,
            };
            Some((id.to_owned(), results))
        });
        Self {
            shared,
            wake,
            results: Arc::new(Mutex::new(known.collect())),
            tasks: BTreeMap::new(),
            ending: CancellationToken::new(),
        }
    }

    pub(crate) fn results(&self) -> BTreeMap<String, ProbeResults> {
        self.results.lock().clone()
    }

    pub(crate) fn stop(&mut self) {
        self.tasks.clear();
    }

    /// Starts probes of runs that have none yet and ends those of runs that are over.
    pub(crate) fn reconcile(&mut self, pod: &Arc<Pod>, observed: &Observed, stopping: bool) {
        if stopping {
            self.ending.cancel();
        }
        let running = |id: &str| {
            observed
                .containers
                .iter()
                .any(|run| run.id == id && run.state == ContainerState::Running)
        };
        self.tasks.retain(|id, _| running(id));
        self.results
            .lock()
            .retain(|id, _| observed.containers.iter().any(|run| run.id == *id));
        let pod_spec = spec::of(pod);
        let sidecars = spec::init_containers(pod_spec)
            .iter()
            .filter(|container| spec::is_sidecar(container));
        for container in pod_spec.containers.iter().chain(sidecars) {
            if container.startup_probe.is_none() && container.readiness_probe.is_none() && container.liveness_probe.is_none() {
                continue;
            }
            let Some(run) = observed
                .latest(&container.name)
                .filter(|run| run.state == ContainerState::Running)
            else {
                continue;
            };
            if self.tasks.contains_key(&run.id) || stopping {
                continue;
            }
            let ip = observed
                .sandbox()
                .and_then(|sandbox| sandbox.ips.first())
                .or(observed.host_ips.first());
            let prober = Prober {
                shared: Arc::clone(&self.shared),
                wake: Arc::clone(&self.wake),
                results: Arc::clone(&self.results),
                ending: self.ending.clone(),
                pod: Arc::clone(pod),
                container: container.clone(),
                id: run.id.clone(),
                ip: ip.cloned().unwrap_or_default(),
                started_at: run.started_at.unwrap_or(run.created_at),
            };
            self.tasks
                .insert(run.id.clone(), AbortOnDropHandle::new(tokio::spawn(prober.run())));
        }
    }
}

struct Prober {
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    results: Results,
    ending: CancellationToken,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    ip: String,
    started_at: Timestamp,
}

impl Prober {
    async fn run(self) {
        let known = self.results.lock().get(&self.id).copied().unwrap_or_default();
        if let Some(probe) = self.container.startup_probe.as_ref().filter(|_| known.startup.is_none()) {
            tokio::select! {
                () = self.repeat(Kind::Startup, probe) => {}
                () = self.ending.cancelled() => return,
            }
            if self.results.lock().get(&self.id).and_then(|results| results.startup) != Some(true) {
                return;
            }
        }
        let readiness = async {
            if let Some(probe) = &self.container.readiness_probe {
                self.repeat(Kind::Readiness, probe).await;
            }
        };
        let liveness = async {
            if let Some(probe) = &self.container.liveness_probe {
                tokio::select! {
                    () = self.repeat(Kind::Liveness, probe) => {}
                    () = self.ending.cancelled() => {}
                }
            }
        };
        tokio::join!(readiness, liveness);
    }

    /// Probes until there is nothing more to find out: for ever but for a decided startup and a failed liveness.
    async fn repeat(&self, kind: Kind, probe: &Probe) {
        let positive = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let period = Duration::from_secs(u64::from(positive(probe.period_seconds, 10)));
        let (successes, failures) = (positive(probe.success_threshold, 1), positive(probe.failure_threshold, 3));
        let delay = Duration::from_secs(u64::from(positive(probe.initial_delay_seconds, 0)));
        let age = Duration::try_from(Timestamp::now().duration_since(self.started_at)).unwrap_or_default();
        tokio::time::sleep(delay.saturating_sub(age)).await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut eager = (kind == Kind::Readiness && !self.is_ready()).then_some(EAGER_FIRST);
        let mut last = None;
        let mut run = 0;
        loop {
            // Upstream probes readiness anew at each change of a pod that is not ready yet, so it need not wait a whole
            // period for an application that takes a moment to listen. Here that is a short series of its own.
            match eager.filter(|pause| last == Some(false) && *pause < period) {
                Some(pause) => {
                    tokio::time::sleep(pause).await;
                    eager = Some(pause * 2);
                }
                None => {
                    ticks.tick().await;
                }
            }
            let Some(success) = self.once(kind, probe, eager.is_some_and(|pause| pause < QUIET)).await else {
                continue;
            };
            if last == Some(success) {
                run += 1;
            } else {
                last = Some(success);
                run = 1;
            }
            if run < if success { successes } else { failures } {
                continue;
            }
            self.set(kind, success);
            if success {
                eager = None;
            }
            if kind == Kind::Startup || (kind == Kind::Liveness && !success) {
                return;
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.results
            .lock()
            .get(&self.id)
            .is_some_and(|results| results.readiness == Some(true))
    }

    /// Probes once; `quiet` says nothing about a failure.
    async fn once(&self, kind: Kind, probe: &Probe, quiet: bool) -> Option<bool> {
        let event = |reason: &str, text: String| {
            self.shared
                .container_event(&self.pod, &self.container.name, EventType::Warning, reason, text);
        };
        match check::run(self.shared.runtime.as_ref(), probe, &self.container, &self.id, &self.ip).await {
            check::Answer::Success => Some(true),
            check::Answer::Warning(text) => {
                event("ProbeWarning", format!("{} probe warning: {text}", kind.name()));
                Some(true)
            }
            check::Answer::Failure(text) => {
                if !quiet {
                    event("Unhealthy", format!("{} probe failed: {text}", kind.name()));
                }
                Some(false)
            }
            check::Answer::Error(text) => {
                event(
                    "Unhealthy",
                    format!("{} probe errored and resulted in unknown state: {text}", kind.name()),
                );
                None
            }
        }
    }

    fn set(&self, kind: Kind, success: bool) {
        let mut results = self.results.lock();
        let entry = results.entry(self.id.clone()).or_default();
        let slot = match kind {
            Kind::Startup => &mut entry.startup,
            Kind::Readiness => &mut entry.readiness,
            Kind::Liveness => &mut entry.liveness,
        };
        let before = slot.replace(success);
        drop(results);
        if before != Some(success) {
            self.wake.notify_one();
        }
    }
}
