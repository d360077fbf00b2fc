//! One HTTP/2 connection to one server of several, and the next server when that one fails.
//!
//! Invariant: a request is sent a second time only where it was not sent at all, or where it only reads; whatever else
//! fails is the caller's to judge. A server that does not answer pings is given up within seconds, with all that runs over
//! its connection; so is one that answers 503 and is not ready while another is. It knows nothing of what requests mean.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::servers::{ServerAddress, Servers};

/// What every server's certificate names, wherever it is.
pub const SERVER_NAME: &str = "kubernetes.default.svc";
/// Silence after which the server is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(1);
/// How long it may take to give one.
const PING_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for one server to take a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// Time after which the next server is tried while the one before it has not answered yet.
const DIAL_NEXT_AFTER: Duration = Duration::from_millis(250);
/// Longest wait for the head of an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a server to say whether it is ready.
const READY_LIMIT: Duration = Duration::from_secs(2);
/// Servers that one request is tried on at most.
const ATTEMPTS_MAX: usize = 4;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// No server took a connection; what the last said.
    #[error("no server of the cluster can be reached: {0}")]
    Unreachable(String),
    /// The connection broke after the request was sent: it may have been carried out.
    #[error("the connection to {0} broke: {1}")]
    Broken(ServerAddress, #[source] hyper::Error),
    /// No answer in time.
    #[error("{0} did not answer in time")]
    Silent(ServerAddress),
    /// The request itself cannot be sent.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

/// Who the client is, and whom it trusts. Certificates may be replaced while it is in use.
pub struct Credentials {
    tls: Arc<rustls::ClientConfig>,
    certificate: Arc<Presented>,
    token: Option<HeaderValue>,
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A certificate or key is malformed.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// A token that fits into no header.
    #[error("the token holds characters that a header cannot")]
    Token,
}

impl Credentials {
    /// Nobody in particular, trusting servers whose certificates come from these authorities.
    ///
    /// # Errors
    /// When an authority is no certificate.
    pub fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let certificate = Arc::new(Presented::default());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::clone(&certificate) as _);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would keep the identity that it began with.
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            tls: Arc::new(tls),
            certificate,
            token: None,
        })
    }

    /// With a bearer token.
    ///
    /// # Errors
    /// When it cannot be a header.
    pub fn with_token(mut self, token: &str) -> Result<Self, CredentialsError> {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| CredentialsError::Token)?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(self)
    }

    /// Shows this certificate from the next connection on.
    ///
    /// # Errors
    /// When the key is of no known kind.
    pub fn set_certificate(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Result<(), CredentialsError> {
        let key = rustls::crypto::ring::sign::any_supported_type(key)?;
        self.certificate.0.store(Some(Arc::new(CertifiedKey::new(chain, key))));
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Presented(ArcSwapOption<CertifiedKey>);

impl ResolvesClientCert for Presented {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

#[derive(Clone)]
struct Connection {
    server: ServerAddress,
    sender: SendRequest<Full<Bytes>>,
    /// Cancelled to end it together with all that runs over it.
    cut: Arc<CancellationToken>,
}

#[derive(Default)]
struct Present {
    connection: Option<Connection>,
    /// When all servers were last found to be unreachable, and what was said.
    unreachable: Option<(Instant, String)>,
}

/// The way to whichever server answers.
pub struct Failover {
    servers: Arc<Servers>,
    credentials: Arc<Credentials>,
    present: Mutex<Present>,
    checking: AtomicBool,
}

impl Failover {
    /// A way to these servers; none is dialled yet.
    #[must_use]
    pub fn new(servers: Arc<Servers>, credentials: Arc<Credentials>) -> Arc<Self> {
        Arc::new(Self {
            servers,
            credentials,
            present: Mutex::default(),
            checking: AtomicBool::new(false),
        })
    }

    /// The server that requests go to now.
    pub async fn present(&self) -> Option<ServerAddress> {
        let present = self.present.lock().await;
        present.connection.as_ref().map(|connection| connection.server.clone())
    }

    /// New requests take a new connection, and so show the present certificate; what runs over the old one ends by itself.
    pub async fn renew(&self) {
        self.present.lock().await.connection = None;
    }

    /// Sends a request, whose URI is a path, to a server that answers.
    ///
    /// # Errors
    /// See [`FailoverError`].
    pub async fn send(self: &Arc<Self>, request: Request<Body>) -> Result<Response<Incoming>, FailoverError> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        parts.uri = Uri::builder()
            .scheme("https")
            .authority(SERVER_NAME)
            .path_and_query(path)
            .build()
            .map_err(|error| FailoverError::Request(error.to_string()))?;
        if let Some(token) = &self.credentials.token {
            parts.headers.insert(header::AUTHORIZATION, token.clone());
        }
        let body = body
            .collect_bytes()
            .await
            .map_err(|error| FailoverError::Request(error.to_string()))?;
        let only_reads = matches!(parts.method, Method::GET | Method::HEAD);
        let mut attempt = 1;
        loop {
            let mut connection = self.connection().await?;
            let request = Request::from_parts(parts.clone(), Full::new(body.clone()));
            let answer = tokio::time::timeout(ANSWER_LIMIT, connection.sender.try_send_request(request)).await;
            let (again, error) = match answer {
                Ok(Ok(response)) => {
                    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                        self.doubt(connection);
                    }
                    return Ok(response);
                }
                Ok(Err(mut error)) => {
                    let unsent = error.take_message().is_some();
                    self.forget(&connection).await;
                    let error = FailoverError::Broken(connection.server.clone(), error.into_error());
                    (unsent || only_reads, error)
                }
                Err(_) => (false, FailoverError::Silent(connection.server.clone())),
            };
            if attempt == ATTEMPTS_MAX || !again {
                return Err(error);
            }
            attempt += 1;
            tracing::debug!(%error, "trying another server");
        }
    }

    /// The present connection, or a new one.
    async fn connection(&self) -> Result<Connection, FailoverError> {
        let asked = Instant::now();
        let mut present = self.present.lock().await;
        if let Some(connection) = &present.connection {
            if !connection.sender.is_closed() {
                return Ok(connection.clone());
            }
            present.connection = None;
        }
        // Many ask at once when a server goes; one of them dials for all.
        if let Some((when, why)) = &present.unreachable
            && *when > asked
        {
            return Err(FailoverError::Unreachable(why.clone()));
        }
        match dial_first(&self.servers, &self.credentials, self.servers.ranked(), false).await {
            Ok(connection) => {
                tracing::debug!(server = %connection.server, "connected");
                present.connection = Some(connection.clone());
                present.unreachable = None;
                Ok(connection)
            }
            Err(why) => {
                present.unreachable = Some((Instant::now(), why.clone()));
                Err(FailoverError::Unreachable(why))
            }
        }
    }

    /// The next request takes another connection than this.
    async fn forget(&self, failed: &Connection) {
        let mut present = self.present.lock().await;
        present
            .connection
            .take_if(|connection| Arc::ptr_eq(&connection.cut, &failed.cut));
    }

    /// A server could not do its work: where it is not ready and another is, that one takes its place.
    fn doubt(self: &Arc<Self>, connection: Connection) {
        if self.checking.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            this.check(connection).await;
            this.checking.store(false, Ordering::Release);
        });
    }

    async fn check(&self, mut doubted: Connection) {
        if is_ready(&mut doubted, &self.credentials).await {
            return;
        }
        let mut others = self.servers.ranked();
        others.retain(|server| *server != doubted.server);
        let Ok(better) = dial_first(&self.servers, &self.credentials, others, true).await else {
            return;
        };
        let mut present = self.present.lock().await;
        let still = present
            .connection
            .as_ref()
            .is_some_and(|connection| Arc::ptr_eq(&connection.cut, &doubted.cut));
        if still {
            tracing::info!(from = %doubted.server, to = %better.server, "this server is not ready, another is");
            self.servers.failed(&doubted.server);
            present.connection = Some(better);
            // Its watches would go on and tell nothing.
            doubted.cut.cancel();
        }
    }
}

async fn is_ready(connection: &mut Connection, credentials: &Credentials) -> bool {
    let mut request = Request::builder().uri(format!("https://{SERVER_NAME}/readyz"));
    if let Some(token) = &credentials.token {
        request = request.header(header::AUTHORIZATION, token);
    }
    let Ok(request) = request.body(Full::default()) else {
        return false;
    };
    let asked = async {
        let response = connection.sender.send_request(request).await.ok()?;
        let ready = response.status().is_success();
        response.into_body().collect().await.ok()?;
        Some(ready)
    };
    matches!(tokio::time::timeout(READY_LIMIT, asked).await, Ok(Some(true)))
}

/// A connection to the first of these servers that takes one (and says that it is ready, if asked), trying one after the
/// other a little apart.
async fn dial_first(
    servers: &Arc<Servers>,
    credentials: &Credentials,
    candidates: Vec<ServerAddress>,
    must_be_ready: bool,
) -> Result<Connection, String> {
    let mut dialling = FuturesUnordered::new();
    let mut why = "no server is known".to_owned();
    for next in candidates {
        dialling.push(dial(servers, credentials, next, must_be_ready));
        let patience = tokio::time::sleep(DIAL_NEXT_AFTER);
        tokio::pin!(patience);
        while !dialling.is_empty() {
            tokio::select! {
                () = &mut patience => break,
                Some(dialled) = dialling.next() => match dialled {
                    Ok(connection) => return Ok(connection),
                    Err(error) => why = error,
                },
            }
        }
    }
    while let Some(dialled) = dialling.next().await {
        match dialled {
            Ok(connection) => return Ok(connection),
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn dial(
    servers: &Arc<Servers>,
    credentials: &Credentials,
    server: ServerAddress,
    must_be_ready: bool,
) -> Result<Connection, String> {
    let outcome = match tokio::time::timeout(DIAL_LIMIT, connect(servers, credentials, &server)).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("it did not answer in time".to_owned()),
    };
    let ready = match outcome {
        Ok(mut connection) if must_be_ready => match is_ready(&mut connection, credentials).await {
            true => Ok(connection),
            false => Err("it is not ready".to_owned()),
        },
        other => other,
    };
    match ready {
        Ok(connection) => {
            servers.answered(&server);
            Ok(connection)
        }
        Err(why) => {
            servers.failed(&server);
            Err(format!("{server}: {why}"))
        }
    }
}

async fn connect(servers: &Arc<Servers>, credentials: &Credentials, server: &ServerAddress) -> io::Result<Connection> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::clone(&credentials.tls)).connect(name, stream).await?;
    let cut = Arc::new(CancellationToken::new());
    let stream = Severable {
        stream,
        cut: Box::pin(CancellationToken::clone(&cut).cancelled_owned()),
    };
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let (servers, place) = (Arc::clone(servers), server.clone());
    tokio::spawn(async move {
        match connection.await {
            Ok(()) => tracing::debug!(server = %place, "the connection has ended"),
            Err(error) => {
                tracing::info!(server = %place, %error, "lost the connection to this server");
                servers.failed(&place);
            }
        }
    });
    Ok(Connection {
        server: server.clone(),
        sender,
        cut,
    })
}

/// A stream that breaks when it is told to.
struct Severable<S> {
    stream: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
