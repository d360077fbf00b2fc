//! `bench worst`: which request costs a server most, found by growing hostile requests of many kinds.
//!
//! Invariant: each kind is a function of one size; it is doubled until the server refuses it or the body is full, and then
//! brought as near to the limit as a few more requests can. Of what a kind creates the largest accepted one is stored and
//! changed in every way, too. What is stored lies in a namespace of the measurement's own or is deleted before the next.
//! It judges nothing: it prints the worst of each kind.

mod changes;
mod kinds;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use self::changes::Created;
use self::kinds::{KINDS, Kind, MERGE, Place, VICTIM};
use super::http::{Call, Connection, explain};
use super::listeners;
use super::process::Processes;
use super::report::{Output, Report, Sheet};
use super::rest::{Rest, unique_namespace, within};
use super::target::Target;
use crate::project::say;

/// Options of `bench worst`.
#[derive(Args)]
pub(crate) struct Worst {
    #[command(flatten)]
    target: Target,
    /// The server's processes; looked up by the listening port where they run on this machine
    #[arg(long, value_delimiter = ',')]
    pids: Vec<i32>,
    /// Only kinds whose name holds this
    #[arg(long, default_value = "")]
    kind: String,
    /// Leave out the changes of what each kind creates
    #[arg(long)]
    no_changes: bool,
    /// Times that each request is sent for its CPU time, which the kernel counts in hundredths of seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// Largest body that is tried, just below the limit of the API.
const BODY_BYTES_MAX: usize = 3_000_000;
/// Largest query that is tried.
const QUERY_BYTES_MAX: usize = 60_000;
/// Requests between the largest accepted and the smallest refused one.
const HALVINGS: u32 = 4;
/// Longest wait for an answer, which is a finding of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What one request cost.
#[derive(Clone, Debug)]
struct Cost {
    size: usize,
    body_bytes: usize,
    status: u16,
    cpu_ms: f64,
    /// Peak of resident memory above what it was before.
    memory_kib: u64,
}

impl Cost {
    fn accepted(&self) -> bool {
        self.status < 300
    }
}

/// Searches the worst request of each kind.
///
/// # Errors
/// When the server cannot be reached, or its processes are not found.
pub(crate) async fn run(options: &Worst) -> Result<Report> {
    let endpoint = Arc::new(options.target.resolve().await?);
    let rest = Rest {
        endpoint: endpoint.clone(),
    };
    let version = rest.version().await?;
    let servers = if options.pids.is_empty() {
        Processes(listeners::serving(endpoint.address)?)
    } else {
        Processes::named(&options.pids).context("--pids")?
    };
    ensure!(
        !servers.0.is_empty(),
        "the server's processes are not found on this machine; --pids names them"
    );
    let namespace = unique_namespace("worst");
    let search = Search {
        place: Place {
            namespace: namespace.clone(),
        },
        rest: rest.clone(),
        servers,
        repeat: options.repeat,
        changes: !options.no_changes,
    };
    let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.name.contains(&options.kind)).collect();
    let (found, failures) = within(&rest, &[&namespace], "configmaps", search.all(&kinds)).await?;
    Ok(Report {
        name: "worst",
        facts: vec![
            ("server".into(), format!("{version} at {}", endpoint.url)),
            ("server processes".into(), search.servers.describe()),
        ],
        sheets: vec![Sheet {
            caption: "The worst request of each kind, accepted and refused; memory is the peak above what was resident before."
                .into(),
            header: vec!["kind", "status", "size", "body kB", "CPU ms", "memory MiB"],
            rows: found.iter().map(|(kind, cost)| row(kind, cost)).collect(),
        }],
        results: found.iter().map(|(kind, cost)| shown(kind, cost)).collect(),
        failures,
    })
}

fn row(kind: &str, cost: &Cost) -> Vec<String> {
    vec![
        kind.to_owned(),
        cost.status.to_string(),
        cost.size.to_string(),
        format!("{:.1}", cost.body_bytes as f64 / 1000.0),
        format!("{:.1}", cost.cpu_ms),
        format!("{:.1}", cost.memory_kib as f64 / 1024.0),
    ]
}

fn shown(kind: &str, cost: &Cost) -> Value {
    json!({"kind": kind, "status": cost.status, "size": cost.size, "bodyBytes": cost.body_bytes, "cpuMs": cost.cpu_ms,
        "memoryKib": cost.memory_kib})
}

struct Search {
    place: Place,
    rest: Rest,
    servers: Processes,
    repeat: u32,
    changes: bool,
}

impl Search {
    async fn all(&self, kinds: &[&Kind]) -> Result<(Vec<(String, Cost)>, Vec<String>)> {
        let maps = self.place.maps();
        let mut connection = Connection::open(&self.rest.endpoint).await?;
        connection.exchange(Call::with(Method::POST, maps.clone(), VICTIM)).await?;
        // Pods need an account, which a cluster's controllers make: it may be there already.
        let account = json!({"metadata": {"name": "default"}}).to_string();
        let accounts = maps.replace("configmaps", "serviceaccounts");
        connection.exchange(Call::with(Method::POST, accounts, account)).await?;
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for kind in kinds {
            say(kind.name);
            match self.grow(kind).await {
                Ok(costs) => {
                    for accepted in [true, false] {
                        let worst = costs.iter().filter(|cost| cost.accepted() == accepted);
                        if let Some(worst) = worst.max_by(|a, b| a.cpu_ms.total_cmp(&b.cpu_ms)) {
                            found.push((kind.name.to_owned(), worst.clone()));
                        }
                    }
                    let largest = costs.iter().filter(|cost| cost.accepted()).map(|cost| cost.size).max();
                    if let Some(largest) = largest.filter(|_| self.changes) {
                        match self.changes(kind, largest).await {
                            Ok(costs) => found.extend(costs),
                            Err(error) => failures.push(format!("{}, changed: {error:#}", kind.name)),
                        }
                    }
                }
                Err(error) => failures.push(format!("{}: {error:#}", kind.name)),
            }
        }
        let path = format!("{maps}/victim");
        let freed = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
        let call = Call::with(Method::PATCH, path, freed.to_string()).of_type("application/json-patch+json");
        Connection::open(&self.rest.endpoint).await?.exchange(call).await?;
        Ok((found, failures))
    }

    /// Doubles a kind's size until its request is refused or full, then halves the gap to the first that was refused.
    async fn grow(&self, kind: &Kind) -> Result<Vec<Cost>> {
        let mut costs: Vec<Cost> = Vec::new();
        let mut size = kind.from;
        let mut refused = 0;
        // One size beyond the first refusal tells whether refusing grows, too.
        while refused < 3
            && let Some(cost) = self.measure(kind, size).await?
        {
            refused += usize::from(!cost.accepted());
            costs.push(cost);
            size *= 2;
        }
        let sizes = |accepted| {
            costs
                .iter()
                .filter(move |cost| cost.accepted() == accepted)
                .map(|cost| cost.size)
        };
        if let (Some(mut low), Some(mut high)) = (sizes(true).max(), sizes(false).min()) {
            for _ in 0..HALVINGS {
                let Some(cost) = self.measure(kind, low.midpoint(high)).await? else {
                    break;
                };
                if cost.accepted() {
                    low = cost.size;
                } else {
                    high = cost.size;
                }
                costs.push(cost);
            }
        }
        Ok(costs)
    }

    /// The cost of a kind's request of a size; none where it is too large to be sent, or what it changes to be stored.
    async fn measure(&self, kind: &Kind, size: usize) -> Result<Option<Cost>> {
        let call = kind.call(&self.place, size);
        if call.body.len() > BODY_BYTES_MAX || call.path.len() > QUERY_BYTES_MAX {
            return Ok(None);
        }
        let Some(before) = kind.before(&self.place, size) else {
            return self.cost(size, call).await.map(Some);
        };
        let mut connection = Connection::open(&self.rest.endpoint).await?;
        let (made, _) = connection.exchange(before).await?;
        if !made.is_success() {
            return Ok(None);
        }
        let cost = self.cost(size, call).await;
        let path = format!("{}/large", self.place.maps());
        connection.exchange(Call::with(Method::DELETE, path, "")).await?;
        cost.map(Some)
    }

    /// What each change of an object of a kind costs; none where it creates nothing.
    async fn changes(&self, kind: &Kind, size: usize) -> Result<Vec<(String, Cost)>> {
        let Some(collection) = kind.collection(&self.place) else {
            return Ok(Vec::new());
        };
        let call = kind.call(&self.place, size);
        let mut connection = Connection::open(&self.rest.endpoint).await?;
        let stored = Call::with(Method::POST, collection.clone(), call.body.clone());
        let (status, answer) = connection.exchange(stored).await?;
        // Of what is accepted in a dry run not all can be stored, such as what a quota or a log entry has no room for.
        ensure!(status.is_success(), "size {size} is not stored: {}", explain(status, &answer));
        let path = Created::of(&collection, &call.body, &answer)?.path;
        // The server itself writes the status of a definition once it is there: what is read before cannot be put after.
        let established = |status: StatusCode, text: &Bytes| {
            let is_definition = path.contains("/customresourcedefinitions/");
            let object: Value = serde_json::from_slice(text).unwrap_or_default();
            let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            status.is_success() && (!is_definition || conditions.any(|condition| condition["type"] == "Established"))
        };
        let answer = until(&mut connection, &path, "not established", established).await?;
        let created = Created::of(&collection, &call.body, &answer)?;
        drop(answer);
        let mut found = Vec::new();
        for (name, change) in created.changes() {
            found.push((format!("{}, then {name}", kind.name), self.cost(size, change).await?));
        }
        let freed = Call::with(Method::PATCH, created.path.clone(), r#"{"metadata":{"finalizers":null}}"#);
        connection.exchange(freed.of_type(MERGE)).await?;
        let gone = Call::with(Method::DELETE, format!("{}?gracePeriodSeconds=0", created.path), "");
        let (status, answer) = connection.exchange(gone).await?;
        ensure!(status.is_success(), "it is not deleted: {}", explain(status, &answer));
        // A definition goes once none of its objects is left, and the next kind's would be there already.
        until(&mut connection, &created.path, "still there", |status, _| {
            status == StatusCode::NOT_FOUND
        })
        .await?;
        Ok(found)
    }

    async fn cost(&self, size: usize, call: Call) -> Result<Cost> {
        let body_bytes = call.body.len();
        let mut connection = Connection::open(&self.rest.endpoint).await?;
        self.servers.forget_peak()?;
        let before = self.servers.memory()?.rss;
        let (status, _) = tokio::time::timeout(ANSWER_LIMIT, connection.exchange(call.clone()))
            .await
            .with_context(|| format!("no answer within {} s at size {size}", ANSWER_LIMIT.as_secs()))??;
        let memory_kib = self.servers.peak()?.saturating_sub(before);
        let begun = self.servers.cpu()?;
        for _ in 0..self.repeat {
            connection.exchange(call.clone()).await?;
        }
        let spent = self.servers.cpu()?.saturating_sub(begun);
        Ok(Cost {
            size,
            body_bytes,
            status: status.as_u16(),
            cpu_ms: spent.as_secs_f64() * 1000.0 / f64::from(self.repeat),
            memory_kib,
        })
    }
}

/// Reads a path again and again until the answer is as it should be.
async fn until(connection: &mut Connection, path: &str, what: &str, is_so: impl Fn(StatusCode, &Bytes) -> bool) -> Result<Bytes> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    loop {
        let (status, answer) = connection.exchange(Call::with(Method::GET, path, "")).await?;
        if is_so(status, &answer) {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "{path} is {what}: {}", explain(status, &answer));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
