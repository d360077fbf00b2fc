//! Sends equal requests, made by chance from a seed, to Trireme and to a stock API server, and prints in which ways the
//! answers differ, each with a small example.
//!
//! Invariant: the same seed makes the same cases; a run ends by its number of cases or its time. It is a tool for finding:
//! what it finds becomes a test of its own, and it never runs in CI. Both servers run without controllers, since these act at
//! times of their own.

mod case;
mod chance;
mod difference;
mod edits;
mod examples;
mod report;
mod server;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::case::{Case, Finding, Step};

use crate::report::Kind;
use crate::server::{Request, Server};

/// Most attempts to make one case smaller.
const SHRINKING_MAX: usize = 60;
/// How often the case of a difference is run alone until it is taken for a passing one.
const REPEATS: usize = 3;
/// Exit code where there are differences.
const DIFFERENT: u8 = 1;
/// Exit code where it could not be found out.
const FAILED: u8 = 2;

/// Compares Trireme with a stock API server
#[derive(Parser)]
struct Options {
    /// URL of the stock server
    #[arg(long)]
    with: String,
    /// Bearer token of an administrator there
    #[arg(long, default_value = "ADMIN")]
    with_token: String,
    /// URL of the Trireme server, started with --disable controllers,scheduler,node,proxy,dns and --anonymous-auth
    #[arg(long, default_value = "https://127.0.0.1:6443")]
    trireme: String,
    /// Bearer token of an administrator there
    #[arg(long, default_value = "ADMIN")]
    trireme_token: String,
    /// How many cases
    #[arg(long, default_value_t = 1000)]
    cases: u64,
    /// Which ones
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Kinds or plural names, comma separated [default: all]
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Longest run, in seconds
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// How many cases at once
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Most kinds of difference whose cases are made smaller
    #[arg(long, default_value_t = 200)]
    shrink: usize,
    /// Agreed differences
    #[arg(long, default_value = "docs/DEVIATIONS.md")]
    deviations: PathBuf,
    /// Output form
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// One JSON document.
    Json,
}

fn main() -> ExitCode {
    let options = Options::parse();
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime
        .context("starting")
        .and_then(|runtime| runtime.block_on(run(&options)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DIFFERENT),
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Both servers and the namespace that the run has on each.
struct Ground {
    stock: Server,
    trireme: Server,
    namespace: String,
}

/// Whether there is no difference but agreed ones.
async fn run(options: &Options) -> Result<bool> {
    let agreed = report::deviations(&options.deviations)?;
    let examples = examples::all(&options.kinds)?;
    // A namespace cannot be used again, and nobody ends it here.
    let moment = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let ground = Ground {
        stock: Server::new(&options.with, &options.with_token)?,
        trireme: Server::new(&options.trireme, &options.trireme_token)?,
        namespace: format!("compare-{moment}"),
    };
    ground.prepare().await?;
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let numbers = (options.from..options.from + options.cases).take_while(|_| Instant::now() < deadline);
    let mut outcomes = futures::stream::iter(numbers)
        .map(|number| {
            let case = Case::random(options.seed, number, &examples);
            let ground = &ground;
            async move {
                let findings = ground.run(&case, &format!("c{number}")).await;
                (case, findings)
            }
        })
        .buffered(options.jobs.max(1));
    let mut kinds: BTreeMap<String, (Case, Kind)> = BTreeMap::new();
    let (mut done, mut unanswered) = (0, 0);
    while let Some((case, findings)) = outcomes.next().await {
        done += 1;
        let findings = findings.with_context(|| format!("case {}", case.number))?;
        unanswered += u64::from(findings.is_none());
        for finding in findings.into_iter().flatten() {
            let reason = agreed
                .iter()
                .find_map(|deviation| deviation.covers(&finding))
                .map(str::to_owned);
            let (_, kind) = kinds.entry(finding.key()).or_insert_with(|| {
                let kind = Kind {
                    finding,
                    count: 0,
                    case: case.number,
                    steps: case.steps.clone(),
                    reason,
                    passing: false,
                };
                (case.clone(), kind)
            });
            kind.count += 1;
        }
        if done % 500 == 0 {
            eprintln!("{done} cases, {} kinds of difference", kinds.len());
        }
    }
    drop(outcomes);
    if unanswered > 0 {
        eprintln!("{unanswered} cases that the stock server broke off");
    }
    let mut kinds: Vec<(String, (Case, Kind))> = kinds.into_iter().collect();
    // The frequent ones first, should there be no time for all.
    kinds.sort_by_key(|(_, (_, kind))| std::cmp::Reverse(kind.count));
    let (mut found, mut left) = (Vec::new(), options.shrink);
    for (key, (case, mut kind)) in kinds {
        if kind.reason.is_none() && left > 0 && Instant::now() < deadline {
            left -= 1;
            ground.shrink(&case, &key, &mut kind).await?;
        }
        found.push(kind);
    }
    found.sort_by_key(|kind| (kind.finding.kind.clone(), std::cmp::Reverse(kind.count)));
    match options.output {
        Some(Output::Json) => println!(
            "{}",
            serde_json::to_string_pretty(
                &json!({"seed": options.seed, "cases": done, "unanswered": unanswered, "kinds": found})
            )?
        ),
        None => report::print(&found, options.seed, done),
    }
    Ok(!found.iter().any(Kind::is_open))
}

impl Ground {
    async fn run(&self, case: &Case<'_>, name: &str) -> Result<Option<Vec<Finding>>> {
        case.run((&self.stock, &self.trireme), &self.namespace, name).await
    }

    /// Makes what cases need on both servers: a namespace with its account, which a controller would make.
    async fn prepare(&self) -> Result<()> {
        let namespaces = [self.namespace.clone(), format!("{}{}", self.namespace, examples::RULES)];
        for (server, namespace) in [&self.stock, &self.trireme]
            .into_iter()
            .flat_map(|server| namespaces.iter().map(move |namespace| (server, namespace)))
        {
            for (path, body) in [
                (
                    "/api/v1/namespaces".to_owned(),
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
                ),
                (
                    format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
                    // Some builds of the stock server give pods more with a token than upstream's, which moves what a difference
                    // of two pods shows.
                    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
                        "automountServiceAccountToken": false}),
                ),
            ] {
                let answer = server.send(&post(&path, body)).await?;
                ensure!(answer.code == 201, "POST {path}: {} {}", answer.code, answer.body);
            }
        }
        Ok(())
    }

    /// Leaves out of a case what its finding does not need. One that does not come again when its case is run alone was of the
    /// moment: caches of the stock server that were behind, cases that met.
    async fn shrink(&self, case: &Case<'_>, key: &str, kind: &mut Kind) -> Result<()> {
        kind.passing = true;
        for repeat in 0..REPEATS {
            let found = self.run(case, &format!("c{}-again{repeat}", case.number)).await?;
            if found.into_iter().flatten().any(|finding| finding.key() == key) {
                kind.passing = false;
                break;
            }
        }
        if kind.passing {
            return Ok(());
        }
        let mut smallest = case.clone();
        let mut attempts = 0;
        loop {
            let mut smaller = false;
            for candidate in candidates(&smallest.steps) {
                attempts += 1;
                if attempts > SHRINKING_MAX {
                    return Ok(());
                }
                let trial = Case {
                    steps: candidate,
                    ..smallest.clone()
                };
                let found = self.run(&trial, &format!("c{}-{attempts}", case.number)).await?;
                if let Some(finding) = found.into_iter().flatten().find(|finding| finding.key() == key) {
                    kind.steps.clone_from(&trial.steps);
                    kind.finding = finding;
                    smallest = trial;
                    smaller = true;
                    break;
                }
            }
            if !smaller {
                return Ok(());
            }
        }
    }
}

fn post(path: &str, body: Value) -> Request {
    Request {
        method: Method::POST,
        path: path.to_owned(),
        content_type: "application/json",
        accept: "application/json",
        body: Some(body),
    }
}

/// Everything with one thing less: a step, or an edit of one.
fn candidates(steps: &[Step]) -> Vec<Vec<Step>> {
    let mut all = Vec::new();
    for index in (0..steps.len()).rev() {
        if steps.len() > 1 {
            let mut fewer = steps.to_vec();
            fewer.remove(index);
            all.push(fewer);
        }
        for edit in 0..steps[index].edits.len() {
            let mut fewer = steps.to_vec();
            fewer[index].edits.remove(edit);
            all.push(fewer);
        }
    }
    all
}
