//! What a measurement needs around itself: single requests, a namespace of its own, and its removal.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::http::{Call, Connection, explain};
use super::target::Endpoint;
use crate::project::say;

/// Longest wait for the removal of what a measurement made.
const CLEANUP_LIMIT: Duration = Duration::from_secs(180);
/// After this long without a namespace controller, we finalise our own empty namespace.
const FINALISE_AFTER: Duration = Duration::from_secs(15);
/// Longest wait for the answer to one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(90);

/// A server, for requests that are not measured. Each takes a connection of its own.
#[derive(Clone)]
pub(crate) struct Rest {
    /// The server.
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Rest {
    /// Sends a request and parses the answer, an error answer too.
    async fn exchange(&self, call: Call) -> Result<(StatusCode, Bytes)> {
        let what = format!("{} {}", call.method, call.path);
        let exchange = async { Connection::open(&self.endpoint).await?.exchange(call).await };
        let outcome = tokio::time::timeout(REQUEST_LIMIT, exchange).await;
        outcome
            .with_context(|| format!("no answer within {} s", REQUEST_LIMIT.as_secs()))
            .flatten()
            .context(what)
    }

    /// Sends a request; an answer other than 2xx is an error.
    pub(crate) async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map_or_else(String::new, Value::to_string);
        let (status, answer) = self.exchange(Call::with(method.clone(), path, body)).await?;
        if !status.is_success() {
            bail!("{method} {path}: {}", explain(status, &answer));
        }
        serde_json::from_slice(&answer).with_context(|| format!("{method} {path}: the answer is no JSON"))
    }

    /// Fails unless a path answers with 2xx, whatever else.
    pub(crate) async fn answers(&self, path: &str) -> Result<()> {
        let (status, body) = self.exchange(Call::get(path)).await?;
        if !status.is_success() {
            bail!("GET {path}: {}", explain(status, &body));
        }
        Ok(())
    }

    /// Reads an object; none where the server says 404.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>> {
        let (status, answer) = self.exchange(Call::get(path)).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(serde_json::from_slice(&answer)?)),
            status => bail!("GET {path}: {}", explain(status, &answer)),
        }
    }

    /// Reads an object until it holds, or fails at the limit with what it was waited for.
    pub(crate) async fn wait(
        &self,
        what: &str,
        path: &str,
        limit: Duration,
        holds: impl Fn(Option<&Value>) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !holds(self.find(path).await?.as_ref()) {
            if Instant::now() > deadline {
                bail!("{what} did not come about within {} s", limit.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Version and platform of the server.
    pub(crate) async fn version(&self) -> Result<String> {
        let version = self.request(Method::GET, "/version", None).await?;
        Ok(format!(
            "{} {}",
            version["gitVersion"].as_str().unwrap_or("unknown"),
            version["platform"].as_str().unwrap_or("")
        ))
    }
}

/// A namespace name that nobody else has.
pub(crate) fn unique_namespace(purpose: &str) -> String {
    let seconds = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    format!("trireme-bench-{purpose}-{:x}-{:x}", seconds & 0xff_ffff, std::process::id())
}

/// Makes namespaces, does the work in them and removes them with all `resources` in them, whatever came of the work, also
/// when it is interrupted.
///
/// # Errors
/// The work's; or that of the removal where the work did well.
pub(crate) async fn within<T>(
    rest: &Rest,
    namespaces: &[&str],
    resource: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let working = async {
        for name in namespaces {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            rest.request(Method::POST, "/api/v1/namespaces", Some(&body)).await?;
        }
        work.await
    };
    let outcome = tokio::select! {
        outcome = working => outcome,
        interrupt = interrupted() => Err(interrupt),
    };
    say("removing what was made");
    let removal = async {
        for name in namespaces {
            remove(rest, name, resource)
                .await
                .with_context(|| format!("namespace {name} is left over"))?;
        }
        Ok(())
    };
    let limited = tokio::time::timeout(CLEANUP_LIMIT, removal).await;
    let removed = limited.unwrap_or_else(|_| Err(anyhow!("{} are left over", namespaces.join(", "))));
    match (outcome, removed) {
        (outcome, Ok(())) => outcome,
        (Ok(_), Err(error)) => Err(error),
        (Err(cause), Err(error)) => Err(anyhow!("{cause:#}; and the removal failed: {error:#}")),
    }
}

/// Waits for the user to give up, by SIGINT or SIGTERM.
pub(crate) async fn interrupted() -> anyhow::Error {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return anyhow!("signals cannot be handled");
    };
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => match outcome {
            Ok(()) => anyhow!("interrupted"),
            Err(error) => anyhow!("signals cannot be handled: {error}"),
        },
        _ = terminate.recv() => anyhow!("terminated"),
    }
}

/// Removes a namespace and the objects in it. Where no controller does, it finalises the namespace itself, as it is ours.
async fn remove(rest: &Rest, name: &str, resource: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{name}");
    if rest.find(&path).await?.is_none() {
        return Ok(());
    }
    let objects = format!("{path}/{resource}");
    loop {
        // A server may reach its own limit in a large collection, so this goes on until nothing is left.
        let attempt = rest.request(Method::DELETE, &objects, None).await;
        let left = rest.request(Method::GET, &format!("{objects}?limit=5"), None).await?;
        match left["items"].as_array() {
            // The controllers put a ConfigMap of their own into every namespace.
            Some(items) if items.iter().all(|item| item["metadata"]["name"] == "kube-root-ca.crt") => break,
            _ => tokio::time::sleep(Duration::from_millis(500)).await,
        }
        if let Err(error) = attempt {
            say(format!("still removing: {error:#}"));
        }
    }
    rest.request(Method::DELETE, &path, None).await?;
    let begun = Instant::now();
    while let Some(mut namespace) = rest.find(&path).await? {
        if begun.elapsed() > FINALISE_AFTER && namespace["metadata"]["deletionTimestamp"].is_string() {
            namespace["spec"]["finalizers"] = json!([]);
            rest.request(Method::PUT, &format!("{path}/finalize"), Some(&namespace))
                .await?;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
