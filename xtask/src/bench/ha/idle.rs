//! The servers of a cluster that does nothing.

use anyhow::Result;
use serde_json::{Value, json};

use super::super::idle::{Group, Usage, observe};
use super::super::report::Sheet;
use super::Findings;
use super::cluster::Cluster;
use super::options::{Ha, Part};

/// Looks at all servers after a time of quiet.
pub(super) async fn run(options: &Ha, cluster: &Cluster, findings: &mut Findings) -> Result<()> {
    let (quiet, time) = options.idle();
    let leader = cluster.settled().await?;
    tokio::time::sleep(quiet).await;
    let processes = cluster.processes().await?.into_iter();
    let name = |server: usize| {
        format!(
            "{}{}",
            cluster.servers()[server].name,
            if server == leader { ", leads" } else { "" }
        )
    };
    let groups: Vec<Group> = processes
        .enumerate()
        .map(|(server, processes)| Group {
            name: name(server),
            processes,
        })
        .collect();
    let usages = tokio::task::spawn_blocking(move || observe(&groups, time)).await??;
    findings.sheets.push(Sheet {
        caption: format!(
            "{} s of doing nothing, after {} s of quiet; memory in MiB.",
            time.as_secs(),
            quiet.as_secs()
        ),
        header: Usage::HEADER.to_vec(),
        rows: usages.iter().map(Usage::row).collect(),
    });
    findings.keep(Part::Idle, json!(usages.iter().map(Usage::json).collect::<Vec<Value>>()));
    Ok(())
}
