//! `bench api`: what any Kubernetes API server does per second, how long it takes and what CPU it costs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::http::Call;
use super::listeners;
use super::load::{Load, Phase, Until, run as run_load};
use super::process::Processes;
use super::report::{Output, Report, Sheet};
use super::rest::{Rest, unique_namespace, within};
use super::target::{Endpoint, Target};
use super::watch::{FanOut, fan_out};
use crate::project::say;

/// Options of `bench api`.
#[derive(Args)]
pub(crate) struct Api {
    #[command(flatten)]
    target: Target,
    /// The server's processes, for CPU and memory; looked up by the listening port where they run on this machine. Name
    /// them all where a store runs beside the server
    #[arg(long, value_delimiter = ',')]
    pids: Vec<i32>,
    /// Seconds of each phase that has no count
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    duration: u64,
    /// ConfigMaps in the LIST, created at `--connections` at a time
    #[arg(long, default_value_t = 13_353, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Bytes of each ConfigMap as the server lists it
    #[arg(long, default_value_t = 1004, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    object_bytes: u64,
    /// Connections of the phases with many
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    connections: u64,
    /// Watchers of the fan-out
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=5000))]
    watchers: u64,
    /// Events that each watcher gets
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    events: u64,
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

/// Connections of a LIST at many: each answer is large.
const LIST_CONNECTIONS: usize = 4;
/// What a single object carries beyond an item of a list: its kind and apiVersion.
const TYPE_META_BYTES: u64 = r#""kind":"ConfigMap","apiVersion":"v1","#.len() as u64;

/// What came of all phases.
#[derive(Default)]
struct Outcome {
    phases: Vec<Phase>,
    failures: Vec<String>,
}

impl Outcome {
    fn note(&mut self, phase: Result<Phase>) {
        match phase {
            Ok(phase) => self.phases.push(phase),
            Err(error) => {
                say(format!("FAILED: {error:#}"));
                self.failures.push(format!("{error:#}"));
            }
        }
    }
}

/// One run against one server.
struct Run<'a> {
    options: &'a Api,
    rest: Rest,
    servers: Processes,
    /// Holds the ConfigMaps of GET, LIST and update.
    many: String,
    /// Holds those of the other phases.
    other: String,
}

/// Measures a server.
///
/// # Errors
/// When it cannot be reached, refuses, or fails under load.
pub(crate) async fn run(options: &Api) -> Result<Report> {
    let endpoint = Arc::new(options.target.resolve().await?);
    let rest = Rest {
        endpoint: endpoint.clone(),
    };
    let version = rest.version().await?;
    let servers = servers(options, &endpoint)?;
    let mut facts = vec![
        ("server".into(), format!("{} at {}", version, endpoint.url)),
        (
            "server processes".into(),
            if servers.0.is_empty() {
                "unknown".into()
            } else {
                servers.describe()
            },
        ),
        (
            "client".into(),
            format!(
                "HTTP/1.1 with keep-alive, {} thread(s), {} build",
                options.client_threads,
                if cfg!(debug_assertions) { "unoptimised" } else { "optimised" }
            ),
        ),
    ];
    let (many, other) = (unique_namespace("many"), unique_namespace("other"));
    let run = Run {
        options,
        rest: rest.clone(),
        servers,
        many: many.clone(),
        other: other.clone(),
    };
    let before = run.memory()?;
    let Outcome { phases, failures } = within(&rest, &[&many, &other], "configmaps", run.phases()).await?;
    let memory = run.memory()?;
    let peak = if run.servers.0.is_empty() {
        None
    } else {
        Some(run.servers.peak()?)
    };
    let mebibytes = |kib: Option<u64>| kib.map_or_else(|| "unknown".into(), |kib| format!("{:.1} MiB", kib as f64 / 1024.0));
    facts.push(("server memory before".into(), mebibytes(before)));
    facts.push(("server memory after, all removed".into(), mebibytes(memory)));
    facts.push(("server memory at its peak".into(), mebibytes(peak)));
    Ok(Report {
        name: "api",
        facts,
        sheets: vec![Sheet {
            caption: format!(
                "{} ConfigMaps of {} bytes each; CPU is user and system time.",
                options.count, options.object_bytes
            ),
            header: Phase::HEADER.to_vec(),
            rows: phases.iter().map(Phase::row).collect(),
        }],
        results: json!({
            "phases": phases.iter().map(Phase::json).collect::<Vec<Value>>(),
            "rssKibBefore": before,
            "rssKibAfter": memory,
            "rssKibPeak": peak,
        }),
        failures,
    })
}

fn servers(options: &Api, endpoint: &Endpoint) -> Result<Processes> {
    if !options.pids.is_empty() {
        return Processes::named(&options.pids).context("--pids");
    }
    let found = Processes(listeners::serving(endpoint.address)?);
    if found.0.is_empty() {
        say("the server's processes are not found on this machine: no CPU and memory of the server (--pids names them)");
    }
    Ok(found)
}

impl Run<'_> {
    /// Resident memory of the server's processes, in KiB.
    fn memory(&self) -> Result<Option<u64>> {
        Ok(if self.servers.0.is_empty() {
            None
        } else {
            Some(self.servers.memory()?.rss)
        })
    }

    async fn load<F>(&self, name: &'static str, connections: usize, until: Until, make: F) -> Result<Phase>
    where
        F: Fn(u64, usize) -> Call + Send + Sync + 'static,
    {
        run_load(
            std::slice::from_ref(&self.rest.endpoint),
            &self.servers,
            Load {
                name,
                connections,
                until,
            },
            make,
        )
        .await
    }

    /// All phases, in order. One that fails does not stop the next: what a server cannot do is a finding too.
    async fn phases(&self) -> Result<Outcome> {
        let payload = calibrate(&self.rest.endpoint, &self.other, self.options.object_bytes).await?;
        let (count, time) = (self.options.count, Until::Elapsed(Duration::from_secs(self.options.duration)));
        let connections = usize::try_from(self.options.connections)?;
        let (many, other) = (collection(&self.many), collection(&self.other));
        let mut outcome = Outcome::default();

        for (path, connections, until) in [(&many, connections, Until::Count(count)), (&other, 1, time)] {
            let (path, text) = (path.clone(), payload.clone());
            let create = move |number, _| Call::with(Method::POST, path.as_str(), config_map(&item(number), &text));
            outcome.note(self.load("create ConfigMap", connections, until, create).await);
        }
        for connections in [connections, 1] {
            let path = many.clone();
            let get = move |number, _| Call::get(format!("{path}/{}", item(scattered(number, count))));
            outcome.note(self.load("get ConfigMap", connections, time, get).await);
        }
        for connections in [LIST_CONNECTIONS, 1] {
            let path = many.clone();
            let list = move |_, _| Call::get(path.as_str());
            outcome.note(self.load("list ConfigMaps", connections, time, list).await);
        }
        for (round, connections) in [connections, 1].into_iter().enumerate() {
            let (path, text) = (many.clone(), payload.clone());
            // Neighbouring numbers are different objects, so no two connections write the same one at a time.
            let update = move |number, _| {
                let name = item(number % count);
                Call::with(
                    Method::PUT,
                    format!("{path}/{name}"),
                    config_map(&name, &changed(&text, round, number)),
                )
            };
            outcome.note(self.load("update ConfigMap", connections, time, update).await);
        }
        let load = FanOut {
            watchers: usize::try_from(self.options.watchers)?,
            events: usize::try_from(self.options.events)?,
        };
        outcome.note(fan_out(&self.rest, &self.servers, &self.other, load).await.context("watch"));
        Ok(outcome)
    }
}

/// A payload with which an item of a list has the wanted size: what the server itself adds is learnt from one object in a
/// namespace.
pub(super) async fn calibrate(endpoint: &Endpoint, namespace: &str, object_bytes: u64) -> Result<String> {
    let name = item(0).replace("item", "size");
    let mut connection = super::http::Connection::open(endpoint).await?;
    let own = connection
        .measure(Call::with(Method::POST, collection(namespace), config_map(&name, "")))
        .await
        .context("creating a first ConfigMap")?;
    let own = own.saturating_sub(TYPE_META_BYTES);
    ensure!(
        own <= object_bytes,
        "--object-bytes: the server needs {own} bytes for an object without data"
    );
    Ok("x".repeat(usize::try_from(object_bytes - own)?))
}

/// Path of a namespace's ConfigMaps.
pub(super) fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

/// Name of an object by number.
pub(super) fn item(number: u64) -> String {
    format!("item-{number:07}")
}

/// A number below `count` that jumps about with its input.
fn scattered(number: u64, count: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) % count
}

/// The payload, with a beginning that no other update of this run has: a server may skip a write that changes nothing.
fn changed(payload: &str, round: usize, number: u64) -> String {
    let head = format!("{round:02x}{number:010x}");
    let tail = payload.get(head.len()..).unwrap_or_default();
    head + tail
}

/// A ConfigMap with a payload.
pub(super) fn config_map(name: &str, payload: &str) -> Bytes {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"payload": payload}});
    Bytes::from(body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_scatter_over_all() {
        let seen: std::collections::BTreeSet<u64> = (0..10_000).map(|number| scattered(number, 100)).collect();
        assert_eq!(seen, (0..100).collect());
    }

    #[test]
    fn names_are_of_one_length() {
        assert_eq!(item(0).len(), item(999_999).len());
    }

    #[test]
    fn updates_differ_and_keep_their_size() {
        let payload = "x".repeat(20);
        let all = [(0, 0), (0, 1), (1, 0)].map(|(round, number)| changed(&payload, round, number));
        assert_eq!(all[1], "000000000001xxxxxxxx");
        assert!(all[0] != all[1] && all[0] != all[2] && all.iter().all(|one| one.len() == payload.len()));
        assert_eq!(changed("", 1, 2), "010000000002");
    }
}
