//! Order across servers, without any fault: what one server acknowledged holds at the next one at once.

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::ground::Ground;
use crate::load::{Server, ask};

/// Namespaces made for each pair of servers.
const ROUNDS: usize = 10;

/// A namespace that one server made is there at the next one at once; in one that is going nothing is made, wherever it is tried.
pub(crate) fn namespaces(ground: &mut Ground) -> Result<()> {
    let servers = ground.servers()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for (first, one) in servers.iter().enumerate() {
            for (second, other) in servers.iter().enumerate().filter(|(second, _)| *second != first) {
                for round in 0..ROUNDS {
                    namespace(one, other, &format!("order-{first}-{second}-{round}"))
                        .await
                        .with_context(|| format!("from {} to {}", one.name, other.name))?;
                }
            }
        }
        Ok(())
    })
}

async fn namespace(one: &Server, other: &Server, name: &str) -> Result<()> {
    let object = |kind: &str, name: &str| Some(json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}));
    let all = format!("{}/api/v1/namespaces", one.url);
    let maps = format!("{}/api/v1/namespaces/{name}/configmaps", other.url);
    let (made, body) = ask(one, Method::POST, &all, object("Namespace", name)).await?;
    ensure!(made == StatusCode::CREATED, "a namespace is made: {body}");
    let (made, body) = ask(other, Method::POST, &maps, object("ConfigMap", "before")).await?;
    ensure!(made == StatusCode::CREATED, "it is there at the next server: {body}");
    let (deleted, body) = ask(one, Method::DELETE, &format!("{all}/{name}"), None).await?;
    ensure!(deleted == StatusCode::OK, "it is deleted: {body}");
    let (made, body) = ask(other, Method::POST, &maps, object("ConfigMap", "behind")).await?;
    // Terminating, or gone already.
    ensure!(
        matches!(made, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) && body["reason"] != Value::Null,
        "nothing is made in what is deleted: {made} {body}"
    );
    Ok(())
}
