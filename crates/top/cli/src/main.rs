//! The binary `trireme`. It parses the command line and hands over; what must happen in a single-threaded process (the
//! shim, the first process of a lab host) is dispatched before anything else.

mod completion;
mod images;
mod lab;
mod members;
mod server;
mod version;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The allocator: a server's many small objects of many sizes come and go on all threads, and what they leave free must
/// go back to the system (docs/ARCHITECTURE.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How the allocator is set up: what is free is given back after some seconds.
#[unsafe(export_name = "_rjem_malloc_conf")]
#[used]
static ALLOCATOR_OPTIONS: &[u8; 37] = b"dirty_decay_ms:5000,muzzy_decay_ms:0\0";

/// A highly available Kubernetes in one binary
#[derive(Parser)]
#[command(name = "trireme", version, about, args_override_self = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server: API, store, controllers, scheduler, and a node unless disabled
    #[command(args_override_self = true)]
    Server(Box<trireme_node::config::ServerOptions>),
    /// Run a node that joins servers
    #[command(args_override_self = true)]
    Agent(Box<trireme_node::config::AgentOptions>),
    /// Run many nodes without containers in one process, to see what a cluster of that size takes
    ///
    /// Each is the kubelet of `trireme agent` over a runtime that only remembers: it registers, renews its Lease, watches its
    /// pods, and takes them to Running and Ready, to their end and away, with the requests and events of a real one. It acts
    /// as its node's own user, system:node:NAME, by impersonation; no keys are made. Pods run until they are deleted; those
    /// of Jobs succeed after --job-time. Annotations of a pod say otherwise: hollow.trireme.io/run-seconds,
    /// hollow.trireme.io/exit-code and hollow.trireme.io/stop-seconds.
    ///
    /// What it made stays in the API when it ends, unless --clean is given; started again, the nodes go on, and their
    /// containers run anew as after a power cut.
    #[command(args_override_self = true)]
    Hollow(Box<trireme_node::hollow::HollowOptions>),
    /// Show the cluster: members, leader, lag, certificates
    Status(members::StatusCommand),
    /// Look after the members of the cluster
    Member(members::MemberCommand),
    /// Make, list and revoke the tokens with which hosts join
    Token(members::TokenCommand),
    /// Take this host's server out of its cluster
    Leave(members::LeaveCommand),
    /// Say why a pod is where it is, or nowhere, node by node
    Why(why::WhyCommand),
    /// Look after the node's container images
    Images(images::Images),
    /// A local cluster of real hosts made from network namespaces
    Lab(lab::LabCommand),
    /// Show the version
    Version(version::Version),
    /// Print a completion script for a shell
    Completion(completion::Completion),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("shim") => return exit_code(trireme_runtime::shim::main(&arguments[2..])),
        Some("lab-init") => return exit_code(trireme_lab::run_init(arguments.get(2).map_or("", String::as_str))),
        _ => {}
    }
    let outcome = server::with_file_arguments(arguments).and_then(|arguments| {
        let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
        match Cli::parse_from(arguments).command {
            Command::Server(options) => done(server::run(*options)),
            Command::Agent(options) => done(server::run_agent(*options)),
            Command::Hollow(options) => done(server::run_hollow(*options)),
            Command::Status(command) => done(members::status(&command)),
            Command::Member(command) => done(members::member(command)),
            Command::Token(command) => done(members::token(command)),
            Command::Leave(command) => done(members::leave(&command)),
            Command::Why(command) => why::run(&command),
            Command::Images(command) => done(images::run(command)),
            Command::Lab(command) => done(lab::run(command)),
            Command::Version(command) => done(version::run(&command)),
            Command::Completion(command) => done(completion::run(&command)),
        }
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("trireme: {}", line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what led to it, each said once: some messages hold their cause's already.
fn line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |line, cause| {
        let cause = cause.to_string();
        match () {
            () if line.is_empty() => cause,
            () if line.contains(&cause) => line,
            () => format!("{line}: {cause}"),
        }
    })
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no space").context("/x: no space").context("making /x");
        assert_eq!(super::line(&error), "making /x: /x: no space");
    }
}
