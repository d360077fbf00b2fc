//! The kubelet's own API on port 10250: logs, exec, attach, port-forward, health and metrics, over TLS with client
//! certificates.
//!
//! Invariant: every request is authenticated by a client certificate and authorised; nothing is served in the clear, and
//! there is no read-only port. Streams are HTTP/1.1 upgrades, so only HTTP/1.1 is offered. No connection lives without
//! asking for something (`trireme_connections`).

mod auth;
mod channels;
mod follow;
mod local_volumes;
pub(crate) mod logs;
mod port_forward;
mod port_forward_spdy;
mod routes;
mod spdy;
mod stats;
mod streams;
mod streams_spdy;
#[cfg(test)]
mod tests;
mod tls;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use trireme_connections::{Budget, Counted, Guarded, Limits, Place};

use crate::KubeletError;
use crate::shared::Shared;

pub use auth::{Authorizer, CertificateAuthorizer, Decision, Peer};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long from a connection's beginning to the whole head of its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(32);
/// How long between requests; upstream's number.
const IDLE: Duration = Duration::from_secs(90);
/// Time for an answer that is under way when its connection has to end.
const DRAIN: Duration = Duration::from_secs(3);

/// The connections of the kubelet's port.
pub(crate) fn budget(connections_max: usize) -> Arc<Budget> {
    let limits = Limits {
        total: connections_max,
        per_source: Limits::of_one_source(connections_max),
        first_request: FIRST_REQUEST,
        idle: IDLE,
        // Answers here are streams of logs, most of them: they take as long as somebody follows.
        stalled: IDLE,
    };
    Budget::new("kubelet", limits)
}

pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    context: Arc<Context>,
}

/// What requests are answered with.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) follower: follow::Follower,
}

impl Server {
    /// Listens; `None` where no certificate is configured.
    pub(crate) async fn bind(shared: Arc<Shared>, authorizer: Arc<dyn Authorizer>) -> Result<Option<Self>, KubeletError> {
        let Some(tls) = &shared.config.tls else { return Ok(None) };
        let acceptor = TlsAcceptor::from(Arc::new(tls::server(tls).map_err(KubeletError::Tls)?));
        let address = SocketAddr::new(shared.config.listen, shared.config.port);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| KubeletError::Listen { address, error })?;
        let context = Arc::new(Context {
            shared,
            authorizer,
            follower: follow::Follower::default(),
        });
        Ok(Some(Self {
            listener,
            acceptor,
            context,
        }))
    }

    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let budget = Arc::clone(&self.context.shared.connections);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(place) = budget.admit(address.ip()).await else {
                continue;
            };
            let (acceptor, context, shutdown) = (self.acceptor.clone(), Arc::clone(&self.context), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = serve(stream, (address, place), acceptor, context) => {}
                    () = shutdown.cancelled() => {}
                }
            });
        }
    }
}

async fn serve(stream: TcpStream, (address, place): (SocketAddr, Arc<Place>), acceptor: TlsAcceptor, context: Arc<Context>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("{address}: {error}");
    }
    let stream = Guarded::new(stream, Arc::clone(&place));
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => handshake,
        _ = place.over() => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!("{address}: TLS: {error}");
            return;
        }
        Err(_) => return,
    };
    let peer = tls::peer(stream.get_ref().1, address);
    let held = Arc::clone(&place);
    let service = service_fn(move |request| {
        let (context, peer, place) = (Arc::clone(&context), peer.clone(), Arc::clone(&held));
        let busy = place.request();
        async move {
            let answer = routes::answer(context, peer, request).await;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                place.becomes_stream();
            }
            Ok::<_, std::convert::Infallible>(answer.map(|body| Counted::new(body, busy)))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        // The place's deadlines take the whole head in, and the wait before it.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = place.over() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!("{address}: {error}");
    }
}
