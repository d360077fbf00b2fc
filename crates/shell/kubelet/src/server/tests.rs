//! The kubelet's API over real TLS, with a pod in a runtime in memory.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use trireme_limited::Limits;

use super::spdy::tests::{Client, Got};
use crate::config::Tls;
use crate::tests::{Lab, ready};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key.
    fn issue(&self, name: &str, group: &str, purpose: ExtendedKeyUsagePurpose) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().der().to_vec(), key.serialize_der())
    }

    fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }
}

struct Fixture {
    lab: Lab,
    authority: Authority,
}

impl Fixture {
    async fn start() -> Self {
        let authority = Authority::new();
        let (certificate, key) = authority.issue("node", "system:nodes", ExtendedKeyUsagePurpose::ServerAuth);
        let certified = CertifiedKey::from_der(
            vec![CertificateDer::from(certificate)],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)),
            &crypto::ring::default_provider(),
        )
        .unwrap();
        let tls = Tls {
            certificate: Arc::new(SingleCertAndKey::from(certified)),
            client_ca: vec![authority.der()],
        };
        let lab = Lab::start_with_tls(tls);
        lab.pod(
            "a",
            json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img:1"}]}),
        );
        lab.until("a", "ready", ready).await;
        Self { lab, authority }
    }

    async fn connect(&self, identity: Option<(&str, &str)>) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.authority.der())).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((name, group)) => {
                let (certificate, key) = self.authority.issue(name, group, ExtendedKeyUsagePurpose::ClientAuth);
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
                builder
                    .with_client_auth_cert(vec![CertificateDer::from(certificate)], key)
                    .unwrap()
            }
        };
        let address = self.lab.server.unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").unwrap(), tcp)
            .await
            .unwrap()
    }

    async fn get(&self, identity: Option<(&str, &str)>, path: &str) -> (u16, String) {
        self.ask("GET", identity, path).await
    }

    async fn ask(&self, method: &str, identity: Option<(&str, &str)>, path: &str) -> (u16, String) {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.connect(identity).await))
            .await
            .unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// A connection that was upgraded by the headers given.
    async fn upgraded(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> TokioIo<hyper::upgrade::Upgraded> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.connect(Some(API)).await))
            .await
            .unwrap();
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("connection", "Upgrade");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = sender
            .send_request(request.body(Empty::<Bytes>::new()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), 101);
        for (name, value) in headers.iter().filter(|(name, _)| name.contains("protocol")) {
            assert_eq!(response.headers()[*name], *value);
        }
        TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap())
    }

    /// A WebSocket; without a subprotocol where that is empty.
    async fn socket(&self, path: &str, protocol: &str) -> WebSocketStream<TokioIo<hyper::upgrade::Upgraded>> {
        let mut headers = vec![
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        if !protocol.is_empty() {
            headers.push(("sec-websocket-protocol", protocol));
        }
        WebSocketStream::from_raw_socket(self.upgraded("GET", path, &headers).await, Role::Client, None).await
    }

    /// SPDY, as it is or in a WebSocket whose messages do not line up with frames.
    async fn spdy(&self, path: &str, protocol: &str, tunnelled: bool) -> Client<DuplexStream> {
        let (near, far) = tokio::io::duplex(4096);
        let (mut read, mut write) = tokio::io::split(far);
        if tunnelled {
            let (mut sink, mut source) = self.socket(path, &format!("SPDY/3.1+{protocol}")).await.split();
            tokio::spawn(async move {
                let mut part = [0; 3];
                while let Ok(count @ 1..) = read.read(&mut part).await {
                    sink.send(Message::Binary(part[..count].to_vec().into())).await.unwrap();
                }
            });
            tokio::spawn(async move {
                while let Some(Ok(message)) = source.next().await {
                    match message {
                        Message::Binary(data) => write.write_all(&data).await.unwrap(),
                        Message::Close(Some(close)) => assert_eq!(u16::from(close.code), 1000),
                        other => panic!("{other:?}"),
                    }
                }
                write.shutdown().await.unwrap();
            });
        } else {
            let headers = [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocol)];
            let mut upgraded = self.upgraded("POST", path, &headers).await;
            let mut far = read.unsplit(write);
            tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut far, &mut upgraded).await) });
        }
        Client::new(near)
    }

    fn log(&self) -> std::path::PathBuf {
        self.lab.log_dir.join("n_a_uid-a/c/0.log")
    }
}

const API: (&str, &str) = ("kube-apiserver-kubelet-client", "system:somebody");

#[tokio::test]
async fn only_who_is_known_and_allowed_gets_in() {
    let fixture = Fixture::start().await;
    for (identity, expected) in [
        (None, 401),
        (Some(("mallory", "system:authenticated")), 403),
        (Some(("admin", "system:masters")), 200),
        (Some(API), 200),
    ] {
        for path in ["/healthz", "/pods", "/metrics/resource", "/stats/summary"] {
            assert_eq!(fixture.get(identity, path).await.0, expected, "{identity:?} {path}");
        }
    }
    assert_eq!(fixture.get(None, "/exec/n/a/c?command=id&output=1").await.0, 401);
    assert_eq!(fixture.get(Some(API), "/nope").await.0, 404);
    let (_, summary) = fixture.get(Some(API), "/stats/summary").await;
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"], 4 << 20);
}

#[tokio::test]
async fn logs_are_read_and_followed_to_the_end() {
    let fixture = Fixture::start().await;
    std::fs::write(
        fixture.log(),
        "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stdout F two\n",
    )
    .unwrap();
    assert_eq!(
        fixture.get(Some(API), "/containerLogs/n/a/c").await,
        (200, "one\ntwo\n".into())
    );
    assert_eq!(fixture.get(Some(API), "/containerLogs/n/a/c?tailLines=1").await.1, "two\n");
    let missing = fixture.get(Some(API), "/containerLogs/n/a/c?previous=true").await;
    assert_eq!(
        missing,
        (400, "previous terminated container \"c\" in pod \"a\" not found".into())
    );
    assert_eq!(
        fixture.get(Some(API), "/containerLogs/n/b/c").await,
        (404, "pod \"b\" not found".into())
    );

    let following = fixture.get(Some(API), "/containerLogs/n/a/c?follow=true&tailLines=0");
    let writing = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        use std::io::Write;
        let path = fixture.log();
        std::fs::rename(&path, path.with_file_name("0.log.20260101-000003")).unwrap();
        std::fs::write(&path, "2026-01-01T00:00:03Z stdout F three\n").unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2026-01-01T00:00:04Z stdout F four\n").unwrap();
        fixture.lab.runtime.exit("c", 0);
    };
    let (followed, ()) = tokio::join!(following, writing);
    assert_eq!(followed.1, "three\nfour\n");
}

#[tokio::test]
async fn exec_moves_bytes_and_tells_the_exit_code() {
    let fixture = Fixture::start().await;
    let mut socket = fixture
        .socket(
            "/exec/n/a/c?command=cat&command=-u&input=1&output=1&error=1",
            "v5.channel.k8s.io",
        )
        .await;
    socket.send(Message::Binary(b"\x00hello".to_vec().into())).await.unwrap();
    socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let mut output = Vec::new();
    let mut status = Value::Null;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(data) = message else { continue };
        match data[0] {
            1 => output.extend_from_slice(&data[1..]),
            3 => status = serde_json::from_slice(&data[1..]).unwrap(),
            _ => {}
        }
    }
    assert_eq!(output, b"hello");
    assert_eq!(
        (status["reason"].as_str(), status["details"]["causes"][0]["message"].as_str()),
        (Some("NonZeroExitCode"), Some("7"))
    );
    assert!(fixture.lab.runtime.calls().contains(&"exec-stream c2 cat -u".to_owned()));
}

#[tokio::test]
async fn exec_speaks_every_form_of_channels() {
    let fixture = Fixture::start().await;
    let status = "\"reason\":\"NonZeroExitCode\"";
    let text = "command terminated with non-zero exit code: command terminated with exit code 7";
    for (protocol, said, end) in [
        ("", Message::Binary(b"\0hello".to_vec().into()), text),
        ("channel.k8s.io", Message::Binary(b"\0hello".to_vec().into()), text),
        ("base64.channel.k8s.io", Message::text("0aGVsbG8="), text),
        ("v4.base64.channel.k8s.io", Message::text("0aGVsbG8="), status),
        ("v4.channel.k8s.io", Message::Binary(b"\0hello".to_vec().into()), status),
    ] {
        let base64 = protocol.contains("base64");
        let mut socket = fixture
            .socket("/exec/n/a/c?command=cat&command=5&input=1&output=1", protocol)
            .await;
        socket.send(said).await.unwrap();
        let mut told: [Vec<Vec<u8>>; 4] = Default::default();
        while let Some(Ok(message)) = socket.next().await {
            let (channel, data) = match message {
                Message::Binary(data) if !base64 => (data[0], data[1..].to_vec()),
                Message::Text(text) if base64 => (text.as_bytes()[0] - b'0', STANDARD.decode(&text[1..]).unwrap()),
                Message::Close(_) => break,
                other => panic!("{protocol}: {other:?}"),
            };
            told[usize::from(channel)].push(data);
        }
        assert_eq!(told[1][0], b"", "{protocol}: an empty message says that the stream stands");
        assert_eq!(told[1].concat(), b"hello", "{protocol}");
        let ended = String::from_utf8(told[3].concat()).unwrap();
        assert!(
            if end == status { ended.contains(end) } else { ended == end },
            "{protocol}: {ended}"
        );
    }
}

#[tokio::test]
async fn an_unknown_subprotocol_is_refused() {
    let fixture = Fixture::start().await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(fixture.connect(Some(API)).await))
        .await
        .unwrap();
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    let request = hyper::Request::get("/exec/n/a/c?command=cat&output=1")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v6.channel.k8s.io")
        .body(Empty::<Bytes>::new())
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 403);
}

#[tokio::test]
async fn ports_are_forwarded_over_channels() {
    let fixture = Fixture::start().await;
    for protocol in ["v4.channel.k8s.io", ""] {
        ports_are_forwarded_over(&fixture, protocol).await;
    }
}

async fn ports_are_forwarded_over(fixture: &Fixture, protocol: &str) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = [0; 4];
        stream.read_exact(&mut text).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
    });
    let mut socket = fixture.socket(&format!("/portForward/n/a?port={port}"), protocol).await;
    socket.send(Message::Binary(b"\x00ping".to_vec().into())).await.unwrap();
    let mut frames = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            frames.push(data.to_vec());
        }
    }
    let [low, high] = port.to_le_bytes();
    assert_eq!(frames, [vec![0, low, high], vec![1, low, high], b"\x00pong".to_vec()]);
}

/// Answers each connection with what it said, in upper case, once it has said all.
async fn shouter() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut text = Vec::new();
                stream.read_to_end(&mut text).await.unwrap();
                stream.write_all(&text.to_ascii_uppercase()).await.unwrap();
            });
        }
    });
    port
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let fixture = Fixture::start().await;
    let port = shouter().await.to_string();
    for tunnelled in [true, false] {
        let mut client = fixture.spdy("/portForward/n/a", "portforward.k8s.io", tunnelled).await;
        client.open(1, false, &[("streamtype", "data")]).await;
        assert_eq!(client.told().await, Some(Got::Reset(1, 5)), "a stream without a port");
        // Connections one after the other, and two at a time.
        let headers = |kind: &'static str, request: &'static str| {
            [("port", port.as_str()), ("requestid", request), ("streamtype", kind)].map(|(name, value)| (name, value.to_owned()))
        };
        for (request, error, data) in [("0", 3, 5), ("1", 7, 9), ("2", 11, 13)] {
            for (id, kind) in [(error, "error"), (data, "data")] {
                let headers = headers(kind, request);
                let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                client.open(id, kind == "error", &headers).await;
                assert_eq!(client.told().await, Some(Got::Reply(id)));
            }
        }
        client.data(9, false, b"first").await;
        client.data(5, true, b"second").await;
        assert_eq!(client.all(5).await, b"SECOND");
        assert_eq!(
            client.told().await,
            Some(Got::Data(3, true, Vec::new())),
            "the error stream ends last, empty"
        );
        client.data(9, true, b"!").await;
        assert_eq!(client.all(9).await, b"FIRST!");
        assert_eq!(client.told().await, Some(Got::Data(7, true, Vec::new())));
        client.data(13, true, &[b'x'; 100_000]).await;
        assert!(client.all(13).await == [b'X'; 100_000]);
        assert_eq!(client.told().await, Some(Got::Data(11, true, Vec::new())));
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told() {
    let fixture = Fixture::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    let mut client = fixture.spdy("/portForward/n/a", "portforward.k8s.io", true).await;
    for (id, kind) in [(1, "error"), (3, "data")] {
        // An old client that does not tell which belong together.
        client.open(id, false, &[("port", &port), ("streamtype", kind)]).await;
        assert_eq!(client.told().await, Some(Got::Reply(id)));
    }
    assert_eq!(client.told().await, Some(Got::Reset(3, 5)));
    let error = String::from_utf8(client.all(1).await).unwrap();
    assert!(error.starts_with(&format!("error forwarding port {port} to pod ")), "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn exec_works_over_spdy() {
    let fixture = Fixture::start().await;
    let path = "/exec/n/a/c?command=cat&input=1&output=1";
    for (protocol, end) in [
        ("v4.channel.k8s.io", "\"message\":\"7\""),
        ("v2.channel.k8s.io", "command terminated with exit code 7"),
    ] {
        let mut client = fixture.spdy(path, protocol, false).await;
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            client.open(id, false, &[("streamtype", kind)]).await;
            assert_eq!(client.told().await, Some(Got::Reply(id)));
        }
        client.data(3, true, b"hello").await;
        assert_eq!(client.all(5).await, b"hello");
        let status = String::from_utf8(client.all(1).await).unwrap();
        assert!(status.contains(end), "{status}");
        assert_eq!(client.told().await, Some(Got::Data(3, true, Vec::new())));
        assert_eq!(client.told().await, Some(Got::GoAway(0)));
        assert_eq!(client.told().await, None);
    }
}

#[tokio::test]
async fn metrics_have_the_shape_of_the_metrics_api() {
    let fixture = Fixture::start().await;
    let metrics = fixture.lab.metrics.clone();
    let pods = metrics.pod_metrics().await;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0]["metadata"]["name"], "a");
    assert_eq!(pods[0]["containers"][0]["usage"]["memory"], "4096Ki");
    let cpu = pods[0]["containers"][0]["usage"]["cpu"].as_str().unwrap();
    let nano: i64 = cpu.strip_suffix('n').unwrap().parse().unwrap();
    assert!((249_000_000..=251_000_000).contains(&nano), "{cpu}");
    assert_eq!(metrics.node_metrics().await.unwrap()["kind"], "NodeMetrics");
    let (_, shown) = fixture.get(Some(API), "/metrics/usage").await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["node"]["kind"], "NodeMetrics");
    assert_eq!(shown["pods"][0]["containers"], pods[0]["containers"]);
}

/// Of the child that gets many silent connections.
const LIMITS: Limits = Limits {
    address_space_mib: 4096,
    cpu_seconds: 120,
    open_files: Some(4096),
};

#[test]
fn silent_connections_make_way() {
    trireme_limited::run("server::tests::serves_among_silent_connections", LIMITS);
}

#[tokio::test]
#[ignore = "run by its parent under limits"]
async fn serves_among_silent_connections() {
    let fixture = Fixture::start().await;
    let address = fixture.lab.server.unwrap();
    let mut silent = Vec::new();
    for _ in 0..1100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let asked = tokio::time::timeout(std::time::Duration::from_secs(60), fixture.get(Some(API), "/healthz"));
    assert_eq!(asked.await.unwrap().0, 200);
}

#[tokio::test]
async fn volumes_on_the_nodes_disk_are_made_and_removed_by_the_api_server_alone() {
    let stage = Fixture::start().await;
    let path = "/localVolumes/pvc-1?bytes=1&enforced=false";
    assert_eq!(stage.ask("PUT", Some(("somebody", "people")), path).await.0, 403);
    let (status, place) = stage.ask("PUT", Some(API), path).await;
    assert_eq!(status, 200, "{place}");
    assert!(std::path::Path::new(&place).is_dir());
    let (status, why) = stage
        .ask("PUT", Some(API), "/localVolumes/pvc-2?bytes=1000000000000000000")
        .await;
    assert_eq!(status, 422);
    assert!(why.contains("are free on the node's disk"), "{why}");
    assert_eq!(stage.ask("PUT", Some(API), "/localVolumes/..%2Fx?bytes=1").await.0, 422);
    assert_eq!(stage.ask("PUT", Some(API), "/localVolumes/pvc-1").await.0, 400);
    assert_eq!(stage.ask("DELETE", Some(API), "/localVolumes/pvc-1").await.0, 200);
    assert!(!std::path::Path::new(&place).exists());
}
