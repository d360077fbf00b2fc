//! `cargo xtask compare`: Trireme beside a stock API server. The comparer is a crate of its own, since it needs the field table
//! and the rows, which no development command does.

use anyhow::Result;
use clap::Args;

use crate::project;

/// Options of `cargo xtask compare`.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Compare {
    /// Options of the comparer: --with URL, --cases, --seed, --kinds and more; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Builds the comparer and runs it. Its exit code is 1 where the answers differ.
pub(crate) fn run(options: &Compare) -> Result<()> {
    let mut command = project::cargo();
    command
        .args(["run", "--quiet", "--package", "trireme-compare", "--"])
        .args(&options.options);
    project::run(&mut command)
}
