//! A body that is read over a WebSocket: `binary.k8s.io`, `base64.binary.k8s.io` or no subprotocol.
//!
//! Invariant: what the client sends is ignored; an empty message comes first, so that the client sees that the stream
//! stands; the end of the body ends the connection (upstream's `wsstream.Reader`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _};
use http::request::Parts;
use http::{Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use trireme_api::Status;

use crate::http::body::Body;
use crate::http::handle::wants_upgrade;

const PROTOCOL: &str = "sec-websocket-protocol";
/// Subprotocols and whether their messages are text in base64.
const PROTOCOLS: [(&str, bool); 2] = [("binary.k8s.io", false), ("base64.binary.k8s.io", true)];
/// How long a client has to end its side after the last message.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);

/// Whether a request wants its answer over a WebSocket.
pub(crate) fn is_wanted(parts: &Parts) -> bool {
    let upgrade = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    wants_upgrade(parts) && upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// The client's first subprotocol that is known, and whether it is base64. `""` for a client that names none.
fn negotiate(parts: &Parts) -> Result<(&'static str, bool), Status> {
    let values = parts.headers.get_all(PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if offered.is_empty() {
        return Ok(("", false));
    }
    let known = offered
        .iter()
        .find_map(|offer| PROTOCOLS.into_iter().find(|(name, _)| name == offer));
    known.ok_or_else(|| {
        let known: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        Status::failure(
            403,
            "Forbidden",
            format!(
                "requested protocol(s) are not supported: [{}]; supports [{}]",
                offered.join(" "),
                known.join(" ")
            ),
        )
    })
}

/// Switches a request's connection to a WebSocket and sends the chunks over it, one message each.
///
/// # Errors
/// When the connection cannot be switched, or the client names only unknown subprotocols.
pub(crate) fn serve(
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
    chunks: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + Unpin + 'static,
) -> Result<Response<Body>, Status> {
    let upgrade = upgrade.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let key = parts
        .headers
        .get("sec-websocket-key")
        .ok_or_else(|| Status::bad_request("missing header Sec-WebSocket-Key"))?;
    let (protocol, base64) = negotiate(parts)?;
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()));
    if !protocol.is_empty() {
        response = response.header(PROTOCOL, protocol);
    }
    let response = response
        .body(Body::empty())
        .map_err(|error| Status::internal(&error.to_string()))?;
    tokio::spawn(async move {
        if let Err(error) = send(upgrade, chunks, base64).await {
            tracing::debug!("a stream over a WebSocket ended: {error}");
        }
    });
    Ok(response)
}

async fn send(
    upgrade: OnUpgrade,
    mut chunks: impl Stream<Item = Result<Bytes, std::io::Error>> + Unpin,
    base64: bool,
) -> Result<(), Error> {
    let upgraded = upgrade.await.map_err(|error| Error::Io(std::io::Error::other(error)))?;
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let message = |chunk: Bytes| match base64 {
        true => Message::text(STANDARD.encode(&chunk)),
        false => Message::Binary(chunk),
    };
    let sending = async {
        sink.send(message(Bytes::new())).await?;
        while let Some(chunk) = chunks.next().await {
            // A body that breaks off ends the connection without a farewell.
            sink.send(message(chunk.map_err(Error::Io)?)).await?;
        }
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        sink.send(Message::Close(Some(close))).await
    };
    let ended = async { while let Some(Ok(_)) = source.next().await {} };
    tokio::select! {
        sent = sending => sent?,
        () = ended => return Ok(()),
    }
    // A connection that is dropped with something unread is reset, and what was sent last is lost on its way.
    let drained = async { while let Some(Ok(_)) = source.next().await {} };
    if tokio::time::timeout(FAREWELL, drained).await.is_err() {
        tracing::debug!("a client did not end its stream");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_first_known_subprotocol_counts() {
        let of = |offered: &[&str]| {
            let mut request = http::Request::get("/");
            for value in offered {
                request = request.header(PROTOCOL, *value);
            }
            negotiate(&request.body(()).unwrap().into_parts().0)
        };
        assert_eq!(of(&[]).unwrap(), ("", false));
        assert_eq!(of(&["binary.k8s.io"]).unwrap(), ("binary.k8s.io", false));
        assert_eq!(
            of(&["x, base64.binary.k8s.io", "binary.k8s.io"]).unwrap().0,
            "base64.binary.k8s.io"
        );
        let refused = of(&["v4.channel.k8s.io"]).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                403,
                "requested protocol(s) are not supported: [v4.channel.k8s.io]; supports [binary.k8s.io base64.binary.k8s.io]"
            )
        );
    }
}
