//! `trireme completion`.

use clap::{Args, CommandFactory};

/// Options of `trireme completion`.
#[derive(Args)]
pub(crate) struct Completion {
    /// For which shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(command: &Completion) -> anyhow::Result<()> {
    clap_complete::generate(command.shell, &mut crate::Cli::command(), "trireme", &mut std::io::stdout());
    Ok(())
}
