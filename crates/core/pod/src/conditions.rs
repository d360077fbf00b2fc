//! The conditions that the kubelet owns (pkg/kubelet/status/generate.go).

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use crate::observed::Observed;
use crate::resize_conditions::{IN_PROGRESS, PENDING};
use crate::spec;

/// Types that the kubelet writes; all others in a pod's status are somebody else's.
pub(crate) const OWNED: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    PENDING,
    IN_PROGRESS,
];

struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes(reason: &'static str) -> Self {
        Self {
            status: true,
            reason,
            message: String::new(),
        }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self {
            status: false,
            reason,
            message,
        }
    }

    fn condition(self, kind: &str, generation: Option<i64>) -> PodCondition {
        PodCondition {
            type_: kind.into(),
            status: if self.status { "True" } else { "False" }.into(),
            reason: (!self.reason.is_empty()).then(|| self.reason.to_owned()),
            message: (!self.message.is_empty()).then_some(self.message),
            observed_generation: generation,
            ..PodCondition::default()
        }
    }
}

/// The owned conditions, in upstream's order, without transition times.
pub(crate) fn generate(
    pod: &Pod,
    observed: &Observed,
    phase: &str,
    foreign: &[PodCondition],
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
) -> Vec<PodCondition> {
    let generation = pod.metadata.generation;
    let has_sandbox = observed.sandbox().is_some();
    let ready = containers_ready(pod, phase, init, regular);
    let gates = if ready.status {
        gates(pod, foreign)
    } else {
        Verdict {
            ..containers_ready(pod, phase, init, regular)
        }
    };
    vec![
        Verdict {
            status: has_sandbox,
            reason: "",
            message: String::new(),
        }
        .condition(OWNED[0], generation),
        initialized(pod, phase, init, regular).condition(OWNED[1], generation),
        gates.condition(OWNED[2], generation),
        ready.condition(OWNED[3], generation),
        Verdict::yes("").condition(OWNED[4], generation),
    ]
}

fn names(prefix: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("{prefix}: [{}]", names.join(" ")))
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == name)
}

fn containers_ready(pod: &Pod, phase: &str, init: &[ContainerStatus], regular: &[ContainerStatus]) -> Verdict {
    let pod = spec::of(pod);
    let mut unknown = Vec::new();
    let mut unready = Vec::new();
    let sidecars = spec::init_containers(pod)
        .iter()
        .filter(|container| spec::is_sidecar(container));
    let all = sidecars
        .map(|container| (container, init))
        .chain(pod.containers.iter().map(|container| (container, regular)));
    for (container, statuses) in all {
        match find(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::no("PodCompleted", String::new());
    }
    if phase == "Failed" {
        return Verdict::no("PodFailed", String::new());
    }
    let texts: Vec<String> = [
        names("containers with unknown status", &unknown),
        names("containers with unready status", &unready),
    ]
    .into_iter()
    .flatten()
    .collect();
    if texts.is_empty() {
        Verdict::yes("")
    } else {
        Verdict::no("ContainersNotReady", texts.join(", "))
    }
}

fn gates(pod: &Pod, foreign: &[PodCondition]) -> Verdict {
    let mut texts = Vec::new();
    for gate in spec::of(pod).readiness_gates.iter().flatten() {
        match foreign.iter().find(|condition| condition.type_ == gate.condition_type) {
            None => texts.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(condition) if condition.status != "True" => texts.push(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, condition.status
            )),
            Some(_) => {}
        }
    }
    if texts.is_empty() {
        Verdict::yes("")
    } else {
        Verdict::no("ReadinessGatesNotReady", texts.join(", "))
    }
}

fn initialized(pod: &Pod, phase: &str, init: &[ContainerStatus], regular: &[ContainerStatus]) -> Verdict {
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in spec::init_containers(spec::of(pod)) {
        match find(init, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let done = if spec::is_sidecar(container) {
                    status.started == Some(true)
                } else {
                    status.ready
                };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::yes("PodCompleted");
    }
    if regular.iter().any(has_started) {
        return Verdict::yes("");
    }
    let texts: Vec<String> = [
        names("containers with unknown status", &unknown),
        names("containers with incomplete status", &incomplete),
    ]
    .into_iter()
    .flatten()
    .collect();
    if texts.is_empty() {
        Verdict::yes("")
    } else {
        Verdict::no("ContainersNotInitialized", texts.join(", "))
    }
}

fn has_started(status: &ContainerStatus) -> bool {
    let ran = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state
            .as_ref()
            .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    status.started == Some(true) || ran(&status.state) || ran(&status.last_state)
}
