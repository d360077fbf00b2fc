//! The virtual address after its holder's death, asked from the machine, which is on the lab's switch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use http::{Method, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

use super::super::http::{Call, Connection};
use super::super::rest::Rest;
use super::super::statistics::{Summary, latency};
use super::super::target::{Endpoint, Target};
use super::Findings;
use super::cluster::{Cluster, STATUS, Status, eventually};
use super::handover::row;
use super::options::{Ha, Part};
use crate::project::say;

/// The virtual address is this one of the lab's network.
pub(super) const LAST_OCTET: u8 = 200;
/// Port of the API.
const PORT: u16 = 6443;
/// Time between two questions.
const ASK_GAP: Duration = Duration::from_millis(5);
/// Longest wait for one answer, connection included.
const ANSWER_LIMIT: Duration = Duration::from_millis(150);
/// Time between two questions who holds the address.
const HOLDER_GAP: Duration = Duration::from_millis(100);
/// Longest wait for the address to move.
const LIMIT: Duration = Duration::from_secs(30);

/// Kills the holder again and again.
pub(super) async fn run(options: &Ha, cluster: &Cluster, findings: &mut Findings) -> Result<()> {
    let endpoint = Arc::new(cluster.virtual_endpoint().await?);
    let mut moved = vec![];
    let rounds = rounds(options, cluster, &endpoint, &mut moved).await;
    findings
        .moves
        .extend(row("holder of the virtual address killed: it answers again", &moved));
    findings.keep(Part::Vip, json!(Summary::of(moved).map(|summary| summary.json())));
    rounds
}

async fn rounds(options: &Ha, cluster: &Cluster, endpoint: &Arc<Endpoint>, moved: &mut Vec<Duration>) -> Result<()> {
    let count = options.rounds(Part::Vip);
    for number in 1..=count {
        let leader = cluster.mend().await?;
        let holder = holder(cluster, endpoint).await?;
        let killed = cluster.kill(holder).await?;
        let round = answer(endpoint, killed).await;
        let took = round.with_context(|| format!("{number} of {count}"))?;
        moved.push(took);
        say(format!(
            "{number} of {count}, {}{}: {} ms",
            cluster.servers()[holder].name,
            if holder == leader { ", which led" } else { "" },
            latency(took)
        ));
    }
    Ok(())
}

/// Which server answers at the virtual address.
async fn holder(cluster: &Cluster, endpoint: &Arc<Endpoint>) -> Result<usize> {
    let rest = Rest {
        endpoint: endpoint.clone(),
    };
    eventually("an answer at the virtual address", LIMIT, HOLDER_GAP, async || {
        let asking = tokio::time::timeout(Duration::from_secs(1), rest.request(Method::GET, STATUS, None));
        let status: Status = serde_json::from_value(asking.await??)?;
        cluster.of_id(&status, status.id)
    })
    .await
}

/// Asks every few milliseconds, whether earlier questions are answered or not, until one is answered with ok.
async fn answer(endpoint: &Arc<Endpoint>, killed: Instant) -> Result<Duration> {
    let mut questions = JoinSet::new();
    let mut turns = tokio::time::interval(ASK_GAP);
    let mut last = anyhow!("it was never asked");
    loop {
        tokio::select! {
            _ = turns.tick() => {
                questions.spawn(ask(endpoint.clone()));
            }
            Some(answer) = questions.join_next() => match answer.context("a question panicked")? {
                Ok(at) => return Ok(at - killed),
                Err(error) => last = error,
            },
        }
        if killed.elapsed() > LIMIT {
            return Err(last.context(format!("no answer within {} s", LIMIT.as_secs())));
        }
    }
}

/// Asks once, on a connection of its own; when ok came.
async fn ask(endpoint: Arc<Endpoint>) -> Result<Instant> {
    let asking = async {
        let (status, _) = Connection::open(&endpoint).await?.exchange(Call::get("/readyz")).await?;
        ensure!(status == StatusCode::OK, "it is not ready: {status}");
        Ok(Instant::now())
    };
    tokio::time::timeout(ANSWER_LIMIT, asking).await.context("it is silent")?
}

impl Cluster {
    /// The cluster by its virtual address.
    async fn virtual_endpoint(&self) -> Result<Endpoint> {
        let [a, b, c, _] = self.servers()[0].address.octets();
        let url = format!("https://{a}.{b}.{c}.{LAST_OCTET}:{PORT}");
        Target::of_kubeconfig(self.servers()[0].kubeconfig.clone())
            .at(url)
            .resolve()
            .await
    }
}
