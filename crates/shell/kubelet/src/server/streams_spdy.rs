//! exec and attach over SPDY: a stream each for errors, stdin, stdout, stderr and terminal sizes.
//!
//! Invariant: the command runs only once the client has opened all streams that it asked for; the Status is written after
//! all output.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use trireme_runtime::cri::{CriError, StreamSession};

use super::spdy::{CHUNK, Carrier, Connection, Headers, Stream, StreamReader, StreamWriter};
use super::streams::{Wants, failure, terminal_size, verdict};

/// How long a client has to open its streams, as upstream's.
const STREAMS_WAIT: Duration = Duration::from_secs(30);
const TYPE: &str = "streamtype";
/// Most bytes of one terminal size.
const SIZE_MAX: usize = 4096;

/// What a version of the protocol knows.
#[derive(Clone, Copy)]
pub(super) struct Protocol {
    /// The end is a Status, told also of success; before, a text, told of failure.
    status: bool,
    sizes: bool,
}

impl Protocol {
    pub(super) fn of(name: &str) -> Self {
        Self {
            status: !matches!(name, "v3.channel.k8s.io" | "v2.channel.k8s.io"),
            sizes: name != "v2.channel.k8s.io",
        }
    }
}

/// The client's streams.
#[derive(Default)]
struct Streams {
    error: Option<StreamWriter>,
    stdin: Option<StreamReader>,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    resize: Option<StreamReader>,
    /// The way back on streams that only the client writes to: open as long as they are.
    silent: Vec<StreamWriter>,
}

impl Streams {
    fn add(&mut self, stream: Stream) {
        let Stream {
            headers, reader, writer, ..
        } = stream;
        match headers.get(TYPE) {
            Some("error") => self.error = Some(writer),
            Some("stdout") => self.stdout = Some(writer),
            Some("stderr") => self.stderr = Some(writer),
            Some("stdin") => {
                self.stdin = Some(reader);
                self.silent.push(writer);
            }
            _ => {
                self.resize = Some(reader);
                self.silent.push(writer);
            }
        }
    }

    fn complete(&self, (stdin, resize): (bool, bool), wants: Wants) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == stdin
            && self.stdout.is_some() == wants.stdout
            && self.stderr.is_some() == wants.stderr
            && self.resize.is_some() == resize
    }
}

fn wanted(headers: &Headers) -> bool {
    matches!(headers.get(TYPE), Some("error" | "stdin" | "stdout" | "stderr" | "resize"))
}

/// Serves one client: its command from its start to its end.
pub(super) async fn run(
    carrier: Carrier,
    protocol: Protocol,
    (stdin, tty): (bool, bool),
    wants: Wants,
    session: impl AsyncFnOnce() -> Result<StreamSession, CriError>,
) {
    let mut connection = Connection::start(carrier, wanted);
    let mut streams = Streams::default();
    let collected = async {
        while !streams.complete((stdin, tty && protocol.sizes), wants) {
            streams.add(connection.accept().await?);
        }
        Some(())
    };
    if !matches!(tokio::time::timeout(STREAMS_WAIT, collected).await, Ok(Some(()))) {
        tracing::debug!("timed out waiting for client to create streams");
        return;
    }
    let Streams {
        error,
        stdin,
        stdout,
        stderr,
        resize,
        silent,
    } = streams;
    let status = match session().await {
        Ok(session) => {
            let work = exchange(session, (stdin, resize), (stdout, stderr));
            tokio::select! {
                status = work => status,
                () = connection.over() => return,
            }
        }
        Err(why) => {
            finish(stdout).await;
            finish(stderr).await;
            failure(&why.to_string())
        }
    };
    let text = match protocol.status {
        true => status.to_string(),
        false => status["message"].as_str().unwrap_or_default().to_owned(),
    };
    if let Some(mut error) = error
        && (error.write(text.as_bytes()).await.is_err() || error.finish().await.is_err())
    {
        tracing::debug!("a command's end was not told");
    }
    for writer in silent {
        finish(Some(writer)).await;
    }
}

async fn finish(writer: Option<StreamWriter>) {
    if let Some(writer) = writer
        && writer.finish().await.is_err()
    {
        tracing::debug!("a stream's end was not told");
    }
}

/// Moves bytes until the command has ended: the Status to tell.
async fn exchange(
    session: StreamSession,
    (from_client, sizes): (Option<StreamReader>, Option<StreamReader>),
    (to_client, errors_to_client): (Option<StreamWriter>, Option<StreamWriter>),
) -> Value {
    let StreamSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let output = async {
        let second = async {
            match stderr {
                Some(stderr) => pump(stderr, errors_to_client).await,
                None => finish(errors_to_client).await,
            }
        };
        tokio::join!(pump(stdout, to_client), second);
        verdict(exit.await)
    };
    let input = async {
        let stdin = async {
            if let (Some(mut reader), Some(mut stdin)) = (from_client, stdin) {
                while let Some(chunk) = reader.next().await {
                    if stdin.write_all(&chunk).await.is_err() || stdin.flush().await.is_err() {
                        break;
                    }
                }
                if let Err(error) = stdin.shutdown().await {
                    tracing::debug!("closing stdin: {error}");
                }
                drop(stdin);
                // What the command does not take is read, so that it holds nothing else back.
                while reader.next().await.is_some() {}
            }
        };
        let sizes = async {
            if let (Some(reader), Some(resize)) = (sizes, resize) {
                apply_sizes(reader, resize).await;
            }
        };
        tokio::join!(stdin, sizes);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = output => status,
        () = input => unreachable!("input goes on until the command has ended"),
    }
}

/// Passes output on to its end, also when nobody wants it.
async fn pump(mut from: Box<dyn AsyncRead + Send + Unpin>, mut writer: Option<StreamWriter>) {
    let mut buffer = vec![0; CHUNK];
    // A terminal ends with EIO when its last process has gone.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if let Some(open) = &mut writer
            && open.write(&buffer[..count]).await.is_err()
        {
            writer = None;
        }
    }
    finish(writer).await;
}

/// Applies sizes as they come: JSON objects one after another, wherever the chunks may end.
async fn apply_sizes(mut reader: StreamReader, resize: mpsc::Sender<(u16, u16)>) {
    let mut text = Vec::new();
    while let Some(chunk) = reader.next().await {
        text.extend_from_slice(&chunk);
        let mut values = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
        let mut sizes = Vec::new();
        while let Some(Ok(value)) = values.next() {
            sizes.extend(terminal_size(&value));
        }
        let read = values.byte_offset();
        text.drain(..read);
        if text.len() > SIZE_MAX {
            return;
        }
        for size in sizes {
            if resize.send(size).await.is_err() {
                tracing::debug!("a terminal's size came after its end");
            }
        }
    }
}
