//! Whether an ended container is to run again: pod policy, container policy and its rules.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::observed::{ContainerState, Observed};
use crate::plan::KillReason;
use crate::spec;

/// Whether a container that ended with this code restarts.
#[must_use]
pub fn after_exit(container: &Container, pod: &PodSpec, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        let rule = container.restart_policy_rules.iter().flatten().find(|rule| {
            rule.exit_codes.as_ref().is_some_and(|codes| {
                let listed = codes.values.iter().flatten().any(|value| *value == exit_code);
                match codes.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    _ => false,
                }
            })
        });
        if rule.is_some_and(|rule| rule.action == "Restart") {
            return true;
        }
        match policy {
            "Always" => return true,
            "OnFailure" => return exit_code != 0,
            "Never" => return false,
            _ => {}
        }
    }
    match pod.restart_policy.as_deref() {
        Some("Never") => false,
        Some("OnFailure") => exit_code != 0,
        _ => true,
    }
}

/// Whether a container that is not running is to be started: never started, stuck, or ended and restartable.
#[must_use]
pub fn should_start(container: &Container, pod: &Pod, observed: &Observed) -> bool {
    if spec::is_deleting(pod) {
        return false;
    }
    match observed.latest(&container.name) {
        None => true,
        Some(latest) => match latest.state {
            ContainerState::Running => false,
            ContainerState::Created | ContainerState::Unknown => true,
            ContainerState::Exited => after_end(container, spec::of(pod), observed, latest.exit_code),
        },
    }
}

/// Whether a container whose latest run ended with this code runs again: what the node has killed to make it anew does,
/// however it ended.
#[must_use]
pub fn after_end(container: &Container, pod: &PodSpec, observed: &Observed, exit_code: i32) -> bool {
    let killed = observed
        .latest(&container.name)
        .and_then(|latest| observed.killed.get(&latest.id));
    match killed {
        Some(KillReason::Replaced | KillReason::Resized) => true,
        Some(KillReason::StartupProbe | KillReason::LivenessProbe) => spec::is_sidecar(container) || after_probe(container, pod),
        None => after_exit(container, pod, exit_code),
    }
}

/// Whether a running container that failed a probe comes back.
#[must_use]
pub fn after_probe(container: &Container, pod: &PodSpec) -> bool {
    match container.restart_policy.as_deref() {
        Some(policy) => policy != "Never",
        None => pod.restart_policy.as_deref() != Some("Never"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_exit_codes() {
        // pod policy, container policy, exit code, restarts
        for (pod, container, code, expected) in [
            ("Always", None, 0, true),
            ("OnFailure", None, 0, false),
            ("OnFailure", None, 1, true),
            ("Never", None, 1, false),
            ("Never", Some("Always"), 0, true),
            ("Always", Some("Never"), 1, false),
            ("Always", Some("OnFailure"), 0, false),
        ] {
            let spec = PodSpec {
                restart_policy: Some(pod.into()),
                ..PodSpec::default()
            };
            let container = Container {
                restart_policy: container.map(Into::into),
                ..Container::default()
            };
            assert_eq!(after_exit(&container, &spec, code), expected, "{pod} {container:?} {code}");
        }
    }
}
