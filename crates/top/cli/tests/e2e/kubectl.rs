//! Every kubectl command that a user of a cluster needs, and what pods do, through the real kubectl.

mod access;
mod changes;
mod objects;
mod pods;
mod rollouts;
mod streams;
mod volumes;

use std::time::Duration;

use anyhow::Result;

use crate::Scenario;
use crate::cluster::Namespace;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("get_and_describe_show_objects_in_every_form", objects::shown),
    ("get_watch_tells_each_change", objects::watched),
    ("apply_diff_and_conflicts", objects::applied),
    ("patch_edit_label_and_annotate", objects::changed),
    ("create_run_expose_scale_and_autoscale", objects::created),
    ("explain_and_discovery_know_the_api", objects::explained),
    ("delete_cascades_as_asked", objects::deleted),
    ("a_namespace_takes_everything_with_it", objects::namespace_goes),
    ("rollouts_are_watched_undone_restarted_and_paused", rollouts::whole_life),
    ("a_rollout_that_fails_is_told_and_keeps_the_old_pods", rollouts::stuck),
    ("logs_follow_and_remember", streams::logs),
    ("exec_attach_and_cp_reach_into_a_pod", streams::inside),
    ("exec_gives_a_terminal", streams::terminal),
    ("top_tells_what_nodes_and_pods_use", streams::top),
    ("a_role_grants_its_verbs_and_nothing_else", access::role),
    ("a_pod_reaches_the_api_with_its_token", access::from_a_pod),
    ("environment_and_volumes_hold_what_was_asked", volumes::filled),
    ("a_volume_follows_its_config_map", volumes::followed),
    ("init_containers_run_in_order_and_before", pods::init),
    ("a_failing_liveness_probe_restarts_the_container", pods::liveness),
    ("readiness_decides_who_is_an_endpoint", pods::readiness),
    ("a_crashing_container_is_restarted_with_back_off", pods::crash),
    ("out_of_memory_is_told", pods::out_of_memory),
    ("security_context_and_limits_hold", pods::confined),
    ("a_pod_ends_gracefully", pods::graceful),
    ("a_deadline_ends_a_pod", pods::deadline),
    ("a_host_network_pod_is_on_the_host", pods::host_network),
    ("resources_change_in_place", changes::resized),
    ("a_post_start_hook_holds_what_comes_after_it", changes::hooked),
];

/// Longest wait for a pod to be as it should: generous, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until all pods named are ready.
fn ready(space: &Namespace<'_>, pods: &[&str]) -> Result<()> {
    let names: Vec<String> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
    let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=30s"];
    arguments.extend(names.iter().map(String::as_str));
    space.run(&arguments).map(drop)
}

/// One field of an object.
fn field(space: &Namespace<'_>, object: &str, path: &str) -> Result<String> {
    space.run(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
}

/// Waits until one field of an object is as it should be.
fn field_becomes(space: &Namespace<'_>, object: &str, path: &str, wanted: &str) -> Result<()> {
    space
        .until(&["get", object, "-o", &format!("jsonpath={{{path}}}")], PATIENCE, |text| {
            text == wanted
        })
        .map(drop)
}

/// Runs a shell command in a pod.
fn shell(space: &Namespace<'_>, pod: &str, script: &str) -> Result<String> {
    space.run(&["exec", pod, "-c", "main", "--", "sh", "-c", script])
}
