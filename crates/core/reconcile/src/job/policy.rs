//! What a Job says of pods that fail (`podFailurePolicy`) and of when enough has succeeded (`successPolicy`).

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Intervals;
use crate::pods;

/// What the policy makes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The whole Job fails, with this message.
    pub fails_job: Option<String>,
    /// The pod's index fails at once.
    pub fails_index: bool,
    /// The failure counts towards the back-off limits.
    pub counts: bool,
}

const COUNTS: Verdict = Verdict {
    fails_job: None,
    fails_index: false,
    counts: true,
};

/// Whether only a pod that has ended is replaced, not one that is going.
#[must_use]
pub fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether a pod has failed or counts as failed because it was deleted.
#[must_use]
pub fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    let phase = pods::phase(pod);
    phase == "Failed" || (!replaces_only_failed(spec) && pod.metadata.deletion_timestamp.is_some() && phase != "Succeeded")
}

/// The verdict of the first rule that a failed pod matches.
#[must_use]
pub fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.into_iter().flat_map(|policy| &policy.rules);
    for (index, rule) in rules.enumerate() {
        let named = |what: &str| {
            let metadata = &pod.metadata;
            let namespace = metadata.namespace.as_deref().unwrap_or_default();
            let name = metadata.name.as_deref().unwrap_or_default();
            format!("{what} {namespace}/{name}")
        };
        let matched = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => exited(pod, codes).map(|(container, code)| {
                let pod = named("for pod");
                format!("Container {container} {pod} failed with exit code {code}")
            }),
            (None, Some(patterns)) => condition(pod, patterns).map(|kind| format!("{} has condition {kind}", named("Pod"))),
            (None, None) => None,
        };
        let Some(what) = matched else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict { counts: false, ..COUNTS },
            "Count" => return COUNTS,
            "FailIndex" => {
                return Verdict {
                    fails_index: true,
                    ..COUNTS
                };
            }
            "FailJob" => {
                return Verdict {
                    fails_job: Some(format!("{what} matching FailJob rule at index {index}")),
                    ..COUNTS
                };
            }
            _ => {}
        }
    }
    COUNTS
}

/// The first container, then the first init container, whose exit code fits.
fn exited<'a>(pod: &'a Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let first = |all: &'a Option<Vec<ContainerStatus>>| {
        all.iter().flatten().find_map(|status| {
            let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
            let named = wanted.container_name.as_ref().is_none_or(|name| *name == status.name);
            let fits = match wanted.operator.as_str() {
                "In" => wanted.values.contains(&code),
                "NotIn" => !wanted.values.contains(&code),
                _ => false,
            };
            (named && code != 0 && fits).then_some((status.name.as_str(), code))
        })
    };
    first(&status.container_statuses).or_else(|| first(&status.init_container_statuses))
}

fn condition<'a>(pod: &'a Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let mut fitting = conditions.filter(|condition| {
        patterns
            .iter()
            .any(|pattern| pattern.type_ == condition.type_ && pattern.status.as_deref().unwrap_or("True") == condition.status)
    });
    fitting.next().map(|condition| condition.type_.as_str())
}

/// The message of the first rule of success that these indexes meet.
#[must_use]
pub fn success(policy: Option<&SuccessPolicy>, completions: i64, succeeded: &Intervals) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = |count: i64, wanted: Option<i32>| wanted.is_some_and(|wanted| count >= i64::from(wanted));
    let index = policy?.rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Intervals::parse(text, completions);
            let both = wanted.overlap(succeeded);
            !wanted.is_empty() && (both == wanted.total() || met(both, rule.succeeded_count))
        }
        None => met(succeeded.total(), rule.succeeded_count),
    })?;
    Some(format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn failed_pod(code: i32, init_code: i32) -> Pod {
        let container = |name: &str, code: i32| {
            json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code}}})
        };
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "status": {"phase": "Failed", "containerStatuses": [container("main", code), container("side", 0)],
                "initContainerStatuses": [container("init", init_code)],
                "conditions": [{"type": "DisruptionTarget", "status": "True"}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let codes = |action: &str, operator: &str, values: Value, container: Value| json!({"action": action, "onExitCodes": {"operator": operator, "values": values, "containerName": container}});
        let any = json!(null);
        let conditions = |action: &str, status: &str| json!({"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": status}]});
        let fails = |message: &str| Verdict {
            fails_job: Some(message.into()),
            ..COUNTS
        };
        let ignored = Verdict { counts: false, ..COUNTS };
        let index = Verdict {
            fails_index: true,
            ..COUNTS
        };
        let table = [
            (vec![], COUNTS),
            (
                vec![codes("FailJob", "In", json!([3, 7]), any.clone())],
                fails("Container main for pod ns/p failed with exit code 7 matching FailJob rule at index 0"),
            ),
            (vec![codes("FailJob", "In", json!([3]), any.clone())], COUNTS),
            (
                vec![codes("FailJob", "NotIn", json!([7]), any.clone())],
                fails("Container init for pod ns/p failed with exit code 9 matching FailJob rule at index 0"),
            ),
            (vec![codes("FailJob", "NotIn", json!([7]), json!("main"))], COUNTS),
            (vec![codes("FailJob", "NotIn", json!([7]), json!("side"))], COUNTS),
            (
                vec![codes("Ignore", "In", json!([7]), any.clone()), conditions("FailJob", "True")],
                ignored,
            ),
            (
                vec![codes("Ignore", "In", json!([1]), any.clone()), conditions("FailJob", "True")],
                fails("Pod ns/p has condition DisruptionTarget matching FailJob rule at index 1"),
            ),
            (
                vec![
                    conditions("FailJob", "False"),
                    codes("FailIndex", "In", json!([7]), any.clone()),
                ],
                index,
            ),
            (
                vec![codes("Count", "In", json!([7]), any), conditions("FailJob", "True")],
                COUNTS,
            ),
        ];
        for (rules, expected) in table {
            let policy = serde_json::from_value(json!({"rules": rules})).unwrap();
            assert_eq!(verdict(Some(&policy), &failed_pod(7, 9)), expected, "{rules:?}");
        }
        assert_eq!(verdict(None, &failed_pod(7, 9)), COUNTS);
    }

    #[test]
    fn success_is_met_by_indexes_by_a_count_or_by_a_count_among_indexes() {
        let table = [
            (json!({"succeededIndexes": "0,2-3"}), "0,2-4", true),
            (json!({"succeededIndexes": "0,2-3"}), "0,2", false),
            (json!({"succeededIndexes": "0-5", "succeededCount": 2}), "1,3", true),
            (json!({"succeededIndexes": "0-5", "succeededCount": 2}), "1,7", false),
            (json!({"succeededCount": 2}), "1,7", true),
            (json!({"succeededCount": 3}), "1,7", false),
            (json!({"succeededIndexes": "20-30"}), "1", false),
        ];
        for (rule, succeeded, met) in table {
            let never = json!({"succeededIndexes": "9", "succeededCount": 1});
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": [never, rule]})).unwrap();
            let found = success(Some(&policy), 10, &Intervals::parse(succeeded, 10));
            assert_eq!(
                found,
                met.then(|| "Matched rules at index 1".to_owned()),
                "{rule} {succeeded}"
            );
        }
        assert_eq!(success(None, 10, &Intervals::parse("0-9", 10)), None);
    }
}
