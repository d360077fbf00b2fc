//! A watch as a response body: one line (or frame) per event, flushed as it happens.
//!
//! Invariant: the head of the response goes out before the first event; an error is the last event of its stream.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::Response;
use serde_json::{Value, json};
use trireme_api::{Status, protobuf, schema};
use trireme_resources::Resource;

use super::accept::{Format, Shape};
use super::body::Body;
use super::respond::{self, Style};
use crate::metrics::Serving;
use crate::pipeline::watch::{Item, Watcher, line};

struct Encoder {
    style: Style,
    row: &'static Resource,
    columns_told: bool,
}

/// The response of a watch; `guard` counts it while it lasts.
#[must_use]
pub fn response(style: Style, row: &'static Resource, watcher: Watcher, guard: Serving) -> Response<Body> {
    let media_type = match style.accepted.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let encoder = Encoder {
        style,
        row,
        columns_told: false,
    };
    let state = Some((watcher, encoder, guard));
    let chunks = stream::unfold(state, |state| async move {
        let (mut watcher, mut encoder, guard) = state?;
        let items = watcher.next().await?;
        let mut over = false;
        let chunk = if let [item] = items.as_slice() {
            over = matches!(item, Item::Failed(_));
            encoder.encode(item)
        } else {
            let mut chunk = BytesMut::new();
            for item in &items {
                chunk.extend_from_slice(&encoder.encode(item));
                if matches!(item, Item::Failed(_)) {
                    over = true;
                    break;
                }
            }
            chunk.freeze()
        };
        Some((Ok(chunk), (!over).then_some((watcher, encoder, guard))))
    });
    respond::response(200, media_type, Body::Stream(Box::pin(chunks)))
}

impl Encoder {
    fn encode(&mut self, item: &Item) -> Bytes {
        match item {
            Item::Change { change, object, shared } => {
                if self.style.accepted.shape == Shape::Plain && self.style.accepted.format == Format::Json {
                    return line(*change, object, shared.as_ref());
                }
                self.shaped(change.name(), object.value())
            }
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
            Shape::Metadata => {
                let partial = super::respond::partial(&object);
                self.event(name, "meta.k8s.io/v1", "PartialObjectMetadata", &partial)
            }
            Shape::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let columns = !std::mem::replace(&mut self.columns_told, true);
                let table = respond::table_of(&self.style, self.row, &[object], metadata, columns);
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
