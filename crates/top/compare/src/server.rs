//! One of the two servers.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use serde_json::Value;

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Who owns fields, on both sides.
const AGENT: &str = "compare/1";

/// A request, without the server's address.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    pub(crate) accept: &'static str,
    pub(crate) body: Option<Value>,
}

/// What a server said.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) warnings: Vec<String>,
    pub(crate) body: Value,
}

/// A server as its administrator reaches it.
#[derive(Clone)]
pub(crate) struct Server {
    url: String,
    token: String,
    client: reqwest::Client,
}

impl Server {
    pub(crate) fn new(url: &str, token: &str) -> Result<Self> {
        // Which of the two servers answers is known by its address: its certificate is no matter here.
        let client = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(true)
            .timeout(ANSWER_WITHIN)
            .build()?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
            client,
        })
    }

    pub(crate) async fn send(&self, request: &Request) -> Result<Answer> {
        let mut sent = self
            .client
            .request(request.method.clone(), format!("{}{}", self.url, request.path))
            .bearer_auth(&self.token)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, request.accept);
        if let Some(body) = &request.body {
            sent = sent
                .header(CONTENT_TYPE, request.content_type)
                .body(serde_json::to_vec(body)?);
        }
        let answer = sent
            .send()
            .await
            .with_context(|| format!("{} {} at {}", request.method, request.path, self.url))?;
        let code = answer.status().as_u16();
        let warnings = answer.headers().get_all("warning").iter();
        let mut warnings: Vec<String> = warnings
            .map(|warning| String::from_utf8_lossy(warning.as_bytes()).into_owned())
            .collect();
        warnings.sort();
        let bytes = answer.bytes().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Ok(Answer { code, warnings, body })
    }
}
