//! `cargo xtask test`: everything that must hold, in the order in which it fails fastest.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;

use crate::{packages, programs, project, standin, structure, tools};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Test {
    /// Only tests whose name contains this; formatting, lints and structure are left out
    filter: Option<String>,
    /// Formatting, structure, lints, and the tests that need no lab: unit and property tests, the API server's facts in process,
    /// and a few seeds of the simulation. At most five minutes on two cores once dependencies are built
    #[arg(long, conflicts_with = "filter")]
    fast: bool,
}

/// Test programs that need labs, mounts or many seeds.
const SLOW: &[&str] = &["e2e", "ha", "kill", "lab", "nodes", "power_cut", "runtime", SIMULATION];
/// The one of them that has a place among the fast tests, with a few seeds.
const SIMULATION: &str = "simulation";
const FAST_SEEDS: &str = "5";
/// Programs that take long, the longest first.
const LONG: &[&str] = &[
    "cli control_plane",
    "network virtual_address",
    "store alone",
    "resources cost",
    "apiserver requests",
    "reconcile trireme_reconcile",
    "checker histories",
    "store trireme_store",
    "mvcc trireme_mvcc",
];

/// Runs everything.
pub(crate) fn run(options: &Test) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "run as root: the tests make namespaces, mounts and cgroups, and remove them again"
    );
    packages::install(packages::NODE)?;
    packages::install(packages::TESTS)?;
    if options.filter.is_none() {
        step("formatting", || {
            project::run(project::cargo().args(["fmt", "--all", "--check"]))
        })?;
        step("structure", structure::check)?;
        step("lints", || {
            project::run(project::cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "--deny",
                "warnings",
            ]))
        })?;
    }
    let without_labs = step("tests without labs", || tests_without_labs(options));
    if options.fast {
        return without_labs;
    }
    let kubectl = tools::kubectl()?;
    let images = standin::all()?;
    let directory = images.first().and_then(|path| path.parent()).expect("there are images");
    let with_labs = step("tests with labs", || {
        let mut command = project::cargo();
        command.args(["test", "--workspace", "--no-fail-fast", "--quiet"]);
        command.args(SLOW.iter().flat_map(|name| ["--test", *name]));
        command
            .env("TRIREME_TEST_KUBECTL", &kubectl)
            .env("TRIREME_TEST_IMAGES", directory);
        if let Some(filter) = &options.filter {
            command.arg("--").arg(filter);
        }
        project::run(&mut command)
    });
    without_labs.and(with_labs)
}

/// The programs that are not slow, and a few seeds of the simulation where nothing follows.
fn tests_without_labs(options: &Test) -> Result<()> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(project::root().join("Cargo.toml"))
        .no_deps()
        .exec()?;
    let wanted = |name: &str| !SLOW.contains(&name) || (options.fast && name == SIMULATION);
    let targets = metadata.packages.iter().flat_map(|package| &package.targets);
    let programs = targets.filter(|target| target.is_test() && wanted(&target.name));
    let mut names: Vec<&str> = programs.map(|target| target.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut programs = programs::build(&names)?;
    programs::put_first(&mut programs, LONG)?;
    if let Some(filter) = &options.filter {
        programs.iter_mut().for_each(|program| program.choose(&[filter]));
    }
    if options.fast {
        let simulation = programs::named(&mut programs, &format!("store {SIMULATION}"))?;
        simulation.choose(&["--exact", "seeds"]);
        simulation.set("TRIREME_SIM_SEEDS", FAST_SEEDS);
    }
    programs::run(&programs)
}

/// Formats and applies clippy's suggestions.
pub(crate) fn fix() -> Result<()> {
    project::run(project::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))?;
    project::run(project::cargo().args(["fmt", "--all"]))
}

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    project::say(name);
    let start = Instant::now();
    run()?;
    project::say(format!("{name}: {:.0} s", start.elapsed().as_secs_f32()));
    Ok(())
}
