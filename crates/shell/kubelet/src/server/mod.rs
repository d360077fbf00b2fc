//! The kubelet's own API on port 10250: logs, exec, attach, port-forward, health and metrics, over TLS with client
//! certificates.
//!
//! Invariant: every request is authenticated by a client certificate and authorised; nothing is served in the clear, and
//! there is no read-only port. Streams are HTTP/1.1 upgrades, so only HTTP/1.1 is offered.

mod auth;
mod follow;
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

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::KubeletError;
use crate::shared::Shared;

pub use auth::{Authorizer, CertificateAuthorizer, Decision, Peer};

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 1024;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let (acceptor, context, shutdown) = (self.acceptor.clone(), Arc::clone(&self.context), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = serve(stream, address, acceptor, context) => {}
                    () = shutdown.cancelled() => {}
                }
                drop(place);
            });
        }
    }
}

async fn serve(stream: TcpStream, address: SocketAddr, acceptor: TlsAcceptor, context: Arc<Context>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("{address}: {error}");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!("{address}: TLS: {error}");
            return;
        }
        Err(_) => return,
    };
    let peer = tls::peer(stream.get_ref().1, address);
    let service = service_fn(move |request| {
        let (context, peer) = (Arc::clone(&context), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(routes::answer(context, peer, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!("{address}: {error}");
    }
}
