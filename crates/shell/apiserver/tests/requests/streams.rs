//! Logs and exec through the API server to a stand-in for a kubelet: tunnelled after a 101 only, without credentials.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};
use trireme_apiserver::authn::{Chain, TokenFile};
use trireme_apiserver::{AdmitAll, AllowMasters, ApiServer, Config, NodeDialer, NodeEndpoint, NodeStream, Plugins};
use trireme_store::MemoryStore;

/// Answers a log, echoes an exec in upper case, and refuses what it does not know.
struct FakeKubelet;

async fn kubelet(mut request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    assert!(
        !request.headers().contains_key("authorization"),
        "the client's token reached the kubelet"
    );
    let path = request.uri().to_string();
    Ok(match path.as_str() {
        "/containerLogs/default/p/main?tailLines=1" => Response::new(Full::new("hello\n".into())),
        "/exec/default/p/main?input=1&output=1&command=cat" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 5];
                stream.read_exact(&mut buffer).await.unwrap();
                stream.write_all(&buffer.to_ascii_uppercase()).await.unwrap();
                stream.flush().await.unwrap();
            });
            Response::builder()
                .status(101)
                .header("upgrade", "websocket")
                .header("connection", "upgrade")
                .header("sec-websocket-protocol", "v5.channel.k8s.io")
                .body(Full::default())
                .unwrap()
        }
        _ => Response::builder()
            .status(404)
            .body(Full::new("no such container".into()))
            .unwrap(),
    })
}

#[async_trait]
impl NodeDialer for FakeKubelet {
    async fn connect(&self, node: &NodeEndpoint) -> std::io::Result<Box<dyn NodeStream>> {
        assert_eq!((node.host.as_str(), node.port), ("192.0.2.7", 10250));
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service_fn(kubelet));
            drop(connection.with_upgrades().await);
        });
        Ok(Box::new(near))
    }
}

async fn server() -> Arc<ApiServer> {
    let tokens = TokenFile::parse("ADMIN,admin,u1,\"system:masters\"").unwrap();
    let plugins = Plugins {
        authorizer: Arc::new(AllowMasters),
        admission: Arc::new(AdmitAll),
        authenticator: Arc::new(Chain::new(vec![Arc::new(tokens)])),
        dialer: Some(Arc::new(FakeKubelet)),
        tokens: None,
        metrics: None,
        extension: None,
    };
    let server = ApiServer::build(Config::default(), MemoryStore::new(), plugins);
    server.bootstrap().await.unwrap();
    let node = json!({"metadata": {"name": "n1"}});
    let status = json!({"metadata": {"name": "n1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }});
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "i"}]}});
    for (method, path, body) in [
        ("POST", "/api/v1/nodes", node),
        ("PUT", "/api/v1/nodes/n1/status", status),
        ("POST", "/api/v1/namespaces/default/pods", pod),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", "Bearer ADMIN")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let response = server.handle(request).await;
        let code = response.status();
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(code.is_success(), "{path}: {text:?}");
    }
    server
}

#[tokio::test]
async fn logs_are_passed_on() {
    let server = server().await;
    let get = |query: &str| {
        Request::get(format!("/api/v1/namespaces/default/pods/p/log{query}"))
            .header("authorization", "Bearer ADMIN")
            .body(Full::new(Bytes::new()))
            .unwrap()
    };
    let response = server.handle(get("?tailLines=1")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello\n");
    assert_eq!(
        server.handle(get("?tailLines=2")).await.status(),
        404,
        "the kubelet's refusal is the answer"
    );
}

/// A connection to the server, as over the network.
async fn connected(server: &Arc<ApiServer>) -> hyper::client::conn::http1::SendRequest<Empty<Bytes>> {
    let (near, far) = tokio::io::duplex(4096);
    let serving = Arc::clone(server);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let server = Arc::clone(&serving);
            async move { Ok::<_, std::convert::Infallible>(server.handle(request).await) }
        });
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        drop(builder.serve_connection_with_upgrades(TokioIo::new(far), service).await);
    });
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

/// A request for a WebSocket; without a subprotocol where that is empty.
fn socket(path: &str, protocol: &str) -> Request<Empty<Bytes>> {
    let mut request = Request::get(path)
        .header("host", "api")
        .header("authorization", "Bearer ADMIN")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    if !protocol.is_empty() {
        request = request.header("sec-websocket-protocol", protocol);
    }
    request.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn logs_come_over_a_websocket() {
    let server = server().await;
    let path = "/api/v1/namespaces/default/pods/p/log?tailLines=1";
    for (protocol, said) in [
        ("", Message::Binary("hello\n".into())),
        ("binary.k8s.io", Message::Binary("hello\n".into())),
        ("base64.binary.k8s.io", Message::text("aGVsbG8K")),
    ] {
        let switched = connected(&server).await.send_request(socket(path, protocol)).await.unwrap();
        assert_eq!(switched.status(), 101, "{protocol}");
        assert_eq!(switched.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let agreed = switched.headers().get("sec-websocket-protocol");
        assert_eq!(agreed.map_or("", |value| value.to_str().unwrap()), protocol);
        let upgraded = TokioIo::new(hyper::upgrade::on(switched).await.unwrap());
        let mut stream = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
        let first = stream.next().await.unwrap().unwrap();
        assert!(first.is_empty(), "an empty message says that the stream stands: {first:?}");
        assert_eq!(stream.next().await.unwrap().unwrap(), said, "{protocol}");
        let Some(Ok(Message::Close(Some(close)))) = stream.next().await else {
            panic!("no end")
        };
        assert_eq!(u16::from(close.code), 1000);
    }
    let mut sender = connected(&server).await;
    let refused = sender.send_request(socket(path, "v4.channel.k8s.io")).await.unwrap();
    assert_eq!(refused.status(), 403, "a subprotocol that is not for reading");
    drop(refused.into_body().collect().await);
    let refused = sender.send_request(socket(&path.replace("=1", "=2"), "")).await.unwrap();
    assert_eq!(refused.status(), 404, "the kubelet's refusal is the answer");
}

#[tokio::test]
async fn exec_is_tunnelled_after_the_switch_and_not_before() {
    let server = server().await;
    let mut sender = connected(&server).await;
    let exec = |command: &str| {
        socket(
            &format!("/api/v1/namespaces/default/pods/p/exec?command={command}&stdin=true&stdout=true"),
            "v5.channel.k8s.io",
        )
    };
    let refused = sender.send_request(exec("nope")).await.unwrap();
    assert_eq!(refused.status(), 404);
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status["message"], "no such container");

    let switched = sender.send_request(exec("cat")).await.unwrap();
    assert_eq!(switched.status(), 101);
    assert_eq!(switched.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut stream = TokioIo::new(hyper::upgrade::on(switched).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"HELLO");
}
