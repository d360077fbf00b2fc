//! One host: made, entered, switched off and removed.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{HostError, during, during_call, unless_absent};
use crate::init::{INIT_ARGUMENT, InitSpec};
use crate::state::{DiskState, HostState, Process, data_directory, directory};
use crate::{cgroup, disk, switch, sys};

/// How often is looked whether a process has ended.
const POLL: Duration = Duration::from_millis(2);

/// The caller's search path, behind the directory of its own program.
fn search_path() -> io::Result<OsString> {
    let own = std::env::current_exe()?;
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let directories = own.parent().map(Path::to_owned).into_iter();
    std::env::join_paths(directories.chain(std::env::split_paths(&inherited))).map_err(io::Error::other)
}

/// A host as it was when it was asked for: its processes may be others by now.
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

    /// Its name, also its node name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its address on the lab's switch.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.state.address
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

    /// Directory of what is the host's own, as the machine sees it. Without a disk it holds `/var/lib/trireme`, too.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        data_directory(&self.lab).join(&self.state.name)
    }

    /// The host's root directory as the machine sees it; its disk is mounted there. None while it is switched off.
    #[must_use]
    pub fn root(&self) -> Option<PathBuf> {
        let init = self.state.init.filter(|init| init.lives())?;
        Some(format!("/proc/{}/root", init.pid).into())
    }

    /// Where the output of its server or agent goes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        directory(&self.lab).join(format!("{}.log", self.state.name))
    }

    /// Whether the host is switched on.
    #[must_use]
    pub fn lives(&self) -> bool {
        self.state.init.is_some_and(Process::lives)
    }

    /// Whether its server or agent lives.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.state.service.is_some_and(Process::lives)
    }

    /// PID of the server or agent, as the machine numbers it.
    #[must_use]
    pub fn service_pid(&self) -> Option<i32> {
        self.state.service.map(|process| process.pid)
    }

    fn init(&self) -> Result<Process, HostError> {
        let lives = self.state.init.filter(|init| init.lives());
        lives.ok_or_else(|| HostError::Gone(self.state.name.clone()))
    }

    /// Switches the host on: namespaces, mounts, link, cgroup. Its data are what they were.
    pub(crate) fn switch_on(&mut self, program: &Path, subnet: u8) -> Result<(), HostError> {
        during("making the host's data directory", std::fs::create_dir_all(self.data()))?;
        let image = match &self.state.disk {
            DiskState::Directory => None,
            DiskState::Image(image) => {
                disk::await_release(image)?;
                Some(image.clone())
            }
        };
        let spec = serde_json::to_string(&InitSpec {
            hostname: self.state.name.clone(),
            cgroup: format!("{}/init", self.cgroup()),
            data: self.data(),
            image,
        })
        .expect("a plain struct serialises");
        let log_path = directory(&self.lab).join(format!("{}.init.log", self.state.name));
        let log = during("opening the host's log", File::create(&log_path))?;
        let mut child = during(
            "starting the host's first process",
            Command::new(program)
                .args([INIT_ARGUMENT, &spec])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(log)
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
            command: format!("{} {INIT_ARGUMENT}", program.display()),
            output: std::fs::read_to_string(log_path).unwrap_or_default().trim().to_owned(),
        })?;
        self.state.init = Some(during("looking at the host's first process", Process::of(pid))?);
        self.state.service = None;
        let connected = switch::connect(&self.lab, subnet, self.state.number, self.state.address, pid);
        if connected.is_err() {
            self.switch_off()?;
        }
        connected
    }

    /// Ends every process of the host, and with them its namespaces, mounts and link. Its data stay.
    pub(crate) fn switch_off(&mut self) -> Result<(), HostError> {
        if let Some(init) = self.state.init.take() {
            // The kernel ends the whole PID namespace with its first process.
            if init.lives() {
                during_call("ending the host", kill(Pid::from_raw(init.pid), Signal::SIGKILL))?;
            }
            while init.lives() {
                std::thread::sleep(POLL);
            }
        }
        self.state.service = None;
        Ok(())
    }

    /// Gives the host its other address. Its command line names that from now on.
    pub(crate) fn readdress(&mut self, subnet: u8) -> Result<(), HostError> {
        let old = self.state.address;
        let new = switch::other_address(old);
        switch::readdress(subnet, self.init()?.pid, old, new)?;
        self.state.address = new;
        for argument in &mut self.state.command {
            if *argument == old.to_string() {
                *argument = new.to_string();
            }
        }
        Ok(())
    }

    /// Enters the host's PID namespace with the calling thread's children, and its other namespaces with the command.
    /// Call it in a thread that goes on to nothing else. `with_network` false keeps the machine's network.
    fn enter(&self, command: &mut Command, with_network: bool) -> Result<(), HostError> {
        let init = self.init()?;
        let open = |name: &str| -> Result<OwnedFd, HostError> {
            let path = format!("/proc/{}/ns/{name}", init.pid);
            Ok(during(path.clone(), File::open(path))?.into())
        };
        let pid = open("pid")?;
        during_call(
            "entering the host's PID namespace",
            nix::sched::setns(&pid, CloneFlags::CLONE_NEWPID),
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

    /// Starts a command in the host, from a thread of its own: a PID namespace is entered for good.
    fn spawn(&self, command: &mut Command, with_network: bool) -> Result<Child, HostError> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter(command, with_network)?;
                    let program = command.get_program().to_string_lossy().into_owned();
                    during(program, command.spawn())
                })
                .join()
                .expect("nothing here panics")
        })
    }

    /// Runs a command in the host with the caller's terminal and waits for it. The calling program's directory is searched
    /// for it first, so that `trireme` is the one that made the host.
    ///
    /// # Errors
    /// When the host is gone or the command cannot be started.
    pub fn run(&self, command: &[String], with_network: bool) -> Result<ExitStatus, HostError> {
        let [program, arguments @ ..] = command else {
            return Ok(ExitStatus::default());
        };
        let path = during("finding the own executable", search_path())?;
        let mut child = self.spawn(Command::new(program).args(arguments).env("PATH", path), with_network)?;
        during(program.clone(), child.wait())
    }

    /// Runs a command in the host without input and waits for it; what it said.
    ///
    /// # Errors
    /// When the host is gone or the command cannot be started.
    pub fn output(&self, command: &[&str]) -> Result<Output, HostError> {
        let [program, arguments @ ..] = command else {
            return Err(HostError::Gone(self.state.name.clone()));
        };
        let child = self.spawn(
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
            true,
        )?;
        during(*program, child.wait_with_output())
    }

    /// Starts the host's server or agent, detached, its output in [`Host::log`].
    pub(crate) fn start_service(&mut self, command: &[String]) -> Result<(), HostError> {
        let [program, arguments @ ..] = command else {
            return Ok(());
        };
        let log = during(
            "opening the server's log",
            File::options().create(true).append(true).open(self.log()),
        )?;
        let mut child = self.spawn(
            Command::new(program)
                .args(arguments)
                .env_clear()
                .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
                .stdin(Stdio::null())
                .stdout(during("opening the server's log", log.try_clone())?)
                .stderr(log)
                .process_group(0),
            true,
        )?;
        let pid = i32::try_from(child.id()).expect("a PID fits");
        // Before it can be reaped, so that the number is surely its own.
        let process = during("looking at the server", Process::of(pid))?;
        // Where the caller lives on it is the parent, and nobody else would reap.
        std::thread::spawn(move || child.wait());
        self.state.command = command.to_vec();
        self.state.service = Some(process);
        match cgroup::join(&format!("{}/server", self.cgroup()), pid) {
            // It has ended already; whoever waits for it will say so.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => during("putting the server into its cgroup", other),
        }
    }

    /// Sends a signal to the server or agent. True if it lived.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool, HostError> {
        match self.state.service {
            Some(service) if service.lives() => {
                match kill(Pid::from_raw(service.pid), signal) {
                    Err(nix::Error::ESRCH) => return Ok(false),
                    other => during_call("signalling the server", other)?,
                }
                // A killed process holds its ports until the last of its threads is gone, a little after the first.
                while signal == Signal::SIGKILL && service.is_there() {
                    std::thread::sleep(POLL);
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The disk's mount as the machine sees it.
    fn disk(&self) -> Result<PathBuf, HostError> {
        match &self.state.disk {
            DiskState::Directory => Err(HostError::NoDisk(self.state.name.clone())),
            DiskState::Image(_) => Ok(disk::seen_from_machine(self.init()?.pid)),
        }
    }

    pub(crate) fn fill_disk(&self) -> Result<(), HostError> {
        disk::fill(&self.disk()?)
    }

    pub(crate) fn free_disk(&self) -> Result<(), HostError> {
        disk::free(&self.disk()?)
    }

    /// Nothing reaches the disk any more, and every process is gone.
    pub(crate) fn lose_power(&mut self) -> Result<(), HostError> {
        disk::cut_power(&self.disk()?)?;
        self.switch_off()
    }

    /// Ends the host and removes its cgroup, its data and its logs.
    pub(crate) fn remove(&mut self) -> Result<(), HostError> {
        self.switch_off()?;
        if let DiskState::Image(image) = &self.state.disk {
            disk::await_release(image)?;
        }
        during("removing the host's cgroup", cgroup::remove(&self.cgroup()))?;
        during(
            "removing the host's data",
            unless_absent(std::fs::remove_dir_all(self.data())),
        )
    }
}
