//! `cargo xtask bench`: speed and memory, measured from outside.
//!
//! Invariant: a measurement talks to nothing but the server that it is given, and removes what it made there, also when it
//! fails or is interrupted. It judges nothing: it prints figures, with the machine that they were taken on.

mod api;
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
mod start;
mod statistics;
mod target;
mod watch;

use std::future::Future;

use anyhow::{Context, Result};
use clap::Subcommand;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Requests per second, latencies and CPU per request of any Kubernetes API server
    Api(api::Api),
    /// Resident memory and CPU of processes that do nothing
    Idle(idle::Idle),
    /// Time from the creation of a pod to Ready
    Pods(pods::Pods),
    /// Time from the start of a killed server to ready
    Start(start::Start),
}

/// Runs a measurement and prints its report.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Api(options) => block_on(options.client_threads, api::run(options))?.print(options.output),
        Bench::Idle(options) => idle::run(options)?.print(options.output),
        Bench::Pods(options) => block_on(1, pods::run(options))?.print(options.output),
        Bench::Start(options) => block_on(1, start::run(options))?.print(options.output),
    }
}

fn block_on<T>(threads: usize, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .enable_all()
        .build()
        .context("cannot start the client's runtime")?
        .block_on(work)
}
