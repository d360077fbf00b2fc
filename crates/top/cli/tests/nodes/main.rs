//! Nodes of several kinds in one cluster, as their users meet them: three servers and two agents in a lab, the real binary,
//! the real kubectl, real containers and packets between hosts; and hosts that die, move and come back.
//!
//! One lab serves all trials, one after another; it is removed at the end, also after a failure. `cargo xtask test`
//! provides kubectl and the image archives.

mod deaths;
mod ground;
mod history;
mod joining;
mod packets;
mod restarts;
mod stamps;
mod virtual_addresses;
mod workloads;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ground::Ground;
use libtest_mimic::{Arguments, Failed, Trial};

/// One trial.
type Scenario = fn(&mut Ground) -> anyhow::Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One lab, one trial at a time: they would disturb each other.
    arguments.test_threads = Some(1);
    let shared: Arc<Mutex<Option<Ground>>> = Arc::default();
    let scenarios = [
        packets::SCENARIOS,
        joining::SCENARIOS,
        restarts::SCENARIOS,
        virtual_addresses::SCENARIOS,
        deaths::SCENARIOS,
        workloads::SCENARIOS,
    ];
    let trials = scenarios.into_iter().flatten().map(|(name, scenario)| {
        let shared = Arc::clone(&shared);
        Trial::test(format!("nodes::{name}"), move || run(&shared, *scenario))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let ground = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(ground) = ground
        && let Err(error) = ground.down()
    {
        eprintln!("removing the lab failed: {error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn run(shared: &Mutex<Option<Ground>>, scenario: Scenario) -> Result<(), Failed> {
    // A trial that panics has left the lab in an unknown state; the next one makes another.
    let mut held = shared.lock().unwrap_or_else(|poisoned| {
        let mut held = poisoned.into_inner();
        drop(held.take());
        held
    });
    let told = |error: anyhow::Error| Failed::from(format!("{error:#}"));
    if held.is_none() {
        // Another name lets two checkouts run the tests on one machine.
        let lab = std::env::var("TRIREME_TEST_LAB").map_or_else(|_| "nodes".to_owned(), |name| format!("{name}-nodes"));
        *held = Some(Ground::start(&lab).map_err(told)?);
    }
    let ground = held.as_mut().expect("just made");
    let begun = Instant::now();
    let outcome = scenario(ground).and_then(|()| ground.settled());
    eprintln!("  {} ms", begun.elapsed().as_millis());
    if outcome.is_err() {
        eprintln!("{}", ground.logs());
        // What is broken now must not be blamed on the next trial.
        drop(held.take());
    }
    outcome.map_err(told)
}
