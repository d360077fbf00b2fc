//! Paths of the kubelet's API, who may use them, and what they answer.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::auth::{Decision, Peer};
use super::{Context, local_volumes, logs, port_forward, stats, streams};
use crate::shared::PodView;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Answer = Response<Body>;

/// A refusal as plain text, as upstream's kubelet gives it.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

/// Query parameters in order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<Incoming>) -> Self {
        let text = request.uri().query().unwrap_or_default();
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether any of the names is set to something true.
    pub(super) fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| {
            self.get(name)
                .is_some_and(|value| !matches!(value, "" | "0" | "false" | "f" | "F" | "FALSE" | "False"))
        })
    }
}

/// Undoes percent encoding; `+` is a blank.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes
            .get(index + 1..index + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[index], hex) {
            (b'%', Some(byte)) => {
                result.push(byte);
                index += 2;
            }
            (b'+', _) => result.push(b' '),
            (byte, _) => result.push(byte),
        }
        index += 1;
    }
    String::from_utf8_lossy(&result).into_owned()
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", text)
}

pub(super) fn typed(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert("content-type", kind);
    }
    response
}

pub(super) async fn answer(context: Arc<Context>, peer: Option<Peer>, request: Request<Incoming>) -> Answer {
    let path: Vec<String> = request
        .uri()
        .path()
        .split('/')
        .filter(|part| !part.is_empty())
        .map(decode)
        .collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let Some(peer) = peer else {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    };
    let (verb, subresource) = attributes(request.method(), path.first().copied().unwrap_or_default());
    if context.authorizer.authorize(&peer, verb, subresource) == Decision::Deny {
        let node = &context.shared.config.node_name;
        let why = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource=[{subresource}], node={node})",
            peer.user
        );
        return text(StatusCode::FORBIDDEN, why);
    }
    route(context, &path, request)
        .await
        .unwrap_or_else(|Refusal(status, why)| text(status, why))
}

/// What a request means to an authorizer. A stream is a `create` however it is opened, so that being allowed to read does
/// not allow to execute.
fn attributes(method: &Method, first: &str) -> (&'static str, &'static str) {
    let verb = match *method {
        _ if matches!(first, "exec" | "attach" | "portForward" | "run") => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "create",
    };
    let subresource = match first {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" => "log",
        "healthz" => "healthz",
        "pods" | "runningpods" => "pods",
        _ => "proxy",
    };
    (verb, subresource)
}

async fn route(context: Arc<Context>, path: &[&str], request: Request<Incoming>) -> Result<Answer, Refusal> {
    let query = Query::of(&request);
    let reading = request.method() == Method::GET;
    let streaming = reading || request.method() == Method::POST;
    match path {
        ["healthz"] if reading => Ok(text(StatusCode::OK, "ok")),
        ["pods"] if reading => Ok(pods(&context)),
        ["containerLogs", namespace, pod, container] if reading => logs::serve(context, namespace, pod, container, &query),
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] if streaming => {
            streams::serve(&context, namespace, pod, container, &query, request, streams::What::Exec).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] if streaming => {
            streams::serve(&context, namespace, pod, container, &query, request, streams::What::Attach).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] if streaming => {
            port_forward::serve(&context, namespace, pod, &query, request)
        }
        ["localVolumes", name] => local_volumes::serve(&context, name, request.method(), &query).await,
        ["stats", "summary"] if reading => stats::summary(&context).await,
        ["metrics", "resource"] if reading => stats::resource(&context).await,
        ["metrics", "usage"] if reading => Ok(stats::usage(&context).await),
        ["metrics"] if reading => Ok(stats::own(&context).await),
        _ => Err(Refusal(StatusCode::NOT_FOUND, "404 page not found\n".into())),
    }
}

fn pods(context: &Context) -> Answer {
    let pods: Vec<_> = context
        .shared
        .pods
        .read()
        .values()
        .map(|view| Arc::clone(&view.pod))
        .collect();
    let items: Vec<&k8s_openapi::api::core::v1::Pod> = pods.iter().map(AsRef::as_ref).collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    typed(StatusCode::OK, "application/json", list.to_string())
}

/// A pod of this node.
pub(super) fn find(context: &Context, namespace: &str, name: &str) -> Result<PodView, Refusal> {
    let pods = context.shared.pods.read();
    let found = pods.values().filter(|view| {
        let metadata = &view.pod.metadata;
        metadata.namespace.as_deref() == Some(namespace) && metadata.name.as_deref() == Some(name)
    });
    // A pod that is going may still be there beside its successor.
    found
        .max_by_key(|view| view.pod.metadata.deletion_timestamp.is_none())
        .cloned()
        .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("pod \"{name}\" not found")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_and_attributes() {
        assert_eq!(decode("a%20b+c%2Fd%zz"), "a b c/d%zz");
        assert_eq!(attributes(&Method::GET, "exec"), ("create", "proxy"));
        assert_eq!(attributes(&Method::GET, "metrics"), ("get", "metrics"));
    }
}
