//! `bench schedule --deployment`: one Deployment from nothing to many pods, on whatever nodes the cluster has.
//!
//! Invariant: the nodes are not the measurement's. `trireme hollow` beside it gives some that report as real ones do, and take
//! a good part of the server's time to do so.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::Method;
use serde_json::{Value, json};

use super::load::CpuMark;
use super::process::Processes;
use super::report::Sheet;
use super::rest::Rest;
use super::statistics::{figure, milliseconds};
use super::watch::Lines;
use crate::project::say;

/// Longest time without anything new.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for the end of what was made.
const REMOVAL_LIMIT: Duration = Duration::from_secs(180);

/// What came of it.
pub(crate) struct Rollout {
    nodes: usize,
    pods: u64,
    /// From the Deployment's creation to the last binding, and to the last pod that is available.
    bound: Duration,
    available: Duration,
    /// Of the server until the last binding, and until the last available pod.
    cpu_bound: Option<Duration>,
    cpu_available: Option<Duration>,
    resident_kib: Option<u64>,
    /// From the deletion to the last pod that is gone, where a kubelet confirms it.
    gone: Duration,
}

/// Measures; removes the Deployment and its pods also where it fails.
pub(crate) async fn measure(rest: &Rest, servers: &Processes, namespace: &str, pods: u64) -> Result<Rollout> {
    let nodes = rest.request(Method::GET, "/api/v1/nodes?limit=1", None).await?;
    let listed = nodes["items"].as_array().map_or(0, Vec::len) as u64;
    let more = nodes["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    let nodes = usize::try_from(listed + more)?;
    anyhow::ensure!(nodes > 0, "the cluster has no nodes: run `trireme hollow` beside this");
    let outcome = fill(rest, servers, namespace, pods).await;
    let began = Instant::now();
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/bench");
    let removed = async {
        if rest.find(&path).await?.is_some() {
            let options = json!({"propagationPolicy": "Background"});
            rest.request(Method::DELETE, &path, Some(&options)).await?;
        }
        let left = format!("/api/v1/namespaces/{namespace}/pods?limit=1");
        let sets = format!("/apis/apps/v1/namespaces/{namespace}/replicasets?limit=1");
        let none = |list: Option<&Value>| list.is_some_and(|list| list["items"].as_array().is_some_and(Vec::is_empty));
        rest.wait("the removal of the ReplicaSet", &sets, REMOVAL_LIMIT, none).await?;
        rest.wait("the removal of the pods", &left, REMOVAL_LIMIT, none).await
    };
    let removed = removed.await;
    let mut rollout = outcome?;
    removed?;
    rollout.nodes = nodes;
    rollout.gone = began.elapsed();
    Ok(rollout)
}

async fn fill(rest: &Rest, servers: &Processes, namespace: &str, pods: u64) -> Result<Rollout> {
    let watch = format!("/api/v1/namespaces/{namespace}/pods?watch=1&fieldSelector=spec.nodeName!%3D&timeoutSeconds=7200");
    let mut lines = Lines::open(&rest.endpoint, &watch).await?;
    let mark = CpuMark::now(servers)?;
    let begun = Instant::now();
    let body = deployment(pods);
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    rest.request(Method::POST, &path, Some(&body)).await?;
    let (mut seen, mut ready) = (0, 0);
    let (mut bound, mut available) = (None, None);
    let (mut cpu_bound, mut cpu_available) = (None, None);
    while bound.is_none() || available.is_none() {
        let line = tokio::time::timeout(STALL_LIMIT, lines.next()).await;
        let line = line.with_context(|| format!("{seen} of {pods} pods are bound, {ready} ready, and no more"))??;
        if line.starts_with(br#"{"type":"ADDED""#) {
            seen += 1;
            if seen == pods {
                bound = Some(begun.elapsed());
                (cpu_bound, _) = mark.since(servers)?;
            }
        } else if became_ready(&line) {
            ready += 1;
            if ready == pods {
                available = Some(begun.elapsed());
                (cpu_available, _) = mark.since(servers)?;
            }
        }
    }
    let (bound, available) = (bound.unwrap_or_default(), available.unwrap_or_default());
    say(format!(
        "{pods} pods: bound after {:.2} s, ready after {:.2} s",
        bound.as_secs_f64(),
        available.as_secs_f64()
    ));
    Ok(Rollout {
        nodes: 0,
        pods,
        bound,
        available,
        cpu_bound,
        cpu_available,
        resident_kib: if servers.0.is_empty() {
            None
        } else {
            Some(servers.memory()?.rss)
        },
        gone: Duration::ZERO,
    })
}

/// Whether an event shows a pod that is ready. A kubelet tells that once in a pod's life here.
fn became_ready(line: &[u8]) -> bool {
    let Ok(event) = serde_json::from_slice::<Value>(line) else {
        return false;
    };
    let conditions = event["object"]["status"]["conditions"].as_array();
    event["type"] == "MODIFIED"
        && conditions.is_some_and(|conditions| {
            let is_true = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
            is_true("Ready")
        })
}

fn deployment(pods: u64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bench"},
        "spec": {
            "replicas": pods,
            "selector": {"matchLabels": {"app": "bench"}},
            "template": {
                "metadata": {"labels": {"app": "bench"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "main", "image": "registry.k8s.io/pause:3.10",
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                    }],
                },
            },
        },
    })
}

impl Rollout {
    /// As a table of one row.
    pub(crate) fn sheet(&self) -> Sheet {
        let seconds = |time: Duration| format!("{:.2}", time.as_secs_f64());
        let each = |cpu: Option<Duration>| {
            cpu.map_or_else(
                || "unknown".into(),
                |cpu| format!("{:.3}", milliseconds(cpu) / self.pods as f64),
            )
        };
        Sheet {
            caption:
                "From the Deployment's creation. CPU is the server's, user and system time a pod, with what the nodes cost it \
                meanwhile."
                    .into(),
            header: vec![
                "nodes",
                "pods",
                "all bound, s",
                "bound per second",
                "server CPU ms each",
                "all ready, s",
                "server CPU ms each, until then",
                "resident MiB",
                "deleted, all gone, s",
            ],
            rows: vec![vec![
                self.nodes.to_string(),
                self.pods.to_string(),
                seconds(self.bound),
                figure(self.pods as f64 / self.bound.as_secs_f64()),
                each(self.cpu_bound),
                seconds(self.available),
                each(self.cpu_available),
                self.resident_kib
                    .map_or_else(|| "unknown".into(), |kib| (kib / 1024).to_string()),
                seconds(self.gone),
            ]],
        }
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        let milliseconds_of = |cpu: Option<Duration>| cpu.map(milliseconds);
        json!({
            "nodes": self.nodes, "pods": self.pods,
            "boundSeconds": self.bound.as_secs_f64(), "readySeconds": self.available.as_secs_f64(),
            "serverCpuMsUntilBound": milliseconds_of(self.cpu_bound),
            "serverCpuMsUntilReady": milliseconds_of(self.cpu_available),
            "rssKib": self.resident_kib, "goneSeconds": self.gone.as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_pod_is_told_by_its_condition() {
        let line = |kind: &str, ready: &str| {
            let conditions = json!([{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": ready}]);
            json!({"type": kind, "object": {"status": {"conditions": conditions}}}).to_string()
        };
        assert!(became_ready(line("MODIFIED", "True").as_bytes()));
        assert!(!became_ready(line("MODIFIED", "False").as_bytes()));
        assert!(!became_ready(line("ADDED", "True").as_bytes()));
        assert!(!became_ready(b"{}") && !became_ready(b"no"));
    }
}
