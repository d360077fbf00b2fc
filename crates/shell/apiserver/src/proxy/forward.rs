//! The `proxy` subresources of pods, services and nodes: any method, any path below, upgrades too.
//!
//! Invariant: what is reached is what [`Backend::of`] names, and one answer is one exchange with it: redirects are the
//! client's to follow. Credentials and headers of the client's connection are not passed on.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::read::{DeflateDecoder, GzDecoder};
use flate2::write::{DeflateEncoder, GzEncoder};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, BodyStream, Empty};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use trireme_api::Status;

use super::location::Backend;
use super::rewrite::Links;
use super::{ClientAddress, HOP_BY_HOP, connect_admission, passed_headers, unverified};
use crate::http::body::Body;
use crate::http::handle::{Incoming, wants_upgrade};
use crate::nodes::NodeStream;
use crate::pipeline::Target;
use crate::server::ApiServer;

/// Longest wait for a backend to take a connection.
const DIAL_MAX: Duration = Duration::from_secs(30);
/// Longest HTML whose links are rewritten; what is longer is passed on as it is.
const HTML_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Headers by which a backend would speak for this server's own origin.
const CORS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

fn unreachable_backend(why: &dyn std::fmt::Display) -> Status {
    Status::failure(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
}

/// Serves a `proxy` subresource.
pub(crate) async fn proxy<B>(server: &Arc<ApiServer>, incoming: Incoming<B>, target: &Target) -> Result<Response<Body>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let backend = Backend::of(server, target).await?;
    let path = Path::of(&incoming);
    connect_admission(server, target, &incoming.query, Some(&path.sent)).await?;
    if wants_upgrade(&incoming.parts) {
        return upgrade(server, incoming, &backend, &path).await;
    }
    let method = incoming.parts.method.clone();
    if path.sent.is_empty() && (method == Method::GET || method == Method::HEAD) {
        return Ok(to_root(&incoming));
    }
    let called = called(&incoming);
    let headers = sent_headers(&incoming, false, Some(&path));
    let body = incoming
        .asked
        .body
        .map_err(|error| std::io::Error::other(error.to_string()))
        .boxed_unsync();
    let request = request(method.clone(), &path, headers, body)?;
    let answer = exchange(server, &backend, request).await?;
    let links = Links {
        prefix: &path.prefix,
        backend: match &backend {
            Backend::Address { host, .. } => host,
            Backend::Kubelet(node) => node,
        },
        called: &called,
    };
    Ok(passed_on(answer, &method, &links).await)
}

/// The two halves of the client's path.
struct Path {
    /// What is asked of the backend, escaped; empty for the subresource itself, without a slash.
    sent: String,
    query: String,
    /// What comes before it, to put before links.
    prefix: String,
}

impl Path {
    fn of<B>(incoming: &Incoming<B>) -> Self {
        let whole = incoming.parts.uri.path();
        let decoded = crate::http::query::decode(whole, false);
        let mut sent = if incoming.info.rest.is_empty() {
            String::new()
        } else {
            clean_path(&format!("/{}", incoming.info.rest))
        };
        if whole.ends_with('/') && !sent.ends_with('/') {
            sent.push('/');
        }
        let prefix = decoded.strip_suffix(sent.as_str()).unwrap_or(&decoded).to_owned();
        Self {
            sent: escaped(&sent),
            query: incoming
                .parts
                .uri
                .query()
                .map(|query| format!("?{query}"))
                .unwrap_or_default(),
            prefix,
        }
    }
}

/// A path without `.`, `..` and doubled slashes, absolute, without a slash at its end.
pub(crate) fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A path as it stands in a request line.
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/$&+,:;=@!*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The subresource without a slash is answered by a redirect to it with one, so that relative links work.
fn to_root<B>(incoming: &Incoming<B>) -> Response<Body> {
    let uri = &incoming.parts.uri;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(place) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        answer.headers_mut().insert(header::LOCATION, place);
    }
    answer
}

fn called<B>(incoming: &Incoming<B>) -> String {
    let authority = incoming.parts.uri.authority().map(|authority| authority.as_str().to_owned());
    authority
        .or_else(|| incoming.header("host").map(str::to_owned))
        .unwrap_or_default()
}

/// The client's headers, less those of its connection and its credentials, with who and what was asked for.
fn sent_headers<B>(incoming: &Incoming<B>, upgrading: bool, told: Option<&Path>) -> HeaderMap {
    let given = &incoming.parts.headers;
    let mut headers = passed_headers(given, upgrading);
    for named in given
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
    {
        for name in named
            .split(',')
            .map(str::trim)
            .filter(|name| !name.eq_ignore_ascii_case("upgrade"))
        {
            headers.remove(name);
        }
    }
    // The backend is not the API: what the client tells it in cookies and about its body's length is for it.
    for name in [header::COOKIE, header::CONTENT_LENGTH] {
        for value in given.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Ok(host) = HeaderValue::from_str(&called(incoming)) {
        headers.insert(header::HOST, host);
    }
    let mut chain: Vec<String> = given
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect();
    if let Some(ClientAddress(address)) = incoming.parts.extensions.get::<ClientAddress>() {
        chain.push(address.to_canonical().to_string());
    }
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", "))
        && !chain.is_empty()
    {
        headers.insert("x-forwarded-for", chain);
    }
    if let Some(path) = told
        && let Ok(uri) = HeaderValue::from_str(&format!("{}{}", escaped(&path.prefix), path.sent))
    {
        headers.insert("x-forwarded-uri", uri);
    }
    headers
}

fn request<B>(method: Method, path: &Path, headers: HeaderMap, body: B) -> Result<Request<B>, Status> {
    let slash = if path.sent.is_empty() { "/" } else { "" };
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{slash}{}{}", path.sent, path.query))
        .body(body)
        .map_err(|error| Status::bad_request(error.to_string()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn dial(server: &ApiServer, backend: &Backend) -> Result<Box<dyn NodeStream>, Status> {
    let (address, tls) = match backend {
        Backend::Kubelet(node) => return super::dial(server, node).await,
        Backend::Address { address, tls, .. } => (*address, *tls),
    };
    let dialer = server.plugins.dialer.as_ref();
    let dialer = dialer.ok_or_else(|| unreachable_backend(&"this server reaches no pods"))?;
    let connecting = async {
        let stream = dialer.connect_address(address).await?;
        if !tls {
            return Ok(stream);
        }
        let connector = unverified::connector().map_err(std::io::Error::other)?;
        let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
        Ok::<_, std::io::Error>(Box::new(stream) as Box<dyn NodeStream>)
    };
    match tokio::time::timeout(DIAL_MAX, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(unreachable_backend(&format!("dial tcp {address}: connect: {error}"))),
        Err(_) => Err(unreachable_backend(&format!("dial tcp {address}: i/o timeout"))),
    }
}

/// One request and its answer, over a connection of its own that lives as long as the answer's body.
async fn exchange<B>(
    server: &ApiServer,
    backend: &Backend,
    request: Request<B>,
) -> Result<Response<hyper::body::Incoming>, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = dial(server, backend).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| unreachable_backend(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a proxied backend ended");
        }
    });
    sender
        .send_request(request)
        .await
        .map_err(|error| unreachable_backend(&error))
}

/// The backend's answer as the client gets it.
async fn passed_on(answer: Response<hyper::body::Incoming>, method: &Method, links: &Links<'_>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    let named: Vec<String> = parts
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    for name in HOP_BY_HOP.iter().chain(CORS).copied().chain(named.iter().map(String::as_str)) {
        parts.headers.remove(name);
    }
    let location = parts
        .headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    if let Some(location) = location {
        let rewritten = links.rewrite(&location).and_then(|url| HeaderValue::from_str(&url).ok());
        if let Some(rewritten) = rewritten {
            parts.headers.insert(header::LOCATION, rewritten);
        }
        return Response::from_parts(parts, streamed(Bytes::new(), body));
    }
    let media_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let html = media_type.is_some_and(|text| text.split(';').next().unwrap_or_default().trim() == "text/html");
    let coding = parts
        .headers
        .get(header::CONTENT_ENCODING)
        .and_then(|value| value.to_str().ok());
    let Some(coding) = Coding::of(coding).filter(|_| html && method != Method::HEAD) else {
        return Response::from_parts(parts, streamed(Bytes::new(), body));
    };
    rewritten(parts, body, coding, links).await
}

fn streamed(first: Bytes, rest: hyper::body::Incoming) -> Body {
    let first = futures::stream::iter((!first.is_empty()).then_some(Ok(first)));
    let rest = BodyStream::new(rest)
        .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) })
        .map_err(std::io::Error::other);
    Body::Stream(Box::pin(first.chain(rest)))
}

/// How HTML is packed.
#[derive(Clone, Copy)]
enum Coding {
    Plain,
    Gzip,
    Deflate,
}

impl Coding {
    /// `None` for one that is not understood.
    fn of(header: Option<&str>) -> Option<Self> {
        match header.unwrap_or_default() {
            "" => Some(Self::Plain),
            "gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// The text, where it is one and not too long.
    fn unpack(self, packed: &[u8]) -> Option<String> {
        let mut text = Vec::new();
        let limit = HTML_BYTES_MAX as u64 + 1;
        let read = match self {
            Self::Plain => return String::from_utf8(packed.to_vec()).ok(),
            Self::Gzip => GzDecoder::new(packed).take(limit).read_to_end(&mut text),
            Self::Deflate => DeflateDecoder::new(packed).take(limit).read_to_end(&mut text),
        };
        read.ok().filter(|read| *read <= HTML_BYTES_MAX)?;
        String::from_utf8(text).ok()
    }

    fn pack(self, text: String) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(text.into_bytes()),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(text.as_bytes())?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(text.as_bytes())?;
                encoder.finish()
            }
        }
    }
}

async fn rewritten(
    mut parts: http::response::Parts,
    mut body: hyper::body::Incoming,
    coding: Coding,
    links: &Links<'_>,
) -> Response<Body> {
    let mut packed = BytesMut::new();
    while packed.len() <= HTML_BYTES_MAX {
        match body.frame().await {
            None => {
                let Some(text) = coding.unpack(&packed) else { break };
                let Ok(packed) = coding.pack(links.rewrite_html(&text)) else {
                    break;
                };
                parts.headers.remove(header::CONTENT_LENGTH);
                return Response::from_parts(parts, Body::whole(packed));
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    packed.extend_from_slice(data);
                }
            }
            Some(Err(error)) => {
                let broken = futures::stream::iter([Ok(packed.freeze()), Err(std::io::Error::other(error))]);
                return Response::from_parts(parts, Body::Stream(Box::pin(broken)));
            }
        }
    }
    Response::from_parts(parts, streamed(packed.freeze(), body))
}

async fn upgrade<B>(
    server: &Arc<ApiServer>,
    incoming: Incoming<B>,
    backend: &Backend,
    path: &Path,
) -> Result<Response<Body>, Status> {
    let mut headers = sent_headers(&incoming, true, None);
    headers.remove(header::CONTENT_LENGTH);
    let request = request(incoming.parts.method.clone(), path, headers, Empty::<Bytes>::new())?;
    let Some(client) = incoming.asked.upgrade else {
        return Err(Status::bad_request("this connection cannot be upgraded"));
    };
    let answer = exchange(server, backend, request).await?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => Ok(super::tunnel(server, client, answer)),
        refused if refused.is_client_error() || refused.is_server_error() => {
            let (mut parts, body) = answer.into_parts();
            for name in HOP_BY_HOP {
                parts.headers.remove(*name);
            }
            Ok(Response::from_parts(parts, streamed(Bytes::new(), body)))
        }
        other => Err(Status::internal(&format!(
            "invalid upgrade response: status code {}",
            other.as_u16()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_backend() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/a/../../b", "/b"),
            ("//a//./b/", "/a/b"),
            ("/..", "/"),
            ("", "/"),
        ] {
            assert_eq!(clean_path(path), expected, "{path}");
        }
        assert_eq!(escaped("/a b/%?#ä"), "/a%20b/%25%3F%23%C3%A4");
    }
}
