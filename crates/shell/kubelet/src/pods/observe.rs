//! From the runtime's lists to what the core looks at.

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus, ResourceRequirements};
use trireme_pod::observed::{Container, ContainerState, Sandbox};
use trireme_pod::{Observed, spec};
use trireme_runtime::cri::{self, CriError, PodSandboxState};

use super::convert;
use super::worker::Worker;
use crate::shared::{ContainerView, PodView};

/// Longest termination message of a container, bytes.
const MESSAGE_MAX: usize = 4096;
/// Longest message taken from the log instead, bytes and lines.
const LOG_MAX: (usize, usize) = (2048, 80);

impl Worker {
    pub(super) async fn observe(&mut self, pod: &Pod) -> Result<Observed, CriError> {
        let uid = spec::uid(pod);
        let mut sandboxes: Vec<_> = self
            .shared
            .runtime
            .list_pod_sandboxes()
            .await?
            .into_iter()
            .filter(|sandbox| sandbox.metadata.uid == uid)
            .collect();
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.metadata.attempt, sandbox.created_at)));
        let mut containers = Vec::new();
        if !sandboxes.is_empty() {
            let all = self.shared.runtime.list_containers().await?;
            containers = all
                .into_iter()
                .filter(|run| sandboxes.iter().any(|sandbox| sandbox.id == run.pod_sandbox_id))
                .collect();
            containers.sort_by_key(|run| std::cmp::Reverse((run.created_at, run.metadata.attempt)));
        }
        let containers: Vec<Container> = containers.into_iter().map(|run| self.container(pod, run)).collect();
        self.state.messages.retain(|id, _| containers.iter().any(|run| run.id == *id));
        self.state.killed.retain(|id, _| containers.iter().any(|run| run.id == *id));
        let state = &self.state;
        Ok(Observed {
            sandboxes: sandboxes
                .into_iter()
                .map(|sandbox| Sandbox {
                    ready: sandbox.state == PodSandboxState::Ready,
                    attempt: sandbox.metadata.attempt,
                    ips: sandbox.ips,
                    limits: convert::limits(&sandbox.resources),
                    created_at: time(sandbox.created_at).unwrap_or_default(),
                    id: sandbox.id,
                })
                .collect(),
            containers,
            volumes_ready: state.volumes.is_some(),
            probes: self.probes.results(),
            failures: state.failures.clone(),
            backoffs: state.backoffs.clone(),
            unfit: state.unfit.clone(),
            verdict: state.verdict.clone(),
            retry_after: state.retry_after,
            busy: state.busy.clone(),
            preparing: state.preparing,
            host_ips: self.shared.host_ips(),
            killed: state.killed.clone(),
            resizing: state.resizing,
            resize_after: state.resize_after,
            resize: state.resize.clone(),
            stopped: state.stopped,
            previous: state.previous.clone(),
        })
    }

    fn container(&mut self, pod: &Pod, run: cri::ContainerStatus) -> Container {
        let ended = run.state == cri::ContainerState::Exited;
        let starting = self.state.starting.contains(&run.metadata.name);
        let message = if ended { self.message(pod, &run) } else { String::new() };
        let reason = match run.reason.as_str() {
            "" if ended && run.exit_code == 0 => "Completed".to_owned(),
            "" if ended => "Error".to_owned(),
            reason => reason.to_owned(),
        };
        Container {
            sandbox_id: run.pod_sandbox_id,
            name: run.metadata.name,
            attempt: run.metadata.attempt,
            state: match run.state {
                cri::ContainerState::Created => ContainerState::Created,
                cri::ContainerState::Running if starting => ContainerState::Created,
                cri::ContainerState::Running => ContainerState::Running,
                cri::ContainerState::Exited => ContainerState::Exited,
                cri::ContainerState::Unknown => ContainerState::Unknown,
            },
            created_at: time(run.created_at).unwrap_or_default(),
            started_at: time(run.started_at),
            finished_at: time(run.finished_at),
            exit_code: run.exit_code,
            reason,
            message,
            image: run.image,
            image_ref: run.image_ref,
            spec_hash: run.annotations.get(convert::HASH).cloned(),
            limits: convert::limits(&run.resources),
            actuated: convert::actuated(&run.annotations).or_else(|| self.told_resources(&run.id)),
            id: run.id,
        }
    }

    /// The termination message, read once.
    fn message(&mut self, pod: &Pod, run: &cri::ContainerStatus) -> String {
        if let Some(known) = self.state.messages.get(&run.id) {
            return known.clone();
        }
        if let Some(told) = self.told(&run.id) {
            self.state.messages.insert(run.id.clone(), told.clone());
            return told;
        }
        let path = self
            .shared
            .message_path(spec::uid(pod), &run.metadata.name, run.metadata.attempt);
        let mut text = read_message(&path);
        let policy = spec::container(pod, &run.metadata.name).and_then(|container| container.termination_message_policy);
        if text.is_empty() && run.exit_code != 0 && policy.as_deref() == Some("FallbackToLogsOnError") {
            text = crate::server::logs::tail_text(&run.log_path, LOG_MAX.1, LOG_MAX.0);
        }
        if text.is_empty() {
            text.clone_from(&run.message);
        }
        self.state.messages.insert(run.id.clone(), text.clone());
        text
    }

    fn told_statuses(&self) -> impl Iterator<Item = &ContainerStatus> {
        let status = &self.state.previous;
        let lists = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        lists.into_iter().flatten().flatten()
    }

    /// The resources that the API shows of a run that an earlier version made.
    fn told_resources(&self, id: &str) -> Option<ResourceRequirements> {
        let mut statuses = self.told_statuses();
        let own = statuses.find(|status| {
            let known = status.container_id.as_deref();
            known.and_then(|known| known.strip_prefix(trireme_pod::status::ID_SCHEME)) == Some(id)
        });
        own.and_then(|status| status.resources.clone())
    }

    /// The message that the API already has of a run: its file may be gone since.
    fn told(&self, id: &str) -> Option<String> {
        let states = self.told_statuses().flat_map(|status| [&status.state, &status.last_state]);
        let ended = states.flatten().filter_map(|state| state.terminated.as_ref());
        let own = ended.into_iter().find(|ended| {
            ended
                .container_id
                .as_deref()
                .and_then(|known| known.strip_prefix(trireme_pod::status::ID_SCHEME))
                == Some(id)
        });
        own.and_then(|ended| ended.message.clone())
    }

    /// Lets the server and the metrics see the pod.
    pub(super) fn note_view(&self, pod: &std::sync::Arc<Pod>, observed: &Observed, status: &PodStatus) {
        let logs = self.shared.log_directory(pod);
        let view = PodView {
            pod: std::sync::Arc::clone(pod),
            sandbox_id: observed.sandbox().map(|sandbox| sandbox.id.clone()),
            containers: observed
                .containers
                .iter()
                .map(|run| ContainerView {
                    id: run.id.clone(),
                    name: run.name.clone(),
                    // Commands can be run in it while its postStart hook does.
                    running: matches!(run.state, ContainerState::Running | ContainerState::Created) && run.started_at.is_some(),
                    log_path: logs.join(convert::log_path(&run.name, run.attempt)),
                })
                .collect(),
            statuses: [
                &status.container_statuses,
                &status.init_container_statuses,
                &status.ephemeral_container_statuses,
            ]
            .into_iter()
            .flatten()
            .flatten()
            .cloned()
            .collect(),
        };
        self.shared.pods.write().insert(spec::uid(pod).to_owned(), view);
    }
}

fn read_message(path: &Path) -> String {
    use std::io::Read;
    let Ok(file) = std::fs::File::open(path) else {
        return String::new();
    };
    let mut bytes = Vec::new();
    match file.take(MESSAGE_MAX as u64).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("Error on reading termination log {}: {error}", path.display()),
    }
}

/// Unix nanoseconds, 0 for never.
fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds == 0 {
        None
    } else {
        Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
    }
}
