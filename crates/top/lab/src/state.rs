//! What a lab remembers between commands: one JSON file below `/run/trireme-lab`.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Name, also its node name.
    pub name: String,
    /// First process of the host, as the machine numbers it.
    pub init: Process,
    /// The host's address.
    pub address: Ipv4Addr,
    /// The machine's address on the link.
    pub gateway: Ipv4Addr,
    /// The server process, once it was started.
    pub server: Option<Process>,
    /// Arguments the server was started with.
    pub arguments: Vec<String>,
}

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// PID.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl Process {
    /// The process that has this PID now.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/PID/stat"))?;
        Ok(Self { pid, started })
    }

    /// Whether it still lives; a zombie does not.
    pub(crate) fn lives(self) -> bool {
        let zombie = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')));
        !zombie && self.is_there()
    }

    /// Whether the kernel still knows it, if only as a zombie.
    pub(crate) fn is_there(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
    }
}

/// Directory of one lab's state.
pub(crate) fn directory(lab: &str) -> PathBuf {
    Path::new("/run/trireme-lab").join(lab)
}

/// Directory of one lab's data.
pub(crate) fn data_directory(lab: &str) -> PathBuf {
    Path::new("/var/lib/trireme-lab").join(lab)
}

/// Hosts of a lab; empty where there is none.
pub(crate) fn load(lab: &str) -> io::Result<Vec<HostState>> {
    match std::fs::read(directory(lab).join("state.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// Replaces the state.
pub(crate) fn save(lab: &str, hosts: &[HostState]) -> io::Result<()> {
    let directory = directory(lab);
    std::fs::create_dir_all(&directory)?;
    let temporary = directory.join("state.json.new");
    std::fs::write(&temporary, serde_json::to_vec_pretty(hosts)?)?;
    std::fs::rename(temporary, directory.join("state.json"))
}
