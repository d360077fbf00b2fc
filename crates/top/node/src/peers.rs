//! The peer port: TLS between members with certificates of a CA of their own.
//!
//! Invariant: both sides show a certificate of the peer CA whose common name is a member's id; no other certificate of
//! the cluster is accepted here, and none of these is accepted anywhere else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_connections::{Budget, Limits, Shares};
use trireme_store::{Member, PeerDialer, RaftStore, Stream};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pki::{Authority, Leaf};
use crate::place::Place;
use crate::renewal::Renewal;

/// File name of the peer CA, below the PKI directory.
pub(crate) const AUTHORITY_FILE: &str = "peer-ca";
/// The name in every peer's certificate: peers are told apart by their id, and their addresses may change.
const PEER_NAME: &str = "peer.trireme.internal";
/// Longest wait for a connection and its handshake: after that a peer counts as unreachable.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// The peer port's connections whose peer is not known yet. A peer that has shown who it is needs no place: there are few.
pub(crate) fn strangers(shares: &Shares) -> Arc<Budget> {
    let limits = Limits {
        total: shares.peer_handshakes,
        per_source: (shares.peer_handshakes / 4).max(1),
        first_request: CONNECT_WITHIN,
        idle: CONNECT_WITHIN,
        stalled: CONNECT_WITHIN,
    };
    Budget::new("peer", limits)
}

/// A connection that has not got something across for so long is given up.
const DELIVERED_WITHIN: Duration = Duration::from_secs(2);

/// Settings of a connection between members: small messages at once, and on a bad way repeated after the same time
/// again and again (`TCP_THIN_LINEAR_TIMEOUTS`) instead of twice the time, which would outlast an election.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_thin_linear_timeouts(true)?;
    socket.set_tcp_user_timeout(Some(DELIVERED_WITHIN))?;
    // Who waits for a long answer on a way that was cut finds out.
    let alive = socket2::TcpKeepalive::new()
        .with_time(DELIVERED_WITHIN)
        .with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&alive)
}

/// Both directions' TLS settings of one member.
pub(crate) struct PeerTls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    fingerprint: String,
}

impl PeerTls {
    /// The peer CA here: name and fingerprint.
    pub(crate) fn fingerprint(&self) -> (String, String) {
        (AUTHORITY_FILE.to_owned(), self.fingerprint.clone())
    }

    /// Loads the peer CA and this member's certificate, or makes them, and what keeps the latter from expiring.
    pub(crate) fn open(place: &Place, now: Duration) -> Result<(Self, Renewal)> {
        let (directory, id) = (&place.pki(), place.member().id);
        // A cluster from before there were several servers has none.
        let known = place.known(AUTHORITY_FILE, false);
        let authority = Arc::new(Authority::load_or_make(
            directory,
            AUTHORITY_FILE,
            "trireme-peer-ca",
            known,
            now,
        )?);
        let mut renewal = Renewal::new(directory.to_owned(), Arc::clone(&authority));
        let leaf = Leaf {
            file: "peer",
            common_name: id.to_string(),
            organisation: None,
            names: vec![PEER_NAME.to_owned()],
            usages: vec![ServerAuth, ClientAuth],
        };
        let identity = renewal.keep(leaf, now)?;
        let mut roots = RootCertStore::empty();
        roots
            .add(authority.certificate().clone())
            .context("the peers' CA certificate")?;
        let roots = Arc::new(roots);
        let server = rustls::ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::clone(&roots)).build()?)
            .with_cert_resolver(Arc::clone(&identity) as _);
        let mut client = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_root_certificates(roots)
            .with_client_cert_resolver(identity);
        // A resumed session stands for the certificate that was shown in the first.
        client.resumption = rustls::client::Resumption::disabled();
        let tls = Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            fingerprint: authority.fingerprint(),
        };
        Ok((tls, renewal))
    }
}

/// The member that a certificate of the peer CA belongs to.
fn member_id(certificates: Option<&[CertificateDer<'_>]>) -> io::Result<u64> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the peer's certificate names no member");
    let certificate = certificates.and_then(<[_]>::first).ok_or_else(wrong)?;
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| wrong())?;
    let name = parsed.subject().iter_common_name().next().ok_or_else(wrong)?;
    name.as_str().ok().and_then(|name| name.parse().ok()).ok_or_else(wrong)
}

/// Connects to peers and makes sure that they are who they should be.
pub(crate) struct TlsDialer(pub(crate) Arc<PeerTls>);

#[async_trait]
impl PeerDialer for TlsDialer {
    async fn connect(&self, member: &Member) -> io::Result<Box<dyn Stream>> {
        let connect = async {
            let stream = TcpStream::connect(&member.peer).await?;
            tune(&stream)?;
            let name = ServerName::try_from(PEER_NAME).map_err(io::Error::other)?;
            let stream = self.0.connector.connect(name, stream).await?;
            let id = member_id(stream.get_ref().1.peer_certificates())?;
            if id != member.id {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} is member {id}, not member {}", member.peer, member.id),
                ));
            }
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        tokio::time::timeout(CONNECT_WITHIN, connect).await?
    }
}

/// Accepts peers until shutdown.
pub(crate) async fn serve(
    listener: TcpListener,
    (tls, strangers): (Arc<PeerTls>, Arc<Budget>),
    store: Arc<RaftStore>,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others must close first.
                tracing::warn!(%error, "accepting a peer");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = strangers.admit(address.ip()).await else {
            continue;
        };
        let (tls, store, shutdown) = (Arc::clone(&tls), Arc::clone(&store), shutdown.clone());
        connections.spawn(async move {
            let handshake = async {
                tune(&stream)?;
                let stream = tokio::select! {
                    stream = tls.acceptor.accept(stream) => stream?,
                    over = place.over() => return Err(io::Error::other(format!("no peer by then: {over:?}"))),
                };
                let id = member_id(stream.get_ref().1.peer_certificates())?;
                Ok::<_, io::Error>((id, stream))
            };
            let shaken = handshake.await;
            drop(place);
            match shaken {
                Ok((id, stream)) => tokio::select! {
                    () = store.serve_peer(id, Box::new(stream)) => {}
                    () = shutdown.cancelled() => {}
                },
                Err(error) => tracing::debug!(%address, %error, "a connection to the peer port was no peer's"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use tokio::io::AsyncReadExt as _;
    use trireme_store::StoreConfig;

    use super::*;
    use crate::place::Addresses;

    #[tokio::test]
    async fn silent_strangers_make_way_for_a_peer() {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider is installed already");
        }
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let addresses = Addresses {
            node: address.ip(),
            peer: address.to_string(),
            api: "https://127.0.0.1:6443".into(),
        };
        let place = Place::find(directory.path(), "one", addresses, None).await.unwrap();
        let (tls, _) = PeerTls::open(&place, now).unwrap();
        let tls = Arc::new(tls);
        let member = place.member().clone();
        let config = StoreConfig::new(place.store(), place.start());
        let store = RaftStore::open(config).await.unwrap();
        let shares = Shares::of(256);
        let strangers = strangers(&shares);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(
            listener,
            (Arc::clone(&tls), Arc::clone(&strangers)),
            Arc::clone(&store),
            shutdown.clone(),
        ));
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(&member.peer).await.unwrap());
        }
        // Well within the time that a handshake may take, as the next ones came.
        let mut byte = [0];
        let ended = tokio::time::timeout(CONNECT_WITHIN / 2, silent[0].read(&mut byte)).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
        assert!(TlsDialer(tls).connect(&member).await.is_ok());
        assert!(strangers.open() <= shares.peer_handshakes / 4, "{}", strangers.open());
        shutdown.cancel();
        serving.await.unwrap();
        store.shutdown().await;
    }
}
