//! The proxy subresources of pods, services and nodes, to backends in memory: what is reached, what is passed on, what is
//! not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use trireme_apiserver::{ApiServer, Config, NodeDialer, NodeEndpoint, NodeStream};

use crate::common::{call, made, send, server};

const NAMESPACE: &str = "/api/v1/namespaces/default";

/// What a backend was asked.
#[derive(Clone, Debug)]
struct Asked {
    address: String,
    method: String,
    uri: String,
    headers: http::HeaderMap,
    body: String,
}

/// A network in which every address answers: port 443 speaks TLS, the rest not, and each says who it is.
#[derive(Clone, Default)]
struct Network {
    asked: Arc<Mutex<Vec<Asked>>>,
}

fn html(page: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .header("content-type", "text/html; charset=utf-8")
        .body(Full::new(Bytes::from(page.to_owned())))
        .unwrap()
}

impl Network {
    async fn answer(self, address: String, mut request: Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
        let upgrade = request
            .headers()
            .contains_key("upgrade")
            .then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let body = if upgrade.is_some() {
            Bytes::new()
        } else {
            body.collect().await.unwrap().to_bytes()
        };
        self.asked.lock().unwrap().push(Asked {
            address: address.clone(),
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: parts.headers.clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
        });
        match parts.uri.path() {
            "/page" => html(r#"<a href="/rewriteme">test</a>"#),
            "/moved" => Response::builder()
                .status(302)
                .header("location", format!("http://{address}/there?q=1"))
                .body(Full::default())
                .unwrap(),
            "/away" => Response::builder()
                .status(307)
                .header("location", "http://169.254.169.254/secrets")
                .body(Full::default())
                .unwrap(),
            "/cors" => Response::builder()
                .header("access-control-allow-origin", "*")
                .header("connection", "x-private")
                .header("x-private", "1")
                .header("x-public", "1")
                .body(Full::default())
                .unwrap(),
            "/switch" => {
                let upgrade = upgrade.unwrap();
                tokio::spawn(async move {
                    let mut stream = TokioIo::new(upgrade.await.unwrap());
                    let mut buffer = [0; 5];
                    stream.read_exact(&mut buffer).await.unwrap();
                    stream.write_all(&buffer.to_ascii_uppercase()).await.unwrap();
                });
                let switched = Response::builder()
                    .status(101)
                    .header("upgrade", "echo")
                    .header("connection", "upgrade");
                switched.body(Full::default()).unwrap()
            }
            "/no-switch" => Response::builder().status(403).body(Full::new("not here".into())).unwrap(),
            _ => Response::new(Full::new(Bytes::from(format!("{address} {}", parts.method)))),
        }
    }

    fn serve<S>(&self, address: String, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let network = self.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (network, address) = (network.clone(), address.clone());
                async move { Ok::<_, std::convert::Infallible>(network.answer(address, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            drop(connection.with_upgrades().await);
        });
    }

    fn asked(&self) -> Asked {
        self.asked.lock().unwrap().last().cloned().expect("the backend was asked")
    }
}

/// A certificate that nobody vouches for.
fn tls() -> tokio_rustls::TlsAcceptor {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["pod".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

#[async_trait]
impl NodeDialer for Network {
    async fn connect(&self, node: &NodeEndpoint) -> std::io::Result<Box<dyn NodeStream>> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.serve(format!("kubelet of {}", node.name), far);
        Ok(Box::new(near))
    }

    async fn connect_address(&self, address: SocketAddr) -> std::io::Result<Box<dyn NodeStream>> {
        if address.port() == 9 {
            return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        }
        let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(64 * 1024);
        let network = self.clone();
        tokio::spawn(async move {
            if address.port() == 443 {
                let far = tls().accept(far).await.unwrap();
                network.serve(address.to_string(), far);
            } else {
                network.serve(address.to_string(), far);
            }
        });
        Ok(Box::new(near))
    }
}

async fn with_status(server: &Arc<ApiServer>, collection: &str, mut object: Value, status: Value) {
    made(server, "POST", collection, object.clone()).await;
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    object = made(server, "GET", &format!("{collection}/{name}"), Value::Null).await;
    object["status"] = status;
    made(server, "PUT", &format!("{collection}/{name}/status"), object).await;
}

async fn cluster() -> (Arc<ApiServer>, Network) {
    let network = Network::default();
    let server = server(Config::default(), Some(Arc::new(network.clone()))).await;
    let pods = format!("{NAMESPACE}/pods");
    for (name, address, ports) in [
        (
            "p",
            "10.42.0.7",
            json!([{"containerPort": 8080}, {"name": "web", "containerPort": 160}]),
        ),
        ("six", "fd00::7", json!([])),
        ("own", "127.0.0.1", json!([])),
        ("link", "169.254.169.254", json!([])),
    ] {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i", "ports": ports}]},
        });
        with_status(&server, &pods, pod, json!({"podIP": address, "podIPs": [{"ip": address}]})).await;
    }
    let pending = json!({"metadata": {"name": "pending"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    made(&server, "POST", &pods, pending).await;
    let node = |address: &str| {
        json!({
            "addresses": [{"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        })
    };
    with_status(
        &server,
        "/api/v1/nodes",
        json!({"metadata": {"name": "n"}}),
        node("192.0.2.7"),
    )
    .await;
    with_status(
        &server,
        "/api/v1/nodes",
        json!({"metadata": {"name": "lo"}}),
        node("127.0.0.1"),
    )
    .await;
    let service = json!({
        "metadata": {"name": "s"},
        "spec": {"ports": [
            {"name": "one", "port": 80, "targetPort": "web"},
            {"name": "secure", "port": 443, "targetPort": 443},
            {"name": "nobody", "port": 81, "targetPort": 81},
        ]},
    });
    let services = format!("{NAMESPACE}/services");
    made(&server, "POST", &services, service).await;
    let single = json!({"metadata": {"name": "single"}, "spec": {"ports": [{"port": 80}]}});
    made(&server, "POST", &services, single.clone()).await;
    let reference = |name: &str| json!({"kind": "Pod", "namespace": "default", "name": name});
    let endpoints = format!("{NAMESPACE}/endpoints");
    for (name, subsets) in [
        (
            "s",
            json!([{
                "addresses": [
                    {"ip": "10.42.0.7", "targetRef": reference("p")},
                    {"ip": "192.0.2.99"},
                    {"ip": "192.0.2.98", "targetRef": reference("p")},
                    {"ip": "192.0.2.97", "targetRef": reference("nope")},
                ],
                "ports": [{"name": "one", "port": 160}, {"name": "secure", "port": 443}],
            }]),
        ),
        (
            "single",
            json!([{"addresses": [{"ip": "10.42.0.7", "targetRef": reference("p")}], "ports": [{"port": 162}]}]),
        ),
        (
            "elsewhere",
            json!([{"addresses": [{"ip": "10.42.0.7", "targetRef": {"kind": "Pod", "namespace": "other", "name": "p"}}],
                "ports": [{"port": 162}]}]),
        ),
    ] {
        made(
            &server,
            "POST",
            &endpoints,
            json!({"metadata": {"name": name}, "subsets": subsets}),
        )
        .await;
    }
    (server, network)
}

#[tokio::test]
async fn names_lead_to_pods_services_and_nodes() {
    let (server, _) = cluster().await;
    for (id, expected) in [
        ("namespaces/default/pods/p", "10.42.0.7:8080 GET"),
        ("namespaces/default/pods/p:162", "10.42.0.7:162 GET"),
        ("namespaces/default/pods/http:p:162", "10.42.0.7:162 GET"),
        ("namespaces/default/pods/https:p:443", "10.42.0.7:443 GET"),
        ("namespaces/default/pods/six", "[fd00::7]:80 GET"),
        ("namespaces/default/services/s:one", "10.42.0.7:160 GET"),
        ("namespaces/default/services/s:80", "10.42.0.7:160 GET"),
        ("namespaces/default/services/https:s:secure", "10.42.0.7:443 GET"),
        ("namespaces/default/services/https:s:443", "10.42.0.7:443 GET"),
        ("namespaces/default/services/single", "10.42.0.7:162 GET"),
        ("nodes/n", "kubelet of n GET"),
        ("nodes/n:10250", "kubelet of n GET"),
        ("nodes/n:9100", "192.0.2.7:9100 GET"),
    ] {
        // Several times: which endpoint is tried first is drawn.
        for _ in 0..4 {
            let answer = call(&server, "GET", &format!("/api/v1/{id}/proxy/"), Value::Null).await;
            assert_eq!((answer.code, answer.text.as_str()), (200, expected), "{id}");
        }
    }
}

#[tokio::test]
async fn nothing_else_is_reached() {
    let (server, network) = cluster().await;
    for (id, code, message) in [
        ("namespaces/default/pods/own", 400, "address not allowed"),
        ("namespaces/default/pods/own:6443", 400, "address not allowed"),
        ("namespaces/default/pods/link:80", 400, "address not allowed"),
        ("namespaces/default/pods/pending", 400, "address not allowed"),
        ("nodes/lo", 400, "address not allowed"),
        ("nodes/lo:6443", 400, "address not allowed"),
        ("namespaces/default/pods/ftp:p:21", 400, "invalid pod request \"ftp:p:21\""),
        (
            "namespaces/default/services/a:b:c:d",
            400,
            "invalid service request \"a:b:c:d\"",
        ),
        ("nodes/x:y:z:1", 400, "invalid node request \"x:y:z:1\""),
        ("namespaces/default/pods/nope", 404, "pods \"nope\" not found"),
        ("namespaces/default/services/nope", 404, "services \"nope\" not found"),
        ("namespaces/default/services/nope:80", 404, "services \"nope\" not found"),
        ("nodes/nope", 404, "nodes \"nope\" not found"),
        (
            "namespaces/default/services/s:99",
            503,
            "no service port 99 found for service \"s\"",
        ),
        (
            "namespaces/default/services/s:nobody",
            503,
            "no endpoints available for service \"s:nobody\"",
        ),
        (
            "namespaces/default/services/s",
            503,
            "no endpoints available for service \"s\"",
        ),
        // Endpoints that somebody wrote: of a pod of another namespace they tell nothing.
        (
            "namespaces/default/services/elsewhere",
            503,
            "no endpoints available for service \"elsewhere\"",
        ),
    ] {
        let answer = call(&server, "GET", &format!("/api/v1/{id}/proxy/"), Value::Null).await;
        assert_eq!((answer.code, answer.body["message"].as_str()), (code, Some(message)), "{id}");
        assert!(code != 503 || answer.body["details"].is_null(), "{id}");
    }
    let refused = call(&server, "GET", &format!("{NAMESPACE}/pods/p:9/proxy/"), Value::Null).await;
    assert_eq!(refused.code, 503);
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.starts_with("error trying to reach service: dial tcp 10.42.0.7:9: connect: "),
        "{message}"
    );
    assert!(network.asked.lock().unwrap().is_empty(), "no backend was asked");
    // Whoever is not named by a role gets nowhere, under no form of the name.
    for id in ["p", "http:p:80", "p:8080"] {
        let request = Request::get(format!("{NAMESPACE}/pods/{id}/proxy/"))
            .header("authorization", "Bearer ALICE")
            .body(Full::new(Bytes::new()))
            .unwrap();
        assert_eq!(server.handle(request).await.status(), 403);
    }
    assert!(network.asked.lock().unwrap().is_empty(), "no backend was asked");
}

#[tokio::test]
async fn methods_paths_and_bodies_are_passed_on() {
    let (server, network) = cluster().await;
    for method in ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"] {
        for resource in ["pods/p", "services/single"] {
            let path = format!("{NAMESPACE}/{resource}/proxy/some/path/with/{method}?a=1&b=%20");
            let body = if matches!(method, "PATCH" | "POST" | "PUT") {
                "payload"
            } else {
                ""
            };
            let answer = send(&server, method, &path, &[("content-type", "text/x")], Bytes::from(body)).await;
            assert_eq!(answer.code, 200, "{method} {resource}");
            let asked = network.asked();
            assert_eq!(asked.method, method);
            assert_eq!(asked.uri, format!("/some/path/with/{method}?a=1&b=%20"));
            assert_eq!(asked.body, body);
            if method != "HEAD" {
                assert!(answer.text.ends_with(method), "{}", answer.text);
            }
        }
    }
    for (path, uri) in [
        ("/a/", "/a/"),
        ("/a%20b/%C3%A4", "/a%20b/%C3%A4"),
        ("/a/../../../../b", "/b"),
        ("/a//b", "/a/b"),
        ("/", "/"),
    ] {
        let answer = call(&server, "GET", &format!("{NAMESPACE}/pods/p/proxy{path}"), Value::Null).await;
        assert_eq!((answer.code, network.asked().uri.as_str()), (200, uri), "{path}");
    }
    // Without a slash there is nothing that relative links could begin at.
    let whole = format!("{NAMESPACE}/pods/p/proxy");
    let moved = call(&server, "GET", &format!("{whole}?method=GET"), Value::Null).await;
    assert_eq!(
        (moved.code, moved.headers["location"].to_str().unwrap()),
        (301, format!("{whole}/?method=GET").as_str())
    );
    let posted = call(&server, "POST", &format!("{whole}?method=POST"), Value::Null).await;
    assert_eq!((posted.code, network.asked().uri.as_str()), (200, "/?method=POST"));
}

#[tokio::test]
async fn credentials_stay_here() {
    let (server, network) = cluster().await;
    let headers = [
        ("host", "api.example:6443"),
        ("cookie", "session=1"),
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic eA=="),
        ("x-own", "1"),
        ("x-forwarded-for", "198.51.100.1"),
    ];
    let path = format!("{NAMESPACE}/pods/p/proxy/x/");
    assert_eq!(send(&server, "GET", &path, &headers, Bytes::new()).await.code, 200);
    let asked = network.asked();
    for name in [
        "authorization",
        "x-remote-user",
        "x-remote-group",
        "x-hop",
        "te",
        "proxy-authorization",
    ] {
        assert!(!asked.headers.contains_key(name), "{name}");
    }
    for (name, value) in [
        ("host", "api.example:6443"),
        ("cookie", "session=1"),
        ("x-own", "1"),
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-uri", path.as_str()),
    ] {
        assert_eq!(
            asked.headers.get(name).map(|value| value.to_str().unwrap()),
            Some(value),
            "{name}"
        );
    }
    assert_eq!(asked.address, "10.42.0.7:8080");
}

#[tokio::test]
async fn links_lead_through_the_proxy_and_redirects_are_the_clients() {
    let (server, network) = cluster().await;
    for id in ["pods/p", "pods/p:1080", "pods/https:p:443", "services/s:one"] {
        let proxy = format!("{NAMESPACE}/{id}/proxy");
        let page = call(&server, "GET", &format!("{proxy}/page"), Value::Null).await;
        assert_eq!(page.text, format!(r#"<a href="{proxy}/rewriteme">test</a>"#));
        let moved = call(&server, "GET", &format!("{proxy}/moved"), Value::Null).await;
        assert_eq!(moved.code, 302);
        assert_eq!(moved.headers["location"], format!("{proxy}/there?q=1"));
        let before = network.asked.lock().unwrap().len();
        let away = call(&server, "GET", &format!("{proxy}/away"), Value::Null).await;
        assert_eq!(
            (away.code, away.headers["location"].to_str().unwrap()),
            (307, "http://169.254.169.254/secrets")
        );
        assert_eq!(network.asked.lock().unwrap().len(), before + 1, "not followed");
    }
    let cors = call(&server, "GET", &format!("{NAMESPACE}/pods/p/proxy/cors"), Value::Null).await;
    assert!(!cors.headers.contains_key("access-control-allow-origin") && !cors.headers.contains_key("x-private"));
    assert!(cors.headers.contains_key("x-public"));
}

#[tokio::test]
async fn upgrades_are_tunnelled_after_the_switch_and_not_before() {
    let (server, network) = cluster().await;
    let (near, far) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { Ok::<_, std::convert::Infallible>(server.handle(request).await) }
        });
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        drop(builder.serve_connection_with_upgrades(TokioIo::new(far), service).await);
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let upgrade = |path: &str| {
        Request::get(format!("{NAMESPACE}/pods/p:80/proxy{path}"))
            .header("host", "api")
            .header("authorization", "Bearer ADMIN")
            .header("connection", "Upgrade")
            .header("upgrade", "echo")
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let refused = sender.send_request(upgrade("/no-switch")).await.unwrap();
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.into_body().collect().await.unwrap().to_bytes(), "not here");
    let ignored = sender.send_request(upgrade("/other")).await.unwrap();
    assert_eq!(ignored.status(), 500, "an answer that neither switches nor refuses");
    ignored.into_body().collect().await.unwrap();
    let switched = sender.send_request(upgrade("/switch")).await.unwrap();
    assert_eq!(switched.status(), 101);
    assert!(!network.asked().headers.contains_key("authorization"));
    let mut stream = TokioIo::new(hyper::upgrade::on(switched).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"HELLO");
}
