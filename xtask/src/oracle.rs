//! `cargo xtask oracle`: the facts that the API server's tests hold, anew from recorded answers of a stock server.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::project;

/// Options of `cargo xtask oracle`.
#[derive(Args)]
pub(crate) struct Oracle {
    /// Directory of the recorded scenarios, one JSON step a line
    #[arg(long)]
    from: PathBuf,
}

/// Replays the scenarios in process and writes those that hold.
pub(crate) fn run(options: &Oracle) -> Result<()> {
    let from = options
        .from
        .canonicalize()
        .with_context(|| format!("{}", options.from.display()))?;
    let mut command = project::cargo();
    command
        .args(["test", "--quiet", "--package", "trireme-apiserver", "--test", "facts"])
        .args(["--", "--exact", "refresh", "--ignored"])
        .env("TRIREME_ORACLE", from);
    project::run(&mut command)
}
