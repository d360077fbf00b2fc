//! Why something with a lab or a host did not work, in words that say what to do.

use std::io;

/// Why something with a host did not work.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call or a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A tool is not installed.
    #[error("{tool} is not installed; on Debian: apt-get install iproute2 nftables e2fsprogs mount")]
    MissingTool {
        /// Which.
        tool: String,
    },
    /// A tool failed.
    #[error("`{command}` failed: {output}")]
    Tool {
        /// Which command.
        command: String,
        /// What it said.
        output: String,
    },
    /// All ranges are taken.
    #[error("no free range 10.199.N.0/24 is left on this machine")]
    NoSubnet,
    /// The host's first process is gone.
    #[error("host {0} is not running; `trireme lab start-host {0}` starts it")]
    Gone(String),
    /// The host's data lie in a directory of the machine.
    #[error(
        "host {0} has no disk of its own, so its disk cannot fill up or lose power; `trireme lab up --disk-size 2G` gives every host one"
    )]
    NoDisk(String),
    /// The disk's file is still attached to a loop device.
    #[error("{0} is still attached to a loop device; `losetup --detach` frees it")]
    DiskBusy(String),
}

/// Why a command on a lab did not work.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// One of its hosts.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A name that cannot be one.
    #[error("\"{0}\" is no lab name: lower case letters, digits and '-', at most 20 characters")]
    Name(String),
    /// It is there already.
    #[error("lab \"{0}\" is up already; `trireme lab down --name {0}` removes it")]
    Exists(String),
    /// It is not there.
    #[error("lab \"{0}\" is not up; `trireme lab up --name {0}` makes it")]
    Absent(String),
    /// No such host.
    #[error("lab \"{lab}\" has no host \"{host}\"; `trireme lab status --name {lab}` lists them")]
    NoHost {
        /// Lab.
        lab: String,
        /// Host.
        host: String,
    },
    /// There are several and none was named.
    #[error("lab \"{0}\" has several hosts; say which (`trireme lab status --name {0}` lists them)")]
    WhichHost(String),
    /// The address range is used up.
    #[error("lab \"{0}\" has no address left for another host")]
    Full(String),
    /// A server ended while it was waited for.
    #[error("the process of host {host} ended; the last lines of {log}:\n{tail}")]
    ServerEnded {
        /// Host.
        host: String,
        /// Log file.
        log: String,
        /// Its end.
        tail: String,
    },
    /// A server did not end.
    #[error("the server of host {0} still runs after SIGTERM; `trireme lab kill` sends SIGKILL")]
    StillRuns(String),
    /// The host has nothing to start.
    #[error("host {0} runs no server and no agent")]
    NoService(String),
    /// The cluster did not come about in time.
    #[error("after {seconds} s still waiting for {what}; logs are in {logs}")]
    NotReady {
        /// How long it was waited for.
        seconds: u64,
        /// What did not come.
        what: String,
        /// Where to look.
        logs: String,
    },
    /// No server of the lab gave a token.
    #[error("no server of lab \"{lab}\" gave a token to join with: {reason}")]
    NoToken {
        /// Lab.
        lab: String,
        /// What the last one said.
        reason: String,
    },
    /// A kubeconfig that cannot be used.
    #[error("kubeconfig {path}: {reason}")]
    Kubeconfig {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A share of lost packets that is none.
    #[error("{0} is no percentage: 0 to 100")]
    Percent(u8),
}

/// Adds what was tried to an I/O error.
pub(crate) fn during<T>(what: impl Into<String>, outcome: io::Result<T>) -> Result<T, HostError> {
    outcome.map_err(|source| HostError::Io {
        what: what.into(),
        source,
    })
}

/// The same for a system call.
pub(crate) fn during_call<T>(what: impl Into<String>, outcome: nix::Result<T>) -> Result<T, HostError> {
    during(what, outcome.map_err(io::Error::from))
}

/// Takes "it is not there" for done.
pub(crate) fn unless_absent(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
