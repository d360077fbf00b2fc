//! `cargo xtask bench`: speed and memory, measured from outside.
//!
//! Invariant: a measurement talks to nothing but the servers that it is given or makes, and removes what it made, also when it
//! fails or is interrupted. It judges nothing: it prints figures, with the machine that they were taken on.

mod api;
mod connections;
mod ha;
mod http;
mod idle;
mod kubeconfig;
mod lab;
mod listeners;
mod load;
mod machine;
mod pods;
mod process;
mod report;
mod rest;
mod rollout;
mod schedule;
mod start;
mod statistics;
mod target;
mod watch;
mod worst;

use std::future::Future;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::project;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Requests per second, latencies and CPU per request of any Kubernetes API server
    Api(api::Api),
    /// Memory of idle connections and unread watches, and latencies beside them
    Connections(connections::Connections),
    /// Faults, hand-overs, replication and growth of a cluster of three servers
    Ha(ha::Ha),
    /// Resident memory and CPU of processes that do nothing
    Idle(idle::Idle),
    /// Time from the creation of a pod to Ready
    Pods(pods::Pods),
    /// Pods created and bound per second, and CPU a pod, at several numbers of nodes
    Schedule(schedule::Schedule),
    /// Time from the start of a killed server to ready
    Start(start::Start),
    /// The most expensive request of each kind that a server takes, found by growing hostile ones
    Worst(worst::Worst),
}

/// Runs a measurement and prints its report.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Api(options) if cfg!(debug_assertions) && !options.debug_client => run_optimised(),
        Bench::Api(options) => block_on(options.client_threads, api::run(options))?.print(options.output),
        Bench::Connections(options) if cfg!(debug_assertions) && !options.debug_client => run_optimised(),
        Bench::Connections(options) => block_on(options.client_threads, connections::run(options))?.print(options.output),
        Bench::Ha(options) if cfg!(debug_assertions) && !options.debug_client => run_optimised(),
        Bench::Ha(options) => block_on(options.client_threads, ha::run(options))?.print(options.output),
        Bench::Idle(options) => idle::run(options)?.print(options.output),
        Bench::Pods(options) => block_on(1, pods::run(options))?.print(options.output),
        Bench::Schedule(options) if cfg!(debug_assertions) && !options.debug_client => run_optimised(),
        Bench::Schedule(options) => block_on(options.client_threads, schedule::run(options))?.print(options.output),
        Bench::Start(options) => block_on(1, start::run(options))?.print(options.output),
        Bench::Worst(options) => block_on(1, worst::run(options))?.print(options.output),
    }
}

/// Builds this program with optimisation and becomes it: a slow client would take the CPU that the server should have.
fn run_optimised() -> Result<()> {
    project::say("building the client with optimisation (--debug-client does without)");
    project::run(project::cargo().args(["build", "--quiet", "--release", "--package", "xtask"]))?;
    let program = project::target().join("release/xtask");
    let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn block_on<T>(threads: usize, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .enable_all()
        .build()
        .context("cannot start the client's runtime")?
        .block_on(work)
}
