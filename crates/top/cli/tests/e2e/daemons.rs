//! A DaemonSet with real containers: made, updated, brought back, kept through a drain, and gone from a node that it no
//! longer selects.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, Namespace, contains};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("a_daemon_is_on_every_node_that_should_have_it", runs)];

const LIMIT: Duration = Duration::from_secs(60);
const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {agent: wanted}
      containers: [{name: web, image: "nginx:1.16", imagePullPolicy: IfNotPresent}]
"#;

fn runs(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("daemons")?;
    let node = cluster.run(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    space.apply(MANIFEST)?;
    figures(&space, "0 0 0 0")?;
    cluster.run(&["label", "node", &node, "agent=wanted"])?;
    space.run(&["rollout", "status", "daemonset/agent", "--timeout=90s"])?;
    figures(&space, "1 1 1 0")?;
    let first = uid(&space)?;
    let told = space.run(&["describe", "daemonset", "agent"])?;
    contains(&told, "SuccessfulCreate")?;

    // An update that never gets ready, and the way back from it.
    space.run(&["set", "image", "daemonset/agent", "web=nginx:not-there"])?;
    space.until(
        &["get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}"],
        LIMIT,
        |images| images == "nginx:not-there",
    )?;
    let history = space.run(&["rollout", "history", "daemonset/agent"])?;
    ensure!(
        history.lines().filter(|line| line.starts_with(['1', '2'])).count() == 2,
        "{history}"
    );
    space.run(&["rollout", "undo", "daemonset/agent"])?;
    space.run(&["rollout", "status", "daemonset/agent", "--timeout=90s"])?;
    let revisions = ["get", "controllerrevisions", "-o", "jsonpath={.items[*].revision}"];
    space.until(&revisions, LIMIT, |numbers| {
        let mut numbers: Vec<&str> = numbers.split(' ').collect();
        numbers.sort_unstable();
        numbers == ["2", "3"]
    })?;
    let second = uid(&space)?;
    ensure!(first != second, "the pod was replaced twice");

    // A drain leaves it where it is; a node that is not selected any more does not.
    cluster.run(&[
        "drain",
        &node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        "--timeout=60s",
    ])?;
    figures(&space, "1 1 1 0")?;
    ensure!(uid(&space)? == second, "a drain leaves daemons alone");
    cluster.run(&["uncordon", &node])?;
    cluster.run(&["label", "node", &node, "agent-"])?;
    figures(&space, "0 0 0 0")?;
    space.until(&["get", "pods", "-o", "name"], LIMIT, str::is_empty)?;
    Ok(())
}

/// Waits for these figures: desired, current, ready, mis-scheduled.
fn figures(space: &Namespace<'_>, wanted: &str) -> Result<()> {
    let path = "jsonpath={.status.desiredNumberScheduled} {.status.currentNumberScheduled} {.status.numberReady} \
        {.status.numberMisscheduled} {.status.observedGeneration}";
    let told = space.until(&["get", "daemonset", "agent", "-o", path], LIMIT, |told| {
        told.rsplit_once(' ')
            .is_some_and(|(figures, seen)| figures == wanted && !seen.is_empty())
    });
    told.map(drop).with_context(|| format!("never {wanted}"))
}

fn uid(space: &Namespace<'_>) -> Result<String> {
    space.run(&["get", "pods", "-l", "app=agent", "-o", "jsonpath={.items[*].metadata.uid}"])
}
