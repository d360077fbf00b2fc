//! `bench ha`: what faults, hand-overs, replication and growth cost a cluster of three servers.
//!
//! Invariant: the labs are this measurement's own. It makes them, and removes them also when it fails or is interrupted.

mod cluster;
mod create;
mod faults;
mod gaps;
mod handover;
mod idle;
mod join;
mod options;
mod vip;
mod writers;

use anyhow::{Result, anyhow, ensure};
use serde_json::{Map, Value};

pub(super) use options::Ha;

use self::cluster::Cluster;
use self::options::Part;
use super::lab::Lab;
use super::report::{Facts, Report, Sheet};
use super::rest::interrupted;
use crate::project::say;
use crate::up;

/// Lab of the cluster.
const LAB: &str = "bench-ha";
/// Lab of the one server that it is compared with.
const LAB_ONE: &str = "bench-ha-one";
/// Servers of the cluster.
const SERVERS: usize = 3;

/// What the parts found.
#[derive(Default)]
struct Findings {
    /// Rows about gaps of writes.
    gaps: Vec<Vec<String>>,
    /// Rows about times from a fault to its end.
    moves: Vec<Vec<String>>,
    sheets: Vec<Sheet>,
    results: Map<String, Value>,
    failures: Vec<String>,
}

impl Findings {
    /// Keeps the figures of a part for programs.
    fn keep(&mut self, part: Part, figures: Value) {
        self.results.insert(part.key().into(), figures);
    }

    /// Notes that something could not be measured.
    fn fail(&mut self, part: Part, error: &anyhow::Error) {
        say(format!("FAILED: {}: {error:#}", part.key()));
        self.failures.push(format!("{}: {error:#}", part.key()));
    }

    fn report(self, facts: Facts) -> Report {
        let mut sheets = Vec::new();
        if !self.gaps.is_empty() {
            sheets.push(Sheet {
                caption: "Longest time without an acknowledged create, from the fault until writes go on; beside it that in a \
                          time without fault just before; milliseconds."
                    .into(),
                header: gaps::HEADER.to_vec(),
                rows: self.gaps,
            });
        }
        if !self.moves.is_empty() {
            sheets.push(Sheet {
                caption: "From SIGKILL; milliseconds.".into(),
                header: vec!["until", "times", "p50", "p90", "p99", "max"],
                rows: self.moves,
            });
        }
        sheets.extend(self.sheets);
        Report {
            name: "ha",
            facts,
            sheets,
            results: Value::Object(self.results),
            failures: self.failures,
        }
    }
}

/// Makes a cluster, measures and removes it.
///
/// # Errors
/// When the cluster does not get ready, or the measurement is interrupted.
pub(super) async fn run(options: &Ha) -> Result<Report> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "run as root: the lab's hosts are namespaces and cgroups"
    );
    let binary = match &options.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => {
            let release = up::binary();
            if !release.exists() {
                up::build()?;
            }
            release
        }
    };
    let labs = [Lab::named(LAB, binary.clone())?, Lab::named(LAB_ONE, binary)?];
    let outcome = tokio::select! {
        outcome = measure(options, &labs) => outcome,
        interrupt = interrupted() => Err(interrupt),
    };
    say("removing the labs");
    let mut removed = Ok(());
    for lab in &labs {
        removed = removed.and(cluster::down(lab).await);
    }
    match (outcome, removed) {
        (outcome, Ok(())) => outcome,
        (Ok(_), Err(error)) => Err(error),
        (Err(cause), Err(error)) => Err(anyhow!("{cause:#}; and the removal failed: {error:#}")),
    }
}

async fn measure(options: &Ha, [lab, lab_one]: &[Lab; 2]) -> Result<Report> {
    say("starting three servers");
    let cluster = Cluster::up(lab, SERVERS, options).await?;
    let facts = vec![
        ("server".into(), cluster.version().await?),
        ("binary".into(), lab.binary().display().to_string()),
        ("servers' arguments".into(), options.server_arguments().join(" ")),
        (
            "load".into(),
            format!(
                "{} creates/s by {} clients in all, spread over all servers; each goes to the next server when its own is gone",
                options.rate, options.clients
            ),
        ),
    ];
    let mut findings = Findings::default();
    for part in options.parts() {
        // What an earlier part left behind does not touch this one.
        if let Err(error) = cluster.mend().await {
            findings.fail(part, &error);
            break;
        }
        say(format!("measuring: {}", part.key()));
        let outcome = match part {
            Part::Idle => idle::run(options, &cluster, &mut findings).await,
            Part::Create => create::run(options, &cluster, lab_one, &mut findings).await,
            Part::Leader | Part::Follower | Part::Stop => faults::run(part, options, &cluster, &mut findings).await,
            Part::Controllers => handover::run(options, &cluster, &mut findings).await,
            Part::Vip => vip::run(options, &cluster, &mut findings).await,
            Part::Join => join::run(options, &cluster, &mut findings).await,
        };
        if let Err(error) = outcome {
            findings.fail(part, &error);
        }
    }
    Ok(findings.report(facts))
}
