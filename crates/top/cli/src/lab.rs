//! `trireme lab`: a local cluster, and faults upon it.

use anyhow::Context;
use clap::{Args, Subcommand};
use nix::sys::signal::Signal;
use trireme_lab::{Lab, ServerStart};

/// Options of `trireme lab`.
#[derive(Args)]
pub(crate) struct LabCommand {
    /// Which lab
    #[arg(long, default_value = "lab", global = true)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the lab and start its server
    Up {
        /// Further arguments for `trireme server`, behind `--`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Remove everything of the lab: processes, namespaces, links, cgroups, data
    Down,
    /// Show the lab's hosts
    Status {
        /// Output form
        #[arg(short, long, value_enum)]
        output: Option<crate::version::Output>,
    },
    /// Run a command in a host
    Exec {
        /// Which host, where there are several
        #[arg(long)]
        host: Option<String>,
        /// Keep the machine's network, for example to reach a registry
        #[arg(long)]
        machine_network: bool,
        /// The command, behind `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Send SIGKILL to a host's server
    Kill {
        /// Which host, where there are several
        host: Option<String>,
    },
    /// Send SIGSTOP to a host's server
    Stop {
        /// Which host, where there are several
        host: Option<String>,
    },
    /// Send SIGCONT to a host's server
    Cont {
        /// Which host, where there are several
        host: Option<String>,
    },
    /// Stop a host's server if it runs, and start it again
    Restart {
        /// Which host, where there are several
        host: Option<String>,
    },
}

/// Runs a lab command.
pub(crate) fn run(command: LabCommand) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "a lab needs root: its hosts are namespaces, mounts and cgroups"
    );
    let mut lab = Lab::open(&command.name)?;
    match command.command {
        Command::Up { arguments } => {
            lab.up(&ServerStart { arguments })?;
            let host = lab.host(None)?;
            println!("host {} at {}", host.state.name, host.state.address);
            println!("log {}", host.log().display());
            println!("kubeconfig {}", host.kubeconfig().display());
        }
        Command::Down => lab.down()?,
        Command::Status { output } => status(&lab, output.is_some())?,
        Command::Exec {
            host,
            machine_network,
            command,
        } => {
            let status = lab.host(host.as_deref())?.run(&command, !machine_network)?;
            let code = status.code().unwrap_or(255);
            if code != 0 {
                std::process::exit(code);
            }
        }
        Command::Kill { host } => signal(&lab, host.as_deref(), Signal::SIGKILL)?,
        Command::Stop { host } => signal(&lab, host.as_deref(), Signal::SIGSTOP)?,
        Command::Cont { host } => signal(&lab, host.as_deref(), Signal::SIGCONT)?,
        Command::Restart { host } => lab.restart(host.as_deref())?,
    }
    Ok(())
}

fn signal(lab: &Lab, host: Option<&str>, signal: Signal) -> anyhow::Result<()> {
    let lived = lab.signal(host, signal).with_context(|| format!("sending {signal}"))?;
    anyhow::ensure!(lived, "the server does not run; `trireme lab restart` starts it");
    Ok(())
}

fn status(lab: &Lab, json: bool) -> anyhow::Result<()> {
    if json {
        let hosts: Vec<_> = lab
            .hosts()
            .iter()
            .map(|host| {
                serde_json::json!({
                    "name": host.state.name,
                    "address": host.state.address,
                    "lives": host.lives(),
                    "serves": host.serves(),
                    "serverPid": host.state.server.map(|server| server.pid),
                    "initPid": host.state.init.pid,
                    "cgroup": host.cgroup(),
                    "log": host.log(),
                    "kubeconfig": host.kubeconfig(),
                    "data": host.data(),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&hosts)?);
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["HOST", "ADDRESS", "STATE", "SERVER PID", "LOG"]);
    for host in lab.hosts() {
        let state = match (host.lives(), host.serves()) {
            (false, _) => "gone",
            (true, false) => "server down",
            (true, true) => "running",
        };
        let pid = host.state.server.map_or_else(String::new, |server| server.pid.to_string());
        table.add_row([
            host.state.name.clone(),
            host.state.address.to_string(),
            state.into(),
            pid,
            host.log().display().to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}
