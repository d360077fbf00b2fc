//! Clients of the API: writers that create, change and read, and watchers that go on at another server when theirs is
//! gone. Everything they see goes to the recorder.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use trireme_checker::{Change, Kind, Listing, Operation, Outcome, Record, Seen, Step, WatchStep};

use crate::recorder::Recorder;

/// How long a client waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Keys that writers share.
const KEYS: u64 = 12;
/// Pause between two operations of a writer.
const PAUSE: Duration = Duration::from_millis(15);
/// Silence after which a watcher goes to another server.
const SILENCE: Duration = Duration::from_secs(3);

/// One server's API.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) client: Client,
}

/// What all clients of a trial share.
pub(crate) struct Shared {
    pub(crate) servers: Vec<Server>,
    pub(crate) namespace: String,
    pub(crate) recorder: Recorder,
    /// Writers end when this is set.
    pub(crate) stop: AtomicBool,
    /// Watchers end once they have told everything up to this revision; 0 while they go on.
    pub(crate) through: AtomicU64,
}

impl Shared {
    fn prefix(&self) -> String {
        format!("{}/", self.namespace)
    }

    fn collection(&self, server: &Server) -> String {
        format!("{}/api/v1/namespaces/{}/configmaps", server.url, self.namespace)
    }
}

/// Asks a server something and waits for the answer, but not for ever.
pub(crate) async fn ask(
    server: &Server,
    method: Method,
    url: &str,
    body: Option<Value>,
) -> Result<(StatusCode, Value), reqwest::Error> {
    let mut request = server.client.request(method, url).timeout(ANSWER_WITHIN);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let response = request.send().await?;
    let status = response.status();
    let bytes = response.bytes().await?;
    Ok((status, serde_json::from_slice(&bytes).unwrap_or_default()))
}

fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn content(object: &Value) -> String {
    object["data"]["value"].as_str().unwrap_or_default().to_owned()
}

fn seen(object: &Value) -> Seen {
    Seen::Present {
        value: content(object),
        revision: revision(object),
    }
}

fn outcome(kind: &Kind, answer: &Result<(StatusCode, Value), reqwest::Error>) -> Outcome {
    let (status, body) = match answer {
        Ok((status, body)) => (status.as_u16(), body),
        // It never left.
        Err(error) if error.is_connect() => return Outcome::Failed,
        Err(_) => return Outcome::Unknown,
    };
    match (kind, status) {
        (Kind::Read | Kind::StaleRead, 200) => Outcome::Saw(seen(body)),
        (Kind::Read | Kind::StaleRead, 404) => Outcome::Saw(Seen::Absent),
        (_, 200 | 201) => Outcome::Applied {
            revision: revision(body),
        },
        (_, 404 | 409) => Outcome::Refused { seen: None },
        // The server says that it did nothing: no leader, or too busy.
        (_, 429 | 503) | (Kind::Read | Kind::StaleRead, _) => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

/// One client at one server.
pub(crate) async fn write(shared: Arc<Shared>, server: Server, client: u64) {
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    let mut dice = client.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !shared.stop.load(Ordering::Relaxed) {
        // xorshift64: trials differ in their timing anyway.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let key = dice % KEYS;
        let id = shared.recorder.id();
        let value = format!("v{id}");
        let expected = known.get(&key).copied();
        let kind = match (dice >> 32) % 10 {
            0..=3 => Kind::Read,
            4 => Kind::StaleRead,
            _ => match expected {
                Some(expected) => Kind::Cas { expected, value },
                None => Kind::Create { value },
            },
        };
        let name = format!("key-{key}");
        let one = format!("{}/{name}", shared.collection(&server));
        let object = |value: &str, version: Option<u64>| {
            let mut object =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}});
            if let Some(version) = version {
                object["metadata"]["resourceVersion"] = version.to_string().into();
            }
            object
        };
        let invoked = shared.recorder.now();
        let answer = match &kind {
            Kind::Read => ask(&server, Method::GET, &one, None).await,
            Kind::StaleRead => ask(&server, Method::GET, &format!("{one}?resourceVersion=0"), None).await,
            Kind::Cas { expected, value } => ask(&server, Method::PUT, &one, Some(object(value, Some(*expected)))).await,
            Kind::Create { value } | Kind::Write { value } => {
                ask(&server, Method::POST, &shared.collection(&server), Some(object(value, None))).await
            }
            Kind::Delete { .. } => unreachable!("writers do not delete"),
        };
        let outcome = outcome(&kind, &answer);
        match &outcome {
            Outcome::Applied { revision } | Outcome::Saw(Seen::Present { revision, .. }) if kind != Kind::StaleRead => {
                known.insert(key, *revision);
            }
            Outcome::Saw(Seen::Absent) => drop(known.remove(&key)),
            // Someone else was faster: look before the next try.
            Outcome::Refused { .. } => {
                if let Ok((StatusCode::OK, object)) = ask(&server, Method::GET, &one, None).await {
                    known.insert(key, revision(&object));
                }
            }
            _ => {}
        }
        shared.recorder.push(Record::Operation(Operation {
            id,
            client,
            server: server.name.clone(),
            key: format!("{}{name}", shared.prefix()),
            invoked,
            returned: shared.recorder.now(),
            kind,
            outcome,
        }));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Lists everything at one server; `None` where it does not answer.
pub(crate) async fn list(shared: &Shared, server: &Server) -> Option<Listing> {
    let invoked = shared.recorder.now();
    let Ok((StatusCode::OK, body)) = ask(server, Method::GET, &shared.collection(server), None).await else {
        return None;
    };
    let objects = body["items"].as_array()?.iter().filter_map(|object| {
        let name = object["metadata"]["name"].as_str()?;
        // The cluster's own: every namespace has it.
        (name != "kube-root-ca.crt").then(|| (format!("{}{name}", shared.prefix()), (content(object), revision(object))))
    });
    Some(Listing {
        server: server.name.clone(),
        prefix: shared.prefix(),
        invoked,
        returned: shared.recorder.now(),
        revision: revision(&body),
        linearizable: true,
        objects: objects.collect(),
    })
}

/// One watcher, which begins at one server and goes round.
pub(crate) async fn watch(shared: Arc<Shared>, first: usize, number: u64) -> Result<()> {
    let mut at = first;
    let mut after: Option<u64> = None;
    let note = |server: &Server, step: Step| {
        shared.recorder.push(Record::Watch(WatchStep {
            watch: number,
            server: server.name.clone(),
            at: shared.recorder.now(),
            step,
        }));
    };
    loop {
        let server = shared.servers[at % shared.servers.len()].clone();
        at += 1;
        let from = match after {
            Some(after) => {
                note(&server, Step::Resumed { after });
                after
            }
            None => {
                let Some(listing) = list(&shared, &server).await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let revision = listing.revision;
                shared.recorder.push(Record::Listing(listing));
                note(
                    &server,
                    Step::Opened {
                        prefix: shared.prefix(),
                        after: revision,
                    },
                );
                after = Some(revision);
                revision
            }
        };
        match follow(&shared, &server, from, &mut after, &note).await? {
            End::Broken => tokio::time::sleep(PAUSE).await,
            End::Expired => {
                note(&server, Step::Expired);
                after = None;
            }
            End::Done(through) => {
                note(&server, Step::Ended { through });
                return Ok(());
            }
        }
    }
}

enum End {
    Broken,
    Expired,
    Done(u64),
}

async fn follow(
    shared: &Shared,
    server: &Server,
    from: u64,
    after: &mut Option<u64>,
    note: &impl Fn(&Server, Step),
) -> Result<End> {
    let url = format!(
        "{}?watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds=60",
        shared.collection(server)
    );
    let request = server.client.get(url).send();
    let Ok(Ok(mut response)) = tokio::time::timeout(ANSWER_WITHIN, request).await else {
        return Ok(End::Broken);
    };
    if response.status() == StatusCode::GONE {
        return Ok(End::Expired);
    }
    if !response.status().is_success() {
        return Ok(End::Broken);
    }
    let mut buffer = Vec::new();
    loop {
        let through = shared.through.load(Ordering::Relaxed);
        if through > 0 && after.is_some_and(|after| after >= through) {
            return Ok(End::Done(through));
        }
        let Ok(Ok(Some(chunk))) = tokio::time::timeout(SILENCE, response.chunk()).await else {
            return Ok(End::Broken);
        };
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).context("a line of a watch")?;
            let object = &event["object"];
            let change = match event["type"].as_str() {
                Some("ADDED") => Change::Added,
                Some("MODIFIED") => Change::Modified,
                Some("DELETED") => Change::Deleted,
                Some("BOOKMARK") => {
                    let revision = revision(object);
                    note(server, Step::Bookmark { revision });
                    *after = Some(revision);
                    continue;
                }
                _ if object["code"] == 410 => return Ok(End::Expired),
                _ => return Ok(End::Broken),
            };
            let revision = revision(object);
            *after = Some(revision);
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if name == "kube-root-ca.crt" {
                continue;
            }
            note(
                server,
                Step::Event {
                    revision,
                    key: format!("{}{name}", shared.prefix()),
                    change,
                    value: content(object),
                },
            );
        }
    }
}
