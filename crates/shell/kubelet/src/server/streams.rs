//! exec and attach over WebSocket.
//!
//! Invariant: channel 0 is stdin, 1 stdout, 2 stderr, 3 the command's end, 4 terminal sizes. The end is the last thing
//! sent, after all output.

use futures::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame, protocol::frame::coding::CloseCode};
use trireme_runtime::cri::{CriError, StreamRequest, StreamSession};

use super::channels::{Channels, Said};
use super::routes::{Answer, Query, Refusal, find};
use super::upgrade::{self, Agreed, Protocols, Socket};
use super::{Context, streams_spdy};

/// How long a client has to end its side after the last frame.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Over SPDY, in the last two an error is told as text, and only then; the last knows no terminal sizes.
const PROTOCOLS: Protocols = Protocols {
    preferred: "v5.channel.k8s.io",
    socket: &[
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
    spdy: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
    ],
};
const CHUNK: usize = 32 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Exec,
    Attach,
}

/// GET or POST `/exec/{namespace}/{pod}/{container}` and the same for attach.
pub(super) async fn serve(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
    what: What,
) -> Result<Answer, Refusal> {
    let view = find(context, namespace, pod)?;
    let run = view.containers.iter().find(|run| run.name == container && run.running);
    let run = run.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")")))?;
    let tty = query.flag(&["tty"]);
    let asked = StreamRequest {
        container_id: run.id.clone(),
        command: if what == What::Exec {
            query.all("command").map(str::to_owned).collect()
        } else {
            Vec::new()
        },
        tty,
        stdin: query.flag(&["input", "stdin"]),
    };
    let wants = Wants {
        stdout: query.flag(&["output", "stdout"]),
        stderr: query.flag(&["error", "stderr"]) && !tty,
    };
    if !(asked.stdin || wants.stdout || wants.stderr) {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr".into(),
        ));
    }
    if what == What::Exec && asked.command.is_empty() {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "you must specify at least one command for the container".into(),
        ));
    }
    let (response, agreed) = upgrade::agree(request, &PROTOCOLS)?;
    let runtime = std::sync::Arc::clone(&context.shared.runtime);
    tokio::spawn(async move {
        let session = async || match what {
            What::Exec => runtime.exec(&asked).await,
            What::Attach => runtime.attach(&asked).await,
        };
        let outcome = match agreed {
            Agreed::Spdy(protocol, pending) => match pending.await {
                Ok(carrier) => {
                    let protocol = streams_spdy::Protocol::of(protocol);
                    streams_spdy::run(carrier, protocol, (asked.stdin, tty), wants, session).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Agreed::Socket(protocol, pending) => match pending.await {
                Ok(socket) => {
                    run_session(socket, Channels::of(protocol), session().await, wants).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = outcome {
            tracing::debug!("a stream was not taken: {error}");
        }
    });
    Ok(response)
}

/// What of the output a client asked for.
#[derive(Clone, Copy)]
pub(super) struct Wants {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

async fn run_session(socket: Socket, channels: Channels, session: Result<StreamSession, CriError>, wants: Wants) {
    let (mut sink, mut source) = socket.split();
    let (messages, mut queue) = mpsc::channel::<Message>(16);
    // Tells the client that the connection stands.
    let lowest = match wants {
        Wants { stdout: true, .. } => STDOUT,
        Wants { stderr: true, .. } => STDERR,
        Wants { .. } => ERROR,
    };
    let writer = async {
        if sink.send(channels.message(lowest, &[])).await.is_err() {
            return;
        }
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        if let Err(error) = sink.send(Message::Close(Some(close))).await {
            tracing::debug!("closing a stream: {error}");
        }
    };
    let from_client = &mut source;
    let session = async move {
        let status = match session {
            Ok(session) => {
                let to_client = Outward {
                    channels,
                    messages: &messages,
                };
                exchange(session, from_client, to_client, wants).await
            }
            Err(error) => Some(failure(&error.to_string())),
        };
        if let Some(told) = status.and_then(|status| channels.verdict(&status))
            && messages.send(channels.message(ERROR, told.as_bytes())).await.is_err()
        {
            tracing::debug!("a stream's end was not told");
        }
    };
    tokio::join!(writer, session);
    farewell(&mut source).await;
}

/// Reads a client's end. A connection that is dropped with something unread is reset, and what was sent last is lost on its
/// way.
pub(super) async fn farewell(source: &mut futures::stream::SplitStream<Socket>) {
    let drained = async { while let Some(Ok(_)) = source.next().await {} };
    if tokio::time::timeout(FAREWELL, drained).await.is_err() {
        tracing::debug!("a client did not end its stream");
    }
}

/// The way to the client.
#[derive(Clone, Copy)]
struct Outward<'a> {
    channels: Channels,
    messages: &'a mpsc::Sender<Message>,
}

/// Moves bytes until the command has ended; the Status to tell, or `None` when the client went away.
async fn exchange(
    session: StreamSession,
    source: &mut futures::stream::SplitStream<Socket>,
    to_client: Outward<'_>,
    wants: Wants,
) -> Option<Value> {
    let StreamSession {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let output = async {
        let second = async {
            if let Some(stderr) = stderr {
                pump(stderr, STDERR, wants.stderr, to_client).await;
            }
        };
        tokio::join!(pump(stdout, STDOUT, wants.stdout, to_client), second);
        exit.await
    };
    let input = read_client(source, to_client.channels, stdin, resize);
    tokio::pin!(output);
    tokio::select! {
        ended = &mut output => Some(verdict(ended)),
        () = input => None,
    }
}

/// The Status that tells how a command ended.
pub(super) fn verdict(ended: Result<Result<i32, CriError>, tokio::sync::oneshot::error::RecvError>) -> Value {
    match ended {
        Ok(Ok(0)) => json!({"metadata": {}, "status": "Success"}),
        Ok(Ok(code)) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: command terminated with exit code {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}
        }),
        Ok(Err(error)) => failure(&error.to_string()),
        Err(_) => failure("the container's end was not seen"),
    }
}

/// The Status of a command that could not be run.
pub(super) fn failure(why: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: {why}"), "details": {"causes": [{"message": why}]}
    })
}

async fn pump(mut from: Box<dyn AsyncRead + Send + Unpin>, channel: u8, wanted: bool, to_client: Outward<'_>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            // A terminal ends with EIO when its last process has gone.
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if !wanted {
                    continue;
                }
                let message = to_client.channels.message(channel, &buffer[..count]);
                if to_client.messages.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads what the client sends until it goes away.
async fn read_client(
    source: &mut futures::stream::SplitStream<Socket>,
    channels: Channels,
    mut stdin: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    resize: Option<mpsc::Sender<(u16, u16)>>,
) {
    while let Some(Ok(message)) = source.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
        match channels.read(message) {
            Some(Said::Data(STDIN, data)) => {
                let failed = match &mut stdin {
                    Some(open) => open.write_all(&data).await.is_err() || open.flush().await.is_err(),
                    None => false,
                };
                if failed {
                    stdin = None;
                }
            }
            Some(Said::Data(RESIZE, data)) => {
                let size = serde_json::from_slice(&data).ok().and_then(|size| terminal_size(&size));
                if let (Some(size), Some(resize)) = (size, &resize)
                    && resize.send(size).await.is_err()
                {
                    tracing::debug!("a terminal's size came after its end");
                }
            }
            Some(Said::Close(STDIN)) => {
                if let Some(mut open) = stdin.take()
                    && let Err(error) = open.shutdown().await
                {
                    tracing::debug!("closing stdin: {error}");
                }
            }
            Some(_) | None => {}
        }
    }
}

/// Columns and rows.
pub(super) fn terminal_size(size: &Value) -> Option<(u16, u16)> {
    let of = |name: &str| size[name].as_u64().and_then(|value| u16::try_from(value).ok());
    Some((of("Width")?, of("Height")?))
}
