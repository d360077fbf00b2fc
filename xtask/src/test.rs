//! `cargo xtask test`: everything that must hold, in the order in which it fails fastest.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;

use crate::{packages, project, standin, structure, tools};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Test {
    /// Only tests whose name contains this; formatting, lints and structure are left out
    filter: Option<String>,
}

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
    let kubectl = tools::kubectl()?;
    let images = standin::all()?;
    let directory = images.first().and_then(|path| path.parent()).expect("there are images");
    step("tests", || {
        let mut command = project::cargo();
        command.args(["test", "--workspace", "--no-fail-fast", "--quiet"]);
        command
            .env("TRIREME_TEST_KUBECTL", &kubectl)
            .env("TRIREME_TEST_IMAGES", directory);
        if let Some(filter) = &options.filter {
            command.arg("--").arg(filter);
        }
        project::run(&mut command)
    })
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
