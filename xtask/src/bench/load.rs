//! The load engine: N connections, each with one request in flight, for a time or a count.
//!
//! Invariant: connections stand before the clock starts. Every phase is bounded in time, requests and errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::http::{Call, Connection};
use super::process::{Processes, own_cpu};
use super::statistics::{Summary, figure, latency, milliseconds};
use super::target::Endpoint;
use crate::project::say;

/// A phase ends after this many requests, whatever its time.
const REQUESTS_MAX: u64 = 5_000_000;
/// A phase fails at this many errors.
const ERRORS_MAX: u64 = 500;
/// A phase by count fails after this long.
const PHASE_LIMIT: Duration = Duration::from_secs(600);
/// Longest wait for the last answers.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// What to do in a phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// What is done, for the report.
    pub(crate) name: &'static str,
    /// Requests in flight.
    pub(crate) connections: usize,
    /// When it ends.
    pub(crate) until: Until,
}

/// When a phase ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After a time.
    Elapsed(Duration),
    /// After a number of requests.
    Count(u64),
}

/// What came of a phase.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) connections: usize,
    /// Requests that succeeded, or events that arrived.
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) elapsed: Duration,
    /// Sum of the answers' bodies.
    pub(crate) bytes: u64,
    pub(crate) latency: Summary,
    /// CPU of the server's processes; none where they are not known.
    pub(crate) server_cpu: Option<Duration>,
    pub(crate) client_cpu: Duration,
}

impl Phase {
    /// Names of the columns of [`Phase::row`].
    pub(crate) const HEADER: [&'static str; 12] = [
        "what",
        "connections",
        "done",
        "errors",
        "per second",
        "p50 ms",
        "p99 ms",
        "max ms",
        "bytes each",
        "server CPU ms each",
        "client CPU ms each",
        "both",
    ];

    /// A total's share of one operation, in milliseconds.
    pub(crate) fn each(&self, total: Duration) -> f64 {
        milliseconds(total) / self.operations.max(1) as f64
    }

    /// Operations per second.
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// For people.
    pub(crate) fn row(&self) -> Vec<String> {
        let (client, server) = (self.each(self.client_cpu), self.server_cpu.map(|cpu| self.each(cpu)));
        vec![
            self.name.clone(),
            self.connections.to_string(),
            self.operations.to_string(),
            self.errors.to_string(),
            figure(self.rate()),
            latency(self.latency.p50),
            latency(self.latency.p99),
            latency(self.latency.max),
            (self.bytes / self.operations.max(1)).to_string(),
            server.map_or_else(|| "unknown".into(), figure),
            figure(client),
            server.map_or_else(|| "unknown".into(), |server| figure(server + client)),
        ]
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let round = |value: f64| (value * 10_000.0).round() / 10_000.0;
        let (client, server) = (self.each(self.client_cpu), self.server_cpu.map(|cpu| self.each(cpu)));
        json!({
            "name": self.name,
            "connections": self.connections,
            "operations": self.operations,
            "errors": self.errors,
            "seconds": round(self.elapsed.as_secs_f64()),
            "perSecond": round(self.rate()),
            "bytesEach": self.bytes / self.operations.max(1),
            "latency": self.latency.json(),
            "serverCpuMsEach": server.map(round),
            "clientCpuMsEach": round(client),
            "bothCpuMsEach": server.map(|server| round(server + client)),
        })
    }
}

/// CPU times at a moment, to be subtracted from later ones.
pub(crate) struct CpuMark {
    server: Option<Duration>,
    client: Duration,
}

impl CpuMark {
    /// Now.
    pub(crate) fn now(servers: &Processes) -> Result<Self> {
        let server = if servers.0.is_empty() { None } else { Some(servers.cpu()?) };
        Ok(Self {
            server,
            client: own_cpu()?,
        })
    }

    /// What server and client used since.
    pub(crate) fn since(&self, servers: &Processes) -> Result<(Option<Duration>, Duration)> {
        let now = Self::now(servers).context("a server process ended during the measurement")?;
        let server = now.server.zip(self.server).map(|(now, then)| now.saturating_sub(then));
        Ok((server, now.client.saturating_sub(self.client)))
    }
}

/// What the workers of a phase share.
struct Shared<F> {
    make: F,
    /// The next request's number.
    next: AtomicU64,
    done: AtomicU64,
    errors: AtomicU64,
    count: u64,
    deadline: Instant,
}

/// What one worker brings home.
#[derive(Default)]
struct Haul {
    latencies: Vec<Duration>,
    bytes: u64,
    first_error: Option<anyhow::Error>,
}

/// Runs a phase. `make(number, connection)` makes the requests: numbers count up over all connections, which are spread
/// evenly over the endpoints. The CPU is that of `servers`.
///
/// # Errors
/// When no connection can be made, nothing succeeds, or errors are many.
pub(crate) async fn run<F>(endpoints: &[Arc<Endpoint>], servers: &Processes, load: Load, make: F) -> Result<Phase>
where
    F: Fn(u64, usize) -> Call + Send + Sync + 'static,
{
    let what = format!("{}, {} at a time", load.name, load.connections);
    let mut connections = Vec::with_capacity(load.connections);
    for endpoint in endpoints.iter().cycle().take(load.connections) {
        connections.push((endpoint.clone(), Connection::open(endpoint).await?));
    }
    let (count, time) = match load.until {
        Until::Elapsed(time) => (REQUESTS_MAX, time),
        Until::Count(count) => (count.min(REQUESTS_MAX), PHASE_LIMIT),
    };
    let bar = ProgressBar::new_spinner().with_message(what.clone());
    let mark = CpuMark::now(servers)?;
    let begun = Instant::now();
    let shared = Arc::new(Shared {
        make,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        count,
        deadline: begun + time,
    });
    let mut workers = JoinSet::new();
    for (index, (endpoint, connection)) in connections.into_iter().enumerate() {
        workers.spawn(work(endpoint, shared.clone(), connection, index));
    }
    let mut haul = Haul::default();
    let gathering = async {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                one = workers.join_next() => match one {
                    Some(one) => haul.add(one.context("a worker panicked")?),
                    None => return Ok::<(), anyhow::Error>(()),
                },
                _ = tick.tick() => bar.set_message(format!("{what}: {}", shared.done.load(Ordering::Relaxed))),
            }
        }
    };
    let gathered = tokio::time::timeout(time + DRAIN_LIMIT, gathering).await;
    bar.finish_and_clear();
    gathered.with_context(|| format!("{what}: requests got no answer within {} s", DRAIN_LIMIT.as_secs()))??;
    let elapsed = begun.elapsed();
    let (server_cpu, client_cpu) = mark.since(servers)?;
    let errors = shared.errors.load(Ordering::Relaxed);
    let explanation = haul.first_error.take().unwrap_or_else(|| anyhow!("no request was made"));
    if errors >= ERRORS_MAX {
        return Err(explanation.context(format!("{what}: {errors} requests failed, the first so")));
    }
    let operations = haul.latencies.len() as u64;
    let Some(latency) = Summary::of(haul.latencies) else {
        return Err(explanation.context(format!("{what}: nothing succeeded")));
    };
    if errors > 0 {
        say(format!("{what}: {errors} requests failed, the first so: {explanation:#}"));
    }
    if let Until::Count(count) = load.until
        && operations + errors < count
    {
        bail!("{what}: {operations} of {count} were done in {} s", PHASE_LIMIT.as_secs());
    }
    let phase = Phase {
        name: load.name.into(),
        connections: load.connections,
        operations,
        errors,
        elapsed,
        bytes: haul.bytes,
        latency,
        server_cpu,
        client_cpu,
    };
    say(format!("{what}: {} per second", figure(phase.rate())));
    Ok(phase)
}

impl Haul {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.bytes += other.bytes;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// One connection: request after request. A connection that breaks is an error and is made anew.
async fn work<F>(endpoint: Arc<Endpoint>, shared: Arc<Shared<F>>, mut connection: Connection, index: usize) -> Haul
where
    F: Fn(u64, usize) -> Call,
{
    let mut haul = Haul::default();
    while shared.errors.load(Ordering::Relaxed) < ERRORS_MAX {
        let begun = Instant::now();
        if begun >= shared.deadline {
            break;
        }
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.count {
            break;
        }
        let call = (shared.make)(number, index);
        match connection.measure(call).await {
            Ok(bytes) => {
                haul.latencies.push(begun.elapsed());
                haul.bytes += bytes;
                shared.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                shared.errors.fetch_add(1, Ordering::Relaxed);
                haul.first_error.get_or_insert(error);
                match Connection::open(&endpoint).await {
                    Ok(fresh) => connection = fresh,
                    Err(error) => {
                        haul.first_error.get_or_insert(error);
                        break;
                    }
                }
            }
        }
    }
    haul
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_per_operation() {
        let phase = Phase {
            name: "get".into(),
            connections: 64,
            operations: 2000,
            errors: 0,
            elapsed: Duration::from_secs(2),
            bytes: 2_000_000,
            latency: Summary::of(vec![Duration::from_millis(1)]).expect("one sample"),
            server_cpu: Some(Duration::from_millis(400)),
            client_cpu: Duration::from_millis(200),
        };
        let row = phase.row();
        assert_eq!(row.len(), Phase::HEADER.len());
        assert_eq!(
            row[2..],
            ["2000", "0", "1000", "1.00", "1.00", "1.00", "1000", "0.200", "0.100", "0.300"]
        );
        let value = phase.json();
        assert_eq!(
            (&value["serverCpuMsEach"], &value["bothCpuMsEach"]),
            (&json!(0.2), &json!(0.3))
        );
    }

    #[test]
    fn an_unknown_server_has_no_cpu() {
        let phase = Phase {
            name: "get".into(),
            connections: 1,
            operations: 0,
            errors: 1,
            elapsed: Duration::ZERO,
            bytes: 0,
            latency: Summary::of(vec![Duration::ZERO]).expect("one sample"),
            server_cpu: None,
            client_cpu: Duration::ZERO,
        };
        assert_eq!(phase.row()[9..], ["unknown", "0.000", "unknown"]);
        assert!(phase.json()["serverCpuMsEach"].is_null());
    }
}
