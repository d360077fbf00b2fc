//! A plain HTTP client of the API server, for what kubectl hides: status codes, raw bodies, kept connections, watches.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use reqwest::{Certificate, Client, Identity};
use serde_json::Value;

use crate::cluster::Cluster;

/// Where the API server is and who we are.
#[derive(Clone)]
pub(crate) struct Api {
    /// With the administrator's certificate.
    pub(crate) admin: Client,
    /// Without credentials.
    pub(crate) nobody: Client,
    /// The server's address, without a slash at the end.
    pub(crate) server: String,
}

/// One event of a watch.
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) object: Value,
}

impl Api {
    /// Reads the kubeconfig.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        Self::from_config(&cluster.run(&["config", "view", "--raw", "--flatten", "-o", "json"])?)
    }

    /// Reads a kubeconfig in JSON, with all certificates inside.
    pub(crate) fn from_config(config: &str) -> Result<Self> {
        // Someone else of this process may have installed it already, which serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        let config: Value = serde_json::from_str(config)?;
        let (cluster_entry, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let pem = |value: &Value| -> Result<Vec<u8>> {
            Ok(base64::engine::general_purpose::STANDARD.decode(value.as_str().context("the kubeconfig holds it")?)?)
        };
        let authority = Certificate::from_pem(&pem(&cluster_entry["certificate-authority-data"])?)?;
        let identity = [
            pem(&user["client-certificate-data"])?,
            b"\n".to_vec(),
            pem(&user["client-key-data"])?,
        ]
        .concat();
        let builder = || {
            Client::builder()
                .tls_certs_only([authority.clone()])
                .connect_timeout(Duration::from_secs(5))
        };
        Ok(Self {
            admin: builder().identity(Identity::from_pem(&identity)?).build()?,
            nobody: builder().build()?,
            server: cluster_entry["server"]
                .as_str()
                .context("the kubeconfig names the server")?
                .to_owned(),
        })
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }

    /// GETs JSON, which must succeed.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.admin.get(self.url(path)).send().await?;
        ensure!(answer.status().is_success(), "GET {path}: {}", answer.status());
        Ok(answer.json().await?)
    }

    /// Follows a watch until the connection ends; calls back for every event, which stops it by false. Returns whether it
    /// was stopped.
    pub(crate) async fn watch(&self, path: &str, mut each: impl FnMut(Event) -> Result<bool>) -> Result<bool> {
        let mut answer = self.admin.get(self.url(path)).send().await?;
        ensure!(answer.status().is_success(), "GET {path}: {}", answer.status());
        let mut buffer = Vec::new();
        // A connection that breaks is the end of this watch, not of the test.
        while let Ok(Some(chunk)) = answer.chunk().await {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let mut event: BTreeMap<String, Value> = serde_json::from_slice(&line)?;
                let kind = event
                    .remove("type")
                    .and_then(|kind| kind.as_str().map(str::to_owned))
                    .context("an event has a type")?;
                if !each(Event {
                    kind,
                    object: event.remove("object").context("an event has an object")?,
                })? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
