//! A fourth server that joins a cluster with much state, under writes.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};

use super::super::api::{collection, config_map, item};
use super::super::http::Call;
use super::super::load::{Load, Until, run as run_load};
use super::super::process::Processes;
use super::super::report::Sheet;
use super::super::statistics::{Summary, figure, latency};
use super::Findings;
use super::cluster::{Cluster, Server, eventually};
use super::faults::{lost, namespace_of};
use super::options::{Ha, Part};
use super::writers::{Write, Writers};
use crate::project::say;

/// Bytes of each object of the state.
const OBJECT_BYTES: usize = 256 << 10;
/// Connections that make the state.
const FILLERS: usize = 6;
/// Longest wait for the new server.
const JOIN_LIMIT: Duration = Duration::from_secs(600);
/// What is written before anything is looked at.
const WARM_UP: Duration = Duration::from_secs(1);
/// Namespace of the state.
const STATE: &str = "bench-state";
/// Namespace of the writers.
const WRITES: &str = "bench-join";
/// How often is looked whether the new server is there.
const LOOK_GAP: Duration = Duration::from_millis(50);

/// How writes went during a time.
struct Pace {
    name: &'static str,
    elapsed: Duration,
    latency: Summary,
}

impl Pace {
    fn of(name: &'static str, writes: &[Write], period: &Range<Instant>) -> Result<Self> {
        let within = writes.iter().filter(|write| period.contains(&write.at));
        let latency = Summary::of(within.map(|write| write.took).collect());
        Ok(Self {
            name,
            elapsed: period.end - period.start,
            latency: latency.with_context(|| format!("{name}: no write was acknowledged"))?,
        })
    }

    fn rate(&self) -> f64 {
        self.latency.count as f64 / self.elapsed.as_secs_f64()
    }

    fn row(&self) -> Vec<String> {
        let figures = [self.latency.p50, self.latency.p99, self.latency.max].map(latency);
        [
            vec![self.name.into(), figure(self.elapsed.as_secs_f64()), figure(self.rate())],
            figures.to_vec(),
        ]
        .concat()
    }

    fn json(&self) -> Value {
        json!({"seconds": self.elapsed.as_secs_f64(), "perSecond": self.rate(), "latency": self.latency.json()})
    }
}

/// Makes the state, and has a server join while writers write.
pub(super) async fn run(options: &Ha, cluster: &Cluster, findings: &mut Findings) -> Result<()> {
    for namespace in [STATE, WRITES] {
        namespace_of(cluster.rest(), namespace).await?;
    }
    let state_bytes = fill(options, cluster).await?;
    cluster.settled().await?;
    let writers = Writers::start(options, cluster.endpoints(), WRITES).await?;
    tokio::time::sleep(WARM_UP).await;
    let calm = Instant::now();
    tokio::time::sleep(options.duration()).await;
    let begun = Instant::now();
    let joining = async {
        let server = cluster.add_server().await?;
        there(cluster, &server).await.context("the new server")
    };
    tokio::time::timeout(JOIN_LIMIT, joining)
        .await
        .with_context(|| format!("a fourth server does not join within {} s", JOIN_LIMIT.as_secs()))??;
    let joined = Instant::now();
    say(format!("joined after {} s", figure((joined - begun).as_secs_f64())));
    let writes = writers.finish().await?;
    let lost = lost(cluster, WRITES, &writes).await?;
    let paces = [
        Pace::of("before", &writes, &(calm..begun))?,
        Pace::of("during the join", &writes, &(begun..joined))?,
    ];
    let mebibytes = state_bytes >> 20;
    findings.sheets.push(Sheet {
        caption: format!(
            "A fourth server joins with {mebibytes} MiB of state: {} s from the command to a vote and ready; creates meanwhile, ms.",
            figure((joined - begun).as_secs_f64())
        ),
        header: vec!["when", "seconds", "creates per second", "p50", "p99", "max"],
        rows: paces.iter().map(Pace::row).collect(),
    });
    findings.keep(
        Part::Join,
        json!({
            "stateMiB": mebibytes,
            "seconds": (joined - begun).as_secs_f64(),
            "before": paces[0].json(),
            "during": paces[1].json(),
            "rateOfBefore": paces[1].rate() / paces[0].rate(),
            "lost": lost,
        }),
    );
    ensure!(lost == 0, "{lost} of {} acknowledged writes are lost", writes.len());
    Ok(())
}

/// Makes the state through all servers; its size in bytes.
async fn fill(options: &Ha, cluster: &Cluster) -> Result<u64> {
    let count = (options.state_mb << 20).div_ceil(OBJECT_BYTES as u64);
    let payload = noise(OBJECT_BYTES);
    let create = move |number, _| {
        // No two objects are the same, and each is as hard to compress as the first.
        let (head, tail) = payload.split_at(usize::try_from(number).unwrap_or(0) % OBJECT_BYTES);
        Call::with(
            Method::POST,
            collection(STATE),
            config_map(&item(number), &format!("{tail}{head}")),
        )
    };
    let load = Load {
        name: "create the state",
        connections: FILLERS,
        until: Until::Count(count),
    };
    let phase = run_load(&cluster.endpoints(), &Processes::default(), load, create).await?;
    Ok(phase.operations * OBJECT_BYTES as u64)
}

/// Text of no pattern.
fn noise(bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut letter = || {
        // xorshift64
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        char::from(LETTERS[(dice >> 58) as usize])
    };
    (0..bytes).map(|_| letter()).collect()
}

/// Waits until a server has its vote and is ready.
async fn there(cluster: &Cluster, server: &Server) -> Result<()> {
    eventually("a vote", JOIN_LIMIT, LOOK_GAP, async || {
        let status = cluster.servers()[0].status().await?;
        ensure!(status.votes(&server.name), "{} has no vote", server.name);
        server.ready().await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paces_count_what_is_in_their_time() {
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let write = |milliseconds| Write {
            home: 0,
            at: at(milliseconds),
            took: Duration::from_millis(2),
            name: String::new(),
        };
        let writes = [write(100), write(500), write(1500)];
        let pace = Pace::of("before", &writes, &(at(0)..at(1000))).expect("there are writes");
        assert_eq!(pace.row(), ["before", "1.00", "2.00", "2.00", "2.00", "2.00"]);
        assert!(Pace::of("later", &writes, &(at(2000)..at(3000))).is_err());
    }

    #[test]
    fn noise_is_text_of_many_letters() {
        let text = noise(1000);
        let letters: std::collections::BTreeSet<char> = text.chars().collect();
        assert!(text.len() == 1000 && letters.len() > 50);
    }
}
