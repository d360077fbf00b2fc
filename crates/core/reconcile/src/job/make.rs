//! The pods that a Job makes.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodTemplateSpec};

use super::indexes::{COMPLETION_INDEX, FAILURE_COUNT, IGNORED_FAILURE_COUNT};
use super::{FINALIZER, indexes, policy};
use crate::{ownership, replicaset};

/// Longest beginning of a name that gets random letters behind it.
const PREFIX_MAX: usize = 58;
/// The variable that tells a container its index.
const ENV: &str = "JOB_COMPLETION_INDEX";

/// A pod; of an index, in place of its pod that failed last.
#[must_use]
pub fn pod(job: &Job, spec: &JobSpec, index: Option<(i64, Option<&Pod>)>, suffix: &mut dyn FnMut() -> String) -> Pod {
    let mut template = spec.template.clone();
    let finalizers = template.metadata.get_or_insert_default().finalizers.get_or_insert_default();
    if !finalizers.iter().any(|name| name == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    let owner = ownership::controller_reference("batch/v1", "Job", &job.metadata);
    let Some((index, before)) = index else {
        return replicaset::pod_from_template(&template, &job.metadata, owner, suffix);
    };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    of_index(&mut template, name, index);
    if spec.backoff_limit_per_index.is_some() {
        let (failures, ignored) = before.map_or((0, 0), |pod| failures_after(spec, pod));
        let annotations = annotations(&mut template);
        annotations.insert(FAILURE_COUNT.into(), failures.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURE_COUNT.into(), ignored.to_string());
        }
    }
    let prefix = prefix(name, index);
    let letters = suffix();
    let mut pod = replicaset::pod_from_template(&template, &job.metadata, owner, &mut String::new);
    pod.metadata.name = Some(format!("{prefix}{letters}"));
    pod.metadata.generate_name = Some(prefix);
    pod
}

fn annotations(template: &mut PodTemplateSpec) -> &mut BTreeMap<String, String> {
    template.metadata.get_or_insert_default().annotations.get_or_insert_default()
}

/// Gives a template its index in all the places where it is told.
fn of_index(template: &mut PodTemplateSpec, job: &str, index: i64) {
    annotations(template).insert(COMPLETION_INDEX.into(), index.to_string());
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(COMPLETION_INDEX.into(), index.to_string());
    let spec = template.spec.get_or_insert_default();
    spec.hostname = Some(format!("{job}-{index}"));
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        tell_index(container);
    }
}

fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == ENV) {
        return;
    }
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{COMPLETION_INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    env.push(EnvVar {
        name: ENV.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

/// How often an index has failed with this pod: as far as it counts, and as far as it is ignored.
fn failures_after(spec: &JobSpec, pod: &Pod) -> (i32, i32) {
    let (failures, ignored) = (indexes::failures(pod), indexes::ignored_failures(pod));
    if policy::verdict(spec.pod_failure_policy.as_ref(), pod).counts {
        (failures.saturating_add(1), ignored)
    } else {
        (failures, ignored.saturating_add(1))
    }
}

/// What the name of an index' pod begins with; of a long name the Job's part is cut.
fn prefix(job: &str, index: i64) -> String {
    let tail = format!("-{index}-");
    let job: String = job.chars().take(PREFIX_MAX.saturating_sub(tail.len())).collect();
    format!("{job}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_index() {
        assert_eq!(prefix("pi", 3), "pi-3-");
        let long = prefix(&"j".repeat(63), 12);
        assert_eq!((long.len(), long.ends_with("j-12-")), (58, true));
    }
}
