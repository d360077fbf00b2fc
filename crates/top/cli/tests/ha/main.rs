//! Three servers, and everything that may happen to one of them: the real binary in lab hosts, under writes, watches and
//! visits, with the checker's verdict at the end of every trial.
//!
//! One lab serves all trials, one after another; it is removed at the end, also after a failure. `cargo xtask test`
//! provides kubectl and the image archives.

mod faults;
mod ground;
mod load;
mod order;
mod recorder;
mod visitors;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use ground::Ground;
use libtest_mimic::{Arguments, Failed, Trial};

/// One trial.
type Scenario = fn(&mut Ground) -> anyhow::Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One lab, one trial at a time: they would disturb each other.
    arguments.test_threads = Some(1);
    let shared: Arc<Mutex<Option<Ground>>> = Arc::default();
    let trials = faults::SCENARIOS.iter().map(|(name, scenario)| {
        let shared = Arc::clone(&shared);
        Trial::test(format!("ha::{name}"), move || run(&shared, *scenario))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
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
        let lab = std::env::var("TRIREME_TEST_LAB").map_or_else(|_| "ha".to_owned(), |name| format!("{name}-ha"));
        *held = Some(Ground::start(&lab).map_err(told)?);
    }
    let ground = held.as_mut().expect("just made");
    let outcome = scenario(ground);
    if outcome.is_err() {
        eprintln!("{}", ground.logs());
        // What is broken now must not be blamed on the next trial.
        drop(held.take());
    }
    outcome.map_err(told)
}
