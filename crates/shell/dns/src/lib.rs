//! Answers cluster DNS on a node: names of the cluster from local state, all others from the host's own resolvers.
//!
//! Invariant: a question about the cluster never leaves the node, and one that came from here is never asked here again.
//! Until Services were seen, questions about the cluster get SERVFAIL, never NXDOMAIN. It will not put its address on a
//! link: that is the pod network's part.

mod answer;
mod forward;
mod handler;
mod shape;
mod tcp;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hickory_server::Server;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use trireme_client::{Cache, ResourceRef};
use trireme_connections::Budget;
use trireme_routing::dns::{Records, Zone};

use forward::Forwarder;
use handler::{Handler, Shared};

pub use tcp::connections;

/// Changes that come this close together make one new set of records.
const GATHER: Duration = Duration::from_millis(5);

/// Whom to ask about names outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The `nameserver` lines of a file, normally `/etc/resolv.conf`, read again when it changes.
    ResolvConf(PathBuf),
    /// These, in order.
    Servers(Vec<SocketAddr>),
}

/// What the server is made from.
#[derive(Clone)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP: the cluster DNS address, port 53. The address must be on a link already.
    pub listen: Vec<SocketAddr>,
    /// Names of the cluster.
    pub zone: Zone,
    /// Everything else.
    pub upstream: Upstream,
    /// Places of TCP connections ([`connections`]).
    pub connections: Arc<Budget>,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Another program has the port.
    #[error("{0} is in use by another program: stop it or choose another --cluster-dns")]
    InUse(SocketAddr),
    /// The address is on no link of this host.
    #[error("{0} is not an address of this host")]
    NoAddress(SocketAddr),
    /// Anything else about the socket.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

/// Ports that are tried where any will do.
const ANY_PORT_TRIES: usize = 16;

/// One port in both protocols. A port of 0 is for tests: UDP takes the one that TCP got, or both another where it is not free.
async fn both(wanted: SocketAddr) -> Result<(SocketAddr, UdpSocket, TcpListener), DnsError> {
    for tried in 1.. {
        let tcp = TcpListener::bind(wanted).await.map_err(DnsError::of(wanted))?;
        let address = tcp.local_addr().map_err(DnsError::of(wanted))?;
        match UdpSocket::bind(address).await {
            Ok(udp) => return Ok((address, udp, tcp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && wanted.port() == 0 && tried < ANY_PORT_TRIES => {}
            Err(error) => return Err(DnsError::of(address)(error)),
        }
    }
    unreachable!("the last try ends it")
}

impl DnsError {
    fn of(address: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address),
            io::ErrorKind::AddrNotAvailable => Self::NoAddress(address),
            _ => Self::Listen { address, source },
        }
    }
}

/// The records of now; none before Services were seen.
type Current = Arc<ArcSwapOption<Records>>;

/// Cluster DNS of one node.
pub struct Dns {
    cache: Arc<Cache>,
    zone: Zone,
    records: Current,
    server: Server<Shared>,
    /// Who answers over TCP.
    listeners: JoinSet<()>,
    addresses: Vec<SocketAddr>,
    ready: watch::Sender<bool>,
}

impl Dns {
    /// Takes the ports. Questions are answered from now on, those about the cluster once [`Dns::run`] has seen Services.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn bind(cache: Arc<Cache>, config: DnsConfig) -> Result<Self, DnsError> {
        let records = Current::default();
        let mut sockets = Vec::new();
        for wanted in &config.listen {
            sockets.push(both(*wanted).await?);
        }
        let addresses: Vec<SocketAddr> = sockets.iter().map(|(address, ..)| *address).collect();
        let forwarder = Forwarder::new(config.upstream, addresses.clone());
        let handler = Arc::new(Handler::new(Arc::clone(&records), config.zone.clone(), forwarder));
        let mut server = Server::new(Shared(Arc::clone(&handler)));
        let mut listeners = JoinSet::new();
        for (_, udp, tcp) in sockets {
            server.register_socket(udp);
            listeners.spawn(tcp::serve(tcp, Arc::clone(&handler), Arc::clone(&config.connections)));
        }
        Ok(Self {
            cache,
            zone: config.zone,
            records,
            server,
            listeners,
            addresses,
            ready: watch::channel(false).0,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Becomes true once questions about the cluster are answered.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Keeps the records right until shutdown, then closes the ports.
    pub async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow() => {}
        }
        self.listeners.shutdown().await;
        if let Err(error) = self.server.shutdown_gracefully().await {
            tracing::debug!("cluster DNS ended: {error}");
        }
    }

    async fn follow(&self) {
        let resources = [ResourceRef::of::<Service>(), ResourceRef::of::<EndpointSlice>()];
        let mut changes = self.cache.subscribe(&resources);
        self.cache.synced(&resources).await;
        loop {
            while changes.try_next().is_some() {}
            let (services, slices) = (self.cache.list(None), self.cache.list(None));
            self.records
                .store(Some(Arc::new(Records::build(&services, &slices, self.zone.clone()))));
            drop((services, slices));
            self.ready.send_replace(true);
            changes.next().await;
            sleep(GATHER).await;
        }
    }
}
