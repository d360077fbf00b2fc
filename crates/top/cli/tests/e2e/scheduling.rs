//! `trireme why`: what an operator is told of a pod that is placed, and of one that is not.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Scenario;
use crate::cluster::{Cluster, contains, trireme};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("why_tells_where_a_pod_is_and_what_is_in_the_way", why)];

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: placed}
spec: {containers: [{name: c, image: 'nginx:1.16'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec: {containers: [{name: c, image: 'nginx:1.16', resources: {requests: {cpu: 4k}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: claims}
spec: {containers: [{name: c, image: 'nginx:1.16'}], volumes: [{name: v, persistentVolumeClaim: {claimName: absent}}]}
";

fn why(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("why")?;
    space.apply(PODS)?;
    space.run(&["wait", "pod/placed", "--for=condition=Ready", "--timeout=60s"])?;
    let ask = |subject: &str, more: &[&str]| -> Result<(Option<i32>, String)> {
        let kubeconfig = cluster.kubeconfig();
        let arguments = ["why", subject, "-n", "why", "--kubeconfig", kubeconfig];
        let output = Command::new(trireme()).args(arguments).args(more).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (code, said) = ask("pod/placed", &[])?;
    ensure!(code == Some(0), "{code:?}: {said}");
    contains(&said, "why/placed is on ")?;
    contains(&said, "has it; could take it")?;
    let (code, said) = ask("pod/huge", &["-o", "json"])?;
    ensure!(code == Some(3), "{code:?}: {said}");
    let told: Value = serde_json::from_str(&said)?;
    ensure!(
        told["state"] == "Unschedulable" && told["nodes"][0]["reasons"][0] == "Insufficient cpu",
        "{told:#}"
    );
    // It says what the scheduler says.
    let path = "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
    for pod in ["huge", "claims"] {
        let message = space.until(&["get", "pod", pod, "-o", path], Duration::from_secs(20), |text| {
            !text.is_empty()
        })?;
        let (code, said) = ask(&format!("pod/{pod}"), &[])?;
        ensure!(code == Some(3), "{code:?}: {said}");
        contains(&said, &message)?;
    }
    let (_, said) = ask("pod/claims", &[])?;
    contains(&said, "persistentvolumeclaim \"absent\" not found")?;
    let (code, said) = ask("pod/nobody", &[])?;
    ensure!(code == Some(1), "{code:?}: {said}");
    contains(&said, "pods \"nobody\" not found")?;
    let (code, _) = ask("deployment/web", &[]).context("a question that makes no sense")?;
    ensure!(code == Some(1));
    Ok(())
}
