//! Many connections at once, to a server in a process of its own with little to spend: few descriptors, little memory.
//!
//! The process is this test's own binary; it ends with its standard input, or when its time is up: then its clients fail.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::resource::{Resource, setrlimit};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use trireme_apiserver::{Config, connection_limits};
use trireme_connections::{Shares, open_metrics, raise_limit};

use crate::common::{made, server};

/// Set for the process that serves.
const SERVES: &str = "TRIREME_TEST_SERVES";
const FILES: u64 = 256;
const ADDRESS_SPACE: u64 = 4 << 30;
const LIFE: Duration = Duration::from_secs(180);

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The server's process: tells its address and certificate, then its resident memory at each line that it is sent.
#[test]
#[ignore = "runs as a process of the other tests"]
fn serves() {
    if std::env::var_os(SERVES).is_none() {
        return;
    }
    std::thread::spawn(|| {
        std::thread::sleep(LIFE);
        std::process::exit(1);
    });
    setrlimit(Resource::RLIMIT_NOFILE, FILES / 2, FILES).unwrap();
    setrlimit(Resource::RLIMIT_AS, ADDRESS_SPACE, ADDRESS_SPACE).unwrap();
    assert_eq!(raise_limit().unwrap() as u64, FILES);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = Config {
            connections: connection_limits(Shares::of(FILES as usize)),
            ..Config::default()
        };
        let server = server(config, None).await;
        let ports = [Arc::clone(server.connections())];
        server.add_metrics(move || open_metrics(&ports));
        for number in 0..1000 {
            let map = json!({"metadata": {"name": format!("m{number:04}")}, "data": {"k": "v".repeat(3700)}});
            made(&server, "POST", "/api/v1/namespaces/default/configmaps", map).await;
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        println!("CERTIFICATE {}", STANDARD.encode(&certificate));
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("ADDRESS {}", listener.local_addr().unwrap());
        tokio::spawn(server.serve(listener, tls, CancellationToken::new()));
        let lines = tokio::task::spawn_blocking(|| {
            for line in std::io::stdin().lines() {
                drop(line);
                println!("RESIDENT {}", resident());
            }
        });
        lines.await.unwrap();
    });
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

struct Served {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    address: String,
    roots: Arc<rustls::RootCertStore>,
}

impl Served {
    fn start() -> Self {
        raise_limit().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "crowds::serves", "--nocapture"])
            .env(SERVES, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let certificate = STANDARD.decode(said(&mut output, "CERTIFICATE ")).unwrap();
        let address = said(&mut output, "ADDRESS ");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(certificate)).unwrap();
        Self {
            child,
            input,
            output,
            address,
            roots: Arc::new(roots),
        }
    }

    /// A connection after its handshake; an error where it was refused.
    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_as("http/1.1").await
    }

    async fn connect_as(&self, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(&self.address).await?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").unwrap(), stream)
            .await
    }

    /// A connection of HTTP/2, whose streams take in little that nobody reads.
    async fn streams(&self) -> SendRequest<Empty<Bytes>> {
        let stream = self.connect_as("h2").await.unwrap();
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(Some(65_535))
            // More than all of them together: else the one that is read gets what it gives back, some eighty bytes at a time.
            .initial_connection_window_size(Some(65_535 * (WATCHES as u32 + 2)))
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Resident memory once it grows no more.
    async fn settled(&mut self) -> u64 {
        let mut last = self.resident();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = self.resident();
            if now <= last + 64 * 1024 {
                return now.max(last);
            }
            last = now;
        }
    }

    /// What a request on a new connection is answered with.
    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = self.connect().await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ADMIN\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// A figure of the server's metrics.
    async fn figure(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name} in {text}"));
        line.trim().parse().unwrap()
    }

    fn resident(&mut self) -> u64 {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
        said(&mut self.output, "RESIDENT ").parse().unwrap()
    }
}

/// What the process says behind a word.
fn said(output: &mut BufReader<ChildStdout>, word: &str) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the server's process ended");
        if let Some((_, rest)) = line.split_once(word) {
            return rest.trim().to_owned();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_silent_connections_leave_the_api_to_others() {
    let server = Served::start();
    let mut silent = Vec::new();
    for _ in 0..600 {
        // Some are closed again to make way: that is the server's affair.
        if let Ok(stream) = server.connect().await {
            silent.push(stream);
        }
    }
    assert!(silent.len() > FILES as usize, "{} were open at some time", silent.len());
    for round in 0..20 {
        let text = server.get("/api/v1/namespaces/default").await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "round {round}: {text}");
    }
    let open = server.figure("trireme_connections_open{port=\"api\"} ").await;
    let shares = Shares::of(FILES as usize);
    assert!(open <= shares.api_per_source as u64, "{open}");
    let displaced = server
        .figure("trireme_connections_total{port=\"api\",outcome=\"displaced\"} ")
        .await;
    assert!(displaced >= 600 - shares.api_per_source as u64, "{displaced}");
}

/// Watches that nobody reads, and what each may cost: 200 of them 20 MiB.
const WATCHES: usize = 80;
const EACH_MAX: u64 = 20 * 1024 * 1024 / 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_nobody_reads_hold_nothing_of_their_own() {
    let mut server = Served::start();
    // What the first of anything costs is not what the next ones do.
    for _ in 0..3 {
        server.get("/api/v1/namespaces/default/configmaps").await.unwrap();
    }
    let mut watching = Vec::new();
    let mut before = 0;
    for number in 0..=WATCHES {
        if number == 1 {
            before = server.resident();
        }
        let mut stream = server.connect().await.unwrap();
        let request =
            "GET /api/v1/namespaces/default/configmaps?watch=1 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer ADMIN\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // The watch runs; what follows is not read.
        let mut first = [0; 16];
        stream.read_exact(&mut first).await.unwrap();
        watching.push(stream);
    }
    assert_eq!(server.figure("apiserver_longrunning_requests ").await, WATCHES as u64 + 1);
    // Each fills what it may, until that is all.
    let after = server.settled().await;
    let each = after.saturating_sub(before) / WATCHES as u64;
    assert!(each <= EACH_MAX, "{each} bytes a watch");
    // They are watches all the same: one that is read tells everything.
    let mut read = 0;
    let mut buffer = vec![0; 64 * 1024];
    while read < 3_700_000 {
        read += watching[1].read(&mut buffer).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_watches_that_nobody_reads_hold_nothing_of_their_own() {
    let mut server = Served::start();
    for _ in 0..3 {
        server.get("/api/v1/namespaces/default/configmaps").await.unwrap();
    }
    let mut sender = server.streams().await;
    let mut watching = Vec::new();
    let mut before = 0;
    for number in 0..=WATCHES {
        if number == 1 {
            before = server.settled().await;
        }
        let request = hyper::Request::get("https://localhost/api/v1/namespaces/default/configmaps?watch=1")
            .header("authorization", "Bearer ADMIN")
            .body(Empty::new())
            .unwrap();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        watching.push(answer.into_body());
    }
    let after = server.settled().await;
    let each = after.saturating_sub(before) / WATCHES as u64;
    assert!(each <= EACH_MAX, "{each} bytes a watch");
    // A stream that is read tells everything, though the others of its connection stand still.
    let mut read = 0;
    while read < 3_700_000 {
        let frame = watching[1].frame().await.unwrap().unwrap();
        read += frame.data_ref().map_or(0, Bytes::len);
    }
}
