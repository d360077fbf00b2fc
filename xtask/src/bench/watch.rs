//! Watch streams: lines of events, and how long an event takes to all who watch.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::http::{Call, Connection, refusal};
use super::load::{CpuMark, Phase};
use super::process::Processes;
use super::rest::Rest;
use super::statistics::Summary;
use super::target::Endpoint;
use crate::project::say;

/// Longest line of a watch.
const LINE_BYTES_MAX: usize = 8 << 20;
/// Time between two events, so that they do not queue behind one another.
const EVENT_GAP: Duration = Duration::from_millis(20);
/// Longest wait for the last event to arrive.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);
/// What precedes an event's number in its line.
const MARK: &str = "\"name\":\"event-";

/// A running watch.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// The body ends with its connection.
    _connection: Connection,
}

impl Lines {
    /// Begins a watch; it has begun when this returns.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn open(endpoint: &Endpoint, path: &str) -> Result<Self> {
        let mut connection = Connection::open(endpoint).await?;
        let response = connection.send(Call::get(path)).await?;
        if !response.status().is_success() {
            bail!("watch {path}: {}", refusal(response).await);
        }
        Ok(Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
            _connection: connection,
        })
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// When the watch ends.
    pub(crate) async fn next(&mut self) -> Result<Bytes> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + end).freeze();
                self.buffer.advance(1);
                return Ok(line);
            }
            searched = self.buffer.len();
            ensure!(
                searched < LINE_BYTES_MAX,
                "a line of the watch is longer than {LINE_BYTES_MAX} bytes"
            );
            let frame = self
                .body
                .frame()
                .await
                .context("the server ended the watch")?
                .context("the watch broke")?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}

/// How many watch how many events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FanOut {
    pub(crate) watchers: usize,
    pub(crate) events: usize,
}

/// Has watchers watch the ConfigMaps of a namespace, creates ConfigMaps one by one there, and measures from the sending of
/// each request to the arrival of its event at each watcher. An operation of this phase is an event that arrived.
///
/// # Errors
/// When a watch ends or an event does not arrive.
pub(crate) async fn fan_out(rest: &Rest, servers: &Processes, namespace: &str, load: FanOut) -> Result<Phase> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let list = rest.request(Method::GET, &format!("{path}?limit=1"), None).await?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .context("the list has no resourceVersion")?;
    let watch = format!("{path}?watch=1&resourceVersion={revision}&timeoutSeconds=1800");
    let mut watchers = JoinSet::new();
    for _ in 0..load.watchers {
        let lines = Lines::open(&rest.endpoint, &watch).await?;
        watchers.spawn(arrivals(lines, load.events));
    }
    let mut writer = Connection::open(&rest.endpoint).await?;
    let mark = CpuMark::now(servers)?;
    let begun = Instant::now();
    let mut sent = Vec::with_capacity(load.events);
    for number in 0..load.events {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("event-{number}")}}).to_string();
        sent.push(Instant::now());
        writer
            .measure(Call::with(Method::POST, path.as_str(), body))
            .await
            .context("creating an event")?;
        tokio::time::sleep(EVENT_GAP).await;
    }
    let gathering = async {
        let (mut latencies, mut bytes) = (Vec::with_capacity(load.watchers * load.events), 0);
        while let Some(one) = watchers.join_next().await {
            let (arrived, read) = one.context("a watcher panicked")??;
            latencies.extend(
                arrived
                    .iter()
                    .zip(&sent)
                    .map(|(arrived, sent)| arrived.saturating_duration_since(*sent)),
            );
            bytes += read;
        }
        Ok::<_, anyhow::Error>((latencies, bytes))
    };
    let gathered = tokio::time::timeout(ARRIVAL_LIMIT, gathering).await;
    let (latencies, bytes) =
        gathered.map_err(|_| anyhow!("not all events reached all watchers within {} s", ARRIVAL_LIMIT.as_secs()))??;
    let elapsed = begun.elapsed();
    let (server_cpu, client_cpu) = mark.since(servers)?;
    say(format!("watch: {} events at each of {} watchers", load.events, load.watchers));
    Ok(Phase {
        name: "watch: create to event".into(),
        connections: load.watchers,
        operations: latencies.len() as u64,
        errors: 0,
        elapsed,
        bytes,
        latency: Summary::of(latencies).context("neither watchers nor events")?,
        server_cpu,
        client_cpu,
    })
}

/// When each event arrived, and the bytes of all.
async fn arrivals(mut lines: Lines, events: usize) -> Result<(Vec<Instant>, u64)> {
    let (mut arrived, mut missing, mut bytes) = (vec![None; events], events, 0);
    while missing > 0 {
        let line = lines.next().await?;
        bytes += line.len() as u64;
        let Some(number) = event_number(&line)? else { continue };
        let slot = arrived
            .get_mut(number)
            .with_context(|| format!("event {number} was never created"))?;
        if slot.replace(Instant::now()).is_none() {
            missing -= 1;
        } else {
            bail!("event {number} arrived twice");
        }
    }
    Ok((arrived.into_iter().flatten().collect(), bytes))
}

/// The number of our event in a line of the watch; none for another's object.
fn event_number(line: &[u8]) -> Result<Option<usize>> {
    let text = std::str::from_utf8(line).context("the watch is no text")?;
    if text.starts_with("{\"type\":\"ERROR\"") {
        let event: Value = serde_json::from_str(text)?;
        bail!("the watch failed: {}", event["object"]["message"].as_str().unwrap_or(text));
    }
    let Some(at) = text.find(MARK) else { return Ok(None) };
    let digits = &text[at + MARK.len()..];
    let end = digits.find('"').unwrap_or(digits.len());
    Ok(Some(digits[..end].parse().context("an event has no number")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_events() {
        let line = br#"{"type":"ADDED","object":{"kind":"ConfigMap","metadata":{"name":"event-17","namespace":"n"}}}"#;
        assert_eq!(event_number(line).expect("an event"), Some(17));
        assert_eq!(
            event_number(br#"{"type":"ADDED","object":{"metadata":{"name":"kube-root-ca.crt"}}}"#).expect("an event"),
            None
        );
        for (line, message) in [
            (
                &br#"{"type":"ERROR","object":{"kind":"Status","message":"too old resource version"}}"#[..],
                "too old resource version",
            ),
            (br#"{"object":{"metadata":{"name":"event-x"}}}"#, "no number"),
            (b"\xff", "no text"),
        ] {
            let error = event_number(line).expect_err(message);
            assert!(format!("{error:#}").contains(message), "{error:#}");
        }
    }
}
