//! The listener: TLS, HTTP/1.1 and HTTP/2, and an orderly end.
//!
//! Invariant: a connection's failure concerns nobody else, and none lives without asking for something: from being
//! accepted to its first request it has a deadline, between requests a limit, and where the port is full the one that has
//! been idle the longest makes way (`trireme_connections`; tests/connections.rs holds it). On shutdown no new request is
//! taken, those running are ended within the grace.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_connections::{Counted, Guarded, Over, Place};

use super::body::Body;
use super::frugal::Frugal;
use super::handle::LongRunning;
use super::unread;
use crate::authn::PeerCertificate;
use crate::proxy::ClientAddress;
use crate::server::ApiServer;

/// Streams that one HTTP/2 connection may have open; upstream's number.
const STREAMS_MAX: u32 = 250;
/// Streams that a client may open and reset before the connection is ended (rapid reset).
const RESETS_MAX: usize = 128;
/// Time for a client to finish its TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Interval and patience of HTTP/2 pings.
const PING: Duration = Duration::from_secs(30);
const PING_MAX: Duration = Duration::from_secs(15);
/// How long a TCP connection may say nothing before the kernel asks whether its other end is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Time for running requests at shutdown.
const DRAIN: Duration = Duration::from_secs(3);
/// How a connection ended that did not end well.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("the TLS handshake took too long")]
    HandshakeTimeout,
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
}

impl ApiServer {
    /// Serves a listener until the token is cancelled. `tls` must offer client certificates as optional, best by
    /// [`AskForCertificate`](crate::authn::AskForCertificate); its ALPN is set here.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut tls: rustls::ServerConfig, shutdown: CancellationToken) {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let connections = TaskTracker::new();
        loop {
            let (stream, address) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, most likely: give connections time to end.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Some(place) = self.connections.admit(address.ip()).await else {
                tracing::debug!(%address, "a connection is refused: the port is full of busy ones");
                continue;
            };
            let (server, acceptor, shutdown) = (Arc::clone(&self), acceptor.clone(), shutdown.clone());
            connections.spawn(async move {
                let served = async {
                    tune(&stream)?;
                    connection(server, acceptor, stream, (address.ip(), place), shutdown).await
                };
                if let Err(error) = served.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
        self.health.set_shutting_down();
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::info!("connections still open at the end of the grace");
        }
    }
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let alive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(PING_MAX);
    socket2::SockRef::from(stream).set_tcp_keepalive(&alive)
}

async fn connection<S>(
    server: Arc<ApiServer>,
    acceptor: TlsAcceptor,
    stream: S,
    (address, place): (IpAddr, Arc<Place>),
    shutdown: CancellationToken,
) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Guarded::new(stream, Arc::clone(&place));
    // What is large is boxed here: else this future would hold room for each stage of a connection's life, all its life.
    let handshake = Box::pin(tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)));
    let tls = tokio::select! {
        tls = handshake => Box::new(tls.map_err(|_| Broken::HandshakeTimeout)??),
        _ = place.over() => return Ok(()),
        () = shutdown.cancelled() => return Ok(()),
    };
    let session = tls.get_ref().1;
    let peer = PeerCertificate::new(session.peer_certificates().unwrap_or_default());
    let http2 = session.alpn_protocol() == Some(b"h2");
    let held = Arc::clone(&place);
    let watching = Arc::new(AtomicBool::new(false));
    let watches = Arc::clone(&watching);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (server, place, watches) = (Arc::clone(&server), Arc::clone(&held), Arc::clone(&watches));
        let busy = place.request();
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        if request.uri().path().contains("/proxy") {
            request.extensions_mut().insert(ClientAddress(address));
        }
        // Boxed: a connection keeps room for the future of its request, also while none runs.
        Box::pin(async move {
            let (request, left) = unread::watched(request);
            let answer = server.handle(request).await;
            let answer = unread::settle(answer, left, &place).await;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                place.becomes_stream();
            }
            let answer: Response<Counted<Body>> = if answer.extensions().get::<LongRunning>().is_some() {
                watches.store(true, Ordering::Release);
                answer.map(|body| Counted::new(body, busy))
            } else {
                answer.map(|body| Counted::finite(body, busy))
            };
            Ok::<_, std::convert::Infallible>(answer)
        })
    });
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(Some(RESETS_MAX))
            .keep_alive_interval(Some(PING))
            .keep_alive_timeout(PING_MAX)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024);
        let serving = Box::pin(builder.serve_connection(TokioIo::new(tls), service));
        drive(serving, http2::Connection::graceful_shutdown, &place, &shutdown).await
    } else {
        place.counts_bytes();
        let mut builder = http1::Builder::new();
        // The place's deadlines take the whole head in, and the wait before it.
        builder.header_read_timeout(None).keep_alive(true);
        let stream = TokioIo::new(Frugal::new(tls, watching));
        let serving = Box::pin(builder.serve_connection(stream, service).with_upgrades());
        drive(serving, http1::UpgradeableConnection::graceful_shutdown, &place, &shutdown).await
    }
}

/// Serves until the connection ends by itself, or has to: then its client is told, and has a moment to read that.
async fn drive<C>(
    mut serving: Pin<Box<C>>,
    close: impl FnOnce(Pin<&mut C>),
    place: &Place,
    shutdown: &CancellationToken,
) -> Result<(), Broken>
where
    C: Future<Output = hyper::Result<()>>,
{
    tokio::select! {
        done = serving.as_mut() => return Ok(done?),
        over = place.over() => {
            tracing::trace!(?over, "closing a connection");
            if over == Over::Stalled || (over == Over::Displaced && place.is_idle()) {
                // Its client does not read, or somebody waits for its place.
                return Ok(());
            }
        }
        () = shutdown.cancelled() => {}
    }
    close(serving.as_mut());
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(done) => Ok(done?),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
