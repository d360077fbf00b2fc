//! The change from HTTP to a stream protocol: WebSocket, SPDY/3.1, or SPDY in a WebSocket (KEP-4006).
//!
//! Invariant: nothing is switched unless both sides know a protocol.

use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::routes::{self, Answer, Refusal};
use super::spdy::Carrier;

const SPDY: &str = "SPDY/3.1";
/// Prefix of a WebSocket's subprotocol when its messages carry SPDY.
const TUNNEL: &str = "SPDY/3.1+";
const SPDY_PROTOCOL: &str = "x-stream-protocol-version";
const SOCKET_PROTOCOL: &str = "sec-websocket-protocol";

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What one kind of stream can be spoken in.
pub(super) struct Protocols {
    /// Subprotocol of a WebSocket that is taken wherever it is offered.
    pub(super) preferred: &'static str,
    /// Other subprotocols: the client's first of them is taken. A client may also name none at all.
    pub(super) socket: &'static [&'static str],
    /// Over SPDY: the client's first of them is taken.
    pub(super) spdy: &'static [&'static str],
}

/// What both sides speak, and the connection that is to come: a WebSocket with channels (empty for a client that names no
/// subprotocol), or SPDY with a protocol of streams.
pub(super) enum Agreed {
    Socket(&'static str, BoxFuture<'static, Result<Socket, hyper::Error>>),
    Spdy(&'static str, BoxFuture<'static, Result<Carrier, hyper::Error>>),
}

/// Answers 101 with what both sides know.
pub(super) fn agree(mut request: Request<Incoming>, protocols: &Protocols) -> Result<(Answer, Agreed), Refusal> {
    let upgrade = header(&request, "upgrade");
    if upgrade.as_deref().is_some_and(|value| value.eq_ignore_ascii_case(SPDY)) {
        let offered = list(&request, SPDY_PROTOCOL);
        if offered.is_empty() {
            let why = format!(
                "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {} headers",
                request.headers().len()
            );
            return Err(Refusal(StatusCode::BAD_REQUEST, why));
        }
        let known = offered
            .iter()
            .find_map(|name| protocols.spdy.iter().find(|known| *known == name));
        let protocol = known.ok_or_else(|| {
            let why = format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                offered.join(" "),
                protocols.spdy.join(" ")
            );
            Refusal(StatusCode::FORBIDDEN, why)
        })?;
        let upgraded = hyper::upgrade::on(&mut request);
        let response = switching(&[("upgrade", SPDY), (SPDY_PROTOCOL, protocol)])?;
        let pending = async move { Ok(Carrier::plain(TokioIo::new(upgraded.await?))) };
        return Ok((response, Agreed::Spdy(protocol, Box::pin(pending))));
    }
    let refuse = |text: &str| Refusal(StatusCode::BAD_REQUEST, text.to_owned());
    let key = header(&request, "sec-websocket-key")
        .filter(|_| upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket")))
        .ok_or_else(|| refuse("a WebSocket upgrade is required"))?;
    let protocol = subprotocol(&list(&request, SOCKET_PROTOCOL), protocols)?;
    let upgraded = hyper::upgrade::on(&mut request);
    let accept = derive_accept_key(key.as_bytes());
    let mut headers = vec![("upgrade", "websocket"), ("sec-websocket-accept", accept.as_str())];
    if !protocol.is_empty() {
        headers.push((SOCKET_PROTOCOL, protocol));
    }
    let response = switching(&headers)?;
    let socket = async move { Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded.await?), Role::Server, None).await) };
    let agreed = match protocol.strip_prefix(TUNNEL) {
        Some(inner) => Agreed::Spdy(inner, Box::pin(async move { Ok(Carrier::tunnel(socket.await?)) })),
        None => Agreed::Socket(protocol, Box::pin(socket)),
    };
    Ok((response, agreed))
}

fn subprotocol(offered: &[String], protocols: &Protocols) -> Result<&'static str, Refusal> {
    if offered.is_empty() {
        return Ok("");
    }
    let known = |name: &String| protocols.socket.iter().find(|known| *known == name).copied();
    if offered.iter().any(|name| name == protocols.preferred) {
        return Ok(protocols.preferred);
    }
    offered.iter().find_map(known).ok_or_else(|| {
        let why = format!(
            "requested protocol(s) are not supported: [{}]; supports [{} {}]",
            offered.join(" "),
            protocols.preferred,
            protocols.socket.join(" ")
        );
        Refusal(StatusCode::FORBIDDEN, why)
    })
}

fn header(request: &Request<Incoming>, name: &str) -> Option<String> {
    request.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// All values of a header, each a list with commas.
fn list(request: &Request<Incoming>, name: &str) -> Vec<String> {
    let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

fn switching(headers: &[(&str, &str)]) -> Result<Answer, Refusal> {
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response
        .body(routes::text(StatusCode::OK, "").into_body())
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
