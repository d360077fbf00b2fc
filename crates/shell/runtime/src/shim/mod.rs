//! The shim: one small process per pod that holds the pod's namespaces, is the parent of its containers, writes their
//! logs, serves exec and attach and records exits, whether or not Trireme lives.
//!
//! Invariants: single-threaded (it forks and lets libcontainer clone); libcontainer runs only in short-lived forks of it;
//! it keeps no bytes of a stream beyond one line and one stalled chunk. It takes no decision: restarts are the kubelet's.

mod diagnosis;
mod enter;
mod executor;
mod log;
mod output;
mod proc_mounts;
mod seccomp;
mod server;
mod setup;
mod stage;
mod user_namespace;
mod worker;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cri::IdMapping;
use crate::sys;

/// What a shim is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    /// Sandbox id.
    pub(crate) id: String,
    /// Where its socket is made.
    pub(crate) directory: PathBuf,
    /// libcontainer's state.
    pub(crate) oci_root: PathBuf,
    /// `cgroup.procs` files to join.
    pub(crate) procs_files: Vec<PathBuf>,
    pub(crate) own_network: bool,
    pub(crate) own_ipc: bool,
    pub(crate) own_uts: bool,
    /// Hold a pid namespace that all containers share.
    pub(crate) shared_pid: bool,
    pub(crate) hostname: String,
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Make a user namespace of its own.
    #[serde(default)]
    pub(crate) user: Option<IdMapping>,
    /// A log is rotated beyond this size.
    pub(crate) log_bytes_max: u64,
    /// Files kept of one log, the current one included.
    pub(crate) log_files_max: usize,
}

/// What a shim tells when it serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimReady {
    pub(crate) pid: i32,
    /// Pid of the shared pid namespace's first process, 0 without.
    pub(crate) pause_pid: i32,
    /// Descriptor of the shim that holds the pod's user namespace, 0 without.
    #[serde(default)]
    pub(crate) user_fd: i32,
    /// Set when it could not start.
    pub(crate) error: String,
}

/// The shim's own log ends here; what matters is said early.
const LOG_BYTES_MAX: i64 = 1 << 20;
/// Name of the socket in the shim's directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// Name of the configuration in the shim's directory.
pub(crate) const CONFIG: &str = "shim.json";

/// Entry of the hidden subcommand `shim`; `args` are the arguments after it. Must be called before any thread starts.
/// Returns the exit code of the starting process; the shim itself goes on in the background and never returns.
pub fn main(args: &[String]) -> i32 {
    match args {
        [directory] => setup::launch(Path::new(directory)),
        _ => {
            complain(format_args!("usage: shim <directory>"));
            2
        }
    }
}

/// Writes a line to the shim's log. `eprintln!` would end the shim, and with it the pod, when the disk is full.
fn complain(line: std::fmt::Arguments<'_>) {
    let size = nix::sys::stat::fstat(std::io::stderr()).map_or(0, |stat| stat.st_size);
    if size < LOG_BYTES_MAX && std::io::stderr().write_fmt(format_args!("{line}\n")).is_err() {
        // There is nowhere left to say it.
    }
}

/// Ends a forked child with a code.
fn leave(code: i32) -> ! {
    sys::exit_now(code)
}
