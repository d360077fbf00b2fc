//! Controllers after the leader's death: a ReplicaSet that is created then gets its pod from the next leader's controllers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use http::Method;
use serde_json::{Value, json};

use super::super::http::{Call, Connection};
use super::super::statistics::{Summary, latency};
use super::super::target::Endpoint;
use super::super::watch::Lines;
use super::Findings;
use super::cluster::Cluster;
use super::faults::namespace_of;
use super::options::{Ha, Part};
use crate::project::say;

const NAMESPACE: &str = "bench-controllers";
/// Longest wait for the controllers.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Time between two attempts to create.
const ATTEMPT_GAP: Duration = Duration::from_millis(5);

/// A row of [`Findings::moves`]; none without samples.
pub(super) fn row(what: &str, samples: &[Duration]) -> Option<Vec<String>> {
    let summary = Summary::of(samples.to_vec())?;
    let figures = [summary.p50, summary.p90, summary.p99, summary.max].map(latency);
    Some([vec![what.to_owned(), summary.count.to_string()], figures.to_vec()].concat())
}

/// Kills the leader again and again.
pub(super) async fn run(options: &Ha, cluster: &Cluster, findings: &mut Findings) -> Result<()> {
    let rest = cluster.rest();
    namespace_of(rest, NAMESPACE).await?;
    let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
    let exists = |found: Option<&Value>| found.is_some();
    rest.wait("the namespace's ServiceAccount \"default\"", &account, LIMIT, exists)
        .await?;
    let (mut accepted, mut reconciled) = (vec![], vec![]);
    let rounds = rounds(options, cluster, &mut accepted, &mut reconciled).await;
    findings
        .moves
        .extend(row("leader killed: a ReplicaSet is accepted", &accepted));
    findings.moves.extend(row("leader killed: its Pod exists", &reconciled));
    let figures = |samples: Vec<Duration>| Summary::of(samples).map(|summary| summary.json());
    findings.keep(
        Part::Controllers,
        json!({"accepted": figures(accepted), "podExists": figures(reconciled)}),
    );
    rounds
}

async fn rounds(options: &Ha, cluster: &Cluster, accepted: &mut Vec<Duration>, reconciled: &mut Vec<Duration>) -> Result<()> {
    let count = options.rounds(Part::Controllers);
    for number in 1..=count {
        let name = format!("round-{number}");
        let round = strike(cluster, &name).await;
        let [write, pod] = round.with_context(|| format!("{number} of {count}"))?;
        accepted.push(write);
        reconciled.push(pod);
        say(format!(
            "{number} of {count}: ReplicaSet after {} ms, Pod after {} ms",
            latency(write),
            latency(pod)
        ));
        cluster.mend().await?;
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/replicasets/{name}?propagationPolicy=Background");
        cluster.rest().request(Method::DELETE, &path, None).await?;
    }
    Ok(())
}

/// One kill: how long after it the ReplicaSet was accepted and its pod was seen.
async fn strike(cluster: &Cluster, name: &str) -> Result<[Duration; 2]> {
    let leader = cluster.settled().await?;
    let survivor = &cluster.servers()[(leader + 1) % cluster.servers().len()];
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let list = survivor.rest.request(Method::GET, &pods, None).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().context("a list has one")?;
    let watch = format!("{pods}?watch=1&resourceVersion={revision}&timeoutSeconds=600");
    let mut lines = Lines::open(&survivor.rest.endpoint, &watch).await?;
    let killed = cluster.kill(leader).await?;
    let seen = async {
        create(&survivor.rest.endpoint, name).await;
        let accepted = killed.elapsed();
        appearance(&mut lines, name).await?;
        Ok([accepted, killed.elapsed()])
    };
    tokio::time::timeout(LIMIT, seen)
        .await
        .map_err(|_| anyhow!("no pod within {} s", LIMIT.as_secs()))?
}

/// Creates a ReplicaSet, again and again until it is acknowledged.
async fn create(endpoint: &Endpoint, name: &str) {
    let body = replica_set(name).to_string();
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/replicasets");
    let attempt = async || {
        let call = Call::with(Method::POST, path.as_str(), body.clone());
        let (status, _) = Connection::open(endpoint).await?.exchange(call).await?;
        // An attempt whose answer was lost may have succeeded.
        Ok::<bool, anyhow::Error>(status.is_success() || status == http::StatusCode::CONFLICT)
    };
    loop {
        if matches!(tokio::time::timeout(ANSWER_LIMIT, attempt()).await, Ok(Ok(true))) {
            return;
        }
        tokio::time::sleep(ATTEMPT_GAP).await;
    }
}

/// Waits until a watch tells of a pod of the ReplicaSet.
async fn appearance(lines: &mut Lines, owner: &str) -> Result<Instant> {
    loop {
        let event: Value = serde_json::from_slice(&lines.next().await?).context("the watch's line is no JSON")?;
        if event["type"] == "ERROR" {
            bail!("the watch failed: {}", event["object"]["message"]);
        }
        if event["type"] == "ADDED" && event["object"]["metadata"]["ownerReferences"][0]["name"] == owner {
            return Ok(Instant::now());
        }
    }
}

/// A ReplicaSet whose pod fits no node, so that nothing but controllers has work with it.
fn replica_set(name: &str) -> Value {
    let labels = json!({"bench": name});
    let container = json!({"name": "main", "image": "none.invalid/none"});
    let spec = json!({"nodeSelector": {"bench.invalid/none": "true"}, "containers": [container]});
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    })
}
