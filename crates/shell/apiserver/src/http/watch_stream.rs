//! A watch as a response body: one line (or frame) per event, flushed as it happens.
//!
//! Invariant: the head of the response goes out before the first event; an error is the last event of its stream. A
//! watch whose client does not read holds no more than [`HELD_BYTES_MAX`] of its own: what is not sent yet is not encoded
//! yet, and long objects are sent as they lie in the store. Events that follow each other closely go out together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;
use trireme_api::{Status, protobuf, schema};
use trireme_resources::Resource;
use trireme_resources::custom::Served;

use super::accept::{Format, Shape};
use super::body::Body;
use super::respond::{self, Style};
use crate::metrics::Serving;
use crate::pipeline::Target;
use crate::pipeline::watch::{Item, Watcher, line_ends};

/// Most bytes that a watch has encoded for itself and not sent: a little more where one event alone is longer.
pub const HELD_BYTES_MAX: usize = 12 * 1024;
/// Events are put together up to this size.
const CHUNK_BYTES: usize = 12 * 1024;
/// An event of this size is sent from where it lies rather than copied.
const LONG_BYTES: usize = 4 * 1024;

/// An event that comes sooner than this after one that was sent waits for the rest of the time, so that those in between
/// go with it: each sending costs a wake-up, a TLS record and a system call for every watch. The first event after a
/// while goes out at once.
const PACE: Duration = Duration::from_millis(10);
/// What comes in such numbers is a backlog, which waits for nothing.
const BACKLOG: usize = 64;

struct Encoder {
    style: Style,
    row: &'static Resource,
    custom: Option<Arc<Served>>,
    columns_told: bool,
}

/// What of a watch's own bytes is on its way.
#[derive(Default)]
struct Window {
    held: AtomicUsize,
    sent: Notify,
}

/// Bytes that count until they were sent and dropped.
struct Held {
    bytes: Bytes,
    window: Arc<Window>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.window.held.fetch_sub(self.bytes.len(), Ordering::AcqRel);
        self.window.sent.notify_one();
    }
}

impl Window {
    /// Waits until less than the limit is on its way.
    async fn room(&self) {
        while self.held.load(Ordering::Acquire) >= HELD_BYTES_MAX {
            self.sent.notified().await;
        }
    }

    fn hold(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.held.fetch_add(bytes.len(), Ordering::AcqRel);
        Bytes::from_owner(Held {
            bytes,
            window: Arc::clone(self),
        })
    }
}

struct Sending {
    watcher: Watcher,
    encoder: Encoder,
    window: Arc<Window>,
    /// Told by the watcher and not encoded yet.
    items: VecDeque<Item>,
    /// Encoded and not taken yet.
    pieces: VecDeque<Bytes>,
    over: bool,
    /// When events were last taken that were few, which those that follow wait for.
    paced: Option<Instant>,
    _counted: Serving,
}

/// The response of a watch; `guard` counts it while it lasts.
#[must_use]
pub fn response(style: Style, target: &Target, watcher: Watcher, guard: Serving) -> Response<Body> {
    let media_type = match style.accepted.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let sending = Sending {
        watcher,
        encoder: Encoder {
            style,
            row: target.row,
            custom: target.custom.clone(),
            columns_told: false,
        },
        window: Arc::default(),
        items: VecDeque::new(),
        pieces: VecDeque::new(),
        over: false,
        paced: None,
        _counted: guard,
    };
    let chunks = stream::unfold(sending, |mut sending| async move {
        let piece = sending.next().await?;
        Some((Ok(piece), sending))
    });
    respond::response(200, media_type, Body::Stream(Box::pin(chunks)))
}

impl Sending {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Some(piece);
            }
            self.window.room().await;
            if self.items.is_empty() {
                if self.over {
                    return None;
                }
                if let Some(last) = self.paced.take() {
                    tokio::time::sleep_until(last + PACE).await;
                }
                let is_live = self.watcher.is_live();
                self.items = self.watcher.next().await?.into();
                self.paced = (is_live && self.items.len() < BACKLOG).then(Instant::now);
            }
            self.encode_some();
        }
    }

    /// Whether an event is sent in pieces, the middle one being the object as stored.
    fn long(&self, item: &Item) -> bool {
        match item {
            Item::Change { object, .. } => self.encoder.is_stored_form() && object.bytes().len() >= LONG_BYTES,
            _ => false,
        }
    }

    /// Encodes what fits into one chunk.
    fn encode_some(&mut self) {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK_BYTES
            && let Some(item) = self.items.pop_front()
        {
            if self.long(&item) {
                let Item::Change { change, object } = &item else {
                    continue;
                };
                let (before, after) = line_ends(*change);
                chunk.extend_from_slice(before);
                self.push(chunk.split().freeze());
                self.pieces.push_back(object.bytes().clone());
                chunk.extend_from_slice(after);
                break;
            }
            if let Item::Change { change, object } = &item
                && self.encoder.is_stored_form()
            {
                let (before, after) = line_ends(*change);
                chunk.reserve(before.len() + object.bytes().len() + after.len());
                chunk.extend_from_slice(before);
                chunk.extend_from_slice(object.bytes());
                chunk.extend_from_slice(after);
                continue;
            }
            chunk.extend_from_slice(&self.encoder.encode(&item));
            if matches!(item, Item::Failed(_)) {
                self.over = true;
                self.items.clear();
            }
        }
        self.push(chunk.freeze());
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.pieces.push_back(self.window.hold(bytes));
        }
    }
}

impl Encoder {
    /// Whether objects are sent as they are stored.
    fn is_stored_form(&self) -> bool {
        self.style.accepted.shape == Shape::Plain && self.style.accepted.format == Format::Json
    }

    fn encode(&mut self, item: &Item) -> Bytes {
        match item {
            Item::Change { change, object } => self.shaped(change.name(), object.value()),
            Item::Bookmark { revision, initial_end } => {
                let mut metadata = json!({"resourceVersion": revision.to_string()});
                if *initial_end {
                    metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                }
                let object = json!({
                    "kind": self.row.kind, "apiVersion": self.row.api_version(), "metadata": metadata,
                });
                self.shaped("BOOKMARK", object)
            }
            Item::Failed(status) => self.failed(status),
        }
    }

    fn shaped(&mut self, name: &str, object: Value) -> Bytes {
        match self.style.accepted.shape {
            Shape::Plain | Shape::AggregatedDiscovery => self.event(name, &self.row.api_version(), self.row.kind, &object),
            Shape::Peers => {
                let peer = super::peers::peer(&object);
                self.event(name, &self.row.api_version(), self.row.kind, &peer)
            }
            Shape::Metadata => {
                let partial = super::respond::partial(&object);
                self.event(name, "meta.k8s.io/v1", "PartialObjectMetadata", &partial)
            }
            Shape::Table => {
                let of = respond::Of {
                    row: self.row,
                    custom: self.custom.as_deref(),
                };
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let columns = !std::mem::replace(&mut self.columns_told, true);
                let table = respond::table_of(&self.style, of, &[object], metadata, columns);
                self.event(name, "meta.k8s.io/v1", "Table", &table)
            }
        }
    }

    fn failed(&self, status: &Status) -> Bytes {
        self.event("ERROR", "v1", "Status", &respond::status_value(status))
    }

    fn event(&self, name: &str, api_version: &str, kind: &str, object: &Value) -> Bytes {
        if self.style.accepted.format == Format::Protobuf {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            if let Some(ty) = schema::kind(group, version, kind) {
                let wrapped = protobuf::wrap(api_version, kind, &protobuf::encode(object, ty));
                let event = protobuf::encode_watch_event(name, &wrapped);
                let mut frame = BytesMut::with_capacity(event.len() + 4);
                frame.put_u32(u32::try_from(event.len()).expect("an event is below 4 GiB"));
                frame.extend_from_slice(&event);
                return frame.freeze();
            }
        }
        let mut line = serde_json::to_vec(&json!({"type": name, "object": object})).expect("a JSON value serialises");
        line.push(b'\n');
        line.into()
    }
}
