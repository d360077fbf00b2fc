//! Development commands: the example cluster, all tests, formatting, benchmarks and generated code.

mod archive;
mod bench;
mod compare;
mod down;
mod generate;
mod oracle;
mod packages;
mod programs;
mod project;
mod sim;
mod standin;
mod structure;
mod test;
mod tools;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development commands of Trireme
#[derive(Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is needed, build, start a one-node cluster and run the example application on it
    Up(up::Up),
    /// Remove the cluster that `up` made
    Down,
    /// Run all checks and tests; writes nothing but build output
    Test(test::Test),
    /// Make the image archives that stand in where no registry answers, and print their paths
    Images,
    /// Format the code and apply clippy's suggestions
    Fix,
    /// Run the replicated store under simulation, by seed
    Sim(sim::Sim),
    /// Send equal requests to a server and to a stock one, and print where the answers differ
    Compare(compare::Compare),
    /// Make the facts of the API server's tests anew from recorded answers
    Oracle(oracle::Oracle),
    /// Measure speed and memory of a server
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Make generated code anew
    #[command(subcommand)]
    Generate(Generate),
}

#[derive(Subcommand)]
enum Generate {
    /// The field table, from a directory with fields.tsv
    Fields {
        /// The directory
        #[arg(long)]
        from: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(options) => up::run(&options),
        Command::Down => down::run(),
        Command::Test(options) => test::run(&options),
        Command::Images => standin::all().map(|paths| paths.iter().for_each(|path| println!("{}", path.display()))),
        Command::Fix => test::fix(),
        Command::Sim(options) => sim::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Oracle(options) => oracle::run(&options),
        Command::Bench(measurement) => bench::run(&measurement),
        Command::Generate(Generate::Fields { from }) => generate::run(&from),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
