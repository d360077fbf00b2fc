//! `trireme lab`: a local cluster, and faults upon it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand};
use nix::sys::signal::Signal;
use trireme_lab::{Addition, DISK_BYTES_DEFAULT, DiskState, Host, Lab, Up, kubeconfig};

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
    /// Make the lab and start its cluster
    ///
    /// With --servers or --agents it returns when every server and every node is ready, and adds the context
    /// `trireme-NAME` to the kubeconfig. Without, it starts one server, does not wait for it and touches no kubeconfig.
    Up(UpOptions),
    /// Remove everything of the lab: processes, namespaces, links, cgroups, data, its context in the kubeconfig
    Down,
    /// Show the lab's hosts, and what is wrong with their links
    Status {
        /// Output form
        #[arg(short, long, value_enum)]
        output: Option<crate::version::Output>,
    },
    /// Run a command in a host
    Exec {
        /// Which host, where there are several
        #[arg(value_name = "HOST")]
        which: Option<String>,
        /// The same
        #[arg(long, conflicts_with = "which")]
        host: Option<String>,
        /// Keep the machine's network, for example to reach a registry
        #[arg(long)]
        machine_network: bool,
        /// The command, behind `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Cut the link between two hosts, or between one and everyone; `machine` is the machine that the lab is on
    Cut {
        /// One end
        host: String,
        /// The other [default: everyone, also the machine]
        other: Option<String>,
        /// Lose only what the first sends
        #[arg(long)]
        one_way: bool,
    },
    /// Lose some of the frames between two hosts, or between one and everyone
    Lossy {
        /// One end
        host: String,
        /// The other [default: everyone, also the machine]
        other: Option<String>,
        /// How many of a hundred, by chance
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
        /// Lose only what the first sends
        #[arg(long)]
        one_way: bool,
    },
    /// Undo cuts and losses: all, those of one host, or those between two
    Heal {
        /// One end
        host: Option<String>,
        /// The other
        other: Option<String>,
    },
    /// Send SIGKILL to a host's server or agent, or another signal
    Kill {
        /// Which host, where there are several
        host: Option<String>,
        /// Which signal, such as TERM for a clean stop
        #[arg(long, default_value = "KILL")]
        signal: String,
    },
    /// Send SIGSTOP to a host's server or agent
    Stop {
        /// Which host, where there are several
        host: Option<String>,
    },
    /// Send SIGCONT to a host's server or agent
    Cont {
        /// Which host, where there are several
        host: Option<String>,
    },
    /// Stop a host's server or agent if it runs, and start it again
    Restart {
        /// Which host, where there are several
        host: Option<String>,
    },
    /// Fill a host's disk to the last block
    FillDisk {
        /// Which host, where there are several
        host: Option<String>,
        /// Give the space back instead
        #[arg(long)]
        free: bool,
    },
    /// Cut a host's power, losing what was not synced, and switch it on again
    PowerCut {
        /// Which host, where there are several
        host: Option<String>,
        /// Leave it off; `start-host` switches it on
        #[arg(long)]
        stay_off: bool,
    },
    /// Switch a host on that is off, and start its server or agent if that does not run
    StartHost {
        /// Which host, where there are several
        host: Option<String>,
    },
    /// Give a host another address, restarting its server or agent
    Readdress {
        /// Which host, where there are several
        host: Option<String>,
    },
    /// Make another host and have it join the cluster
    AddHost {
        /// A server
        #[arg(long, required_unless_present = "agent", conflicts_with = "agent")]
        server: bool,
        /// An agent
        #[arg(long)]
        agent: bool,
        /// Do not wait until it is ready
        #[arg(long)]
        no_wait: bool,
    },
    /// Remove a host with all its data, as if its machine had burnt; the cluster is not told
    RemoveHost {
        /// Which host
        host: String,
    },
}

#[derive(Args)]
struct UpOptions {
    /// Servers
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    servers: Option<u8>,
    /// Agents
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
    agents: Option<u8>,
    /// Size of each host's own disk, such as 2G; 0 lays data into a directory of the machine, which is faster but can
    /// neither fill up nor lose power [default: 2G with --servers or --agents, 0 without]
    #[arg(long, value_parser = size)]
    disk_size: Option<u64>,
    /// Kubeconfig to add the lab's context to [default: the first file of $KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Add the context to no kubeconfig
    #[arg(long, conflicts_with = "kubeconfig")]
    no_kubeconfig: bool,
    /// Seconds to wait until all is ready
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// A further argument of every agent; may be given several times
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    agent_argument: Vec<String>,
    /// Every server is a cluster of its own
    #[arg(long, hide = true)]
    independent: bool,
    /// Further arguments of every server, behind `--`; `{subnet}` in them becomes the first three parts of the lab's
    /// addresses, of which those from .200 on are free
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs a lab command.
pub(crate) fn run(command: LabCommand) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "a lab needs root: its hosts are namespaces, mounts and cgroups"
    );
    let lab = Lab::open(&command.name)?;
    let named = |host: Option<String>| -> anyhow::Result<String> { Ok(lab.pick(host.as_deref())?.state.name) };
    match command.command {
        Command::Up(options) => up(&lab, options)?,
        Command::Down => lab.down()?,
        Command::Status { output } => status(&lab, output.is_some())?,
        Command::Exec {
            which,
            host,
            machine_network,
            command,
        } => {
            let host = lab.pick(which.or(host).as_deref())?;
            let status = host.run(&command, !machine_network)?;
            let code = status.code().unwrap_or(255);
            if code != 0 {
                std::process::exit(code);
            }
        }
        Command::Cut { host, other, one_way } => lab.cut(&host, other.as_deref(), one_way)?,
        Command::Lossy {
            host,
            other,
            percent,
            one_way,
        } => lab.lossy(&host, other.as_deref(), one_way, percent)?,
        Command::Heal { host, other } => lab.heal(host.as_deref(), other.as_deref())?,
        Command::Kill { host, signal } => send(&lab, &named(host)?, signal_of(&signal)?)?,
        Command::Stop { host } => send(&lab, &named(host)?, Signal::SIGSTOP)?,
        Command::Cont { host } => send(&lab, &named(host)?, Signal::SIGCONT)?,
        Command::Restart { host } => lab.restart(&named(host)?)?,
        Command::FillDisk { host, free: false } => lab.fill_disk(&named(host)?)?,
        Command::FillDisk { host, free: true } => lab.free_disk(&named(host)?)?,
        Command::PowerCut { host, stay_off: false } => lab.power_cut(&named(host)?)?,
        Command::PowerCut { host, stay_off: true } => lab.power_off(&named(host)?)?,
        Command::StartHost { host } => lab.start_host(&named(host)?)?,
        Command::Readdress { host } => println!("{}", lab.readdress(&named(host)?)?),
        Command::AddHost { server, no_wait, .. } => {
            let host = lab.add_host(if server { Addition::Server } else { Addition::Agent })?;
            if !no_wait {
                lab.wait_ready_of(&[host.name()], READY_LIMIT, &tell_since(Instant::now()))?;
            }
            println!("host {} at {}", host.name(), host.address());
        }
        Command::RemoveHost { host } => lab.remove_host(&host)?,
    }
    Ok(())
}

/// Longest wait for a host that was added.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Says what happens and when, counted from a start.
fn tell_since(start: Instant) -> impl Fn(&str) + Sync {
    move |text| eprintln!("{:6.2} s  {text}", start.elapsed().as_secs_f32())
}

fn up(lab: &Lab, options: UpOptions) -> anyhow::Result<()> {
    let start = Instant::now();
    let program = std::env::current_exe().context("finding the own executable")?;
    let is_cluster = options.servers.is_some() || options.agents.is_some();
    let disk_bytes = options.disk_size.unwrap_or(if is_cluster { DISK_BYTES_DEFAULT } else { 0 });
    let request = Up {
        servers: options.servers.unwrap_or(1),
        agents: options.agents.unwrap_or(0),
        join: !options.independent,
        server_arguments: options.arguments,
        agent_arguments: options.agent_argument,
        disk_bytes: (disk_bytes > 0).then_some(disk_bytes),
        ready_limit: is_cluster.then(|| Duration::from_secs(options.timeout)),
        ..Up::one(program)
    };
    let tell = tell_since(start);
    lab.up(&request, if is_cluster { &tell } else { &|_| {} })?;
    for host in lab.hosts()? {
        println!("host {} at {}", host.name(), host.address());
        println!("log {}", host.log().display());
        if host.state.role == trireme_lab::Role::Server {
            println!("kubeconfig {}", host.kubeconfig().display());
        }
    }
    let target = match options.kubeconfig {
        Some(path) => Some(path),
        None if is_cluster && !options.no_kubeconfig => kubeconfig::default_path(),
        None => None,
    };
    if let Some(path) = target {
        anyhow::ensure!(
            is_cluster,
            "--kubeconfig needs --servers: only then is waited for the server to write its own"
        );
        let hosts = lab.hosts()?;
        let first = hosts.first().context("the lab has hosts")?;
        kubeconfig::publish(lab.name(), &first.kubeconfig(), &path)?;
        println!(
            "context {} is the current one in {}",
            kubeconfig::context(lab.name()),
            path.display()
        );
    }
    Ok(())
}

/// Bytes from a number with an optional K, M, G or T, each 1024 of the one before.
fn size(text: &str) -> Result<u64, String> {
    const SMALLEST: u64 = 64 << 20;
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text[digits.len()..].trim_end_matches(['i', 'B']) {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1_u64 << 40,
        unit => return Err(format!("unknown unit \"{unit}\"; use K, M, G or T")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("\"{text}\" is no size such as 2G"))?;
    let bytes = number.checked_mul(factor).ok_or("too large")?;
    if bytes > 0 && bytes < SMALLEST {
        return Err("a disk needs at least 64M".into());
    }
    Ok(bytes)
}

fn signal_of(name: &str) -> anyhow::Result<Signal> {
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    full.parse()
        .ok()
        .with_context(|| format!("--signal: \"{name}\" is no signal such as TERM"))
}

fn send(lab: &Lab, host: &str, signal: Signal) -> anyhow::Result<()> {
    let lived = lab.signal(host, signal).with_context(|| format!("sending {signal}"))?;
    anyhow::ensure!(
        lived,
        "the process of host {host} does not run; `trireme lab restart` starts it"
    );
    Ok(())
}

fn state_of(host: &Host) -> &'static str {
    match (host.lives(), host.serves(), host.state.command.is_empty()) {
        (false, _, _) => "off",
        (true, true, _) => "running",
        (true, false, true) => "idle",
        (true, false, false) => "down",
    }
}

fn status(lab: &Lab, json: bool) -> anyhow::Result<()> {
    let hosts = lab.hosts()?;
    let faults = lab.faults()?;
    if json {
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| {
                let mine = faults.iter().filter(|fault| lab.name_of(&fault.from) == host.name() || lab.name_of(&fault.to) == host.name());
                let faults: Vec<_> = mine
                    .map(|fault| serde_json::json!({"from": lab.name_of(&fault.from), "to": lab.name_of(&fault.to), "percent": fault.percent}))
                    .collect();
                serde_json::json!({
                    "name": host.state.name,
                    "role": host.state.role,
                    "address": host.state.address,
                    "lives": host.lives(),
                    "serves": host.serves(),
                    "serverPid": host.service_pid(),
                    "initPid": host.state.init.map(|init| init.pid),
                    "cgroup": host.cgroup(),
                    "log": host.log(),
                    "kubeconfig": host.kubeconfig(),
                    "data": host.data(),
                    "root": host.root(),
                    "disk": match &host.state.disk {
                        DiskState::Image(image) => Some(image),
                        DiskState::Directory => None,
                    },
                    "faults": faults,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&hosts)?);
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["HOST", "ROLE", "ADDRESS", "STATE", "PID", "LOG"]);
    for host in &hosts {
        table.add_row([
            host.state.name.clone(),
            format!("{:?}", host.state.role).to_lowercase(),
            host.state.address.to_string(),
            state_of(host).into(),
            host.service_pid().map_or_else(String::new, |pid| pid.to_string()),
            host.log().display().to_string(),
        ]);
    }
    println!("{table}");
    for fault in faults {
        let what = if fault.percent == 100 {
            "cut".into()
        } else {
            format!("{} % lost", fault.percent)
        };
        println!("{what}: {} -> {}", lab.name_of(&fault.from), lab.name_of(&fault.to));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("2G", Some(2 << 30)),
            ("512MiB", Some(512 << 20)),
            ("1M", None),
            ("2X", None),
            ("G", None),
        ] {
            assert_eq!(size(text).ok(), wanted, "{text}");
        }
    }
}
