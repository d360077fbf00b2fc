//! `bench pods`: from the creation of a pod to Ready, one by one and all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::http::{Call, Connection};
use super::report::{Output, Report, Sheet};
use super::rest::{Rest, unique_namespace, within};
use super::statistics::{Summary, latency};
use super::target::Target;
use super::watch::Lines;
use crate::project::say;

/// Options of `bench pods`.
#[derive(Args)]
pub(crate) struct Pods {
    /// Kubeconfig of the cluster
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Pods in each of the two rounds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=500))]
    count: u64,
    /// Image, with a shell's usual `sleep`; a first pod, which is not counted, makes it present
    #[arg(long, default_value = "docker.io/library/busybox:1.35")]
    image: String,
    /// Seconds after which a pod is given up
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// What a pod waits for in vain, so that we need not.
const HOPELESS: [&str; 3] = ["ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"];
/// Longest wait for the namespace's ServiceAccount.
const ACCOUNT_LIMIT: Duration = Duration::from_secs(30);

/// Measures pod starts.
///
/// # Errors
/// When the cluster cannot be reached or a pod does not become Ready; the error says what the pod said last.
pub(crate) async fn run(options: &Pods) -> Result<Report> {
    let endpoint = Arc::new(Target::of_kubeconfig(options.kubeconfig.clone()).resolve().await?);
    let rest = Rest {
        endpoint: endpoint.clone(),
    };
    let facts = vec![
        ("server".into(), format!("{} at {}", rest.version().await?, endpoint.url)),
        ("image".into(), options.image.clone()),
    ];
    ready_node(&rest).await?;
    let namespace = unique_namespace("pods");
    let rounds = within(&rest, &[&namespace], "pods", rounds(options, &rest, &namespace)).await?;
    let row = |(name, summary): &(&str, Summary)| {
        let figures = [summary.p50, summary.p90, summary.p99, summary.max].map(latency);
        [vec![(*name).to_owned(), summary.count.to_string()], figures.to_vec()].concat()
    };
    let results: BTreeMap<&str, Value> = rounds.iter().map(|(name, summary)| (*name, summary.json())).collect();
    Ok(Report {
        name: "pods",
        facts,
        sheets: vec![Sheet {
            caption: "From sending the pod to seeing it Ready in a watch; image present; milliseconds.".into(),
            header: vec!["pods", "count", "p50", "p90", "p99", "max"],
            rows: rounds.iter().map(row).collect(),
        }],
        results: json!(results),
        failures: vec![],
    })
}

async fn ready_node(rest: &Rest) -> Result<()> {
    let nodes = rest.request(Method::GET, "/api/v1/nodes", None).await?;
    let nodes = nodes["items"].as_array().context("the list of nodes has no items")?;
    if !nodes.iter().any(ready) {
        bail!("none of the {} nodes is Ready, so no pod can start", nodes.len());
    }
    Ok(())
}

/// Whether an object's condition Ready is True.
fn ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

async fn rounds(options: &Pods, rest: &Rest, namespace: &str) -> Result<Vec<(&'static str, Summary)>> {
    let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    rest.wait(
        "the namespace's ServiceAccount \"default\"",
        &account,
        ACCOUNT_LIMIT,
        |found| found.is_some(),
    )
    .await?;
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let list = rest.request(Method::GET, &path, None).await?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .context("the list has no resourceVersion")?;
    let lines = Lines::open(
        &rest.endpoint,
        &format!("{path}?watch=1&resourceVersion={revision}&timeoutSeconds=7200"),
    )
    .await?;
    let writer = Connection::open(&rest.endpoint).await?;
    let mut bench = Starts {
        writer,
        lines,
        path,
        image: &options.image,
        limit: Duration::from_secs(options.limit),
    };

    bench
        .start(&["first".into()])
        .await
        .context("the first pod, which makes the image present")?;
    let mut one_by_one = vec![];
    for number in 0..options.count {
        one_by_one.extend(bench.start(&[format!("single-{number}")]).await?);
    }
    say("one by one: done");
    bench.remove_all(rest).await?;
    let names: Vec<String> = (0..options.count).map(|number| format!("burst-{number}")).collect();
    let at_once = bench.start(&names).await?;
    say("all at once: done");
    let summary = |samples| Summary::of(samples).context("no pods");
    Ok(vec![("one by one", summary(one_by_one)?), ("at once", summary(at_once)?)])
}

/// Starts pods and sees them become Ready.
struct Starts<'a> {
    writer: Connection,
    lines: Lines,
    path: String,
    image: &'a str,
    limit: Duration,
}

impl Starts<'_> {
    /// Creates pods without waiting between them, then waits for all. How long each took.
    async fn start(&mut self, names: &[String]) -> Result<Vec<Duration>> {
        let mut waiting = BTreeMap::new();
        for name in names {
            waiting.insert(name.clone(), Instant::now());
            let call = Call::with(Method::POST, self.path.as_str(), pod(name, self.image).to_string());
            self.writer
                .measure(call)
                .await
                .with_context(|| format!("creating pod {name}"))?;
        }
        let mut took = vec![];
        let mut said = BTreeMap::new();
        let limit = self.limit;
        let watching = async {
            while !waiting.is_empty() {
                let event: Value = serde_json::from_slice(&self.lines.next().await?).context("the watch's line is no JSON")?;
                let arrived = Instant::now();
                let object = &event["object"];
                if event["type"] == "ERROR" {
                    bail!("the watch failed: {}", object["message"]);
                }
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                if ready(object) {
                    took.extend(waiting.remove(name).map(|begun| arrived - begun));
                } else if waiting.contains_key(name) {
                    let state = state(object);
                    if HOPELESS.iter().any(|reason| state.contains(reason)) {
                        bail!("pod {name}: {state} (without a registry, `trireme images import ARCHIVE` makes an image present)");
                    }
                    said.insert(name.to_owned(), state);
                }
            }
            Ok(())
        };
        let outcome = tokio::time::timeout(limit, watching).await;
        match outcome {
            Ok(outcome) => outcome?,
            Err(_) => {
                let left: BTreeSet<&String> = waiting.keys().collect();
                let last: Vec<String> = left
                    .iter()
                    .map(|name| format!("{name}: {}", said.get(*name).map_or("no event", String::as_str)))
                    .collect();
                bail!(
                    "{} pods did not become Ready within {} s; last seen: {}",
                    left.len(),
                    limit.as_secs(),
                    last.join("; ")
                );
            }
        }
        Ok(took)
    }

    /// Removes all pods and waits until they are gone, so that they do not weigh on the next round.
    async fn remove_all(&mut self, rest: &Rest) -> Result<()> {
        rest.request(Method::DELETE, &self.path, None).await?;
        let gone = |list: Option<&Value>| list.is_some_and(|list| list["items"].as_array().is_none_or(Vec::is_empty));
        rest.wait("the removal of the pods", &self.path, self.limit, gone).await
    }
}

fn pod(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"]}],
        },
    })
}

/// What a pod that is not Ready says of itself: its phase, and what its container waits for.
fn state(pod: &Value) -> String {
    let status = &pod["status"];
    let container = &status["containerStatuses"][0]["state"];
    let cause = container["waiting"].as_object().or(container["terminated"].as_object());
    let scheduled = status["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["type"] == "PodScheduled"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut parts = vec![text(&status["phase"])];
    if let Some(cause) = cause {
        parts.extend(["reason", "message"].iter().filter_map(|key| cause.get(*key)).map(text));
    }
    if let Some(scheduled) = scheduled.filter(|scheduled| scheduled["status"] == "False") {
        parts.push(text(&scheduled["message"]));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness() {
        let object = |conditions: Value| json!({"status": {"conditions": conditions}});
        assert!(ready(&object(
            json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}])
        )));
        assert!(!ready(&object(json!([{"type": "Ready", "status": "False"}]))));
        assert!(!ready(&json!({})));
    }

    #[test]
    fn what_a_pod_says() {
        let waiting = json!({"reason": "ErrImagePull", "message": "not found"});
        let pending = json!({"status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}});
        assert_eq!(state(&pending), "Pending, ErrImagePull, not found");
        let condition = json!({"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"});
        assert_eq!(
            state(&json!({"status": {"phase": "Pending", "conditions": [condition]}})),
            "Pending, 0/1 nodes are available"
        );
        assert_eq!(state(&json!({})), "");
    }
}
