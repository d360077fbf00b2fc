//! `bench connections`: what connections cost that do nothing, and what they do to those that ask: thousands that are
//! idle, and watches that nobody reads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use futures::stream::{self, StreamExt, TryStreamExt};
use http::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::api::{collection, config_map, item};
use super::http::{Call, Connection};
use super::listeners;
use super::process::Processes;
use super::report::{Output, Report, Sheet};
use super::rest::{Rest, unique_namespace, within};
use super::statistics::{Summary, figure, latency};
use super::target::{Endpoint, Target};
use crate::project::say;

/// Options of `bench connections`.
#[derive(Args)]
pub(crate) struct Connections {
    #[command(flatten)]
    target: Target,
    /// The server's processes; looked up by the listening port where they run on this machine
    #[arg(long, value_delimiter = ',')]
    pids: Vec<i32>,
    /// Idle TLS connections; 0 measures the watches alone
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    idle: u64,
    /// Loopback addresses that they come from, where the server is there
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=200))]
    sources: u8,
    /// Let the idle connections ask for nothing at all, rather than once
    #[arg(long)]
    silent: bool,
    /// Watches that nobody reads; 0 measures the idle connections alone. Memory that one of the two gave back to the server
    /// the other takes: for figures, each on a server that has just begun
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(0..=5000))]
    watches: u64,
    /// Requests whose latency is looked at, without and with the idle connections
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    requests: u64,
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

/// Handshakes at a time.
const HANDSHAKES: usize = 16;
/// The collection that is watched: 3.9 MB as JSON.
const OBJECTS: u64 = 1000;
const PAYLOAD_BYTES: usize = 3700;
/// The server's memory is looked at until it grows no more, this often.
const SETTLE_GAP: Duration = Duration::from_millis(500);
const SETTLED_KIB: u64 = 256;

/// Measures a server.
///
/// # Errors
/// When it cannot be reached, or does not let all connections in.
pub(crate) async fn run(options: &Connections) -> Result<Report> {
    let endpoint = Arc::new(options.target.resolve().await?);
    raise_limit(options.idle + options.watches + 100)?;
    let servers = if options.pids.is_empty() {
        Processes(listeners::serving(endpoint.address)?)
    } else {
        Processes::named(&options.pids).context("--pids")?
    };
    ensure!(
        !servers.0.is_empty(),
        "the server's processes are not found on this machine: --pids names them"
    );
    let rest = Rest {
        endpoint: Arc::clone(&endpoint),
    };
    let facts = vec![
        ("server".into(), format!("{} at {}", rest.version().await?, endpoint.url)),
        ("server processes".into(), servers.describe()),
    ];
    let (mut memory, mut latencies, mut results) = (vec![], vec![], json!({}));
    if options.idle > 0 {
        let idle = idle(options, &endpoint, &servers).await?;
        memory.push(idle.growth.row("idle TLS"));
        latencies.push(summary_row("nothing else", &idle.alone));
        latencies.push(summary_row("they are open", &idle.beside));
        results["idle"] = json!({"growth": idle.growth.json(), "alone": idle.alone.json(), "beside": idle.beside.json()});
    }
    if options.watches > 0 {
        let namespace = unique_namespace("connections");
        let work = watches(options, &rest, &servers, &namespace);
        let growth = within(&rest, &[&namespace], "configmaps", work).await?;
        memory.push(growth.row("unread watches of 3.9 MB"));
        results["watches"] = growth.json();
    }
    Ok(Report {
        name: "connections",
        facts,
        sheets: vec![
            Sheet {
                caption: "The server's memory beyond what it was before.".into(),
                header: vec!["what", "connections", "MiB", "KiB each"],
                rows: memory,
            },
            Sheet {
                caption: "GET of a namespace, one at a time, in milliseconds.".into(),
                header: vec!["while", "p50", "p99", "max"],
                rows: latencies,
            },
        ],
        results,
        failures: vec![],
    })
}

/// Memory that came with connections, in KiB.
struct Growth {
    connections: u64,
    before: u64,
    after: u64,
}

impl Growth {
    fn kib(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }

    fn row(&self, what: &str) -> Vec<String> {
        vec![
            what.to_owned(),
            self.connections.to_string(),
            figure(self.kib() as f64 / 1024.0),
            figure(self.kib() as f64 / self.connections as f64),
        ]
    }

    fn json(&self) -> Value {
        json!({"connections": self.connections, "rssKibBefore": self.before, "rssKibAfter": self.after})
    }
}

struct Idle {
    growth: Growth,
    alone: Summary,
    beside: Summary,
}

fn summary_row(what: &str, summary: &Summary) -> Vec<String> {
    vec![
        what.to_owned(),
        latency(summary.p50),
        latency(summary.p99),
        latency(summary.max),
    ]
}

async fn idle(options: &Connections, endpoint: &Arc<Endpoint>, servers: &Processes) -> Result<Idle> {
    let alone = latencies(endpoint, options.requests).await?;
    let before = settled(servers).await?;
    say(format!("opening {} connections", options.idle));
    // Each asks once, as clients do that keep a connection for later: then it may be idle for a while.
    let held: Vec<_> = stream::iter(0..options.idle)
        .map(|number| {
            let source = (number % u64::from(options.sources)) as u8 + 1;
            async move {
                let mut stream = open(endpoint, Some(source)).await?;
                if !options.silent {
                    ask(&mut stream, endpoint, "/version").await?;
                }
                Ok::<_, anyhow::Error>(stream)
            }
        })
        .buffer_unordered(HANDSHAKES)
        .try_collect()
        .await?;
    let after = settled(servers).await?;
    let beside = latencies(endpoint, options.requests).await?;
    drop(held);
    Ok(Idle {
        growth: Growth {
            connections: options.idle,
            before,
            after,
        },
        alone,
        beside,
    })
}

async fn watches(options: &Connections, rest: &Rest, servers: &Processes, namespace: &str) -> Result<Growth> {
    let payload = "x".repeat(PAYLOAD_BYTES);
    let path = collection(namespace);
    let mut connection = Connection::open(&rest.endpoint).await?;
    for number in 0..OBJECTS {
        let body = config_map(&item(number), &payload);
        connection.measure(Call::with(Method::POST, path.as_str(), body)).await?;
    }
    for _ in 0..3 {
        connection.measure(Call::get(path.as_str())).await?;
    }
    let before = settled(servers).await?;
    say(format!("opening {} watches", options.watches));
    let query = format!("{path}?watch=1");
    let mut held = Vec::new();
    for _ in 0..options.watches {
        let mut stream = open(&rest.endpoint, None).await?;
        ask(&mut stream, &rest.endpoint, &query).await?;
        held.push(stream);
    }
    let after = settled(servers).await?;
    drop(held);
    Ok(Growth {
        connections: options.watches,
        before,
        after,
    })
}

/// A connection; from one of several loopback addresses, where that is where the server is.
async fn open(endpoint: &Endpoint, source: Option<u8>) -> Result<TlsStream<TcpStream>> {
    let (connector, name) = endpoint
        .tls
        .as_ref()
        .context("this measures TLS: the URL begins with https://")?;
    let socket = if endpoint.address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let (Some(source), IpAddr::V4(address)) = (source, endpoint.address.ip())
        && address.is_loopback()
    {
        socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 0, source).into(), 0))?;
    }
    let stream = socket.connect(endpoint.address).await.context("no connection")?;
    connector
        .connect(name.clone(), stream)
        .await
        .context("the TLS handshake failed")
}

/// Sends a request and reads the beginning of its answer.
async fn ask(stream: &mut TlsStream<TcpStream>, endpoint: &Endpoint, path: &str) -> Result<()> {
    let mut head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n", endpoint.host.to_str()?);
    if let Some(authorization) = &endpoint.authorization {
        head.push_str(&format!("authorization: {}\r\n", authorization.to_str()?));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await?;
    ensure!(&begin == b"HTTP/1.1 200", "{path}: {}", String::from_utf8_lossy(&begin));
    Ok(())
}

async fn latencies(endpoint: &Endpoint, requests: u64) -> Result<Summary> {
    let mut connection = Connection::open(endpoint).await?;
    let mut samples = Vec::new();
    for _ in 0..requests {
        let begun = Instant::now();
        connection.measure(Call::get("/api/v1/namespaces/default")).await?;
        samples.push(begun.elapsed());
    }
    Summary::of(samples).context("no request")
}

/// Resident memory once it grows no more.
async fn settled(servers: &Processes) -> Result<u64> {
    let mut last = servers.memory()?.rss;
    loop {
        tokio::time::sleep(SETTLE_GAP).await;
        let now = servers.memory()?.rss;
        if now <= last + SETTLED_KIB {
            return Ok(now.max(last));
        }
        last = now;
    }
}

fn raise_limit(wanted: u64) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        wanted <= hard,
        "the client may open {hard} files: fewer connections, or a higher limit (ulimit -Hn)"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
