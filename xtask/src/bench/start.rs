//! `bench start`: a killed server, started again, until it is ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use http::StatusCode;
use serde_json::json;

use super::http::{Call, Connection, explain};
use super::lab::{Lab, LabChoice};
use super::process::{Process, duration};
use super::report::{Output, Report, Sheet};
use super::rest::Rest;
use super::statistics::{Summary, latency};
use super::target::{Endpoint, Target};
use crate::project;

/// Options of `bench start`.
#[derive(Args)]
pub(crate) struct Start {
    #[command(flatten)]
    lab: LabChoice,
    /// How often to kill and start the server
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=200))]
    repeat: u64,
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// Longest wait for ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a killed server to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Time between two questions.
const ASK_GAP: Duration = Duration::from_millis(3);

/// Kills and starts a lab's server, again and again.
///
/// # Errors
/// When the lab is not up or its server does not become ready; the error names its log.
pub(crate) async fn run(options: &Start) -> Result<Report> {
    let lab = options.lab.open()?;
    let (host, _) = lab.serving()?;
    let endpoint = Arc::new(Target::of_kubeconfig(host.kubeconfig.clone()).resolve().await?);
    let rest = Rest {
        endpoint: endpoint.clone(),
    };
    until_ready(&endpoint).await.context("before the first kill")?;
    let facts = vec![
        ("server".into(), format!("{} at {}", rest.version().await?, endpoint.url)),
        ("binary".into(), lab.binary().display().to_string()),
    ];
    let (mut by_command, mut by_process) = (vec![], vec![]);
    for round in 1..=options.repeat {
        let (command, process) = restart(&lab, &endpoint)
            .await
            .with_context(|| format!("start {round}; the server's log is {}", host.log.display()))?;
        project::say(format!("start {round} of {}: {} ms", options.repeat, latency(command)));
        by_command.push(command);
        by_process.push(process);
    }
    let summaries = [
        (
            "from the command that starts it",
            Summary::of(by_command).context("no starts")?,
        ),
        (
            "from its process's start (10 ms steps)",
            Summary::of(by_process).context("no starts")?,
        ),
    ];
    let row = |(name, summary): &(&str, Summary)| {
        let figures = [summary.p50, summary.p90, summary.p99, summary.max].map(latency);
        [vec![(*name).to_owned(), summary.count.to_string()], figures.to_vec()].concat()
    };
    Ok(Report {
        name: "start",
        facts,
        sheets: vec![Sheet {
            caption: "From the start after SIGKILL to `/readyz` saying ok; milliseconds.".into(),
            header: vec!["measured", "starts", "p50", "p90", "p99", "max"],
            rows: summaries.iter().map(row).collect(),
        }],
        results: json!({"fromCommand": summaries[0].1.json(), "fromProcess": summaries[1].1.json()}),
        failures: vec![],
    })
}

/// One kill and start: how long ready took from the command, and from the start of the server's process.
async fn restart(lab: &Lab, endpoint: &Endpoint) -> Result<(Duration, Duration)> {
    project::output(&mut lab.command("kill"))?;
    let deadline = Instant::now() + KILL_LIMIT;
    while lab.status()?.serves {
        ensure!(
            Instant::now() < deadline,
            "the server still runs {} s after SIGKILL",
            KILL_LIMIT.as_secs()
        );
        tokio::time::sleep(ASK_GAP).await;
    }
    let mut command = lab.command("restart");
    let begun = Instant::now();
    let starting = tokio::task::spawn_blocking(move || project::output(&mut command));
    let ready = until_ready(endpoint).await;
    let (by_command, uptime) = (begun.elapsed(), uptime()?);
    starting.await.context("the start panicked")??;
    ready?;
    let Process(pid) = lab.serving()?.1;
    let by_process = uptime.saturating_sub(duration(Process(pid).stat()?.start_ticks));
    Ok((by_command, by_process))
}

/// Asks for `/readyz` until it says ok.
async fn until_ready(endpoint: &Endpoint) -> Result<()> {
    let mut last = anyhow!("it was never asked");
    let asking = async {
        loop {
            match ask(endpoint, &mut last).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => last = error,
            }
            tokio::time::sleep(ASK_GAP).await;
        }
    };
    let outcome = tokio::time::timeout(READY_LIMIT, asking).await;
    outcome.map_err(|_| last.context(format!("not ready within {} s", READY_LIMIT.as_secs())))
}

/// Asks on one connection for as long as it stands and the answer is no; notes the answer.
async fn ask(endpoint: &Endpoint, last: &mut anyhow::Error) -> Result<bool> {
    let mut connection = Connection::open(endpoint).await?;
    loop {
        let (status, body) = connection.exchange(Call::get("/readyz")).await?;
        if status == StatusCode::OK {
            return Ok(true);
        }
        *last = anyhow!(explain(status, &body));
        tokio::time::sleep(ASK_GAP).await;
    }
}

/// Time since the machine's start.
fn uptime() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").context("/proc/uptime")?;
    parse_uptime(&text).context("/proc/uptime has an unknown form")
}

fn parse_uptime(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.split_ascii_whitespace().next()?.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes() {
        assert_eq!(parse_uptime("12.50 100.00\n"), Some(Duration::from_millis(12_500)));
        assert_eq!(parse_uptime("-1 2"), None);
        assert_eq!(parse_uptime(""), None);
    }

    #[test]
    fn now_is_after_our_own_start() {
        let own = Process(i32::try_from(std::process::id()).expect("a PID fits"));
        let started = duration(own.stat().expect("we run").start_ticks);
        assert!(uptime().expect("it is there") + Duration::from_millis(20) >= started);
    }
}
