//! The life of a rollout.

use anyhow::{Result, ensure};

use super::{PATIENCE, field, field_becomes};
use crate::cluster::{Cluster, contains};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  progressDeadlineSeconds: 5
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: nginx, image: 'nginx:1.16'}]
";

pub(super) fn whole_life(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("rollouts")?;
    space.apply(DEPLOYMENT)?;
    let done = || space.run(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let image = || field(&space, "deployment/web", ".spec.template.spec.containers[0].image");
    contains(&done()?, "deployment \"web\" successfully rolled out")?;
    space.run(&["set", "image", "deployment/web", "nginx=nginx:1.17"])?;
    space.run(&["annotate", "deployment/web", "kubernetes.io/change-cause=the new nginx"])?;
    done()?;
    let history = space.run(&["rollout", "history", "deployment/web"])?;
    contains(&history, "2         the new nginx")?;
    contains(
        &space.run(&["rollout", "history", "deployment/web", "--revision=1"])?,
        "nginx:1.16",
    )?;
    space.run(&["rollout", "undo", "deployment/web"])?;
    done()?;
    ensure!(image()? == "nginx:1.16", "undone");
    // The old revision is now the third.
    let history = space.run(&["rollout", "history", "deployment/web"])?;
    ensure!(
        !history.lines().any(|line| line.starts_with("1 ")) && history.lines().any(|line| line.starts_with("3 ")),
        "{history}"
    );
    space.run(&["rollout", "undo", "deployment/web", "--to-revision=2"])?;
    done()?;
    ensure!(image()? == "nginx:1.17", "undone to a revision");

    let pods = ["get", "pods", "-o", "name"];
    let before = space.run(&pods)?;
    space.run(&["rollout", "restart", "deployment/web"])?;
    done()?;
    let after = space.until(&pods, PATIENCE, |names| names.lines().count() == 2)?;
    ensure!(
        after.lines().all(|pod| !before.contains(pod)),
        "a restart replaces all pods: {before} {after}"
    );

    space.run(&["rollout", "pause", "deployment/web"])?;
    field_becomes(
        &space,
        "deployment/web",
        ".status.conditions[?(@.reason=='DeploymentPaused')].status",
        "Unknown",
    )?;
    space.run(&["set", "image", "deployment/web", "nginx=nginx:1.16"])?;
    let generation = field(&space, "deployment/web", ".metadata.generation")?;
    field_becomes(&space, "deployment/web", ".status.observedGeneration", &generation)?;
    ensure!(space.run(&pods)? == after, "a paused deployment does not roll");
    // It scales, though.
    space.run(&["scale", "deployment/web", "--replicas=3"])?;
    field_becomes(&space, "deployment/web", ".status.readyReplicas", "3")?;
    space.run(&["rollout", "resume", "deployment/web"])?;
    done()?;
    let images = space.until(
        &["get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}"],
        PATIENCE,
        |text| !text.contains("1.17"),
    )?;
    ensure!(images == "nginx:1.16 nginx:1.16 nginx:1.16", "{images}");
    Ok(())
}

pub(super) fn stuck(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("stuck")?;
    space.apply(DEPLOYMENT)?;
    space.run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
    space.run(&["set", "image", "deployment/web", "nginx=registry.invalid/none:1"])?;
    let said = space.refused(&["rollout", "status", "deployment/web", "--timeout=30s"])?;
    contains(&said, "deployment \"web\" exceeded its progress deadline")?;
    ensure!(
        field(&space, "deployment/web", ".status.availableReplicas")? == "2",
        "the old pods stay"
    );
    contains(&space.run(&["describe", "deployment", "web"])?, "ProgressDeadlineExceeded")?;
    space.run(&["rollout", "undo", "deployment/web"])?;
    contains(
        &space.run(&["rollout", "status", "deployment/web", "--timeout=30s"])?,
        "successfully rolled out",
    )
}
