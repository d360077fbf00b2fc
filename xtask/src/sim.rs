//! `cargo xtask sim`: the replicated store under simulation, as many seeds as one likes.

use anyhow::Result;
use clap::Args;

use crate::project;

/// Options of `cargo xtask sim`.
#[derive(Args)]
pub(crate) struct Sim {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this one, with everything that happened
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Servers of every cluster, instead of what the seed says
    #[arg(long)]
    servers: Option<u64>,
}

/// Builds the simulator with optimisation and runs it.
pub(crate) fn run(options: &Sim) -> Result<()> {
    let mut command = project::cargo();
    command
        .args([
            "test",
            "--release",
            "--quiet",
            "--package",
            "trireme-store",
            "--test",
            "simulation",
        ])
        .args(["--", "--exact", "seeds", "--nocapture"]);
    match options.seed {
        Some(seed) => command.env("TRIREME_SIM_SEED", seed.to_string()),
        None => command
            .env("TRIREME_SIM_SEEDS", options.seeds.to_string())
            .env("TRIREME_SIM_FIRST", options.first.to_string()),
    };
    if let Some(servers) = options.servers {
        command.env("TRIREME_SIM_SERVERS", servers.to_string());
    }
    project::run(&mut command)
}
