//! Servers killed and stopped under writes: how long writes stand still, and whether any acknowledged one is lost.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::json;

use super::super::api::collection;
use super::super::rest::Rest;
use super::super::statistics::latency;
use super::Findings;
use super::cluster::Cluster;
use super::gaps::{Gap, Gaps, longest};
use super::options::{Ha, Part};
use super::writers::{Write, Writers, missing};
use crate::project::say;

/// What is written before anything is looked at.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longest wait for writes to go on after a fault.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// So many writes mean that they go on.
const RECOVERED: u64 = 30;
/// Longest wait for the removal of a round's objects.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// What one fault brought.
struct Round {
    victim: usize,
    /// The time before the fault.
    calm: Range<Instant>,
    /// The time from the fault on.
    fault: Range<Instant>,
    writes: Vec<Write>,
}

impl Round {
    /// Longest gap from the fault on, and before, as the clients of some servers saw it.
    fn gaps(&self, counts: impl Fn(usize) -> bool) -> [Gap; 2] {
        [&self.fault, &self.calm].map(|period| {
            let mine = self.writes.iter().filter(|write| counts(write.home));
            longest(mine.map(|write| write.at), period)
        })
    }
}

/// What all rounds of a fault brought.
#[derive(Default)]
struct Outcome {
    all: Gaps,
    others: Gaps,
    writes: usize,
    lost: usize,
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Leader => "leader killed",
        Part::Follower => "follower killed",
        _ => "leader stopped cleanly and started again",
    }
}

/// Measures one kind of fault.
pub(super) async fn run(part: Part, options: &Ha, cluster: &Cluster, findings: &mut Findings) -> Result<()> {
    let namespace = format!("bench-{}", part.key());
    namespace_of(cluster.rest(), &namespace).await?;
    let mut outcome = Outcome::default();
    let rounds = rounds(part, options, cluster, &namespace, &mut outcome).await;
    let kinds = [(&outcome.all, "all"), (&outcome.others, "of the other servers")];
    let rows = kinds.iter().filter_map(|(gaps, clients)| gaps.row(title(part), clients));
    findings.gaps.extend(rows);
    findings.keep(
        part,
        json!({
            "allClients": outcome.all.json(),
            "clientsOfOtherServers": outcome.others.json(),
            "acknowledged": outcome.writes,
            "lost": outcome.lost,
        }),
    );
    ensure!(
        outcome.lost == 0,
        "{} of {} acknowledged writes are lost",
        outcome.lost,
        outcome.writes
    );
    rounds
}

/// Makes a namespace.
pub(super) async fn namespace_of(rest: &Rest, name: &str) -> Result<()> {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    rest.request(Method::POST, "/api/v1/namespaces", Some(&body)).await.map(drop)
}

/// All rounds; what was found before one fails is kept.
async fn rounds(part: Part, options: &Ha, cluster: &Cluster, namespace: &str, outcome: &mut Outcome) -> Result<()> {
    let count = options.rounds(part);
    for number in 1..=count {
        let round = strike(part, options, cluster, namespace).await;
        let round = round.with_context(|| format!("{number} of {count}"))?;
        cluster.mend().await?;
        let ([all, usual], [others, usual_others]) = (round.gaps(|_| true), round.gaps(|home| home != round.victim));
        outcome.all.add(all, usual);
        outcome.others.add(others, usual_others);
        outcome.writes += round.writes.len();
        outcome.lost += lost(cluster, namespace, &round.writes).await?;
        clear(cluster.rest(), namespace).await?;
        say(format!(
            "{number} of {count}, {}: gap {} ms, {} ms after the fault; of others' clients {} ms; without fault {} ms",
            cluster.servers()[round.victim].name,
            latency(all.length),
            latency(all.after),
            latency(others.length),
            latency(usual.length)
        ));
    }
    Ok(())
}

/// One fault, under writes.
async fn strike(part: Part, options: &Ha, cluster: &Cluster, namespace: &str) -> Result<Round> {
    let leader = cluster.settled().await?;
    let victim = match part {
        Part::Follower => (leader + 1) % cluster.servers().len(),
        _ => leader,
    };
    let writers = Writers::start(options, cluster.endpoints(), namespace).await?;
    tokio::time::sleep(WARM_UP).await;
    let calm = Instant::now();
    tokio::time::sleep(options.window()).await;
    let struck = if part == Part::Stop {
        let now = Instant::now();
        cluster.restart(victim).await?;
        now
    } else {
        cluster.kill(victim).await?
    };
    tokio::time::sleep(options.window()).await;
    writers.progress(RECOVERED, RECOVERY_LIMIT).await?;
    let ended = Instant::now();
    Ok(Round {
        victim,
        calm: calm..struck,
        fault: struck..ended,
        writes: writers.finish().await?,
    })
}

/// How many acknowledged writes any server lacks.
pub(super) async fn lost(cluster: &Cluster, namespace: &str, writes: &[Write]) -> Result<usize> {
    let mut lost = 0;
    for server in cluster.servers() {
        let list = server.rest.request(Method::GET, &collection(namespace), None).await?;
        let items = list["items"].as_array().context("a list has items")?;
        let name = |item: &serde_json::Value| item["metadata"]["name"].as_str().map(str::to_owned);
        lost = lost.max(missing(writes, &items.iter().filter_map(name).collect::<BTreeSet<_>>()));
    }
    Ok(lost)
}

/// Removes a round's objects, so that they do not weigh on the next.
async fn clear(rest: &Rest, namespace: &str) -> Result<()> {
    let path = collection(namespace);
    rest.request(Method::DELETE, &path, None).await?;
    // The controllers put one of their own into every namespace.
    let empty =
        |list: Option<&serde_json::Value>| list.is_some_and(|list| list["items"].as_array().is_none_or(|all| all.len() <= 1));
    rest.wait(
        "the removal of a round's objects",
        &format!("{path}?limit=5"),
        REMOVAL_LIMIT,
        empty,
    )
    .await
}
