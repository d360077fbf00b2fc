//! Port-forward: over SPDY (see `port_forward_spdy`), or over WebSocket with two channels per port, data and error.
//!
//! Invariant: each channel begins with the port as two bytes, least first, as upstream's does.

use futures::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::channels::{Channels, Said};
use super::routes::{Answer, Query, Refusal, find};
use super::streams::farewell;
use super::upgrade::{self, Agreed, Protocols, Socket};
use super::{Context, port_forward_spdy};

/// SPDY in a tunnel, as kubectl opens it, and channels.
const PROTOCOLS: Protocols = Protocols {
    preferred: "SPDY/3.1+portforward.k8s.io",
    socket: &["v4.channel.k8s.io", "v4.base64.channel.k8s.io", "portforward.k8s.io"],
    spdy: &["portforward.k8s.io"],
};

/// Most ports of one request: channel numbers are bytes.
const PORTS_MAX: usize = 100;
const CHUNK: usize = 32 * 1024;

/// GET or POST `/portForward/{namespace}/{pod}?port=…`.
pub(super) fn serve(
    context: &Context,
    namespace: &str,
    pod: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let view = find(context, namespace, pod)?;
    let sandbox = view
        .sandbox_id
        .clone()
        .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod \"{pod}\" is not running")))?;
    let mut ports = Vec::new();
    for text in query.all("port").chain(query.all("ports")).flat_map(|list| list.split(',')) {
        let port = text.parse::<u16>().ok().filter(|port| *port != 0);
        ports.push(port.ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, format!("unable to parse \"{text}\" as a port")))?);
    }
    let (response, agreed) = upgrade::agree(request, &PROTOCOLS)?;
    // Over SPDY each stream names its port.
    if matches!(agreed, Agreed::Socket(..)) && (ports.is_empty() || ports.len() > PORTS_MAX) {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "query parameter \"port\" is required".into(),
        ));
    }
    let runtime = std::sync::Arc::clone(&context.shared.runtime);
    tokio::spawn(async move {
        let outcome = match agreed {
            Agreed::Spdy(_, pending) => match pending.await {
                Ok(carrier) => {
                    port_forward_spdy::run(carrier, runtime, sandbox).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Agreed::Socket(protocol, pending) => match pending.await {
                Ok(socket) => {
                    let mut connections = Vec::new();
                    for port in &ports {
                        connections.push(runtime.port_forward(&sandbox, *port).await.map_err(|error| error.to_string()));
                    }
                    run(socket, Channels::of(protocol), &ports, connections).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = outcome {
            tracing::debug!("a port-forward was not taken: {error}");
        }
    });
    Ok(response)
}

async fn run(socket: Socket, channels: Channels, ports: &[u16], connections: Vec<Result<tokio::net::TcpStream, String>>) {
    let (mut sink, mut source) = socket.split();
    let (frames, mut queue) = mpsc::channel::<Message>(16);
    let mut writers: Vec<Option<OwnedWriteHalf>> = Vec::new();
    let mut readers = tokio::task::JoinSet::new();
    for (index, (port, connection)) in ports.iter().zip(connections).enumerate() {
        let channel = u8::try_from(index * 2).unwrap_or(u8::MAX);
        for channel in [channel, channel + 1] {
            if sink.send(channels.message(channel, &port.to_le_bytes())).await.is_err() {
                return;
            }
        }
        match connection {
            Ok(stream) => {
                let (mut read, write) = stream.into_split();
                writers.push(Some(write));
                let frames = frames.clone();
                readers.spawn(async move {
                    let mut buffer = vec![0; CHUNK];
                    while let Ok(count @ 1..) = read.read(&mut buffer).await {
                        if frames.send(channels.message(channel, &buffer[..count])).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Err(why) => {
                writers.push(None);
                let text = format!("error forwarding port {port} to pod: {why}");
                if sink.send(channels.message(channel + 1, text.as_bytes())).await.is_err() {
                    return;
                }
            }
        }
    }
    drop(frames);
    let output = async {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        if let Err(error) = sink.send(Message::Close(None)).await {
            tracing::debug!("closing a port-forward: {error}");
        }
    };
    let input = async {
        while let Some(Ok(message)) = source.next().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
            let Some(Said::Data(channel, data)) = channels.read(message) else {
                continue;
            };
            let Some(slot) = writers.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0) else {
                continue;
            };
            if let Some(writer) = slot
                && writer.write_all(&data).await.is_err()
            {
                *slot = None;
            }
        }
    };
    tokio::select! {
        () = output => {}
        () = input => {}
    }
    drop(writers);
    farewell(&mut source).await;
}
