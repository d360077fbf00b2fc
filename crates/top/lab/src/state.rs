//! What a lab remembers between commands: one JSON file below `/run/trireme-lab`, changed under a lock.

use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::faults::Fault;

/// A lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LabState {
    /// N of the lab's 10.199.N.0/24.
    pub(crate) subnet: u8,
    /// The program that hosts run.
    pub(crate) program: PathBuf,
    /// Number of the last host that was made; a number is not used twice.
    pub(crate) last: u8,
    /// Size of a host's disk; none where data lie in directories of the machine.
    pub(crate) disk_bytes: Option<u64>,
    /// Further arguments of every server.
    pub(crate) server_arguments: Vec<String>,
    /// Further arguments of every agent.
    pub(crate) agent_arguments: Vec<String>,
    pub(crate) hosts: Vec<HostState>,
    pub(crate) faults: Vec<Fault>,
}

/// What a host is to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs `trireme server`.
    Server,
    /// Runs `trireme agent`.
    Agent,
    /// Runs what a test has it run.
    Bare,
}

/// Where a host's data lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskState {
    /// In a directory of the machine's own file system.
    Directory,
    /// On an ext4 file system of its own, in this file.
    Image(PathBuf),
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Name, also its node name.
    pub name: String,
    /// Its number in the lab, from 1.
    pub number: u8,
    /// What it is to its cluster.
    pub role: Role,
    /// First process of the host, as the machine numbers it; none while it is switched off.
    pub init: Option<Process>,
    /// The host's address.
    pub address: Ipv4Addr,
    /// The machine's address on the lab's switch.
    pub gateway: Ipv4Addr,
    /// The process of the server or agent, once it was started.
    pub service: Option<Process>,
    /// Its command line.
    pub command: Vec<String>,
    /// Where its data lie.
    pub disk: DiskState,
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

    /// Whether it still lives; a zombie does not, once all its threads are gone: what a process that ends has open is closed
    /// by its last thread, which may be later than the first is a zombie.
    #[must_use]
    pub fn lives(self) -> bool {
        let zombie = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')));
        let threads = || std::fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
        !(zombie && threads() <= 1) && self.is_there()
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

/// What is remembered of a lab; none where it is not up.
pub(crate) fn load(lab: &str) -> io::Result<Option<LabState>> {
    match std::fs::read(directory(lab).join("state.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the state. The lock is held. Command lines hold tokens, so it is nobody else's to read.
pub(crate) fn save(lab: &str, state: &LabState) -> io::Result<()> {
    let directory = directory(lab);
    let temporary = directory.join("state.json.new");
    let mut options = File::options();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(state)?)?;
    drop(file);
    std::fs::rename(temporary, directory.join("state.json"))
}

/// Waits until no other command changes the lab. Makes the lab's directory.
pub(crate) fn lock(lab: &str) -> io::Result<Flock<File>> {
    let path = directory(lab).join("lock");
    loop {
        let file = {
            let _all = lock_all()?;
            std::fs::create_dir_all(directory(lab))?;
            File::options().create(true).append(true).open(&path)?
        };
        let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))?;
        // The file that was waited for may have gone with the lab.
        match std::fs::metadata(&path) {
            Ok(now) if now.ino() == held.metadata()?.ino() => return Ok(held),
            _ => {}
        }
    }
}

/// Waits until no other lab comes or goes: what labs share is made with the first and removed with the last. It is a
/// lock on a directory that is there anyway, so that it leaves nothing. Nothing is waited for while it is held.
pub(crate) fn lock_all() -> io::Result<Flock<File>> {
    Flock::lock(File::open("/run")?, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))
}
