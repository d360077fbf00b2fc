//! The listener: TLS, HTTP/1.1 and HTTP/2, and an orderly end.
//!
//! Invariant: a connection's failure concerns nobody else, and none lives without asking for something: from being
//! accepted to its first request it has a deadline, between requests a limit, and where the port is full the one that has
//! been idle the longest makes way (`trireme_connections`; `tests/requests/crowds.rs` holds it). On shutdown no new request is
//! taken, those running are ended within the grace.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_connections::{Counted, Guarded, Over, Place, Seldom};

use super::body::Body;
use super::frugal::{Frugal, Known};
use super::handle::LongRunning;
use super::unread;
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
/// How long a connection keeps its buffers after a request.
const REST: Duration = Duration::from_millis(200);
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
    ///
    /// Boxed, so that what it needs of HTTP and TLS is compiled here, and not in each crate that awaits it.
    pub fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: rustls::ServerConfig,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        Box::pin(self.serve_here(listener, tls, shutdown))
    }

    async fn serve_here(self: Arc<Self>, listener: TcpListener, mut tls: rustls::ServerConfig, shutdown: CancellationToken) {
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
            if let Err(error) = tune(&stream) {
                tracing::debug!(%error, "a connection was gone at once");
                continue;
            }
            let served = connection(server, acceptor, stream, (address.ip(), place), shutdown);
            connections.spawn(served.map(|ended| {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
            }));
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
    let peer = server.certificates.shown(session.peer_certificates().unwrap_or_default());
    let http2 = session.alpn_protocol() == Some(b"h2");
    let held = Arc::clone(&place);
    let known = Arc::new(Known::default());
    let stream = Arc::clone(&known);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (server, place, stream) = (Arc::clone(&server), Arc::clone(&held), Arc::clone(&stream));
        let busy = place.request();
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        if request.uri().path().contains("/proxy") {
            request.extensions_mut().insert(ClientAddress(address));
        }
        let (request, left) = unread::watched(request);
        // Boxed: a connection keeps room for the future of its request, also while none runs.
        Box::pin(async move {
            let answer = server.handle(request).await;
            let answer = match unread::rest(left) {
                Some(rest) => Box::pin(unread::settle(answer, rest, &place)).await,
                None => answer,
            };
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                place.becomes_stream();
            }
            let answer: Response<Counted<Body>> = if answer.extensions().get::<LongRunning>().is_some() {
                if !http2 {
                    stream.set_watching();
                }
                answer.map(|body| Counted::new(body, busy))
            } else {
                answer.map(|body| Counted::finite(body, busy))
            };
            Ok::<_, Infallible>(answer)
        })
    });
    let mut io = Frugal::new(tls, Arc::clone(&known));
    let end = Seldom::new(ended(&place, &shutdown));
    if !http2 {
        place.counts_bytes();
        return serve_http1(io, (service, &known), &place, end).await;
    }
    let Some(end) = wait(&mut io, end).await? else {
        return Ok(());
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(Some(RESETS_MAX))
        .keep_alive_interval(Some(PING))
        .keep_alive_timeout(PING_MAX)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024);
    let serving = Box::pin(builder.serve_connection(TokioIo::new(io), service));
    drive(serving, http2::Connection::graceful_shutdown, &place, end).await
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Over(Over),
    Shutdown,
}

/// Resolves when a connection has to end.
async fn ended(place: &Place, shutdown: &CancellationToken) -> Why {
    tokio::select! {
        over = place.over() => Why::Over(over),
        () = shutdown.cancelled() => Why::Shutdown,
    }
}

/// Waits until the client sends something, and gives the end back for what comes then. Where the connection ends or has to
/// end before, the client is told, and there is nothing to give back.
async fn wait<S, E>(io: &mut Frugal<S>, mut end: Seldom<E>) -> Result<Option<Seldom<E>>, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Future<Output = Why>,
{
    tokio::select! {
        biased;
        readable = io.readable() => return Ok(readable?.then_some(end)),
        why = &mut end => {
            if why == Why::Over(Over::Displaced) {
                return Ok(None);
            }
        }
    }
    match Box::pin(tokio::time::timeout(DRAIN, io.shutdown())).await {
        Ok(done) => done?,
        Err(_) => tracing::trace!("a client does not take the end of its connection"),
    }
    Ok(None)
}

/// Serves HTTP/1.1. Between requests the connection is taken apart: an idle one keeps its TLS session and no buffers.
async fn serve_http1<S, V, E>(
    mut io: Frugal<Guarded<S>>,
    (mut service, known): (V, &Known),
    place: &Place,
    mut end: Seldom<E>,
) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: Service<Request<Incoming>, Response = Response<Counted<Body>>, Error = Infallible>,
    E: Future<Output = Why>,
{
    let mut rest = REST;
    loop {
        end = match wait(&mut io, end).await? {
            Some(end) => end,
            None => return Ok(()),
        };
        let close = http1::UpgradeableConnection::graceful_shutdown;
        let mut builder = http1::Builder::new();
        // The place's deadlines take the whole head in, and the wait before it.
        builder.header_read_timeout(None).keep_alive(true);
        let mut serving = Box::pin(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
        let mut rested = Seldom::new(place.rests(rest));
        tokio::select! {
            biased;
            done = serving.as_mut() => return Ok(done?),
            why = &mut end => return finish(serving, close, why, place).await,
            () = &mut rested => {}
        }
        drop(rested);
        if known.is_unsent() {
            return drive(serving, close, place, end).await;
        }
        let Some(parts) = Pin::into_inner(serving).into_parts() else {
            return Ok(());
        };
        // Who sends a head in small pieces has the connection put together ever less often.
        rest = if parts.read_buf.is_empty() { REST } else { rest * 2 };
        io = parts.io.into_inner();
        io.give_back(&parts.read_buf);
        service = parts.service;
    }
}

/// Serves until the connection ends by itself, or has to.
async fn drive<C, E>(
    mut serving: Pin<Box<C>>,
    close: impl FnOnce(Pin<&mut C>),
    place: &Place,
    mut end: Seldom<E>,
) -> Result<(), Broken>
where
    C: Future<Output = hyper::Result<()>>,
    E: Future<Output = Why>,
{
    let why = tokio::select! {
        biased;
        done = serving.as_mut() => return Ok(done?),
        why = &mut end => why,
    };
    finish(serving, close, why, place).await
}

/// Ends a connection that has to: its client is told, and what runs has a moment.
async fn finish<C>(mut serving: Pin<Box<C>>, close: impl FnOnce(Pin<&mut C>), why: Why, place: &Place) -> Result<(), Broken>
where
    C: Future<Output = hyper::Result<()>>,
{
    tracing::trace!(?why, "closing a connection");
    if why == Why::Over(Over::Stalled) || (why == Why::Over(Over::Displaced) && place.is_idle()) {
        // Its client does not read, or somebody waits for its place.
        return Ok(());
    }
    close(serving.as_mut());
    match Box::pin(tokio::time::timeout(DRAIN, serving)).await {
        Ok(done) => Ok(done?),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
