//! An API server over a store in memory, and requests to it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use trireme_apiserver::authn::{Chain, TokenFile};
use trireme_apiserver::{AdmitAll, AllowMasters, ApiServer, Config, NodeDialer, Plugins};
use trireme_store::MemoryStore;

/// An answer, read to its end.
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub text: String,
    pub headers: HeaderMap,
}

/// A server that knows the token ADMIN.
pub async fn server(config: Config, dialer: Option<Arc<dyn NodeDialer>>) -> Arc<ApiServer> {
    let tokens = TokenFile::parse("ADMIN,admin,u1,\"system:masters\"\nALICE,alice,u2\n").unwrap();
    let plugins = Plugins {
        authorizer: Arc::new(AllowMasters),
        admission: Arc::new(AdmitAll),
        authenticator: Arc::new(Chain::new(vec![Arc::new(tokens)])),
        dialer,
        tokens: None,
        metrics: None,
        extension: None,
    };
    let server = ApiServer::build(config, MemoryStore::new(), plugins);
    server.bootstrap().await.unwrap();
    server
}

/// Sends a request as the administrator.
pub async fn send(server: &Arc<ApiServer>, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer ADMIN")
        .header("user-agent", "test/1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = server.handle(request.body(Full::new(body)).unwrap()).await;
    let (parts, mut body) = response.into_parts();
    // Chunk by chunk, as a connection does: a watch sends no more while what it sent is held.
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        bytes.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Answer {
        code: parts.status.as_u16(),
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
        headers: parts.headers,
    }
}

/// The same with a JSON body, or none.
pub async fn call(server: &Arc<ApiServer>, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    send(server, method, path, &[], body).await
}

/// The same; it must succeed.
pub async fn made(server: &Arc<ApiServer>, method: &str, path: &str, body: Value) -> Value {
    let answer = call(server, method, path, body).await;
    assert!(matches!(answer.code, 200 | 201), "{method} {path}: {}", answer.text);
    answer.body
}
