//! The connection over a stream in memory: when it ends, and what becomes of bodies that nobody read.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::Full;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trireme_store::MemoryStore;

use super::*;
use crate::authn::{Chain, TokenFile};
use crate::{AdmitAll, AllowMasters, Config, Plugins};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Host {
    server: Arc<ApiServer>,
    acceptor: TlsAcceptor,
    certificate: CertificateDer<'static>,
}

impl Host {
    async fn new() -> Self {
        let tokens = TokenFile::parse("ADMIN,admin,u1,\"system:masters\"\nALICE,alice,u2").unwrap();
        let plugins = Plugins {
            authorizer: Arc::new(AllowMasters),
            admission: Arc::new(AdmitAll),
            authenticator: Arc::new(Chain::new(vec![Arc::new(tokens)])),
            dialer: None,
            tokens: None,
            metrics: None,
            extension: None,
        };
        let server = ApiServer::build(Config::default(), MemoryStore::new(), plugins);
        server.bootstrap().await.unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            server,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            certificate,
        }
    }

    /// A connection's far end, and when it ends.
    async fn connect(&self) -> (DuplexStream, JoinHandle<Instant>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let place = self.server.connections.admit(address).await.unwrap();
        let (server, acceptor) = (Arc::clone(&self.server), self.acceptor.clone());
        let served = tokio::spawn(async move {
            let served = connection(server, acceptor, far, (address, place), CancellationToken::new());
            // One that never ends is a fault that is told, and no test that waits for ever.
            drop(tokio::time::timeout(DAY, served).await);
            Instant::now()
        });
        (near, served)
    }

    async fn tls(&self, protocol: &[u8]) -> (TlsStream<DuplexStream>, JoinHandle<Instant>) {
        let (near, served) = self.connect().await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, near).await.unwrap();
        (stream, served)
    }
}

/// Each request's future is copied into a box and each connection's lies in memory as long as it lives: what only some need
/// goes into boxes of its own. Half of a hundredth of a GET's time are 4 kB.
#[tokio::test]
async fn futures_of_requests_and_connections_are_small() {
    let host = Host::new().await;
    let request = Request::get("/version").body(Full::<Bytes>::default()).unwrap();
    let size = size_of_val(&host.server.handle(request));
    assert!(size <= 2048, "of a request: {size} bytes");

    let (near, _far) = tokio::io::duplex(1024);
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let place = host.server.connections.admit(address).await.unwrap();
    let (server, acceptor) = (Arc::clone(&host.server), host.acceptor.clone());
    let connection = connection(server, acceptor, near, (address, place), CancellationToken::new());
    let size = size_of_val(&connection);
    assert!(size <= 1152, "of a connection: {size} bytes");
}

/// Whole seconds from one moment to another.
fn seconds(from: Instant, to: Instant) -> u64 {
    to.duration_since(from).as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_asks_is_not_waited_for() {
    let host = Host::new().await;
    let began = Instant::now();
    let (silent, ended) = host.connect().await;
    assert_eq!(seconds(began, ended.await.unwrap()), 10, "no handshake");
    drop(silent);

    let began = Instant::now();
    let (silent, ended) = host.tls(b"http/1.1").await;
    assert_eq!(seconds(began, ended.await.unwrap()), 32, "a handshake and nothing more");
    drop(silent);

    let began = Instant::now();
    let (mut dripping, ended) = host.tls(b"http/1.1").await;
    let drip = async {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        for byte in b"GET / HTTP/1.1\r\nhost: ".iter().chain(std::iter::repeat(&b'a')) {
            interval.tick().await;
            if dripping.write_all(&[*byte]).await.is_err() || dripping.flush().await.is_err() {
                break;
            }
        }
    };
    let (ended, ()) = tokio::join!(ended, drip);
    let taken = seconds(began, ended.unwrap());
    assert!((32..=35).contains(&taken), "a head letter by letter: {taken}");

    let began = Instant::now();
    let (mut silent, ended) = host.tls(b"h2").await;
    silent.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    silent.flush().await.unwrap();
    let taken = seconds(began, ended.await.unwrap());
    assert!((32..=35).contains(&taken), "half a preface: {taken}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_also_where_pings_are_answered() {
    let host = Host::new().await;
    let (stream, ended) = host.tls(b"h2").await;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let get = || {
        Request::get("https://localhost/version")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    for pause in [0, 80, 80] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        let answer = sender.send_request(get()).await.unwrap();
        assert!(answer.status().is_client_error() || answer.status().is_success());
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    }
    let idle = Instant::now();
    let taken = seconds(idle, ended.await.unwrap());
    assert!((90..=93).contains(&taken), "{taken}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_http1_connection_ends_and_a_watch_does_not() {
    let host = Host::new().await;
    let (mut stream, ended) = host.tls(b"http/1.1").await;
    let watch = "GET /api/v1/pods?watch=1&timeoutSeconds=1000 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ADMIN\r\n\r\n";
    let began = Instant::now();
    stream.write_all(watch.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let taken = seconds(began, ended.await.unwrap());
    assert!((1090..=1093).contains(&taken), "the watch's time and the idle limit: {taken}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_goes_on_after_rests_also_within_a_head() {
    let host = Host::new().await;
    let (mut stream, ended) = host.tls(b"http/1.1").await;
    let get = "GET /api/v1/namespaces/default HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ADMIN\r\n\r\n";
    for pause in [0, 1, 20, 60] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        stream.write_all(get.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let text = answer(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 200"), "after {pause} s: {text}");
    }
    for part in [&get[..10], &get[10..50], &get[50..]] {
        tokio::time::sleep(Duration::from_secs(20)).await;
        stream.write_all(part.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    let text = answer(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 200"), "in parts: {text}");
    // Two at once, behind a rest.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let last = get.replace("host: a", "host: a\r\nconnection: close");
    stream.write_all(format!("{get}{last}").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), 2, "{text}");
    ended.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_takes_is_given_up() {
    let host = Host::new().await;
    let row = trireme_resources::find("", "v1", "configmaps").unwrap();
    for number in 0..20 {
        let name = format!("m{number}");
        let map = serde_json::json!({"metadata": {"name": name}, "data": {"k": "v".repeat(100_000)}});
        host.server.ensure(row, "default", &name, map).await.unwrap();
    }
    let (mut stream, ended) = host.tls(b"http/1.1").await;
    let list = "GET /api/v1/configmaps HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ADMIN\r\n\r\n";
    let began = Instant::now();
    stream.write_all(list.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let taken = seconds(began, ended.await.unwrap());
    assert!((60..=63).contains(&taken), "{taken}");
}

/// Reads one answer's head; its body, which is short here, with it.
async fn answer(stream: &mut TlsStream<DuplexStream>) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        text.extend_from_slice(&buffer[..read]);
        let shown = String::from_utf8_lossy(&text).into_owned();
        let whole = shown.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0)
        });
        if whole || read == 0 {
            return shown;
        }
    }
}

#[tokio::test]
async fn a_refusal_before_the_body_leaves_a_connection_that_works_or_says_close() {
    let host = Host::new().await;
    for (token, status, reason, length, goes_on) in [
        ("WRONG", "HTTP/1.1 401", "Unauthorized", 200 * 1024, true),
        ("WRONG", "HTTP/1.1 401", "Unauthorized", 2 * 1024 * 1024, false),
        ("ALICE", "HTTP/1.1 403", "Forbidden", 200 * 1024, true),
        ("ALICE", "HTTP/1.1 403", "Forbidden", 2 * 1024 * 1024, false),
    ] {
        let (stream, ended) = host.tls(b"http/1.1").await;
        let (mut reading, mut writing) = tokio::io::split(stream);
        // As most clients do: the whole body is sent before anything is read.
        let head = format!(
            "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-length: \
             {length}\r\n\r\n"
        );
        writing.write_all(head.as_bytes()).await.unwrap();
        writing.write_all(&vec![b' '; length]).await.unwrap();
        writing.flush().await.unwrap();
        let mut text = String::new();
        if goes_on {
            let next = "GET /api/v1/namespaces/default HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ADMIN\r\nconnection: \
                        close\r\n\r\n";
            writing.write_all(next.as_bytes()).await.unwrap();
            writing.flush().await.unwrap();
        }
        reading.read_to_string(&mut text).await.unwrap();
        let first = text.split("\r\n\r\n").next().unwrap();
        assert!(first.starts_with(status), "{text}");
        assert_eq!(first.to_lowercase().contains("connection: close"), !goes_on, "{text}");
        assert_eq!(text.contains("HTTP/1.1 200"), goes_on, "{text}");
        assert!(text.contains(&format!("\"reason\":\"{reason}\"")), "{text}");
        ended.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_told_to_close() {
    let host = Host::new().await;
    let (mut stream, _ended) = host.tls(b"http/1.1").await;
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: a\r\nauthorization: Bearer WRONG\r\nexpect: \
                100-continue\r\ncontent-length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let text = answer(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 401"), "{text}");
    assert!(text.to_lowercase().contains("connection: close"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_being_closed_does_not_count_as_one_that_rests() {
    let host = Host::new().await;
    let (mut stream, ended) = host.tls(b"http/1.1").await;
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: a\r\nauthorization: Bearer WRONG\r\n\
                content-length: 2000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; 300 * 1024]).await.unwrap();
    stream.flush().await.unwrap();
    let text = answer(&mut stream).await;
    assert!(text.to_lowercase().contains("connection: close"), "{text}");
    let began = Instant::now();
    assert!(
        seconds(began, ended.await.unwrap()) <= 3,
        "it waited for more than what was still sent"
    );
}
