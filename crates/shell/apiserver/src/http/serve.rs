//! The listener: TLS, HTTP/1.1 and HTTP/2, and an orderly end.
//!
//! Invariant: a connection's failure concerns nobody else. On shutdown no new request is taken, those running are ended
//! within the grace.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::PeerCertificate;
use crate::server::ApiServer;

/// Streams that one HTTP/2 connection may have open; upstream's number.
const STREAMS_MAX: u32 = 250;
/// Streams that a client may open and reset before the connection is ended (rapid reset).
const RESETS_MAX: usize = 128;
/// Time for a client to finish its TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Time for a client to send a request's head.
const HEAD_MAX: Duration = Duration::from_secs(32);
/// Interval and patience of HTTP/2 pings.
const PING: Duration = Duration::from_secs(30);
const PING_MAX: Duration = Duration::from_secs(15);
/// Time for running requests at shutdown.
const DRAIN: Duration = Duration::from_secs(3);

impl ApiServer {
    /// Serves a listener until the token is cancelled. `tls` must offer client certificates as optional, best by
    /// [`AskForCertificate`](crate::authn::AskForCertificate); its ALPN is set here.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, mut tls: rustls::ServerConfig, shutdown: CancellationToken) {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let connections = TaskTracker::new();
        loop {
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, most likely: give connections time to end.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (server, acceptor, shutdown) = (Arc::clone(&self), acceptor.clone(), shutdown.clone());
            connections.spawn(async move {
                if let Err(error) = connection(server, acceptor, stream, shutdown).await {
                    tracing::debug!(error, "connection ended");
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

async fn connection(
    server: Arc<ApiServer>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    shutdown: CancellationToken,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let tls = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream))
        .await
        .map_err(|_| "TLS handshake timed out".to_owned())?
        .map_err(|error| error.to_string())?;
    let peer = PeerCertificate::new(tls.get_ref().1.peer_certificates().unwrap_or_default());
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let server = Arc::clone(&server);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        async move { Ok::<_, std::convert::Infallible>(server.handle(request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(Some(RESETS_MAX))
        .keep_alive_interval(Some(PING))
        .keep_alive_timeout(PING_MAX)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::pin!(serving);
    tokio::select! {
        done = serving.as_mut() => done.map_err(|error| error.to_string()),
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN, serving.as_mut()).await {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(_) => Ok(()),
            }
        }
    }
}
