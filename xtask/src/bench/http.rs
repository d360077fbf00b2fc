//! One HTTP/1.1 connection that is kept alive. It sends one request at a time, follows no redirect and tries nothing again.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::target::Endpoint;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Most headers of an answer, and bytes of its head: warnings may be many.
const HEADERS_MAX: usize = 1024;
const HEAD_BYTES_MAX: usize = 1024 * 1024;
/// What is kept of an error's body.
const ERROR_BYTES_MAX: usize = 2048;
/// Who we say that we are; the part before the slash is the manager in managedFields.
const USER_AGENT: &str = "trireme-bench/1";

const JSON: &str = "application/json";

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Method.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// Body; empty without.
    pub(crate) body: Bytes,
    /// Media type of the body.
    pub(crate) content_type: &'static str,
}

impl Call {
    /// A GET.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: Bytes::new(),
            content_type: JSON,
        }
    }

    /// A request with a body of JSON.
    pub(crate) fn with(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            method,
            path: path.into(),
            body: body.into(),
            content_type: JSON,
        }
    }

    /// The same with a body of another media type.
    pub(crate) fn of_type(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }
}

/// An open connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    host: header::HeaderValue,
    authorization: Option<header::HeaderValue>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects, TLS included.
    ///
    /// # Errors
    /// When nobody answers, or the handshake fails.
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self> {
        let connecting = async {
            let stream = TcpStream::connect(endpoint.address).await.context("no connection")?;
            stream.set_nodelay(true)?;
            match &endpoint.tls {
                Some((connector, name)) => {
                    let stream = connector
                        .connect(name.clone(), stream)
                        .await
                        .context("the TLS handshake failed")?;
                    Self::over(endpoint, stream).await
                }
                None => Self::over(endpoint, stream).await,
            }
        };
        let outcome = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        outcome
            .with_context(|| format!("no connection within {} s", CONNECT_LIMIT.as_secs()))?
            .with_context(|| endpoint.url.clone())
    }

    async fn over(endpoint: &Endpoint, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self> {
        let mut client = http1::Builder::new();
        client.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
        let (sender, connection) = client.handshake(TokioIo::new(stream)).await?;
        // Its error reaches the request that it breaks.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            sender,
            driver,
            host: endpoint.host.clone(),
            authorization: endpoint.authorization.clone(),
        })
    }

    /// Sends a request and returns the head of the answer; the body follows.
    pub(crate) async fn send(&mut self, call: Call) -> Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if !call.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, call.content_type);
        }
        let request = request.body(Full::new(call.body)).context("this is no request")?;
        self.sender.ready().await.context("the server closed the connection")?;
        self.sender.send_request(request).await.context("the server gave no answer")
    }

    /// Sends a request, throws the answer's body away and returns how many bytes it had. An answer other than 2xx is an
    /// error that carries the beginning of the body.
    pub(crate) async fn measure(&mut self, call: Call) -> Result<u64> {
        let mut response = self.send(call).await?;
        if !response.status().is_success() {
            bail!(refusal(response).await);
        }
        let mut bytes = 0;
        while let Some(frame) = response.body_mut().frame().await {
            bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok(bytes)
    }

    /// Sends a request and returns status and body, whatever the status.
    pub(crate) async fn exchange(&mut self, call: Call) -> Result<(StatusCode, Bytes)> {
        let response = self.send(call).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

/// What an answer other than 2xx says, for people.
pub(crate) async fn refusal(mut response: Response<Incoming>) -> String {
    let mut text = BytesMut::new();
    while let Some(Ok(frame)) = response.body_mut().frame().await {
        text.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        if text.len() > ERROR_BYTES_MAX {
            break;
        }
    }
    explain(response.status(), &text)
}

/// A status in words: the message of a Kubernetes Status, or else the body's beginning.
pub(crate) fn explain(status: StatusCode, body: &[u8]) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = message
        .as_ref()
        .and_then(|status| status["message"].as_str())
        .map(str::to_owned);
    let shown = || {
        String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_MAX)])
            .trim()
            .to_owned()
    };
    format!("the server answered {status}: {}", message.unwrap_or_else(shown))
}
