//! Answers on the wire: objects, lists, statuses and watch streams in each format and shape.
//!
//! Invariant: a stored object in JSON is sent as its stored bytes; a list splices them into an envelope, leaving out the
//! `kind` and `apiVersion` of items as upstream does, but for custom resources.

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use trireme_api::{Object, Status, protobuf, schema};
use trireme_resources::Resource;
use trireme_resources::custom::Served;

use super::accept::{Accepted, Format, Shape};
use super::body::Body;
use super::peers::peer;
use crate::pipeline::list::{ListFailure, Listing};
use crate::pipeline::{Target, rules};

/// Answers below this size are not compressed.
pub const GZIP_BYTES_MIN: usize = 128 * 1024;
/// Size of the pieces in which long lists are sent.
const CHUNK_BYTES: usize = 64 * 1024;

/// How a request wants its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Format and shape.
    pub accepted: Accepted,
    /// Whether JSON is indented.
    pub pretty: bool,
    /// Whether gzip is accepted.
    pub gzip: bool,
    /// `includeObject` of tables.
    pub include_object: IncludeObject,
}

/// What of an object a table row carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// A response with a body of a media type.
#[must_use]
pub fn response(code: u16, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text.
#[must_use]
pub fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = response(code, "text/plain; charset=utf-8", Body::whole(text));
    response
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// What paths outside the API answer.
#[must_use]
pub fn page_not_found() -> Response<Body> {
    text(404, "404 page not found\n")
}

/// A `Status` as JSON.
#[must_use]
pub fn status_value(status: &Status) -> Value {
    let mut value = serde_json::to_value(status).expect("a Status serialises");
    value["kind"] = "Status".into();
    value["apiVersion"] = "v1".into();
    value["metadata"] = json!({});
    value
}

/// A `Status` as the answer; its code is the answer's.
#[must_use]
pub fn status(style: &Style, status: &Status) -> Response<Body> {
    failure(style, status, "")
}

/// A failed list: its status may carry a token to go on with.
#[must_use]
pub fn list_failure(style: &Style, error: &ListFailure) -> Response<Body> {
    failure(style, &error.status, &error.continuation)
}

fn failure(style: &Style, status: &Status, continuation: &str) -> Response<Body> {
    let mut body = status_value(status);
    if !continuation.is_empty() {
        body["metadata"]["continue"] = continuation.into();
    }
    let code = if status.code == 0 { 200 } else { status.code };
    let mut response = value(style, code, "v1", "Status", &body);
    let retry = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    add_warnings(&mut response, &status.warnings);
    response
}

/// Any value of a known kind; shapes do not apply.
#[must_use]
pub fn value(style: &Style, code: u16, api_version: &str, kind: &str, value: &Value) -> Response<Body> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let format = style.accepted.format;
    let body = match format {
        Format::Json => json_bytes(style, value),
        Format::Yaml => super::yaml::write(value).into(),
        Format::Protobuf => match schema::kind(group, version, kind) {
            Some(ty) => protobuf::wrap(api_version, kind, &protobuf::encode(value, ty)).into(),
            None => return response(code, Format::Json.media_type(), Body::whole(json_bytes(style, value))),
        },
    };
    response(code, format.media_type(), Body::whole(body))
}

fn json_bytes(style: &Style, value: &Value) -> Bytes {
    let mut bytes = if style.pretty {
        serde_json::to_vec_pretty(value)
    } else {
        serde_json::to_vec(value)
    }
    .expect("a JSON value serialises");
    bytes.push(b'\n');
    bytes.into()
}

/// What an answer is of.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// The row.
    pub row: &'static Resource,
    /// The version of a definition, of a custom resource.
    pub custom: Option<&'a Served>,
}

impl From<&'static Resource> for Of<'static> {
    fn from(row: &'static Resource) -> Self {
        Self { row, custom: None }
    }
}

impl<'a> From<&'a Target> for Of<'a> {
    fn from(target: &'a Target) -> Self {
        Self {
            row: target.row,
            custom: target.custom.as_deref(),
        }
    }
}

/// 406: an object that has no form in protobuf.
fn no_protobuf(style: &Style) -> Response<Body> {
    let refused = Status::failure(
        406,
        "NotAcceptable",
        "object *unstructured.Unstructured does not implement the protobuf marshalling interface and cannot be encoded to a \
         protobuf message",
    );
    status(style, &refused)
}

/// One object.
#[must_use]
pub fn object<'a>(style: &Style, code: u16, of: impl Into<Of<'a>>, object: &Object) -> Response<Body> {
    let of = of.into();
    let row = of.row;
    if row.is_custom() && style.accepted.format == Format::Protobuf && matches!(style.accepted.shape, Shape::Plain) {
        return no_protobuf(style);
    }
    match (style.accepted.shape, style.accepted.format) {
        (Shape::Plain | Shape::AggregatedDiscovery, Format::Json) if !style.pretty => {
            response(code, Format::Json.media_type(), Body::whole(object.bytes().clone()))
        }
        (Shape::Plain | Shape::AggregatedDiscovery, Format::Json) => {
            let body = super::indent::indented(object.bytes());
            response(code, Format::Json.media_type(), Body::whole(body))
        }
        (Shape::Plain | Shape::AggregatedDiscovery, _) => value(style, code, &row.api_version(), row.kind, &object.value()),
        (Shape::Peers, _) => value(style, code, &row.api_version(), row.kind, &peer(&object.value())),
        (Shape::Metadata, _) => {
            let metadata = partial(&object.value());
            value(style, code, META, "PartialObjectMetadata", &metadata)
        }
        (Shape::Table, _) => {
            let version = object.header().resource_version.to_string();
            let table = table_of(style, of, &[object.value()], json!({"resourceVersion": version}), true);
            value(style, code, META, "Table", &table)
        }
    }
}

const META: &str = "meta.k8s.io/v1";

/// An object's metadata alone. What a kind keeps in an annotation for the sake of old versions is no metadata of it.
#[must_use]
pub fn partial(object: &Value) -> Value {
    let mut metadata = object["metadata"].clone();
    trireme_resources::strategy::hide_twins(&object["kind"], &mut metadata);
    json!({"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": metadata})
}

/// A table of objects; its columns are left out in all but the first event of a watch.
#[must_use]
pub fn table_of(style: &Style, Of { row, custom }: Of<'_>, objects: &[Value], metadata: Value, columns: bool) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut entry = json!({"cells": rules::cells(row, custom, object)});
            match style.include_object {
                IncludeObject::None => entry["object"] = Value::Null,
                IncludeObject::Metadata => entry["object"] = partial(object),
                IncludeObject::Object => entry["object"] = object.clone(),
            }
            entry
        })
        .collect();
    // Where a kind has no columns of its own, upstream makes no list of rows before there is one.
    let rows = if rows.is_empty() && !rules::has_own_columns(row) {
        Value::Null
    } else {
        rows.into()
    };
    let columns = if columns { rules::columns(row, custom) } else { Value::Null };
    json!({"kind": "Table", "apiVersion": META, "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn list_metadata(listing: &Listing) -> Value {
    let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
    if !listing.continuation.is_empty() {
        metadata["continue"] = listing.continuation.as_str().into();
    }
    if let Some(remaining) = listing.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

/// A list of a row's objects.
#[must_use]
pub fn list<'a>(style: &Style, of: impl Into<Of<'a>>, listing: Listing) -> Response<Body> {
    let of = of.into();
    let row = of.row;
    if row.is_custom() && style.accepted.format == Format::Protobuf && matches!(style.accepted.shape, Shape::Plain) {
        return no_protobuf(style);
    }
    let kind = row.list_kind();
    match (style.accepted.shape, style.accepted.format) {
        (Shape::Plain | Shape::AggregatedDiscovery, Format::Json) if !style.pretty => spliced(style, &kind, row, listing),
        (Shape::Plain | Shape::AggregatedDiscovery, Format::Protobuf) => {
            let ty = row.schema();
            let items: Vec<Vec<u8>> = listing.items.iter().map(|item| protobuf::encode(&item.value(), ty)).collect();
            let remaining = listing.remaining.and_then(|remaining| i64::try_from(remaining).ok());
            let body = protobuf::encode_list(
                &row.api_version(),
                &kind,
                &listing.revision.to_string(),
                &listing.continuation,
                remaining,
                &items,
            );
            maybe_gzip(style, Format::Protobuf.media_type(), body.into())
        }
        (Shape::Peers, _) => {
            let items: Vec<Value> = listing.items.iter().map(|item| peer(&item.value())).collect();
            let body = json!({
                "kind": kind, "apiVersion": row.api_version(), "metadata": list_metadata(&listing), "items": items,
            });
            value(style, 200, &row.api_version(), &kind, &body)
        }
        (Shape::Plain | Shape::AggregatedDiscovery, _) => {
            let item_value = |item: &Object| if row.is_custom() { item.value() } else { item_value(item) };
            let items: Vec<Value> = listing.items.iter().map(item_value).collect();
            let body = json!({
                "kind": kind, "apiVersion": row.api_version(), "metadata": list_metadata(&listing), "items": items,
            });
            value(style, 200, &row.api_version(), &kind, &body)
        }
        (Shape::Metadata, _) => {
            let items: Vec<Value> = listing.items.iter().map(|item| partial(&item.value())).collect();
            let items = if items.is_empty() { Value::Null } else { items.into() };
            let kind = "PartialObjectMetadataList";
            let body = json!({"kind": kind, "apiVersion": META, "metadata": list_metadata(&listing), "items": items});
            value(style, 200, META, kind, &body)
        }
        (Shape::Table, _) => {
            let values: Vec<Value> = listing.items.iter().map(Object::value).collect();
            let table = table_of(style, of, &values, list_metadata(&listing), true);
            value(style, 200, META, "Table", &table)
        }
    }
}

fn item_value(item: &Object) -> Value {
    let mut value = item.value();
    if let Some(object) = value.as_object_mut() {
        object.remove("kind");
        object.remove("apiVersion");
    }
    value
}

fn maybe_gzip(style: &Style, media_type: &'static str, body: Bytes) -> Response<Body> {
    if !style.gzip || body.len() < GZIP_BYTES_MIN {
        return response(200, media_type, Body::whole(body));
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
    match compressed {
        Ok(compressed) => gzipped(response(200, media_type, Body::whole(compressed))),
        Err(_) => response(200, media_type, Body::whole(body)),
    }
}

fn gzipped(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// The list as JSON, made piece by piece so that a long one never exists as a whole.
fn spliced(style: &Style, kind: &str, row: &Resource, listing: Listing) -> Response<Body> {
    let opening = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        row.api_version(),
        list_metadata(&listing)
    );
    // Counted no further than it matters: each look at an object fetches it from memory.
    let mut sizes = listing.items.iter().map(|item| item.bytes().len());
    let size = sizes.try_fold(0, |size, length| (size < GZIP_BYTES_MIN).then_some(size + length));
    let mut pieces = Pieces {
        opening: Some(opening),
        items: listing.items.into_iter(),
        whole: row.is_custom(),
        first: true,
        done: false,
    };
    let json = Format::Json.media_type();
    if let Some(size) = size.filter(|size| *size < GZIP_BYTES_MIN) {
        let mut whole = BytesMut::with_capacity(size + 256);
        while pieces.fill(&mut whole, usize::MAX) {}
        return response(200, json, Body::whole(whole.freeze()));
    }
    if !style.gzip {
        let chunks = std::iter::from_fn(move || {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES + 4096);
            pieces.fill(&mut chunk, CHUNK_BYTES).then(|| Ok(chunk.freeze()))
        });
        return response(200, json, Body::Stream(Box::pin(stream::iter(chunks))));
    }
    let mut encoder = Some(GzEncoder::new(Vec::with_capacity(CHUNK_BYTES), Compression::fast()));
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES + 4096);
    let chunks = std::iter::from_fn(move || {
        loop {
            let open = encoder.as_mut()?;
            chunk.clear();
            if pieces.fill(&mut chunk, CHUNK_BYTES) {
                if let Err(error) = open.write_all(&chunk) {
                    return Some(Err(error));
                }
                let out = std::mem::take(open.get_mut());
                if !out.is_empty() {
                    return Some(Ok(Bytes::from(out)));
                }
            } else {
                return encoder.take().map(|last| last.finish().map(Bytes::from));
            }
        }
    });
    gzipped(response(200, json, Body::Stream(Box::pin(stream::iter(chunks)))))
}

struct Pieces {
    opening: Option<String>,
    items: std::vec::IntoIter<Object>,
    /// Whether items say what they are, as those of custom resources do.
    whole: bool,
    first: bool,
    done: bool,
}

impl Pieces {
    /// Appends until the buffer has at least `wanted` bytes or the list ends; false when it had ended before.
    fn fill(&mut self, buffer: &mut BytesMut, wanted: usize) -> bool {
        if self.done {
            return false;
        }
        if let Some(opening) = self.opening.take() {
            buffer.extend_from_slice(opening.as_bytes());
        }
        while buffer.len() < wanted {
            let Some(item) = self.items.next() else {
                buffer.extend_from_slice(b"]}\n");
                self.done = true;
                return true;
            };
            if !std::mem::take(&mut self.first) {
                buffer.extend_from_slice(b",");
            }
            if self.whole {
                buffer.extend_from_slice(item.bytes());
                continue;
            }
            for part in item.untyped() {
                buffer.extend_from_slice(part);
            }
        }
        true
    }
}

/// Puts a warning before those that are there.
pub fn add_first_warning(response: &mut Response<Body>, warning: &str) {
    let others: Vec<HeaderValue> = response.headers().get_all(header::WARNING).iter().cloned().collect();
    response.headers_mut().remove(header::WARNING);
    add_warnings(response, &[warning.to_owned()]);
    for other in others {
        response.headers_mut().append(header::WARNING, other);
    }
}

/// Letters of all warnings together beyond which each is cut to [`WARNING_LETTERS_MAX`], and none is added.
const WARNINGS_LETTERS_MAX: usize = 4096;
const WARNING_LETTERS_MAX: usize = 256;

/// Puts warnings into headers: each once, and no more than headers may hold.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    let letters = |warning: &str| warning.chars().count();
    let mut told: Vec<&str> = Vec::new();
    for warning in warnings.iter().filter(|warning| !warning.is_empty()) {
        if !told.contains(&warning.as_str()) {
            told.push(warning);
        }
        // What stands behind these is cut off, however short they get.
        if told.len() * WARNING_LETTERS_MAX > 16 * WARNINGS_LETTERS_MAX {
            break;
        }
    }
    let cut = told.iter().map(|warning| letters(warning)).sum::<usize>() > WARNINGS_LETTERS_MAX;
    let mut written = 0;
    for warning in told {
        if cut && written >= WARNINGS_LETTERS_MAX {
            break;
        }
        let kept: String = warning
            .chars()
            .take(if cut { WARNING_LETTERS_MAX } else { usize::MAX })
            .collect();
        written += letters(&kept);
        let mut text = String::with_capacity(kept.len() + 8);
        for character in kept.chars() {
            match character {
                '"' | '\\' => {
                    text.push('\\');
                    text.push(character);
                }
                control if control.is_control() => text.push(' '),
                other => text.push(other),
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_cut_where_they_are_too_long() {
        let told = |warnings: &[String]| -> Vec<usize> {
            let mut response = text(200, "");
            add_warnings(&mut response, warnings);
            let values = response.headers().get_all(header::WARNING).iter();
            values.map(|value| value.len() - "299 - \"\"".len()).collect()
        };
        assert_eq!(told(&["a".repeat(4000), "b".into(), "b".into()]), [4000, 1]);
        let many: Vec<String> = (0..100).map(|number| format!("{number:0300}")).collect();
        assert_eq!(told(&many), [256; 16]);
    }

    #[test]
    fn warnings_are_quoted() {
        let mut response = text(200, "");
        add_warnings(&mut response, &["unknown field \"a\"".into()]);
        assert_eq!(response.headers()[header::WARNING], r#"299 - "unknown field \"a\"""#);
    }

    #[test]
    fn warnings_come_once_and_are_cut_where_headers_would_not_hold_them() {
        let told = |warnings: &[String]| -> Vec<usize> {
            let mut response = text(200, "");
            add_warnings(&mut response, warnings);
            let headers = response.headers().get_all(header::WARNING).iter();
            headers.map(|value| value.len() - "299 - \"\"".len()).collect()
        };
        assert_eq!(told(&["a".into(), "b".into(), "a".into(), String::new()]), [1, 1]);
        assert_eq!(told(&["x".repeat(4096)]), [4096]);
        assert_eq!(told(&["x".repeat(4096), "short".into()]), [256, 5]);
        let many: Vec<String> = (0..10_000).map(|index| format!("{index:0>300}")).collect();
        assert_eq!(told(&many), [256; 16]);
    }
}
