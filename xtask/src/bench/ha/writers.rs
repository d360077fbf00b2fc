//! Clients that create ConfigMaps at a steady pace. One whose connection breaks or is silent goes to the next server, as
//! real clients do; one that is told no waits for its next turn.
//!
//! Invariant: every attempt has a name of its own, so what was acknowledged can be told from what was not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::super::api::{collection, config_map};
use super::super::http::{Call, Connection};
use super::super::target::Endpoint;
use super::options::Ha;

/// Longest wait for a connection and an answer, both together.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// What each object carries.
const PAYLOAD: &str = "a ConfigMap of a paced client of the benchmark";

/// A write that a server acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Write {
    /// Position of the server at which its client began.
    pub(super) home: usize,
    /// When.
    pub(super) at: Instant,
    /// How long after its turn, failed attempts included.
    pub(super) took: Duration,
    /// The object's name.
    pub(super) name: String,
}

/// Clients that are writing.
pub(super) struct Writers {
    clients: JoinSet<Vec<Write>>,
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<Arc<Endpoint>>,
    path: String,
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Writers {
    /// Starts the clients, with connections that stand, spread over the endpoints.
    ///
    /// # Errors
    /// When a connection cannot be made.
    pub(super) async fn start(options: &Ha, endpoints: Vec<Arc<Endpoint>>, namespace: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            endpoints,
            path: collection(namespace),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
        });
        let mut ready = Vec::new();
        for number in 0..options.clients {
            let home = number as usize % shared.endpoints.len();
            ready.push(Client {
                connection: Some(Connection::open(&shared.endpoints[home]).await?),
                shared: shared.clone(),
                number,
                home,
                at: home,
                attempts: 0,
            });
        }
        let turn = Duration::from_secs(1) / options.rate;
        let begin = tokio::time::Instant::now();
        let mut clients = JoinSet::new();
        for client in ready {
            let first = begin + turn * client.number;
            clients.spawn(client.run(first, turn * options.clients));
        }
        Ok(Self { clients, shared })
    }

    /// Waits until so many more writes were acknowledged.
    ///
    /// # Errors
    /// When they are not within the limit.
    pub(super) async fn progress(&self, writes: u64, limit: Duration) -> Result<()> {
        let acknowledged = || self.shared.acknowledged.load(Ordering::Relaxed);
        let (before, deadline) = (acknowledged(), Instant::now() + limit);
        while acknowledged() < before + writes {
            ensure!(
                Instant::now() < deadline,
                "no {writes} writes are acknowledged within {} s",
                limit.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Ends the clients and tells everything that was acknowledged.
    pub(super) async fn finish(mut self) -> Result<Vec<Write>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut writes = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            writes.extend(client.context("a client panicked")?);
        }
        Ok(writes)
    }
}

/// One client.
struct Client {
    connection: Option<Connection>,
    shared: Arc<Shared>,
    number: u32,
    home: usize,
    /// Position of the server that it writes to.
    at: usize,
    attempts: u64,
}

impl Client {
    async fn run(mut self, begin: tokio::time::Instant, period: Duration) -> Vec<Write> {
        let mut turns = tokio::time::interval_at(begin, period);
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut writes = Vec::new();
        loop {
            turns.tick().await;
            if self.shared.stop.load(Ordering::Relaxed) {
                return writes;
            }
            writes.extend(self.write().await);
        }
    }

    /// Tries every server once, until one answers; what was written if it was acknowledged.
    async fn write(&mut self) -> Option<Write> {
        let turn = Instant::now();
        for _ in 0..self.shared.endpoints.len() {
            self.attempts += 1;
            let name = format!("write-{}-{}", self.number, self.attempts);
            match tokio::time::timeout(ANSWER_LIMIT, self.create(&name)).await {
                Ok(Ok(acknowledged)) => {
                    let at = Instant::now();
                    return acknowledged.then(|| {
                        self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                        Write {
                            home: self.home,
                            at,
                            took: at - turn,
                            name,
                        }
                    });
                }
                Ok(Err(_)) | Err(_) => {
                    self.connection = None;
                    self.at = (self.at + 1) % self.shared.endpoints.len();
                }
            }
        }
        None
    }

    /// Whether the server acknowledged; an error where there was no answer.
    async fn create(&mut self, name: &str) -> Result<bool> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => empty.insert(Connection::open(&self.shared.endpoints[self.at]).await?),
        };
        let call = Call::with(Method::POST, self.shared.path.as_str(), config_map(name, PAYLOAD));
        let (status, _) = connection.exchange(call).await?;
        Ok(status.is_success())
    }
}

/// How many of the writes are not among the names.
pub(super) fn missing(writes: &[Write], names: &BTreeSet<String>) -> usize {
    writes.iter().filter(|write| !names.contains(&write.name)).count()
}
