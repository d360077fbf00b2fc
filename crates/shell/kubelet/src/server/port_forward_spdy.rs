//! Port-forward over SPDY: for each connection a pair of streams, one for errors and one for data.
//!
//! Invariant: the error stream ends after the data stream, so that a client that has read it to its end has all data. An
//! error that is told there makes kubectl give up; a pod's process that resets a connection is therefore just its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use trireme_runtime::cri::RuntimeService;

use super::spdy::{CHUNK, Carrier, Connection, Headers, Stream};

/// How long a stream waits for the other of its pair, as upstream's.
const PAIR_MAX: Duration = Duration::from_secs(30);
/// How long a pod may be silent after its client has said all: the client may have gone, and nothing tells.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const TYPE: &str = "streamtype";
const PORT: &str = "port";
const REQUEST: &str = "requestid";

/// Serves one client until it goes.
pub(super) async fn run(carrier: Carrier, runtime: Arc<dyn RuntimeService>, sandbox: String) {
    let mut connection = Connection::start(carrier, wanted);
    let sandbox: Arc<str> = sandbox.into();
    let mut waiting: HashMap<String, (Stream, Instant)> = HashMap::new();
    loop {
        let patience = waiting.values().map(|(_, since)| *since + PAIR_MAX).min();
        let late = async {
            match patience {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            () = late => {
                for (request, (stream, _)) in waiting.extract_if(|_, (_, since)| since.elapsed() >= PAIR_MAX) {
                    tokio::spawn(complain(stream, format!("(request={request}) timed out waiting for streams")));
                }
                continue;
            }
        };
        let Some(stream) = stream else { return };
        let request = request(&stream);
        match waiting.remove(&request) {
            None => {
                waiting.insert(request, (stream, Instant::now()));
            }
            Some((first, since)) => match Pair::of(first, stream) {
                Ok(pair) => {
                    tokio::spawn(forward(pair, Arc::clone(&runtime), Arc::clone(&sandbox)));
                }
                Err(twins) => {
                    let [first, second] = *twins;
                    let kind = second.headers.get(TYPE).unwrap_or_default();
                    let why = format!("error processing stream for request {request}: {kind} stream already assigned");
                    tokio::spawn(complain(second, why));
                    waiting.insert(request, (first, since));
                }
            },
        }
    }
}

/// Whether a stream has what it must have.
fn wanted(headers: &Headers) -> bool {
    port(headers).is_some() && matches!(headers.get(TYPE), Some("error" | "data"))
}

fn port(headers: &Headers) -> Option<u16> {
    headers.get(PORT)?.parse().ok().filter(|port| *port != 0)
}

/// What joins the two streams of a connection; old clients do not tell, and open them one after the other.
fn request(stream: &Stream) -> String {
    match stream.headers.get(REQUEST) {
        Some(request) if !request.is_empty() => request.to_owned(),
        _ if stream.headers.get(TYPE) == Some("data") => stream.id.wrapping_sub(2).to_string(),
        _ => stream.id.to_string(),
    }
}

struct Pair {
    error: Stream,
    data: Stream,
}

impl Pair {
    fn of(first: Stream, second: Stream) -> Result<Self, Box<[Stream; 2]>> {
        let (error, data) = match (first.headers.get(TYPE), second.headers.get(TYPE)) {
            (Some("error"), Some("data")) => (first, second),
            (Some("data"), Some("error")) => (second, first),
            _ => return Err(Box::new([first, second])),
        };
        Ok(Self { error, data })
    }
}

/// Tells why nothing comes of a stream, if it is one to tell it on.
async fn complain(stream: Stream, why: String) {
    tracing::debug!("port-forward: {why}");
    let mut writer = stream.writer;
    if stream.headers.get(TYPE) == Some("error") && writer.write(why.as_bytes()).await.is_ok() && writer.finish().await.is_err() {
        tracing::debug!("a client went before it was told");
    }
}

async fn forward(pair: Pair, runtime: Arc<dyn RuntimeService>, sandbox: Arc<str>) {
    let Pair { error, data } = pair;
    let port = port(&data.headers).unwrap_or_default();
    match runtime.port_forward(&sandbox, port).await {
        Ok(pod) => {
            join(data, pod).await;
            if error.writer.finish().await.is_err() {
                tracing::debug!("a client went before its connection's end");
            }
        }
        Err(why) => {
            drop(data);
            complain(error, format!("error forwarding port {port} to pod {sandbox}, uid : {why}")).await;
        }
    }
}

/// Moves bytes both ways until the pod has said all, or the client resets the stream.
async fn join(data: Stream, pod: TcpStream) {
    let Stream {
        mut reader, mut writer, ..
    } = data;
    let gone = writer.gone();
    let (mut from_pod, mut to_pod) = pod.into_split();
    let (said, mut client_said_all) = tokio::sync::watch::channel(false);
    let up = async {
        while let Some(chunk) = reader.next().await {
            if to_pod.write_all(&chunk).await.is_err() {
                // What the pod has sent is still read; the client learns of the end there.
                break;
            }
        }
        if let Err(error) = to_pod.shutdown().await {
            tracing::debug!("ending a forwarded connection: {error}");
        }
        said.send_replace(true);
        // What comes after a failure is read, so that it holds nobody back.
        while reader.next().await.is_some() {}
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let silence = async {
                if client_said_all.wait_for(|said| *said).await.is_ok() {
                    tokio::time::sleep(SILENCE_MAX).await;
                }
            };
            let count = tokio::select! {
                read = from_pod.read(&mut buffer) => read.unwrap_or_default(),
                () = silence => 0,
            };
            if count == 0 {
                break;
            }
            if writer.write(&buffer[..count]).await.is_err() {
                return;
            }
        }
        if writer.finish().await.is_err() {
            tracing::debug!("a client went before its data's end");
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        () = gone.cancelled() => {}
    }
}
