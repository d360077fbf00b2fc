//! The whole system as its user meets it: the real binary in a lab host, the real kubectl, real containers and packets.
//!
//! One cluster serves all trials, each in a namespace of its own, one after another; it is removed at the end, also after
//! a failure. `cargo xtask test` provides kubectl and the image archives.

mod api;
mod application;
mod autoscaling;
mod bad_input;
mod claims;
mod cluster;
mod controllers;
mod daemons;
mod disk_full;
mod host_ports;
mod http;
mod isolation;
mod jobs;
mod kubectl;
mod limits;
mod port_forward;
mod proxies;
mod reachability;
mod registry;
mod scheduling;
mod stateful;
mod survival;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use cluster::Cluster;
use libtest_mimic::{Arguments, Trial};

/// What a trial does: panics or returns an error to fail.
type Scenario = fn(&Cluster) -> anyhow::Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One cluster, one trial at a time: they would disturb each other's figures.
    arguments.test_threads = Some(1);
    let scenarios: Vec<(&str, Scenario)> = [
        application::SCENARIOS,
        kubectl::SCENARIOS,
        reachability::SCENARIOS,
        port_forward::SCENARIOS,
        proxies::SCENARIOS,
        host_ports::SCENARIOS,
        limits::SCENARIOS,
        isolation::SCENARIOS,
        registry::SCENARIOS,
        scheduling::SCENARIOS,
        disk_full::SCENARIOS,
        autoscaling::SCENARIOS,
        daemons::SCENARIOS,
        stateful::SCENARIOS,
        claims::SCENARIOS,
        jobs::SCENARIOS,
        controllers::SCENARIOS,
        bad_input::SCENARIOS,
        survival::SCENARIOS,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    let shared: Arc<Mutex<Option<Arc<Cluster>>>> = Arc::default();
    let trials = scenarios.into_iter().map(|(name, scenario)| {
        let shared = Arc::clone(&shared);
        Trial::test(name, move || run(&shared, scenario))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let cluster = shared.lock().expect("no trial holds the lock").take();
    if let Some(cluster) = cluster {
        if conclusion.has_failed() {
            eprintln!("the server's log ends so:\n{}", cluster.log_tail());
        }
        if let Err(error) = cluster.down() {
            eprintln!("removing the cluster failed: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    conclusion.exit_code()
}

fn run(shared: &Mutex<Option<Arc<Cluster>>>, scenario: Scenario) -> Result<(), libtest_mimic::Failed> {
    let cluster = {
        let mut shared = shared.lock().expect("a trial that panics does so outside of the lock");
        match &*shared {
            Some(cluster) => Arc::clone(cluster),
            None => {
                // Another name lets two checkouts run the tests on one machine.
                let lab = std::env::var("TRIREME_TEST_LAB").unwrap_or_else(|_| "e2e".to_owned());
                let cluster = Arc::new(Cluster::start(&lab, &[]).map_err(|error| format!("{error:#}"))?);
                *shared = Some(Arc::clone(&cluster));
                cluster
            }
        }
    };
    scenario(&cluster).map_err(|error| format!("{error:#}").into())
}
