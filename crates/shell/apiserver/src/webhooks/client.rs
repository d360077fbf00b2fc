//! HTTPS to one webhook: connections that are kept, one request on each at a time.
//!
//! Invariant: nothing is followed that an answer points to; answers, connections and waiting are bounded. What goes wrong is
//! told in the words of Go's HTTP client.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use trireme_api::Status;
use trireme_policy::webhook::Endpoint;
use trireme_policy::webhook::hook::Place;

use super::place::{self, Address};
use super::tls;
use crate::nodes::NodeStream;
use crate::proxy::clean_path;
use crate::server::ApiServer;

/// Calls that may be on their way at once, to all webhooks together.
pub(super) const CALLS_MAX: usize = 512;
/// Connections to one webhook that are kept though nobody uses them.
const IDLE_MAX: usize = 25;
/// How long they are kept.
const IDLE_TIME: Duration = Duration::from_secs(90);
/// Longest answer in bytes: a patch of the largest object, encoded, fits.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest text of an answer that is shown to a client.
const SHOWN_BYTES_MAX: usize = 2048;
/// How often a webhook is asked that wants to be asked again later.
const ATTEMPTS_MAX: usize = 11;

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// The client of one webhook's place.
pub(super) struct Client {
    endpoint: Arc<Endpoint>,
    tls: OnceCell<Result<Arc<rustls::ClientConfig>, String>>,
    idle: Mutex<Vec<Idle>>,
    /// Whether somebody looks after the idle ones; changed under their lock.
    swept: AtomicBool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// No request was made or no answer came.
    Lost(String),
    /// The answer is not one of success.
    Refused(Box<Status>),
}

impl Unanswered {
    /// What is told, and the code that it counts as.
    pub(super) fn told(self) -> (String, u16) {
        match self {
            Self::Lost(why) => (why, 503),
            Self::Refused(status) => (status.message, status.code),
        }
    }
}

/// The parts of a webhook's URL.
struct Target {
    host: String,
    port: u16,
    /// Host and port as they stand in the URL.
    authority: String,
    path: String,
}

impl Target {
    fn of(endpoint: &Endpoint) -> Result<Self, String> {
        match &endpoint.place {
            Place::Nowhere => Err("webhook configuration must have either service or URL".to_owned()),
            Place::Service {
                namespace,
                name,
                port,
                path,
            } => {
                let host = format!("{name}.{namespace}.svc");
                Ok(Self {
                    authority: format!("{host}:{port}"),
                    host,
                    port: *port,
                    path: clean_path(path),
                })
            }
            Place::Url(url) => {
                let unparsable = |why: &str| format!("Unparsable URL: parse {url:?}: {why}");
                let uri: http::Uri = url
                    .parse()
                    .map_err(|error: http::uri::InvalidUri| unparsable(&error.to_string()))?;
                let authority = uri.authority().ok_or_else(|| unparsable("no host in request URL"))?;
                let host = authority.host().trim_start_matches('[').trim_end_matches(']');
                Ok(Self {
                    host: host.to_owned(),
                    port: authority.port_u16().unwrap_or(443),
                    authority: authority.as_str().to_owned(),
                    path: clean_path(uri.path()),
                })
            }
        }
    }
}

/// An error of the system in Go's words.
pub(super) fn io_told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        io::ErrorKind::BrokenPipe => "broken pipe".to_owned(),
        _ => error.to_string(),
    }
}

fn http_told(error: &hyper::Error) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            return match inner.kind() {
                io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
                _ => io_told(inner),
            };
        }
        source = inner.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "EOF".to_owned();
    }
    if error.is_parse() {
        return format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response: {error}");
    }
    error.to_string()
}

impl Client {
    /// A client without connections.
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            tls: OnceCell::new(),
            idle: Mutex::default(),
            swept: AtomicBool::new(false),
        })
    }

    /// Posts a review and reads the answer, within the time.
    pub(super) async fn post(self: &Arc<Self>, server: &ApiServer, body: Bytes, time: Duration) -> Result<Bytes, Unanswered> {
        let target = Target::of(&self.endpoint).map_err(Unanswered::Lost)?;
        let seconds = time.as_millis().div_ceil(1000);
        let path = format!("{}?timeout={seconds}s", target.path);
        let url = format!("https://{}{path}", target.authority);
        let lost = |why: String| Unanswered::Lost(format!("Post {url:?}: {why}"));
        let exchange = async {
            let permit = server.webhooks.calls.acquire().await;
            let _permit = permit.map_err(|_| Unanswered::Lost("the server ends".to_owned()))?;
            for attempt in 1.. {
                let answer = self.exchange(server, &target, &path, body.clone()).await.map_err(lost)?;
                let Some(wait) = asks_again(&answer).filter(|_| attempt < ATTEMPTS_MAX) else {
                    return self.read(answer).await;
                };
                drop(answer);
                tokio::time::sleep(wait).await;
            }
            unreachable!("attempts end")
        };
        match tokio::time::timeout(time, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(lost("context deadline exceeded".to_owned())),
        }
    }

    /// The head of the answer to one request; the connection goes back to the others once its body is read.
    async fn exchange(
        self: &Arc<Self>,
        server: &ApiServer,
        target: &Target,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), String> {
        let request = || {
            Request::post(path)
                .header(header::HOST, &target.authority)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json, */*")
                .header(header::USER_AGENT, "kube-apiserver-admission")
                .body(Full::new(body.clone()))
                .map_err(|error| error.to_string())
        };
        while let Some(mut sender) = self.kept() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.send_request(request()?).await {
                Ok(answer) => return Ok((answer, sender)),
                // The other side closed it while it was idle: that is no answer yet.
                Err(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {}
                Err(error) => return Err(http_told(&error)),
            }
        }
        let mut sender = self.connect(server, target).await?;
        let answer = sender.send_request(request()?).await.map_err(|error| http_told(&error))?;
        Ok((answer, sender))
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        while let Some(own) = idle.pop() {
            if !own.sender.is_closed() && own.since.elapsed() < IDLE_TIME {
                return Some(own.sender);
            }
        }
        None
    }

    fn keep(self: &Arc<Self>, sender: SendRequest<Full<Bytes>>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() >= IDLE_MAX {
            return;
        }
        idle.push(Idle {
            sender,
            since: Instant::now(),
        });
        if !self.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    async fn connect(&self, server: &ApiServer, target: &Target) -> Result<SendRequest<Full<Bytes>>, String> {
        let config = self.tls.get_or_init(|| async {
            let endpoint = Arc::clone(&self.endpoint);
            let made = tokio::task::spawn_blocking(move || tls::config(&endpoint.ca_bundle)).await;
            made.unwrap_or_else(|error| Err(error.to_string()))
        });
        let config = config.await.clone()?;
        let stream = self.dial(server, target).await?;
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let connecting = TlsConnector::from(config).connect(name.clone(), stream);
        let stream = connecting.await.map_err(|error| tls::told(&error, &name))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| http_told(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a webhook ended");
            }
        });
        Ok(sender)
    }

    async fn dial(&self, server: &ApiServer, target: &Target) -> Result<Box<dyn NodeStream>, String> {
        let address = match &self.endpoint.place {
            Place::Service {
                namespace, name, port, ..
            } => place::of_service(server.view(), namespace, name, *port)?,
            _ => Address::Named(target.host.clone(), target.port),
        };
        let refused =
            |address: &dyn std::fmt::Display, error: &io::Error| format!("dial tcp {address}: connect: {}", io_told(error));
        match address {
            Address::Socket(address) => {
                let stream = match &server.plugins.dialer {
                    Some(dialer) => dialer.connect_address(address).await,
                    None => connected(TcpStream::connect(address).await),
                };
                stream.map_err(|error| refused(&address, &error))
            }
            Address::Named(host, port) => {
                let no_host = || format!("dial tcp: lookup {host}: no such host");
                let found = tokio::net::lookup_host((host.as_str(), port)).await.map_err(|_| no_host())?;
                let mut last = no_host();
                for address in found {
                    match connected(TcpStream::connect(address).await) {
                        Ok(stream) => return Ok(stream),
                        Err(error) => last = refused(&address, &error),
                    }
                }
                Err(last)
            }
        }
    }

    /// The body of an answer of success.
    async fn read(
        self: &Arc<Self>,
        (answer, sender): (Response<Incoming>, SendRequest<Full<Bytes>>),
    ) -> Result<Bytes, Unanswered> {
        let (parts, mut body) = answer.into_parts();
        let mut text = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let broken = |why: String| {
                Unanswered::Lost(format!(
                    "unexpected error when reading response body. Please retry. Original error: {why}"
                ))
            };
            let frame = frame.map_err(|error| broken(http_told(&error)))?;
            if let Some(data) = frame.data_ref() {
                if text.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err(broken(format!("the response is longer than {ANSWER_BYTES_MAX} bytes")));
                }
                text.extend_from_slice(data);
            }
        }
        self.keep(sender);
        if !(StatusCode::OK..=StatusCode::PARTIAL_CONTENT).contains(&parts.status) {
            return Err(Unanswered::Refused(Box::new(refusal(parts.status, &parts.headers, &text))));
        }
        if text.is_empty() {
            let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            return Err(Unanswered::Lost(format!(
                "0-length response with status code: {} and content type: {}",
                parts.status.as_u16(),
                kind.unwrap_or("application/json")
            )));
        }
        Ok(text.freeze())
    }
}

/// Closes connections that nobody used for a while, until there are none.
async fn sweep(client: std::sync::Weak<Client>) {
    loop {
        tokio::time::sleep(IDLE_TIME).await;
        let Some(client) = client.upgrade() else { return };
        let mut idle = client.idle.lock();
        idle.retain(|own| own.since.elapsed() < IDLE_TIME && !own.sender.is_closed());
        if idle.is_empty() {
            client.swept.store(false, Ordering::Relaxed);
            return;
        }
    }
}

fn connected(stream: io::Result<TcpStream>) -> io::Result<Box<dyn NodeStream>> {
    let stream = stream?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// When a webhook that is too busy wants to be asked again.
fn asks_again((answer, _): &(Response<Incoming>, SendRequest<Full<Bytes>>)) -> Option<Duration> {
    let busy = answer.status() == StatusCode::TOO_MANY_REQUESTS || answer.status().is_server_error();
    let after = answer.headers().get(header::RETRY_AFTER).filter(|_| busy)?;
    after.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// What upstream makes of an answer that is not one of success: the status in it, else one by its code.
fn refusal(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> Status {
    let told = serde_json::from_slice::<serde_json::Value>(body).ok();
    if let Some(told) = told
        && told["kind"] == "Status"
        && told["apiVersion"] == "v1"
        && told["status"] != "Success"
        && let Ok(status) = serde_json::from_value::<Status>(told)
    {
        return status;
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_text = kind.is_none_or(|kind| kind.starts_with("text/"));
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)])
        .trim()
        .to_owned();
    let shown = if is_text { shown } else { "unknown".to_owned() };
    let code = code.as_u16();
    let message = match code {
        409 => "the server reported a conflict".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 | 415 => shown,
        406 if matches!(shown.as_str(), "" | "unknown") => {
            "the server was unable to respond with a content type that the client supports".to_owned()
        }
        406 => shown,
        405 => "the server does not allow this method on the requested resource".to_owned(),
        422 => "the server rejected our request due to an error in our request".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned()
        }
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        500.. => format!("an error on the server ({shown:?}) has prevented the request from succeeding"),
        _ => format!("the server responded with the status code {code} but did not return more information"),
    };
    Status::failure(code, "", message)
}
