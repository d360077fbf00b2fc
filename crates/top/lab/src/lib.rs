//! A laboratory of real hosts on one Linux machine: each host is a process tree with its own network, mount, PID, UTS
//! and IPC namespaces, its own data and its own cgroup subtree, and runs the real binary.
//!
//! Invariant: everything of a lab hangs on its hosts' first processes, its directory and its cgroup; removing these
//! removes the lab. It touches no firewall, route or port of the machine beyond one link and its address per host.

mod cgroup;
mod host;
mod init;
mod lab;
mod links;
mod state;
mod sys;

pub use host::{Host, HostError};
pub use init::run as run_init;
pub use lab::{Lab, LabError, ServerStart};
pub use state::HostState;
