//! Jobs in real containers: indexes told in every place, each pod counted once, the reason of a failure, suspension; and a
//! CronJob that makes them.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Scenario;
use crate::cluster::Cluster;

pub(crate) const SCENARIOS: &[(&str, Scenario)] =
    &[("jobs_run_to_their_end", ends), ("a_cron_job_makes_a_job_each_minute", ticks)];

fn job(name: &str, spec: &str, command: &str) -> String {
    format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: {name}}}, spec: {{{spec}, template: {{spec: {{restartPolicy: Never, \
         terminationGracePeriodSeconds: 1, containers: [{{name: main, image: 'busybox:1.35', command: [sh, -c, '{command}']}}]}}}}}}}}"
    )
}

fn ends(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("jobs")?;
    let limit = Duration::from_secs(60);
    space.apply(&job(
        "indexed",
        "completions: 5, parallelism: 2, completionMode: Indexed",
        "echo $JOB_COMPLETION_INDEX on $HOSTNAME",
    ))?;
    space.run(&["wait", "job/indexed", "--for=condition=Complete", "--timeout=60s"])?;
    let path = "jsonpath={.status.succeeded} {.status.completedIndexes} {.status.uncountedTerminatedPods}";
    let counts = space.run(&["get", "job", "indexed", "-o", path])?;
    ensure!(counts == "5 0-4 {}", "{counts}");
    let logs = space.run(&["logs", "-l", "job-name=indexed", "--max-log-requests=5"])?;
    for index in 0..5 {
        ensure!(logs.contains(&format!("{index} on indexed-{index}")), "{logs}");
    }
    let path = "jsonpath={.items[*].metadata.finalizers}";
    let held = space.run(&["get", "pods", "-l", "job-name=indexed", "-o", path])?;
    ensure!(held.is_empty(), "pods are held after they were counted: {held}");

    space.apply(&job("failing", "backoffLimit: 0", "exit 3"))?;
    let path = "jsonpath={.status.failed} {.status.conditions[*].type} {.status.conditions[0].reason}";
    let told = ["get", "job", "failing", "-o", path];
    space.until(&told, limit, |text| text == "1 FailureTarget Failed BackoffLimitExceeded")?;

    space.apply(&job("waiting", "suspend: true", "sleep 1000"))?;
    let path = "jsonpath={.status.conditions[*].type} {.status.active}";
    let told = ["get", "job", "waiting", "-o", path];
    space.until(&told, limit, |text| text == "Suspended ")?;
    space.run(&["patch", "job", "waiting", "-p", "{\"spec\": {\"suspend\": false}}"])?;
    space.until(&["get", "job", "waiting", "-o", "jsonpath={.status.ready}"], limit, |text| {
        text == "1"
    })?;

    space.apply(&job("passing", "ttlSecondsAfterFinished: 1", "true"))?;
    space.run(&["wait", "job/passing", "--for=delete", "--timeout=60s"])?;
    Ok(())
}

fn ticks(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("ticks")?;
    space.run(&[
        "create",
        "cronjob",
        "tick",
        "--image=busybox:1.35",
        "--schedule=* * * * *",
        "--",
        "true",
    ])?;
    let path = "jsonpath={.status.lastSuccessfulTime}";
    let told = ["get", "cronjob", "tick", "-o", path];
    space.until(&told, Duration::from_secs(100), |text| !text.is_empty())?;
    // The name is the minute for which it was made, and the Job is the CronJob's.
    let path = "jsonpath={.items[0].metadata.name} {.items[0].metadata.ownerReferences[0].name}";
    let made = space.run(&["get", "jobs", "-o", path])?;
    let (name, owner) = made.split_once(' ').unwrap_or_default();
    let minute = name.strip_prefix("tick-").and_then(|minute| minute.parse::<u64>().ok());
    ensure!(minute.is_some() && owner == "tick", "{made}");
    let events = space.run(&["get", "events", "--field-selector=involvedObject.kind=CronJob", "-o", "name"])?;
    ensure!(!events.is_empty(), "nothing is told of it");
    Ok(())
}
