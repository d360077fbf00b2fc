//! A lab as a whole: up, down, status, and faults upon its servers.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::host::{Host, HostError, during};
use crate::init::OWN_DIRECTORIES;
use crate::{cgroup, state};

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
    /// A server ended while it was waited for.
    #[error("the server of host {host} ended; the last lines of {log}:\n{tail}")]
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
}

/// How a lab's servers are started.
#[derive(Clone, Debug, Default)]
pub struct ServerStart {
    /// Further arguments of `trireme server`.
    pub arguments: Vec<String>,
}

/// A lab by name.
#[derive(Debug)]
pub struct Lab {
    name: String,
    hosts: Vec<Host>,
}

/// Longest wait for a server to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);

impl Lab {
    /// Opens a lab, also one that is not up.
    ///
    /// # Errors
    /// When the name is no name or its state cannot be read.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 20 || !name.bytes().all(fits) {
            return Err(LabError::Name(name.into()));
        }
        let hosts = during("reading the lab's state", state::load(name))?;
        Ok(Self {
            name: name.into(),
            hosts: hosts.into_iter().map(|host| Host::new(name, host)).collect(),
        })
    }

    /// Makes one host and starts a server in it. On failure nothing stays.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn up(&mut self, start: &ServerStart) -> Result<(), LabError> {
        if !self.hosts.is_empty() {
            return Err(LabError::Exists(self.name.clone()));
        }
        let name = format!("{}-1", self.name);
        let mut host = Host::create(&self.name, &name)?;
        let started = host.start_server(&start.arguments);
        self.hosts.push(host);
        self.save()?;
        if let Err(error) = started {
            self.down()?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Removes everything of the lab. Idempotent.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn down(&mut self) -> Result<(), LabError> {
        for host in &self.hosts {
            host.remove()?;
        }
        self.hosts.clear();
        during(
            "removing the lab's cgroup",
            cgroup::remove(&format!("/trireme-lab/{}", self.name)),
        )?;
        for directory in [state::directory(&self.name), state::data_directory(&self.name)] {
            match std::fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => during(directory.display().to_string(), Err(error))?,
                _ => {}
            }
            // The last lab takes the shared directory with it.
            if let Some(parent) = directory.parent() {
                remove_empty(parent)?;
            }
        }
        remove_shared()
    }

    /// Its hosts.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by name, or the only one where no name is given.
    ///
    /// # Errors
    /// When there is none.
    pub fn host(&self, name: Option<&str>) -> Result<&Host, LabError> {
        self.index(name).map(|index| &self.hosts[index])
    }

    fn index(&self, name: Option<&str>) -> Result<usize, LabError> {
        match (name, self.hosts.as_slice()) {
            (_, []) => Err(LabError::Absent(self.name.clone())),
            (None, [_]) => Ok(0),
            (name, hosts) => hosts
                .iter()
                .position(|host| Some(host.state.name.as_str()) == name)
                .ok_or_else(|| LabError::NoHost {
                    lab: self.name.clone(),
                    host: name.unwrap_or("").into(),
                }),
        }
    }

    /// Sends a signal to a host's server. True if it lived.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn signal(&self, host: Option<&str>, signal: Signal) -> Result<bool, LabError> {
        Ok(self.host(host)?.signal_server(signal)?)
    }

    /// Stops a host's server with SIGTERM, if it runs, and starts it as it was started before.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn restart(&mut self, host: Option<&str>) -> Result<(), LabError> {
        let index = self.index(host)?;
        if self.hosts[index].signal_server(Signal::SIGTERM)? {
            let deadline = Instant::now() + STOP_LIMIT;
            while self.hosts[index].serves() {
                if Instant::now() > deadline {
                    return Err(LabError::StillRuns(self.hosts[index].state.name.clone()));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let arguments = self.hosts[index].state.arguments.clone();
        self.hosts[index].start_server(&arguments)?;
        self.save()
    }

    fn save(&self) -> Result<(), LabError> {
        let hosts: Vec<_> = self.hosts.iter().map(|host| host.state.clone()).collect();
        Ok(during("writing the lab's state", state::save(&self.name, &hosts))?)
    }
}

/// What all labs share goes with the last one: their cgroup, and the directories that hosts mount their own upon, where
/// these are empty.
fn remove_shared() -> Result<(), LabError> {
    if std::path::Path::new("/run/trireme-lab").exists() {
        return Ok(()); // Another lab is up.
    }
    for directory in OWN_DIRECTORIES {
        remove_empty(std::path::Path::new(directory))?;
    }
    Ok(during("removing the labs' cgroup", cgroup::remove("/trireme-lab"))?)
}

fn remove_empty(directory: &std::path::Path) -> Result<(), LabError> {
    match std::fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Ok(during(directory.display().to_string(), Err(error))?)
        }
        _ => Ok(()),
    }
}
