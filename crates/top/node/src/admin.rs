//! What the command line asks of a cluster as its administrator.
//!
//! Invariant: nothing here but requests to the API; a token's secret is returned once, when it is made.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use trireme_api::Status;
use trireme_client::HttpsTransport;

use crate::join::server::{MEMBERS_PATH, MemberChange, STATUS_PATH};
use crate::join::token::{GROUP_PREFIX, Role, Token};

/// Where tokens are kept.
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
/// What their Secrets are called, the id behind it.
const SECRET_PREFIX: &str = "bootstrap-token-";
/// Their type.
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

/// A connection as administrator.
pub struct Admin {
    transport: HttpsTransport,
    authority: CertificateDer<'static>,
}

fn failed(status: Status) -> anyhow::Error {
    if status.code == 0 {
        anyhow::anyhow!("no server answers: {}", status.message)
    } else {
        anyhow::anyhow!("{}", status.message)
    }
}

impl Admin {
    /// Connects as a kubeconfig says.
    ///
    /// # Errors
    /// When the file is missing or unusable.
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig).with_context(|| {
            format!(
                "reading {}: run this as root on a server, or name a kubeconfig with --kubeconfig",
                kubeconfig.display()
            )
        })?;
        let parsed: Value =
            serde_saphyr::from_str(&text).with_context(|| format!("{} is no kubeconfig", kubeconfig.display()))?;
        let pem = parsed["clusters"][0]["cluster"]["certificate-authority-data"]
            .as_str()
            .and_then(|data| STANDARD.decode(data).ok())
            .with_context(|| format!("{} holds no CA certificate", kubeconfig.display()))?;
        let authority = CertificateDer::from_pem_slice(&pem).context("the kubeconfig's CA certificate")?;
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider is installed already");
        }
        Ok(Self {
            transport: HttpsTransport::from_kubeconfig(kubeconfig).await?,
            authority,
        })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map_or_else(|| Ok(Vec::new()), serde_json::to_vec)?;
        let answer = self.transport.raw(method, path, Bytes::from(body)).await.map_err(failed)?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// What a path of the API holds, as JSON.
    ///
    /// # Errors
    /// When the API refuses, or has no such thing.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, None).await
    }

    /// The cluster's status, as JSON.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn status(&self) -> Result<Value> {
        self.ask(Method::GET, STATUS_PATH, None).await
    }

    /// Changes the members.
    ///
    /// # Errors
    /// When it is refused; the message says why.
    pub async fn change_members(&self, change: &MemberChange) -> Result<()> {
        self.ask(Method::POST, MEMBERS_PATH, Some(&serde_json::to_value(change)?))
            .await
            .map(drop)
    }

    /// Makes a token; zero is for ever.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn create_token(&self, role: Role, ttl: Duration) -> Result<Token> {
        let token = Token::random(role, &self.authority).context("the kubeconfig's CA certificate is none")?;
        let mut data = json!({
            "token-id": token.id,
            "token-secret": token.secret,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": role.group(),
            "description": format!("lets one join as {}", role.name()),
        });
        if !ttl.is_zero() {
            let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + ttl;
            let until = jiff::Timestamp::from_second(i64::try_from(until.as_secs())?)?;
            data["expiration"] = until.to_string().into();
        }
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
            "metadata": {"name": format!("{SECRET_PREFIX}{}", token.id), "namespace": "kube-system"},
            "stringData": data,
        });
        self.ask(Method::POST, SECRETS, Some(&secret)).await?;
        Ok(token)
    }

    /// All join tokens: id, role, expiry.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn tokens(&self) -> Result<Vec<Value>> {
        let path = format!("{SECRETS}?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken");
        let list = self.ask(Method::GET, &path, None).await?;
        let field = |secret: &Value, name: &str| {
            let bytes = STANDARD.decode(secret["data"][name].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let items = list["items"].as_array().into_iter().flatten();
        Ok(items
            .map(|secret| {
                let groups = field(secret, "auth-extra-groups").unwrap_or_default();
                let role = groups.split(',').find_map(|group| group.strip_prefix(GROUP_PREFIX));
                json!({"id": field(secret, "token-id"), "role": role, "expires": field(secret, "expiration")})
            })
            .collect())
    }

    /// Makes a token invalid.
    ///
    /// # Errors
    /// When there is no such token, or the API refuses.
    pub async fn revoke_token(&self, id: &str) -> Result<()> {
        let path = format!("{SECRETS}/{SECRET_PREFIX}{id}");
        self.ask(Method::DELETE, &path, None).await.map(drop)
    }
}
