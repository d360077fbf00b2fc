//! A plain HTTP GET for probes and hooks: one connection, no certificate checks, redirects within the host followed.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::rustls;
use trait_alias::Stream;

use crate::lifecycle;

/// Longest answer that is read, bytes.
const BODY_MAX: usize = 10 * 1024;
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;

mod trait_alias {
    //! What a connection is, with TLS or without.
    pub(super) trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
    impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}
}

/// What to ask.
#[derive(Clone)]
pub(crate) struct Request {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
    agent: String,
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    location: Option<String>,
}

impl Request {
    pub(crate) fn of(get: &HTTPGetAction, container: &Container, ip: &str, purpose: &str) -> Result<Self, String> {
        let path = get.path.as_deref().unwrap_or_default();
        Ok(Self {
            tls: get
                .scheme
                .as_deref()
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: get
                .host
                .clone()
                .filter(|host| !host.is_empty())
                .unwrap_or_else(|| ip.to_owned()),
            port: lifecycle::port(&get.port, container)?,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
            headers: get
                .http_headers
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
            agent: format!("kube-{purpose}/1.36"),
        })
    }

    fn url(&self) -> String {
        format!(
            "{}://{}{}",
            if self.tls { "https" } else { "http" },
            self.authority(),
            self.path
        )
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Asks, following redirects that stay on the host.
pub(crate) async fn get(request: &Request, timeout: Duration) -> Result<Answer, String> {
    let late = || {
        format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            request.url()
        )
    };
    tokio::time::timeout(timeout, follow(request.clone()))
        .await
        .map_err(|_| late())?
}

async fn follow(mut request: Request) -> Result<Answer, String> {
    for _ in 0..REDIRECTS_MAX {
        let answer = once(&request)
            .await
            .map_err(|error| format!("Get \"{}\": {error}", request.url()))?;
        let Some(next) = answer.location.as_deref().filter(|_| (300..400).contains(&answer.status)) else {
            return Ok(answer);
        };
        let Ok(uri) = next.parse::<hyper::Uri>() else {
            return Ok(answer);
        };
        if uri.host().is_some_and(|host| host.trim_matches(['[', ']']) != request.host) {
            return Ok(answer);
        }
        if let Some(scheme) = uri.scheme_str() {
            request.tls = scheme == "https";
            request.port = uri.port_u16().unwrap_or(if request.tls { 443 } else { 80 });
        }
        request.path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    }
    Err(format!("Get \"{}\": stopped after {REDIRECTS_MAX} redirects", request.url()))
}

async fn once(request: &Request) -> Result<Answer, String> {
    let tcp = dial(&request.host, request.port).await?;
    let stream: Box<dyn Stream> = if request.tls {
        let name = ServerName::try_from(request.host.clone()).map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting()?));
        Box::new(connector.connect(name, tcp).await.map_err(|error| error.to_string())?)
    } else {
        Box::new(tcp)
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut built = hyper::Request::get(&request.path);
    let has = |name: &str| request.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    if !has("host") {
        built = built.header("Host", request.authority());
    }
    if !has("user-agent") {
        built = built.header("User-Agent", &request.agent);
    }
    if !has("accept") {
        built = built.header("Accept", "*/*");
    }
    for (name, value) in &request.headers {
        built = built.header(name, value);
    }
    let built = built
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(built).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let location = response
            .headers()
            .get("location")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        // A longer answer is a good one all the same.
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body
            .map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned())
            .unwrap_or_default();
        Ok(Answer { status, body, location })
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => match ended {
            // What was answered before the connection ended is still to be taken.
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Opens a connection within a time.
pub(crate) async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let late = || {
        format!(
            "dial tcp {}: i/o timeout",
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        )
    };
    tokio::time::timeout(timeout, dial(host, port)).await.map_err(|_| late())?
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => format!("dial tcp {host}:{port}: connect: connection refused"),
        _ => format!("dial tcp {host}:{port}: {error}"),
    })
}

fn trusting() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(TrustAll(Arc::clone(&provider)));
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// A probe asks whether a container answers, not who it is: upstream checks no certificate either.
#[derive(Debug)]
struct TrustAll(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers each connection with the next of the texts; the requests that came.
    async fn server(answers: &[&'static str]) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = answers.to_vec();
        let task = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let count = stream.read(&mut buffer).await.unwrap();
                requests.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        });
        (port, task)
    }

    fn request(port: u16, more: serde_json::Value) -> Request {
        let mut get = serde_json::json!({"port": "web", "path": "/x"});
        get.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let container = serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]});
        let container: Container = serde_json::from_value(container).unwrap();
        Request::of(&serde_json::from_value(get).unwrap(), &container, "127.0.0.1", "probe").unwrap()
    }

    #[tokio::test]
    async fn follows_redirects_on_the_host_and_sends_headers() {
        let answers = [
            "HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ];
        let (port, served) = server(&answers).await;
        let request = request(port, serde_json::json!({"httpHeaders": [{"name": "X-A", "value": "b"}]}));
        let answer = get(&request, Duration::from_secs(5)).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        let requests = served.await.unwrap();
        assert!(requests[0].starts_with("GET /x HTTP/1.1"), "{requests:?}");
        assert!(requests[1].starts_with("GET /y HTTP/1.1"), "{requests:?}");
        let first = requests[0].to_lowercase();
        assert!(
            first.contains("x-a: b") && first.contains("user-agent: kube-probe/1.36"),
            "{first}"
        );
    }

    #[tokio::test]
    async fn other_hosts_and_closed_ports() {
        let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n";
        let (port, _served) = server(&[elsewhere]).await;
        let answer = get(&request(port, serde_json::json!({})), Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(answer.status, 302);
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let why = get(&request(free, serde_json::json!({})), Duration::from_secs(5))
            .await
            .err()
            .unwrap();
        let expected = format!("Get \"http://127.0.0.1:{free}/x\": dial tcp 127.0.0.1:{free}: connect: connection refused");
        assert_eq!(why, expected);
    }
}
