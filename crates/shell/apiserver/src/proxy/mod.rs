//! Logs, exec, attach, port-forward and proxying: from the client's connection to the kubelet's.
//!
//! Invariant: bytes are tunnelled only after the kubelet answered 101 (CVE-2018-1002105); any other answer is passed on
//! as an ordinary response. Redirects are not followed (CVE-2018-1002102), credentials of the client are not passed on.

mod forward;
mod location;
mod rewrite;
mod unverified;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, BodyStream, Full};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use trireme_api::{Status, StatusDetails};
use trireme_policy::webhook::Phase;

use crate::admission::{Operation, Request as AdmissionRequest};
use crate::http::body::Body;
use crate::http::handle::{Asked, Incoming, wants_upgrade};
use crate::http::query::Query;
use crate::nodes::NodeEndpoint;
use crate::pipeline::{Target, WriteOptions};
use crate::server::ApiServer;
use crate::{webhooks, websocket};

pub(crate) use forward::{clean_path, proxy};

/// Where a request comes from: told to what is reached through the proxy subresources.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Headers that concern one connection only.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "proxy-connection",
];

fn no_host(pod: &str) -> Status {
    Status::bad_request(format!("pod {pod} does not have a host assigned"))
}

/// GET of a pod's log.
pub(crate) async fn logs<B>(server: &Arc<ApiServer>, incoming: Incoming<B>, target: &Target) -> Result<Response<Body>, Status> {
    let pod = pod(server, target).await?;
    let container = container(&pod, &incoming.query, target)?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        // Nothing runs yet: an empty log, as upstream answers.
        return Ok(crate::http::respond::text(200, ""));
    };
    let path = format!("/containerLogs/{}/{}/{container}", target.namespace, target.name);
    const PASSED: &[&str] = &[
        "follow",
        "previous",
        "timestamps",
        "sinceSeconds",
        "sinceTime",
        "tailLines",
        "limitBytes",
        "stream",
    ];
    let query = encode_query(&incoming.query, PASSED);
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    let request = kubelet_request(Method::GET, &uri, HeaderMap::new(), Bytes::new())?;
    let guard = server.metrics.streaming();
    let answer = send(server, node, request).await?;
    let (mut parts, stream) = answer.into_parts();
    if parts.status != StatusCode::OK {
        let text = stream
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        return Err(relayed(parts.status, &text));
    }
    parts
        .headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    let stream = BodyStream::new(stream)
        .try_filter_map(move |frame| {
            let _counted = &guard;
            async move { Ok(frame.into_data().ok()) }
        })
        .map_err(std::io::Error::other);
    if websocket::is_wanted(&incoming.parts) {
        return websocket::serve(&incoming.asked.parts, incoming.asked.upgrade, Box::pin(stream));
    }
    Ok(Response::from_parts(parts, Body::Stream(Box::pin(stream))))
}

/// Exec, attach and port-forward.
pub(crate) async fn stream<B>(server: &Arc<ApiServer>, incoming: Incoming<B>, target: &Target) -> Result<Response<Body>, Status> {
    let pod = pod(server, target).await?;
    let forwards = target.subresource == "portforward";
    let container = if forwards {
        String::new()
    } else {
        container(&pod, &incoming.query, target)?
    };
    if incoming.info.verb == "get" && wants_upgrade(&incoming.parts) {
        // A WebSocket must be opened by GET, but running a command is no reading.
        let mut attributes = incoming.info.attributes(&incoming.query);
        attributes.verb = "create".to_owned();
        server.authorize(&incoming.user, &attributes)?;
    }
    connect_admission(server, target, &incoming.query, None).await?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        return Err(no_host(&target.name));
    };
    let (verb, place) = match target.subresource.as_str() {
        "exec" => ("exec", format!("/{container}")),
        "attach" => ("attach", format!("/{container}")),
        _ => ("portForward", String::new()),
    };
    let path = format!("/{verb}/{}/{}{place}", target.namespace, target.name);
    let query = stream_query(&incoming.query, forwards);
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    if !wants_upgrade(&incoming.parts) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    tunnel_to_kubelet(server, node, incoming, &uri).await
}

async fn pod(server: &ApiServer, target: &Target) -> Result<Value, Status> {
    server.barrier().await?;
    let object = server.store.get(&target.key()).ok_or_else(|| target.not_found())?;
    Ok(object.value())
}

/// The container that is meant: the one named, the only one, or the default one.
fn container(pod: &Value, query: &Query, target: &Target) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        let list = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter()
            .filter_map(|own| own["name"].as_str())
            .map(str::to_owned)
            .collect()
    };
    let (containers, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let wished = query.get("container").unwrap_or_default();
    if !wished.is_empty() {
        let known = containers.iter().chain(&init).chain(&ephemeral).any(|own| own == wished);
        return if known {
            Ok(wished.to_owned())
        } else {
            Err(Status::bad_request(format!(
                "container {wished} is not valid for pod {}",
                target.name
            )))
        };
    }
    let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match containers.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!(
            "a container name must be specified for pod {}",
            target.name
        ))),
        _ if annotated.is_some_and(|name| containers.iter().any(|own| own == name)) => {
            Ok(annotated.unwrap_or_default().to_owned())
        }
        several => {
            let mut text = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                target.name,
                several.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}

/// The options of a connection as an object; `path` is that of a proxied request, below the subresource.
fn connect_options(target: &Target, query: &Query, path: Option<&str>) -> Value {
    let kind = target.row.subresource(&target.subresource).map_or("", |sub| sub.kind);
    let mut object = json!({"kind": kind, "apiVersion": "v1"});
    if let Some(path) = path {
        if !path.is_empty() {
            object["path"] = path.into();
        }
        return object;
    }
    if target.subresource == "portforward" {
        let ports: Vec<i32> = query.all("ports").filter_map(|port| port.parse().ok()).collect();
        if !ports.is_empty() {
            object["ports"] = ports.into();
        }
        return object;
    }
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(name) {
            object[name] = true.into();
        }
    }
    if let Some(container) = query.get("container").filter(|name| !name.is_empty()) {
        object["container"] = container.into();
    }
    let command: Vec<&str> = query.all("command").collect();
    if !command.is_empty() {
        object["command"] = command.into();
    }
    object
}

async fn connect_admission(server: &ApiServer, target: &Target, query: &Query, path: Option<&str>) -> Result<(), Status> {
    let mut object = connect_options(target, query, path);
    let options = object.clone();
    let mut warnings = Vec::new();
    let mut request = AdmissionRequest {
        row: target.row,
        operation: Operation::Connect,
        namespace: &target.namespace,
        name: &target.name,
        subresource: &target.subresource,
        user: &target.user,
        object: &mut object,
        old_object: None,
        options: &options,
        dry_run: false,
        view: server.view(),
        warnings: &mut warnings,
    };
    server.plugins.admission.mutate(&mut request)?;
    server.plugins.admission.validate(&mut request)?;
    webhooks_on_connect(server, target, object).await
}

/// Asks webhooks about a connection, whose options are the object.
async fn webhooks_on_connect(server: &ApiServer, target: &Target, mut object: Value) -> Result<(), Status> {
    let call = |phase| server.webhooks(phase, target, Operation::Connect, &target.name);
    let asked = || webhooks::Asked {
        target,
        operation: Operation::Connect,
        name: &target.name,
        options: Value::Null,
        dry_run: false,
    };
    let mut warnings = Vec::new();
    if let Some(call) = call(Phase::Mutating) {
        let (asked, options) = (asked(), WriteOptions::default());
        let asking = server.mutate_by_webhooks(&call, &asked, &mut object, None, &options, &mut warnings);
        Box::pin(asking).await?;
    }
    if let Some(call) = call(Phase::Validating) {
        let asked = asked();
        Box::pin(server.validate_by_webhooks(&call, &asked, (Some(&object), None), &mut warnings)).await?;
    }
    Ok(())
}

fn unreachable_node(why: &str) -> Status {
    Status::failure(
        503,
        "ServiceUnavailable",
        format!("the server is currently unable to handle the request: {why}"),
    )
    .with_details(StatusDetails::default())
}

async fn dial(server: &ApiServer, node: &str) -> Result<Box<dyn crate::nodes::NodeStream>, Status> {
    let dialer = server
        .plugins
        .dialer
        .as_ref()
        .ok_or_else(|| unreachable_node("this server reaches no nodes"))?;
    let object = server.node(node).ok_or_else(|| Status::not_found("", "nodes", node))?;
    let endpoint =
        NodeEndpoint::of(&object.value()).ok_or_else(|| unreachable_node(&format!("node {node} has no address yet")))?;
    let connected = dialer.connect(&endpoint).await;
    connected.map_err(|error| Status::internal(&format!("error dialing backend: {error}")))
}

fn kubelet_request(method: Method, uri: &str, headers: HeaderMap, bytes: Bytes) -> Result<Request<Full<Bytes>>, Status> {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .body(Full::new(bytes))
        .map_err(|error| Status::bad_request(error.to_string()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Sends a request over a connection of its own; the connection lives as long as the answer's body.
async fn send(
    server: &ApiServer,
    node: &str,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<hyper::body::Incoming>, Status> {
    let stream = dial(server, node).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Status::internal(&format!("error dialing backend: {error}")))?;
    let failed_node = node.to_owned();
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, node = failed_node, "connection to kubelet ended");
        }
    });
    let host = HeaderValue::from_str(node).map_err(|error| Status::internal(&error.to_string()))?;
    request.headers_mut().insert(header::HOST, host);
    sender
        .send_request(request)
        .await
        .map_err(|error| Status::internal(&format!("error sending request: {error}")))
}

/// The client's headers without its credentials and those of its connection.
fn passed_headers(headers: &HeaderMap, upgrading: bool) -> HeaderMap {
    let dropped = |name: &HeaderName| {
        let text = name.as_str();
        matches!(
            text,
            "authorization" | "cookie" | "host" | "content-length" | "x-forwarded-for"
        ) || text.starts_with("impersonate-")
            || text.starts_with("x-remote-")
            || HOP_BY_HOP.contains(&text)
            || (text == "upgrade" && !upgrading)
    };
    let mut passed = HeaderMap::new();
    for (name, value) in headers {
        if !dropped(name) {
            passed.append(name.clone(), value.clone());
        }
    }
    if upgrading {
        passed.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    strip_bearer_protocol(&mut passed);
    passed
}

/// A token in the subprotocol list is a credential too.
fn strip_bearer_protocol(headers: &mut HeaderMap) {
    const NAME: &str = "sec-websocket-protocol";
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let kept: Vec<String> = headers
        .get_all(NAME)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .filter(|protocol| !protocol.starts_with(PREFIX))
        .collect();
    headers.remove(NAME);
    if !kept.is_empty()
        && let Ok(value) = HeaderValue::from_str(&kept.join(", "))
    {
        headers.insert(NAME, value);
    }
}

/// Passes an upgrade on to a kubelet and, once that has switched, the bytes of both sides.
async fn tunnel_to_kubelet<B>(
    server: &Arc<ApiServer>,
    node: &str,
    incoming: Incoming<B>,
    uri: &str,
) -> Result<Response<Body>, Status> {
    let Asked { parts, upgrade, .. } = *incoming.asked;
    let Some(client) = upgrade else {
        return Err(Status::bad_request("this connection cannot be upgraded"));
    };
    let headers = passed_headers(&parts.headers, true);
    let request = kubelet_request(parts.method, uri, headers, Bytes::new())?;
    let answer = send(server, node, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, stream) = answer.into_parts();
        let text = stream
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        return Err(relayed(parts.status, &text));
    }
    Ok(tunnel(server, client, answer))
}

/// Passes the bytes of both sides on, once the backend has switched protocols and the client was told so.
fn tunnel(server: &Arc<ApiServer>, client: OnUpgrade, mut answer: Response<hyper::body::Incoming>) -> Response<Body> {
    let backend = hyper::upgrade::on(&mut answer);
    let guard = server.metrics.streaming();
    tokio::spawn(async move {
        let _counted = guard;
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                    tracing::debug!(%error, "stream ended");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in answer.headers() {
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response
}

/// What the kubelet refused with, as a `Status`.
fn relayed(code: StatusCode, text: &[u8]) -> Status {
    if let Ok(status) = serde_json::from_slice::<Status>(text)
        && status.code != 0
    {
        return status;
    }
    let text = String::from_utf8_lossy(text).trim().to_owned();
    let reason = match code.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        _ => "InternalError",
    };
    Status::failure(code.as_u16().max(400), reason, text)
}

fn encode_query(query: &Query, names: &[&str]) -> String {
    let mut out = Vec::new();
    for name in names {
        for value in query.all(name) {
            out.push(format!("{name}={}", percent(value)));
        }
    }
    out.join("&")
}

/// The kubelet's names of a stream's parameters.
fn stream_query(query: &Query, forwards: bool) -> String {
    if forwards {
        return encode_query(query, &["ports"]).replace("ports=", "port=");
    }
    let mut parts = Vec::new();
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(ours) {
            parts.push(format!("{theirs}=1"));
        }
    }
    let command = encode_query(query, &["command"]);
    if !command.is_empty() {
        parts.push(command);
    }
    parts.join("&")
}

fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_do_not_reach_the_kubelet() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("impersonate-user", "root"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            (
                "sec-websocket-protocol",
                "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.eA",
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let passed = passed_headers(&headers, true);
        let mut names: Vec<&str> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["connection", "sec-websocket-key", "sec-websocket-protocol", "upgrade"]
        );
        assert_eq!(passed["sec-websocket-protocol"], "v5.channel.k8s.io");
    }

    #[test]
    fn stream_parameters_get_the_kubelets_names() {
        let query = Query::parse(Some("command=sh&command=-c&stdin=true&tty=true&container=a"));
        assert_eq!(stream_query(&query, false), "input=1&tty=1&command=sh&command=-c");
        assert_eq!(stream_query(&Query::parse(Some("ports=80")), true), "port=80");
    }

    #[test]
    fn the_container_is_named_or_alone() {
        let target = Target {
            custom: None,
            row: trireme_resources::find("", "v1", "pods").unwrap(),
            namespace: "ns".into(),
            name: "p".into(),
            subresource: "log".into(),
            user: Arc::default(),
        };
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let ask = |query: &str| container(&pod, &Query::parse(Some(query)), &target);
        assert_eq!(ask("container=b").unwrap(), "b");
        assert_eq!(
            ask("container=zzz").unwrap_err().message,
            "container zzz is not valid for pod p"
        );
        assert_eq!(
            ask("").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
    }
}
