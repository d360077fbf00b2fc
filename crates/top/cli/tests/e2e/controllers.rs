//! Controllers as an operator sees them: none asks for more than its role allows, and all of them count what they do.

use anyhow::{Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, contains};

/// To be run behind what keeps the controllers busy.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("controllers_do_what_their_roles_allow", roles_suffice),
    ("controllers_and_scheduler_are_counted", counted),
];

fn roles_suffice(cluster: &Cluster) -> Result<()> {
    let refused: Vec<String> = cluster
        .log()?
        .lines()
        .filter(|line| line.contains("system:serviceaccount:kube-system:") && line.contains("is forbidden"))
        .map(str::to_owned)
        .collect();
    ensure!(refused.is_empty(), "{refused:#?}");
    // The roles are what allows it: a controller is nobody special otherwise.
    let may = |verb: &str, what: &str| {
        let user = "--as=system:serviceaccount:kube-system:deployment-controller";
        let output = cluster
            .command(&["auth", "can-i", verb, what, "-n", "default", user])
            .output()?;
        Ok::<_, anyhow::Error>(output.stdout.starts_with(b"yes"))
    };
    ensure!(may("create", "replicasets")? && !may("create", "secrets")?);
    Ok(())
}

fn counted(cluster: &Cluster) -> Result<()> {
    let text = cluster.run(&["get", "--raw", "/metrics"])?;
    for line in [
        "# TYPE workqueue_adds_total counter",
        "# TYPE workqueue_queue_duration_seconds histogram",
        "# TYPE scheduler_pending_pods gauge",
        "# TYPE scheduler_schedule_attempts_total counter",
        "workqueue_depth{name=\"deployment\"} ",
        "workqueue_adds_total{name=\"namespace\"} ",
        "scheduler_pending_pods{queue=\"active\"} ",
    ] {
        contains(&text, line)?;
    }
    Ok(())
}
