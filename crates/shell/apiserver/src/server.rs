//! The API server as a value: its configuration, what is plugged into it, and the few helpers that every verb needs.
//!
//! Invariant: it holds no object; all state is the store's.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Semaphore;
use trireme_api::cost::{BODY_BYTES_MAX, CostError};
use trireme_api::{Status, StatusDetails};
use trireme_connections::{Budget, Limits, Shares};
use trireme_store::{Applied, Command, Key, Operation, Store, Write, WriteError};

use crate::admission::{Admission, View};
use crate::authn::{Authenticator, PeerCertificates};
use crate::authorization::Authorizer;
use crate::custom::Customs;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::nodes::{MetricsSource, NodeDialer, TokenIssuer};
use crate::service_allocation::Cidr;
use crate::turns::NodeRequests;
use crate::user::UserInfo;
use crate::webhooks::Webhooks;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address under which this server is reached by others; the `kubernetes` Service leads there.
    pub advertise_address: IpAddr,
    /// Port of the same.
    pub port: u16,
    /// Ranges of Service addresses, one per family; the first is the default family.
    pub service_cidrs: Vec<Cidr>,
    /// Range of node ports.
    pub node_ports: RangeInclusive<u16>,
    /// Whether requests without credentials are `system:anonymous` rather than 401.
    pub anonymous: bool,
    /// How long events are kept.
    pub event_ttl: Duration,
    /// Shortest time after which a watch without `timeoutSeconds` is ended; the actual one is up to twice as long.
    pub watch_timeout_min: Duration,
    /// Interval of bookmarks.
    pub bookmark_interval: Duration,
    /// What `/version` says as `gitVersion`.
    pub git_version: String,
    /// How many connections there may be, and for how long without a request.
    pub connections: Limits,
    /// Whether a client is warned that a kind or field is stored and does nothing yet.
    pub warn_unenforced: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            advertise_address: IpAddr::from([127, 0, 0, 1]),
            port: 6443,
            service_cidrs: vec![Cidr::parse("10.43.0.0/16").expect("a constant")],
            node_ports: 30000..=32767,
            anonymous: true,
            event_ttl: Duration::from_hours(1),
            watch_timeout_min: Duration::from_mins(30),
            bookmark_interval: Duration::from_mins(1),
            git_version: concat!("v1.36.0+trireme.", env!("CARGO_PKG_VERSION")).to_owned(),
            connections: connection_limits(Shares::of(1024)),
            warn_unenforced: true,
        }
    }
}

/// The limits of the API's port, with upstream's times: that of a request's head, from the connection on, and that of an
/// idle connection.
#[must_use]
pub fn connection_limits(shares: Shares) -> Limits {
    Limits {
        total: shares.api,
        per_source: shares.api_per_source,
        first_request: Duration::from_secs(32),
        idle: Duration::from_secs(90),
        stalled: Duration::from_secs(60),
    }
}

/// What is plugged into an API server besides its store.
pub struct Plugins {
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// What is changed or refused on the way in.
    pub admission: Arc<dyn Admission>,
    /// Who is who.
    pub authenticator: Arc<dyn Authenticator>,
    /// The way to kubelets; without it logs and streams are answered with 503.
    pub dialer: Option<Arc<dyn NodeDialer>>,
    /// Signs service account tokens; without it `serviceaccounts/token` is answered with 404.
    pub tokens: Option<Arc<dyn TokenIssuer>>,
    /// Serves `metrics.k8s.io`; without it the group does not exist.
    pub metrics: Option<Arc<dyn MetricsSource>>,
    /// Serves the paths below `/trireme/`; without it there are none.
    pub extension: Option<Arc<dyn Extension>>,
}

/// What Trireme serves beside the Kubernetes API: joining, members, status. Requests have passed authentication and
/// authorisation (as non-resource URLs) by then.
#[async_trait]
pub trait Extension: Send + Sync {
    /// Answers one request with a JSON value.
    ///
    /// # Errors
    /// What the client is told.
    async fn handle(&self, user: &UserInfo, method: &http::Method, path: &str, body: Bytes) -> Result<Value, Status>;
}

/// The API server.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) plugins: Plugins,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) node_requests: NodeRequests,
    pub(crate) connections: Arc<Budget>,
    pub(crate) certificates: PeerCertificates,
    pub(crate) customs: Arc<Customs>,
    pub(crate) webhooks: Arc<Webhooks>,
    /// Uids of definitions whose objects are being deleted.
    pub(crate) cleaning: parking_lot::Mutex<std::collections::HashSet<String>>,
}

/// Requests that are served at once, watches, streams and those of nodes not counted; more are told to come again.
pub const REQUESTS_MAX: usize = 600;

impl ApiServer {
    /// Puts an API server together. It serves nobody until [`ApiServer::serve`] or the in-process transport is used;
    /// [`ApiServer::bootstrap`] makes the objects that every cluster has. Must be called within a tokio runtime: definitions of
    /// custom resources are followed from then on, as long as the server lives.
    #[must_use]
    pub fn build(config: Config, store: Arc<dyn Store>, plugins: Plugins) -> Arc<Self> {
        let connections = Budget::new("api", config.connections);
        let (customs, follower) = Customs::start(&store);
        let (webhooks, webhook_follower) = Webhooks::start(&store);
        let server = Arc::new(Self {
            customs,
            webhooks,
            cleaning: parking_lot::Mutex::default(),
            connections,
            certificates: PeerCertificates::default(),
            config,
            store,
            plugins,
            health: Health::default(),
            metrics: Metrics::default(),
            slots: Arc::new(Semaphore::new(REQUESTS_MAX)),
            node_requests: NodeRequests::new(),
        });
        tokio::spawn(follower.follow(Arc::downgrade(&server)));
        tokio::spawn(crate::api_services::follow_definitions(Arc::downgrade(&server)));
        tokio::spawn(webhook_follower.follow(Arc::downgrade(&server)));
        let webhooks = Arc::clone(&server.webhooks);
        server.add_metrics(move || webhooks.counted());
        server
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Checks that `/livez` and `/readyz` ask.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The connections of the API's port.
    #[must_use]
    pub fn connections(&self) -> &Arc<Budget> {
        &self.connections
    }

    pub(crate) fn view(&self) -> View<'_> {
        View::new(self.store.as_ref())
    }

    /// Commits a transaction, in one term of the leader only where a fence is given.
    pub(crate) async fn commit(&self, writes: Vec<Write>, fence: Option<u64>) -> Result<Applied, Status> {
        self.commit_guarded(writes, Vec::new(), fence).await
    }

    /// Commits a transaction where the objects at some further keys live.
    pub(crate) async fn commit_guarded(
        &self,
        writes: Vec<Write>,
        guards: Vec<Key>,
        fence: Option<u64>,
    ) -> Result<Applied, Status> {
        let too_large = |write: &Write| match &write.operation {
            Operation::Put { body, .. } => body.bytes.len() > BODY_BYTES_MAX,
            Operation::Delete { .. } => false,
        };
        if writes.iter().any(too_large) {
            return Err(CostError::Object.into());
        }
        let command = Command::Transaction {
            writes,
            now_ms: now_ms(),
            fence,
            guards,
        };
        match self.store.commit(command).await.map_err(write_failed)? {
            Applied::Fenced { term } => Err(fenced(term)),
            applied => Ok(applied),
        }
    }

    /// Waits until reads are linearizable.
    pub(crate) async fn barrier(&self) -> Result<(), Status> {
        self.store.barrier().await.map(drop).map_err(write_failed)
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The present time as the API shows it: RFC 3339, whole seconds, UTC.
pub(crate) fn now() -> String {
    show_time(jiff::Timestamp::now())
}

/// A time as the API shows it.
pub(crate) fn show_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What a controller is told that acts for a leader of the past.
fn fenced(term: u64) -> Status {
    Status::failure(
        503,
        "ServiceUnavailable",
        format!("the leader that this controller acts for is no leader any more: the term is {term}"),
    )
}

/// What a client is told of a write that did not happen.
pub(crate) fn write_failed(error: WriteError) -> Status {
    let retry = |status: Status| {
        status.with_details(StatusDetails {
            retry_after_seconds: 1,
            ..StatusDetails::default()
        })
    };
    tracing::warn!(%error, "write refused by the store");
    match error {
        WriteError::Unavailable => retry(Status::failure(
            503,
            "ServiceUnavailable",
            "the server is currently unable to handle the request: the store has no leader",
        )),
        WriteError::Unknown => retry(Status::failure(
            504,
            "Timeout",
            "the outcome of the write is unknown: read the object before trying again",
        )),
        WriteError::Disk(_) => retry(Status::failure(
            503,
            "ServiceUnavailable",
            "the store's disk does not accept writes: free space on the server's data directory",
        )),
    }
}
