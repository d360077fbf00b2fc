//! What carries SPDY's bytes: an upgraded connection as it is, or binary WebSocket messages (KEP-4006).
//!
//! Invariant: frames and messages do not line up; only the bytes' order counts. A WebSocket ends with a normal close.

use std::io;

use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame, protocol::frame::coding::CloseCode};
use tokio_util::io::StreamReader;

use super::super::upgrade::Socket;

const BUFFER: usize = 64 * 1024;

pub(crate) type Input = BufReader<Box<dyn AsyncRead + Send + Unpin>>;

/// Both directions of a connection.
pub(crate) struct Carrier {
    pub(super) input: Input,
    pub(super) output: Output,
}

/// The way to the client.
pub(super) enum Output {
    Plain(Box<dyn AsyncWrite + Send + Unpin>),
    Tunnel(SplitSink<Socket, Message>),
}

impl Carrier {
    /// An upgraded connection.
    pub(crate) fn plain(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            input: BufReader::with_capacity(BUFFER, Box::new(read)),
            output: Output::Plain(Box::new(write)),
        }
    }

    /// A WebSocket whose binary messages are parts of the stream.
    pub(crate) fn tunnel(socket: Socket) -> Self {
        let (sink, source) = socket.split();
        let parts = source.filter_map(async |message| match message {
            Ok(Message::Binary(data)) => Some(Ok(data)),
            Ok(Message::Text(_)) => Some(Err(io::Error::other("a text message in a tunnel"))),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        });
        let read = StreamReader::<_, Bytes>::new(Box::pin(parts));
        Self {
            input: BufReader::with_capacity(BUFFER, Box::new(read)),
            output: Output::Tunnel(sink),
        }
    }
}

impl Output {
    pub(super) async fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Plain(write) => {
                write.write_all(&bytes).await?;
                write.flush().await
            }
            Self::Tunnel(sink) => sink.send(Message::Binary(bytes.into())).await.map_err(io::Error::other),
        }
    }

    pub(super) async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(write) => write.shutdown().await,
            Self::Tunnel(sink) => {
                let close = CloseFrame {
                    code: CloseCode::Normal,
                    reason: "".into(),
                };
                sink.send(Message::Close(Some(close))).await.map_err(io::Error::other)
            }
        }
    }
}
