//! The transport over HTTPS, for agents and the command line, on the `kube` crate's client (kubeconfig, TLS, tokens).
//!
//! Invariant: answers are taken as bytes into [`Object`]s; nothing is decoded into types here.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt};
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use trireme_api::{Object, Status};

use crate::failover::Failover;
use crate::transport::{
    DeleteOptions, ListOptions, ObjectList, Patch, Propagation, ResourceRef, Target, Transport, WatchEvent, WatchOptions,
    WriteOptions,
};

/// A watch line longer than this is a broken server.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Seconds after which the server is to end a watch, so that one over a dead connection is noticed.
const WATCH_SECONDS: u32 = 60;
/// Silence after which the connection of a watch counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

/// The API of a remote server.
pub struct HttpsTransport {
    client: kube::Client,
    accept: &'static str,
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file cannot be read or does not say where to go as whom.
    #[error("kubeconfig {0}: {1}")]
    Kubeconfig(String, #[source] Box<kube::config::KubeconfigError>),
    /// TLS cannot be set up with its certificates.
    #[error("kubeconfig {0}: {1}")]
    Client(String, #[source] Box<kube::Error>),
}

impl HttpsTransport {
    /// Connects as a kubeconfig file says.
    ///
    /// # Errors
    /// When the file or its certificates are unusable; the server itself is not asked yet.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self, ConnectError> {
        let shown = path.display().to_string();
        let bad = |error| ConnectError::Kubeconfig(shown.clone(), Box::new(error));
        let file = Kubeconfig::read_from(path).map_err(bad)?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(bad)?;
        let client = kube::Client::try_from(config).map_err(|error| ConnectError::Client(shown.clone(), Box::new(error)))?;
        Ok(Self::new(client))
    }

    /// The API of whichever of several servers answers. Must be called within a tokio runtime.
    #[must_use]
    pub fn over(way: &Arc<Failover>) -> Self {
        let way = Arc::clone(way);
        let service = tower::service_fn(move |request: Request<Body>| {
            let way = Arc::clone(&way);
            async move { way.send(request).await }
        });
        Self::new(kube::Client::new(service, "default"))
    }

    /// As [`HttpsTransport::over`], acting as another user (`Impersonate-User`, `Impersonate-Group`), for whom the server
    /// then authorises and admits each request. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where a name fits into no header.
    pub fn acting_as(way: &Arc<Failover>, user: &str, groups: &[&str]) -> Result<Self, header::InvalidHeaderValue> {
        let user = header::HeaderValue::try_from(user)?;
        let groups = groups
            .iter()
            .map(|group| header::HeaderValue::try_from(*group))
            .collect::<Result<Vec<_>, _>>()?;
        let way = Arc::clone(way);
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let way = Arc::clone(&way);
            let headers = request.headers_mut();
            headers.insert("impersonate-user", user.clone());
            for group in &groups {
                headers.append("impersonate-group", group.clone());
            }
            async move { way.send(request).await }
        });
        Ok(Self::new(kube::Client::new(service, "default")))
    }

    /// Over a client that is there already.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self { client, accept: JSON }
    }

    /// The same, but lists and watches show of pods only what network policies need (the right to `pods/peers` is enough).
    #[must_use]
    pub fn of_peers(self) -> Self {
        Self { accept: PEERS, ..self }
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> Result<Response<Body>, Status> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, self.accept)
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(body))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let response = self.client.send(request).await.map_err(|error| unreachable_status(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = collect(response).await?;
        Err(match serde_json::from_slice::<Status>(&body) {
            Ok(status) if !status.message.is_empty() || !status.reason.is_empty() => status,
            _ => Status::failure(code, "", String::from_utf8_lossy(&body).into_owned()),
        })
    }

    /// Asks a path that is no resource, and takes what it says.
    ///
    /// # Errors
    /// As the server answers; code 0 where it does not.
    pub async fn raw(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Status> {
        collect(self.send(method, path, JSON, body).await?).await
    }

    async fn object(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> Result<Object, Status> {
        let response = self.send(method, path, content_type, body).await?;
        parse(collect(response).await?)
    }
}

const JSON: &str = "application/json";
const PEERS: &str = "application/json;as=Peers;g=trireme;v=v1,application/json";

fn unreachable_status(error: &dyn std::error::Error) -> Status {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            // Writing to a String cannot fail.
            write!(text, ": {cause_text}").expect("a String grows");
        }
        source = cause.source();
    }
    Status::failure(0, "ServiceUnavailable", text)
}

async fn collect(response: Response<Body>) -> Result<Bytes, Status> {
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| unreachable_status(&error))?;
    Ok(body.to_bytes())
}

fn parse(bytes: Bytes) -> Result<Object, Status> {
    Object::parse(bytes).map_err(|error| Status::internal(&format!("the server's answer is no object: {error}")))
}

/// Path of a collection.
fn collection(resource: &ResourceRef, namespace: Option<&str>) -> String {
    let mut path = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    if let Some(namespace) = namespace.filter(|_| resource.namespaced) {
        path.push_str("/namespaces/");
        escape(namespace, &mut path);
    }
    path.push('/');
    path.push_str(&resource.plural);
    path
}

fn path_of(target: &Target) -> String {
    let mut path = collection(&target.resource, target.namespace.as_deref());
    if !target.name.is_empty() {
        path.push('/');
        escape(&target.name, &mut path);
    }
    if let Some(subresource) = &target.subresource {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            write!(into, "%{byte:02X}").expect("a String grows");
        }
    }
}

fn query(path: &mut String, pairs: &[(&str, Option<String>)]) {
    let mut separator = '?';
    for (name, value) in pairs {
        if let Some(value) = value {
            path.push(separator);
            path.push_str(name);
            path.push('=');
            escape(value, path);
            separator = '&';
        }
    }
}

fn write_query(path: &mut String, options: &WriteOptions) {
    query(
        path,
        &[
            ("fieldManager", options.field_manager.clone()),
            ("force", options.force.then(|| "true".into())),
            ("dryRun", options.dry_run.then(|| "All".into())),
        ],
    );
}

#[derive(Deserialize)]
struct RawList<'a> {
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// An item of a list, which leaves its apiVersion and kind out. `None`, told, for one that is no object: it must not hide
/// the others.
fn item(raw: &RawValue, api_version: &str, kind: &str) -> Option<Object> {
    let read = Object::parse(Bytes::copy_from_slice(raw.get().as_bytes())).and_then(|object| {
        if !object.header().kind.is_empty() {
            return Ok(object);
        }
        let mut value = object.value();
        value["apiVersion"] = api_version.into();
        value["kind"] = kind.into();
        Object::from_value(&value)
    });
    read.inspect_err(|error| tracing::warn!(kind, "an item of a list is no object and is left out: {error}"))
        .ok()
}

/// One line of a watch. `None`, told, for an event whose object is none: it must not end the watch of the others.
fn event(line: &[u8]) -> Result<Option<WatchEvent>, Status> {
    let raw: RawEvent = serde_json::from_slice(line).map_err(|error| Status::internal(&format!("watch event: {error}")))?;
    let bytes = Bytes::copy_from_slice(raw.object.get().as_bytes());
    let made: fn(Object) -> WatchEvent = match raw.kind {
        "ADDED" => WatchEvent::Added,
        "MODIFIED" => WatchEvent::Modified,
        "DELETED" => WatchEvent::Deleted,
        "BOOKMARK" => |object| WatchEvent::Bookmark(object.header().resource_version),
        _ => return Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| Status::internal("watch ended with an unknown event"))),
    };
    let read =
        Object::parse(bytes).inspect_err(|error| tracing::warn!("an event of a watch holds no object and is left out: {error}"));
    Ok(read.ok().map(made))
}

/// Splits a body into lines and those into events; ends after the first error.
fn events(body: Body) -> BoxStream<'static, Result<WatchEvent, Status>> {
    struct State {
        body: http_body_util::BodyStream<Body>,
        buffer: BytesMut,
        searched: usize,
        ended: bool,
    }
    let state = State {
        body: http_body_util::BodyStream::new(body),
        buffer: BytesMut::new(),
        searched: 0,
        ended: false,
    };
    futures::stream::unfold(state, |mut state| async move {
        loop {
            if state.ended {
                return None;
            }
            if let Some(at) = state.buffer[state.searched..].iter().position(|byte| *byte == b'\n') {
                let line = state.buffer.split_to(state.searched + at);
                state.buffer.advance(1);
                state.searched = 0;
                if line.is_empty() {
                    continue;
                }
                match event(&line) {
                    Ok(None) => continue,
                    Ok(Some(event)) => return Some((Ok(event), state)),
                    Err(status) => {
                        state.ended = true;
                        return Some((Err(status), state));
                    }
                }
            }
            state.searched = state.buffer.len();
            if state.searched > LINE_BYTES_MAX {
                state.ended = true;
                return Some((Err(Status::internal("a watch event is too long")), state));
            }
            let Ok(frame) = tokio::time::timeout(SILENCE_MAX, state.body.next()).await else {
                state.ended = true;
                let silent = Status::failure(0, "ServiceUnavailable", "the server is silent");
                return Some((Err(silent), state));
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        state.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    state.ended = true;
                    return Some((Err(unreachable_status(&error)), state));
                }
                None => return None,
            }
        }
    })
    .boxed()
}

fn delete_body(options: &DeleteOptions) -> Bytes {
    let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    if let Some(seconds) = options.grace_period_seconds {
        body["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(uid) = &options.uid {
        body["preconditions"]["uid"] = uid.as_str().into();
    }
    if let Some(revision) = options.resource_version {
        body["preconditions"]["resourceVersion"] = revision.to_string().into();
    }
    if let Some(propagation) = options.propagation {
        body["propagationPolicy"] = match propagation {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
        .into();
    }
    Bytes::from(body.to_string())
}

#[async_trait]
impl Transport for HttpsTransport {
    async fn get(&self, target: &Target) -> Result<Object, Status> {
        self.object(Method::GET, &path_of(target), JSON, Bytes::new()).await
    }

    async fn list(&self, resource: &ResourceRef, namespace: Option<&str>, options: &ListOptions) -> Result<ObjectList, Status> {
        let mut path = collection(resource, namespace);
        query(
            &mut path,
            &[
                ("labelSelector", options.label_selector.clone()),
                ("fieldSelector", options.field_selector.clone()),
                (
                    "resourceVersion",
                    options.resource_version.map(|revision| revision.to_string()),
                ),
            ],
        );
        let body = collect(self.send(Method::GET, &path, JSON, Bytes::new()).await?).await?;
        let list: RawList = serde_json::from_slice(&body)
            .map_err(|error| Status::internal(&format!("the server's answer is no list: {error}")))?;
        let kind = list.kind.strip_suffix("List").unwrap_or_default();
        let items = list.items.unwrap_or_default();
        Ok(ObjectList {
            resource_version: list.metadata.resource_version.parse().unwrap_or(0),
            items: items
                .into_iter()
                .filter_map(|raw| item(raw, &list.api_version, kind))
                .collect(),
        })
    }

    async fn watch(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<BoxStream<'static, Result<WatchEvent, Status>>, Status> {
        let mut path = collection(resource, namespace);
        query(
            &mut path,
            &[
                ("watch", Some("true".into())),
                ("allowWatchBookmarks", Some("true".into())),
                ("timeoutSeconds", Some(WATCH_SECONDS.to_string())),
                ("labelSelector", options.label_selector.clone()),
                ("fieldSelector", options.field_selector.clone()),
                ("resourceVersion", Some(options.resource_version.to_string())),
            ],
        );
        let response = self.send(Method::GET, &path, JSON, Bytes::new()).await?;
        Ok(events(response.into_body()))
    }

    async fn create(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Object, Status> {
        let mut path = path_of(target);
        write_query(&mut path, options);
        self.object(Method::POST, &path, JSON, body).await
    }

    async fn update(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Object, Status> {
        let mut path = path_of(target);
        write_query(&mut path, options);
        self.object(Method::PUT, &path, JSON, body).await
    }

    async fn patch(&self, target: &Target, patch: &Patch, options: &WriteOptions) -> Result<Object, Status> {
        let mut path = path_of(target);
        write_query(&mut path, options);
        let (content_type, body) = match patch {
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Apply(body) => ("application/apply-patch+yaml", body),
        };
        self.object(Method::PATCH, &path, content_type, body.clone()).await
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Option<Object>, Status> {
        let response = self
            .send(Method::DELETE, &path_of(target), JSON, delete_body(options))
            .await?;
        let body = collect(response).await?;
        let value: Value = serde_json::from_slice(&body).map_err(|error| Status::internal(&error.to_string()))?;
        // A Status, or the last state of an object that nothing holds, both mean that it is gone.
        let held = value["metadata"]["deletionTimestamp"].is_string();
        if value["kind"] == "Status" || !held {
            Ok(None)
        } else {
            parse(body).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_and_grouped() {
        let pods = ResourceRef {
            group: "".into(),
            version: "v1".into(),
            plural: "pods".into(),
            namespaced: true,
        };
        let target = Target {
            resource: pods.clone(),
            namespace: Some("a b".into()),
            name: "x/y".into(),
            subresource: Some("log".into()),
        };
        assert_eq!(path_of(&target), "/api/v1/namespaces/a%20b/pods/x%2Fy/log");
        let mut path = collection(&pods, None);
        query(&mut path, &[("labelSelector", Some("a in (b,c)".into())), ("limit", None)]);
        assert_eq!(path, "/api/v1/pods?labelSelector=a%20in%20%28b%2Cc%29");
    }

    #[test]
    fn an_item_that_is_no_object_hides_no_other() {
        let list: RawList = serde_json::from_str(
            r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":5}},{"metadata":{"name":"a"}}]}"#,
        )
        .unwrap();
        let items = list.items.unwrap();
        let read: Vec<_> = items.iter().filter_map(|raw| item(raw, &list.api_version, "Pod")).collect();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].header().kind, "Pod");
    }

    #[tokio::test]
    async fn a_watch_body_becomes_events_and_ends_at_the_error() {
        let body = concat!(
            r#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a","resourceVersion":"5"}}}"#,
            "\n",
            r#"{"type":"MODIFIED","object":{"kind":"Pod","metadata":{"name":5}}}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"9"}}}"#,
            "\n",
            r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"old"}}"#,
            "\n",
            r#"{"type":"ADDED","object":{}}"#,
            "\n",
        );
        let got: Vec<_> = events(Body::from(body.as_bytes().to_vec())).collect().await;
        assert_eq!(got.len(), 3);
        assert!(matches!(&got[0], Ok(WatchEvent::Added(object)) if object.header().resource_version == 5));
        assert!(matches!(got[1], Ok(WatchEvent::Bookmark(9))));
        assert!(matches!(&got[2], Err(status) if status.code == 410));
    }
}
