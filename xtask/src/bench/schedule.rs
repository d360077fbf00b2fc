//! `bench schedule`: pods created and bound on nodes that exist in the API only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::http::{Call, Connection};
use super::listeners;
use super::load::{CpuMark, Load, Until, run as run_load};
use super::process::Processes;
use super::report::{Output, Report, Sheet};
use super::rest::{Rest, unique_namespace, within};
use super::rollout;
use super::statistics::{figure, milliseconds};
use super::target::Target;
use super::watch::Lines;
use crate::project::say;

/// Options of `bench schedule`.
#[derive(Args)]
pub(crate) struct Schedule {
    #[command(flatten)]
    target: Target,
    /// The server's processes, for CPU and memory; looked up by the listening port where they run on this machine. Name
    /// them all where a store or a scheduler runs beside the server
    #[arg(long, value_delimiter = ',')]
    pids: Vec<i32>,
    /// Numbers of nodes, one measurement each. No kubelet keeps them: a node lifecycle controller takes them for lost after 50
    /// seconds, so measure with controllers off or in less time
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 5000])]
    nodes: Vec<u64>,
    /// Have one Deployment make the pods, on the nodes that the cluster has (`trireme hollow`), and follow them until they are
    /// ready; --nodes is not used then
    #[arg(long)]
    deployment: bool,
    /// Pods in each measurement
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=200_000))]
    pods: u64,
    /// Requests in flight
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    connections: u64,
    /// Threads of the client
    #[arg(long, default_value_t = 1)]
    pub(super) client_threads: usize,
    /// Measure with an unoptimised client, which saves building another
    #[arg(long)]
    pub(super) debug_client: bool,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// Longest time without any further pod bound.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// What came of one size.
struct Row {
    nodes: u64,
    pods: u64,
    created_each_second: f64,
    bound_each_second: f64,
    server: Option<Duration>,
    client: Duration,
    resident: Option<u64>,
}

/// Measures a server's scheduler.
///
/// # Errors
/// When the server cannot be reached, or pods stay unbound.
pub(crate) async fn run(options: &Schedule) -> Result<Report> {
    let endpoint = Arc::new(options.target.resolve().await?);
    let rest = Rest {
        endpoint: endpoint.clone(),
    };
    let servers = if options.pids.is_empty() {
        Processes(listeners::serving(endpoint.address)?)
    } else {
        Processes::named(&options.pids).context("--pids")?
    };
    let facts = vec![
        ("server".into(), format!("{} at {}", rest.version().await?, endpoint.url)),
        ("server processes".into(), servers.describe()),
    ];
    if options.deployment {
        let namespace = unique_namespace("rollout");
        let work = rollout::measure(&rest, &servers, &namespace, options.pods);
        let rollout = within(&rest, &[&namespace], "pods", work).await?;
        return Ok(Report {
            name: "schedule",
            facts,
            sheets: vec![rollout.sheet()],
            results: rollout.json(),
            failures: vec![],
        });
    }
    let label = unique_namespace("node");
    let bench = Bench {
        options,
        rest: rest.clone(),
        servers,
        label: label.clone(),
    };
    let measured = bench.sizes().await;
    let removed = rest
        .request(Method::DELETE, &format!("/api/v1/nodes?labelSelector=bench%3D{label}"), None)
        .await;
    let rows = measured?;
    removed.context("the nodes could not be removed")?;
    let each = |total: Duration, pods: u64| milliseconds(total) / pods as f64;
    let cells = |row: &Row| {
        vec![
            row.nodes.to_string(),
            row.pods.to_string(),
            figure(row.created_each_second),
            figure(row.bound_each_second),
            row.server
                .map_or_else(|| "unknown".into(), |cpu| format!("{:.3}", each(cpu, row.pods))),
            format!("{:.3}", each(row.client, row.pods)),
            row.resident.map_or_else(|| "unknown".into(), |kib| (kib / 1024).to_string()),
        ]
    };
    let value = |row: &Row| {
        json!({
            "nodes": row.nodes, "pods": row.pods,
            "createdPerSecond": row.created_each_second, "boundPerSecond": row.bound_each_second,
            "serverCpuMsEach": row.server.map(|cpu| each(cpu, row.pods)),
            "clientCpuMsEach": each(row.client, row.pods),
            "rssKib": row.resident,
        })
    };
    Ok(Report {
        name: "schedule",
        facts,
        sheets: vec![Sheet {
            caption: "From the first request to the last binding seen in a watch; CPU is user and system time a pod.".into(),
            header: vec![
                "nodes",
                "pods",
                "created per second",
                "bound per second",
                "server CPU ms each",
                "client CPU ms each",
                "resident MiB",
            ],
            rows: rows.iter().map(cells).collect(),
        }],
        results: json!(rows.iter().map(value).collect::<Vec<Value>>()),
        failures: vec![],
    })
}

struct Bench<'a> {
    options: &'a Schedule,
    rest: Rest,
    servers: Processes,
    /// Value of the label of our nodes, and the beginning of their names.
    label: String,
}

impl Bench<'_> {
    async fn sizes(&self) -> Result<Vec<Row>> {
        let mut sizes = self.options.nodes.clone();
        sizes.sort_unstable();
        let (mut rows, mut present) = (Vec::new(), 0);
        for size in sizes {
            self.add_nodes(present, size).await?;
            present = size;
            let namespace = unique_namespace(&format!("pods-{size}"));
            rows.push(within(&self.rest, &[&namespace], "pods", self.measure(size, &namespace)).await?);
        }
        Ok(rows)
    }

    async fn load<F>(&self, name: &'static str, count: u64, make: F) -> Result<f64>
    where
        F: Fn(u64, usize) -> Call + Send + Sync + 'static,
    {
        let load = Load {
            name,
            connections: usize::try_from(self.options.connections)?,
            until: Until::Count(count),
        };
        let endpoints = std::slice::from_ref(&self.rest.endpoint);
        Ok(run_load(endpoints, &self.servers, load, make).await?.rate())
    }

    async fn add_nodes(&self, from: u64, to: u64) -> Result<()> {
        if to <= from {
            return Ok(());
        }
        let label = self.label.clone();
        let create = move |number, _| {
            let body = node(&label, from + number);
            Call::with(Method::POST, "/api/v1/nodes", body.to_string())
        };
        self.load("create Node", to - from, create).await?;
        // Admission taints a new node until somebody sees it ready.
        let label = self.label.clone();
        let open = move |number, _| {
            let path = format!("/api/v1/nodes/{label}-{}", from + number);
            Call::with(Method::PATCH, path, r#"{"spec":{"taints":null}}"#).of_type("application/merge-patch+json")
        };
        self.load("untaint Node", to - from, open).await?;
        Ok(())
    }

    async fn measure(&self, nodes: u64, namespace: &str) -> Result<Row> {
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        // A controller may have been quicker, which is as good.
        let mut connection = Connection::open(&self.rest.endpoint).await?;
        let (status, _) = connection
            .exchange(Call::with(Method::POST, accounts, account.to_string()))
            .await?;
        if !status.is_success() && status.as_u16() != 409 {
            bail!("the namespace's ServiceAccount cannot be made: {status}");
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let watch = format!("{path}?watch=1&fieldSelector=spec.nodeName!%3D&timeoutSeconds=7200");
        let mut lines = Lines::open(&self.rest.endpoint, &watch).await?;
        let pods = self.options.pods;
        let bound = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bound);
        let mark = CpuMark::now(&self.servers)?;
        let begun = Instant::now();
        let counting = tokio::spawn(async move {
            while counter.load(Ordering::Relaxed) < pods {
                let line = tokio::time::timeout(STALL_LIMIT, lines.next()).await;
                let line = line.context("no further pod was bound")??;
                if line.starts_with(br#"{"type":"ADDED""#) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok::<Instant, anyhow::Error>(Instant::now())
        });
        let create = move |number, _| Call::with(Method::POST, path.as_str(), pod(number).to_string());
        let created_each_second = self.load("create Pod", pods, create).await?;
        let ended = counting.await?;
        let seen = bound.load(Ordering::Relaxed);
        let ended = ended.with_context(|| format!("{seen} of {pods} pods were bound"))?;
        let (server, client) = mark.since(&self.servers)?;
        let seconds = (ended - begun).as_secs_f64();
        say(format!(
            "{nodes} nodes: {} pods bound per second",
            figure(pods as f64 / seconds)
        ));
        let resident = if self.servers.0.is_empty() {
            None
        } else {
            Some(self.servers.memory()?.rss)
        };
        Ok(Row {
            nodes,
            pods,
            created_each_second,
            bound_each_second: pods as f64 / seconds,
            server,
            client,
            resident,
        })
    }
}

/// A node that looks ready, in one of three zones.
fn node(label: &str, number: u64) -> Value {
    let name = format!("{label}-{number}");
    let amounts = json!({"cpu": "32", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "512"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is a bench's",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "bench": label,
            "kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
        }},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]},
    })
}

/// A pod that asks for a little.
fn pod(number: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number:07}"), "labels": {"app": "bench"}},
        "spec": {
            // No kubelet confirms its end.
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "registry.k8s.io/pause:3.10",
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_apart_and_found_by_label() {
        let (one, two) = (node("n", 1), node("n", 2));
        assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
        assert_eq!(one["metadata"]["labels"]["bench"], "n");
        assert_eq!(pod(1)["spec"]["terminationGracePeriodSeconds"], 0);
    }
}
