//! A laboratory of real hosts on one Linux machine: each host is a process tree with its own network, mount, PID, UTS
//! and IPC namespaces, its own disk and its own cgroup subtree, and runs the real binary. The hosts of a lab hang on one
//! switch, which loses what it is told to lose.
//!
//! Invariant: everything of a lab hangs on its hosts' first processes, its switch, its directories and its cgroup, all
//! found by the lab's name; removing these removes the lab. It touches no firewall, route or port of the machine beyond
//! one link and its address per lab.

mod cgroup;
mod cluster;
mod disk;
mod error;
mod faults;
mod host;
mod init;
pub mod kubeconfig;
mod lab;
mod ready;
mod root;
mod state;
mod switch;
mod sys;
mod tools;

pub use cluster::{Addition, Up};
pub use disk::DISK_BYTES_DEFAULT;
pub use error::{HostError, LabError};
pub use faults::{End, Fault};
pub use host::Host;
pub use init::{INIT_ARGUMENT, run as run_init};
pub use lab::Lab;
pub use state::{DiskState, HostState, Process, Role};
