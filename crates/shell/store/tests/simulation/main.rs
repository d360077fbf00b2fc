//! The replicated store under simulation: whole clusters on one thread, with a network, disks and clocks that fail by seed,
//! judged by the checker; and scenes for the cases that have a name (`incidents`).
//!
//! | variable                           | meaning                                                                       |
//! | ---------------------------------- | ----------------------------------------------------------------------------- |
//! | `TRIREME_SIM_SEEDS`, `_FIRST`      | how many seeds (200), and the first one (1)                                   |
//! | `TRIREME_SIM_SEED`                 | one seed, with what was done to it; in its own process with test `one`        |
//! | `TRIREME_SIM_SERVERS`              | how many servers, instead of what the seed says                               |
//! | `TRIREME_SIM_TRACE`                | with `one` or a scene: a level, and parts of targets, as `debug,trireme_store` |
//! | `TRIREME_SIM_HISTORY`              | with `one`: a file for the history                                            |
//!
//! Invariant: a seed has a process of its own, so that it takes the same way whenever it runs.

mod chance;
mod clients;
mod disk;
mod incidents;
mod nemesis;
mod replicas;
mod run;
mod scene;
mod serve;
mod sys;
mod trace;
mod world;

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use run::{Outcomes, run};

/// A seed that takes longer hangs.
const SEED_WITHIN: Duration = Duration::from_secs(120);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn describe(outcomes: &Outcomes) -> String {
    let Outcomes {
        seed,
        violations,
        log,
        acknowledged,
        unknown,
        events,
        faults,
        terms,
        ..
    } = outcomes;
    let shown: Vec<&str> = violations.iter().take(5).map(String::as_str).collect();
    format!(
        "seed {seed}: {acknowledged} writes acknowledged, {unknown} of unknown outcome, {events} steps of watches, {faults} \
         faults, {terms} terms with a leader\n{} violations:\n  {}\nwhat was done:\n  {}\nto run it again: \
         TRIREME_SIM_SEED={seed} cargo test -p trireme-store --test simulation seeds -- --nocapture",
        violations.len(),
        shown.join("\n  "),
        log.join("\n  "),
    )
}

fn servers() -> Option<usize> {
    number("TRIREME_SIM_SERVERS").and_then(|servers| usize::try_from(servers).ok())
}

/// One seed in a process of its own; what came of it goes to the file that is named.
#[test]
#[ignore = "the other tests start it"]
fn one() {
    let seed = number("TRIREME_SIM_SEED").expect("TRIREME_SIM_SEED says which");
    let outcomes = run(seed, servers());
    if let Ok(path) = std::env::var("TRIREME_SIM_HISTORY") {
        std::fs::write(path, &outcomes.history).unwrap();
    }
    match std::env::var("TRIREME_SIM_OUTCOMES") {
        Ok(path) => std::fs::write(path, serde_json::to_vec(&outcomes).unwrap()).unwrap(),
        Err(_) => {
            println!("{}", describe(&outcomes));
            assert!(outcomes.violations.is_empty(), "seed {seed} failed");
        }
    }
}

/// Runs a seed in another process.
fn apart(seed: u64, servers: Option<usize>) -> Outcomes {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "one", "--include-ignored", "--nocapture"])
        .env("TRIREME_SIM_SEED", seed.to_string())
        .env("TRIREME_SIM_OUTCOMES", file.path())
        .stdout(Stdio::null());
    if let Some(servers) = servers {
        command.env("TRIREME_SIM_SERVERS", servers.to_string());
    }
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > SEED_WITHIN {
            child.kill().unwrap();
            child.wait().unwrap();
            return Outcomes::none(seed, format!("seed {seed} did not end within {SEED_WITHIN:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let content = std::fs::read(file.path()).unwrap();
    serde_json::from_slice(&content).unwrap_or_else(|_| Outcomes::none(seed, format!("seed {seed} died")))
}

#[test]
fn seeds() {
    if let Some(seed) = number("TRIREME_SIM_SEED") {
        let outcomes = apart(seed, servers());
        println!("{}", describe(&outcomes));
        assert!(outcomes.violations.is_empty(), "seed {seed} failed");
        return;
    }
    let count = number("TRIREME_SIM_SEEDS").unwrap_or(200);
    let first = number("TRIREME_SIM_FIRST").unwrap_or(1);
    judge(first, count, servers());
}

/// Runs seeds, on all processors, and fails where one does.
fn judge(first: u64, count: u64, servers: Option<usize>) {
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let totals = Mutex::new((0, 0, 0, 0, Duration::ZERO));
    let begun = Instant::now();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let start = Instant::now();
                    let outcomes = apart(seed, servers);
                    let mut totals = totals.lock().unwrap();
                    totals.0 += outcomes.acknowledged;
                    totals.1 += outcomes.unknown;
                    totals.2 += outcomes.events;
                    totals.3 += outcomes.faults;
                    totals.4 = totals.4.max(start.elapsed());
                    if !outcomes.violations.is_empty() {
                        eprintln!("seed {seed} fails: {:.200}", outcomes.violations[0]);
                        failed.lock().unwrap().push(outcomes);
                    }
                }
            });
        }
    });
    let (acknowledged, unknown, events, faults, longest) = totals.into_inner().unwrap();
    println!(
        "{count} seeds in {:.1} s (the longest {:.2} s): {acknowledged} writes acknowledged, {unknown} of unknown outcome, \
         {events} steps of watches, {faults} faults",
        begun.elapsed().as_secs_f32(),
        longest.as_secs_f32(),
    );
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|outcomes| outcomes.seed);
    let seeds: Vec<u64> = failed.iter().map(|outcomes| outcomes.seed).collect();
    let first: Vec<String> = failed.iter().take(3).map(describe).collect();
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed: {seeds:?}\n{}",
        seeds.len(),
        first.join("\n\n")
    );
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 14, 15] {
        let (one, other) = (apart(seed, Some(3)), apart(seed, Some(3)));
        if one.digest != other.digest {
            let differ = one
                .history
                .lines()
                .zip(other.history.lines())
                .find(|(one, other)| one != other);
            panic!("seed {seed} took two ways: {differ:?}");
        }
        assert!(one.acknowledged > 0, "{}", describe(&one));
    }
}

#[test]
fn one_server_alone_survives_every_crash() {
    judge(1000, 20, Some(1));
}
