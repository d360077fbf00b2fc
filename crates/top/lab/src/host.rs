//! One host: made, entered and removed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::init::InitSpec;
use crate::links::Subnet;
use crate::state::{HostState, Process, data_directory, directory};
use crate::{cgroup, sys};

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
    #[error("{tool} is not installed; on Debian: apt-get install iproute2 util-linux")]
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
    #[error("no free range 10.199.N.0/30 is left on this machine")]
    NoSubnet,
    /// The host's first process is gone.
    #[error("host {0} is not running")]
    Gone(String),
}

/// Adds what was tried to an I/O error.
pub(crate) fn during<T>(what: impl Into<String>, outcome: io::Result<T>) -> Result<T, HostError> {
    outcome.map_err(|source| HostError::Io {
        what: what.into(),
        source,
    })
}

/// A running host.
#[derive(Clone, Debug)]
pub struct Host {
    lab: String,
    /// What is remembered of it.
    pub state: HostState,
}

impl Host {
    pub(crate) fn new(lab: &str, state: HostState) -> Self {
        Self { lab: lab.into(), state }
    }

    /// Makes a host: namespaces, mounts, link, cgroup.
    pub(crate) fn create(lab: &str, name: &str) -> Result<Self, HostError> {
        let data = data_directory(lab).join(name);
        during("making the host's data directory", std::fs::create_dir_all(&data))?;
        during("making the lab's directory", std::fs::create_dir_all(directory(lab)))?;
        let spec = serde_json::to_string(&InitSpec {
            hostname: name.into(),
            data,
        })
        .expect("a plain struct serialises");
        let executable = during("finding the own executable", std::env::current_exe())?;
        let log = during(
            "opening the host's log",
            File::create(directory(lab).join(format!("{name}.init.log"))),
        )?;
        let mut child = during(
            "starting the host's first process",
            Command::new(executable)
                .args(["lab-init", &spec])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(during("opening the host's log", log.try_clone())?)
                .spawn(),
        )?;
        // One line, then the outer process ends; the inner one keeps the pipe, so reading to the end would wait for ever.
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        during(
            "hearing from the host's first process",
            io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line),
        )?;
        during("starting the host's first process", child.wait())?;
        let pid: i32 = line.trim().parse().map_err(|_| HostError::Tool {
            command: "trireme lab-init".into(),
            output: std::fs::read_to_string(directory(lab).join(format!("{name}.init.log"))).unwrap_or_default(),
        })?;
        let init = during("looking at the host's first process", Process::of(pid))?;
        let host = Self::prepare(lab, name, init);
        if host.is_err() {
            during(
                "ending the host's first process",
                kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(io::Error::from),
            )?;
        }
        host
    }

    fn prepare(lab: &str, name: &str, init: Process) -> Result<Self, HostError> {
        let subnet = Subnet::free()?;
        subnet.connect(init.pid)?;
        let state = HostState {
            name: name.into(),
            init,
            address: subnet.host(),
            gateway: subnet.gateway(),
            server: None,
            arguments: vec![],
        };
        let host = Self::new(lab, state);
        during(
            "making the host's cgroup",
            cgroup::join(&format!("{}/init", host.cgroup()), init.pid),
        )?;
        Ok(host)
    }

    /// The host's cgroup, from the root of every hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/trireme-lab/{}/{}", self.lab, self.state.name)
    }

    /// The host's own `/etc/trireme/kubeconfig`, as the machine sees it.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("etc/trireme/kubeconfig")
    }

    /// Directory that holds the host's own `/var/lib/trireme` and the like.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        data_directory(&self.lab).join(&self.state.name)
    }

    /// Where the server's log goes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        directory(&self.lab).join(format!("{}.log", self.state.name))
    }

    /// Whether the first process lives.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.state.init.lives()
    }

    /// Whether the server process lives.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.state.server.is_some_and(Process::lives)
    }

    /// Enters the host's PID namespace with the calling process's children, and its other namespaces with the command.
    /// Call it in a process that goes on to nothing else. `with_network` false keeps the machine's network.
    fn enter(&self, command: &mut Command, with_network: bool) -> Result<(), HostError> {
        if !self.lives() {
            return Err(HostError::Gone(self.state.name.clone()));
        }
        let open = |name: &str| -> Result<OwnedFd, HostError> {
            let path = format!("/proc/{}/ns/{name}", self.state.init.pid);
            Ok(during(path.clone(), File::open(path))?.into())
        };
        let pid = open("pid")?;
        during(
            "entering the host's PID namespace",
            nix::sched::setns(&pid, CloneFlags::CLONE_NEWPID).map_err(io::Error::from),
        )?;
        let mut namespaces = vec![
            (open("uts")?, CloneFlags::CLONE_NEWUTS),
            (open("ipc")?, CloneFlags::CLONE_NEWIPC),
        ];
        if with_network {
            namespaces.push((open("net")?, CloneFlags::CLONE_NEWNET));
        }
        // Last: behind it, the machine's /proc is out of sight.
        namespaces.push((open("mnt")?, CloneFlags::CLONE_NEWNS));
        sys::enter_before_exec(command, namespaces);
        Ok(())
    }

    /// Runs a command in the host with the caller's terminal and waits for it.
    ///
    /// # Errors
    /// When the host is gone or the command cannot be started.
    pub fn run(&self, command: &[String], with_network: bool) -> Result<ExitStatus, HostError> {
        let [program, arguments @ ..] = command else {
            return Ok(ExitStatus::default());
        };
        let mut child = Command::new(program);
        child.args(arguments);
        self.enter(&mut child, with_network)?;
        during(program.clone(), child.status())
    }

    /// Starts the server in the host, detached, its output in [`Host::log`].
    pub(crate) fn start_server(&mut self, arguments: &[String]) -> Result<(), HostError> {
        let executable = during("finding the own executable", std::env::current_exe())?;
        let log = during(
            "opening the server's log",
            File::options().create(true).append(true).open(self.log()),
        )?;
        let mut command = Command::new(executable);
        command
            .arg("server")
            .args(["--node-name", &self.state.name, "--cgroup-root", &self.cgroup()])
            .args([
                "--node-ip",
                &self.state.address.to_string(),
                "--tls-san",
                &self.state.gateway.to_string(),
            ])
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(during("opening the server's log", log.try_clone())?)
            .stderr(log)
            .process_group(0);
        self.enter(&mut command, true)?;
        let child = during("starting the server", command.spawn())?;
        let pid = i32::try_from(child.id()).expect("a PID fits");
        during(
            "putting the server into its cgroup",
            cgroup::join(&format!("{}/server", self.cgroup()), pid),
        )?;
        self.state.server = Some(during("looking at the server", Process::of(pid))?);
        self.state.arguments = arguments.to_vec();
        Ok(())
    }

    /// Sends a signal to the server. True if it lived.
    pub(crate) fn signal_server(&self, signal: Signal) -> Result<bool, HostError> {
        match self.state.server {
            Some(server) if server.lives() => {
                during(
                    "signalling the server",
                    kill(Pid::from_raw(server.pid), signal).map_err(io::Error::from),
                )?;
                // A killed process holds its ports until the last of its threads is gone, a little after the first.
                while signal == Signal::SIGKILL && server.is_there() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Ends every process of the host, and with them its namespaces and links; then removes its cgroup and its data.
    pub(crate) fn remove(&self) -> Result<(), HostError> {
        if self.lives() {
            // The kernel ends the whole PID namespace with its first process.
            during(
                "ending the host",
                kill(Pid::from_raw(self.state.init.pid), Signal::SIGKILL).map_err(io::Error::from),
            )?;
            while self.lives() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        during("removing the host's cgroup", cgroup::remove(&self.cgroup()))?;
        match std::fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => during("removing the host's data", Err(error)),
            _ => Ok(()),
        }
    }
}
