//! A lab as a whole: its hosts, and faults upon them.
//!
//! Invariant: nothing is remembered in memory. Every call reads what is written, and changes it under a lock, so that
//! several programs and threads may act on the same lab.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::error::{HostError, LabError, during, unless_absent};
use crate::faults::{self, End, Fault, MACHINE};
use crate::host::Host;
use crate::state::{self, DiskState, HostState, LabState, Role};
use crate::{cgroup, disk, kubeconfig, switch};

/// A lab by name, up or not.
#[derive(Clone, Debug)]
pub struct Lab {
    name: String,
}

/// Longest wait for a server to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How often is looked whether it has.
const POLL: Duration = Duration::from_millis(5);

impl Lab {
    /// Opens a lab, also one that is not up.
    ///
    /// # Errors
    /// When the name is no name.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 20 || !name.bytes().all(fits) {
            return Err(LabError::Name(name.into()));
        }
        Ok(Self { name: name.into() })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is remembered, if the lab is up.
    pub(crate) fn load(&self) -> Result<LabState, LabError> {
        let state = during("reading the lab's state", state::load(&self.name))?;
        state.ok_or_else(|| LabError::Absent(self.name.clone()))
    }

    /// Changes what is remembered while nobody else does. What was changed before an error is kept, too.
    pub(crate) fn change<T>(&self, act: impl FnOnce(&mut LabState) -> Result<T, LabError>) -> Result<T, LabError> {
        self.load()?; // Else the lock would make a lab that is not there.
        let _lock = during("locking the lab", state::lock(&self.name))?;
        let mut state = self.load()?;
        let outcome = act(&mut state);
        during("writing the lab's state", state::save(&self.name, &state))?;
        outcome
    }

    /// Changes one host while nobody else changes the lab.
    pub(crate) fn change_host<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Host, &LabState) -> Result<T, LabError>,
    ) -> Result<T, LabError> {
        self.change(|state| {
            let index = state.hosts.iter().position(|host| host.name == name);
            let index = index.ok_or_else(|| self.no_host(name))?;
            let mut host = Host::new(&self.name, state.hosts[index].clone());
            let outcome = act(&mut host, state);
            state.hosts[index] = host.state;
            outcome
        })
    }

    fn no_host(&self, name: &str) -> LabError {
        LabError::NoHost {
            lab: self.name.clone(),
            host: name.into(),
        }
    }

    /// Makes the switch of a lab that is not up.
    pub(crate) fn create(&self, mut state: LabState) -> Result<(), LabError> {
        if during("reading the lab's state", state::load(&self.name))?.is_some() {
            return Err(LabError::Exists(self.name.clone()));
        }
        let _lock = during("locking the lab", state::lock(&self.name))?;
        if during("reading the lab's state", state::load(&self.name))?.is_some() {
            return Err(LabError::Exists(self.name.clone()));
        }
        // Written before anything is made: what is made can be found from then on.
        during("writing the lab's state", state::save(&self.name, &state))?;
        state.subnet = switch::create(&self.name)?;
        Ok(during("writing the lab's state", state::save(&self.name, &state))?)
    }

    /// Makes hosts that run nothing yet, all at once; they are called `LAB-NUMBER`.
    pub(crate) fn make_hosts(&self, roles: &[Role]) -> Result<Vec<Host>, LabError> {
        self.change(|state| {
            let mut hosts = Vec::new();
            for role in roles {
                if state.last >= switch::HOSTS_MAX {
                    return Err(LabError::Full(self.name.clone()));
                }
                state.last += 1;
                hosts.push(self.draft(state, *role));
            }
            let (program, subnet) = (state.program.clone(), state.subnet);
            let disk_bytes = state.disk_bytes;
            let outcomes = std::thread::scope(|scope| {
                let begin = |host| {
                    let program = &program;
                    scope.spawn(move || make_host(host, disk_bytes, program, subnet))
                };
                let running: Vec<_> = hosts.iter_mut().map(begin).collect();
                let finish = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("nothing here panics");
                running.into_iter().map(finish).collect::<Vec<Result<(), LabError>>>()
            });
            // Those that failed half-way are remembered, too, so that they can be removed.
            state.hosts.extend(hosts.iter().map(|host| host.state.clone()));
            outcomes.into_iter().collect::<Result<(), LabError>>()?;
            Ok(hosts)
        })
    }

    fn draft(&self, state: &LabState, role: Role) -> Host {
        let number = state.last;
        let name = format!("{}-{number}", self.name);
        let disk = match state.disk_bytes {
            None => DiskState::Directory,
            Some(_) => DiskState::Image(state::data_directory(&self.name).join(&name).join("disk.ext4")),
        };
        let host = HostState {
            name,
            number,
            role,
            init: None,
            address: switch::address(state.subnet, number),
            gateway: switch::gateway(state.subnet),
            service: None,
            command: vec![],
            disk,
        };
        Host::new(&self.name, host)
    }

    /// Removes everything of the lab. Idempotent; finds also what an interrupted command left.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn down(&self) -> Result<(), LabError> {
        let _lock = during("locking the lab", state::lock(&self.name))?;
        // What cannot be read is no reason to leave the rest.
        let state = state::load(&self.name).ok().flatten().unwrap_or_default();
        // All at once: the kernel takes a second for each.
        std::thread::scope(|scope| {
            let hosts = state.hosts.into_iter().map(|state| Host::new(&self.name, state));
            let ending: Vec<_> = hosts.map(|mut host| scope.spawn(move || host.switch_off())).collect();
            let ended = ending.into_iter().map(|thread| thread.join().expect("nothing here panics"));
            ended.collect::<Result<(), HostError>>()
        })?;
        let group = format!("/trireme-lab/{}", self.name);
        during("ending what is left of the lab", cgroup::kill_all(&group))?;
        switch::remove(&self.name)?;
        during("removing the lab's cgroup", cgroup::remove(&group))?;
        let data = state::data_directory(&self.name);
        for image in images(&data) {
            disk::await_release(&image)?;
        }
        kubeconfig::withdraw(&self.name)?;
        let removed = unless_absent(std::fs::remove_dir_all(&data));
        during(data.display().to_string(), removed)?;
        // From here on another lab neither comes nor goes.
        let _all = during("locking the labs", state::lock_all())?;
        let directory = state::directory(&self.name);
        let removed = unless_absent(std::fs::remove_dir_all(&directory));
        during(directory.display().to_string(), removed)?;
        remove_shared(&directory, &data)
    }

    /// Its hosts; none where it is not up.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn hosts(&self) -> Result<Vec<Host>, LabError> {
        let state = during("reading the lab's state", state::load(&self.name))?;
        let hosts = state.map(|state| state.hosts).unwrap_or_default();
        Ok(hosts.into_iter().map(|host| Host::new(&self.name, host)).collect())
    }

    /// A host by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn host(&self, name: &str) -> Result<Host, LabError> {
        self.pick(Some(name))
    }

    /// A host by name, or the only one where no name is given.
    ///
    /// # Errors
    /// When there is none.
    pub fn pick(&self, name: Option<&str>) -> Result<Host, LabError> {
        let mut hosts = self.hosts()?;
        match name {
            _ if hosts.is_empty() => Err(LabError::Absent(self.name.clone())),
            None if hosts.len() == 1 => Ok(hosts.remove(0)),
            None => Err(LabError::WhichHost(self.name.clone())),
            Some(name) => hosts
                .into_iter()
                .find(|host| host.state.name == name)
                .ok_or_else(|| self.no_host(name)),
        }
    }

    /// What its switch loses.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub fn faults(&self) -> Result<Vec<Fault>, LabError> {
        let state = during("reading the lab's state", state::load(&self.name))?;
        Ok(state.map(|state| state.faults).unwrap_or_default())
    }

    /// The first three parts of its addresses, such as 10.199.1; those from .200 on are free for virtual addresses.
    ///
    /// # Errors
    /// When it is not up.
    pub fn subnet(&self) -> Result<String, LabError> {
        let [a, b, c, _] = switch::gateway(self.load()?.subnet).octets();
        Ok(format!("{a}.{b}.{c}"))
    }

    /// Cuts the link between two hosts, or from one to everyone including the machine. One way: what `one` sends is
    /// lost, what it is sent arrives. "machine" stands for the machine that the lab is on.
    ///
    /// # Errors
    /// When there is no such host, or nft fails.
    pub fn cut(&self, one: &str, other: Option<&str>, one_way: bool) -> Result<(), LabError> {
        self.lossy(one, other, one_way, 100)
    }

    /// Loses a share of the frames between two hosts, or between one and everyone; 0 heals.
    ///
    /// # Errors
    /// When there is no such host, or nft fails.
    pub fn lossy(&self, one: &str, other: Option<&str>, one_way: bool, percent: u8) -> Result<(), LabError> {
        self.change_faults(|state| {
            let from = self.end(state, one)?;
            let to = other.map_or(Ok(End::Anyone), |other| self.end(state, other))?;
            faults::lose(&mut state.faults, &from, &to, percent)?;
            if !one_way {
                faults::lose(&mut state.faults, &to, &from, percent)?;
            }
            Ok(())
        })
    }

    /// Heals all links, all of one host, or the one between two.
    ///
    /// # Errors
    /// When there is no such host, or nft fails.
    pub fn heal(&self, one: Option<&str>, other: Option<&str>) -> Result<(), LabError> {
        self.change_faults(|state| {
            let one = one.map(|name| self.end(state, name)).transpose()?;
            let other = other.map(|name| self.end(state, name)).transpose()?;
            let mut all: Vec<End> = state.hosts.iter().map(|host| End::Host(host.number)).collect();
            all.push(End::Machine);
            faults::heal(&mut state.faults, one.as_ref(), other.as_ref(), &all);
            Ok(())
        })
    }

    fn change_faults(&self, act: impl FnOnce(&mut LabState) -> Result<(), LabError>) -> Result<(), LabError> {
        self.change(|state| {
            let before = state.faults.clone();
            let outcome = act(state).and_then(|()| Ok(switch::apply(&self.name, &state.faults)?));
            if outcome.is_err() {
                state.faults = before;
            }
            outcome
        })
    }

    fn end(&self, state: &LabState, name: &str) -> Result<End, LabError> {
        if name == MACHINE {
            return Ok(End::Machine);
        }
        let host = state.hosts.iter().find(|host| host.name == name);
        host.map(|host| End::Host(host.number)).ok_or_else(|| self.no_host(name))
    }

    /// Name of an end.
    #[must_use]
    pub fn name_of(&self, end: &End) -> String {
        match end {
            End::Host(number) => format!("{}-{number}", self.name),
            End::Machine => MACHINE.into(),
            End::Anyone => "anyone".into(),
        }
    }

    /// Sends a signal to a host's server or agent. True if it lived.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn signal(&self, host: &str, signal: Signal) -> Result<bool, LabError> {
        Ok(self.host(host)?.signal(signal)?)
    }

    /// Sends SIGKILL to a host's server or agent, and returns when it is gone. True if it lived.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn kill(&self, host: &str) -> Result<bool, LabError> {
        self.signal(host, Signal::SIGKILL)
    }

    /// Pauses a host's server or agent. True if it lived.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn stop(&self, host: &str) -> Result<bool, LabError> {
        self.signal(host, Signal::SIGSTOP)
    }

    /// Has a paused server or agent go on. True if it lived.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn cont(&self, host: &str) -> Result<bool, LabError> {
        self.signal(host, Signal::SIGCONT)
    }

    /// Has a host's server or agent end cleanly, by SIGTERM, and waits for it. True if it lived.
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(&self, host: &str) -> Result<bool, LabError> {
        let host = self.host(host)?;
        let lived = host.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        while host.serves() {
            if Instant::now() > deadline {
                return Err(LabError::StillRuns(host.state.name));
            }
            std::thread::sleep(POLL);
        }
        Ok(lived)
    }

    /// Stops a host's server or agent with SIGTERM, if it runs, and starts it as it was started before.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn restart(&self, host: &str) -> Result<(), LabError> {
        self.terminate(host)?;
        let command = self.host(host)?.state.command;
        if command.is_empty() {
            return Err(LabError::NoService(host.into()));
        }
        self.start(host, &command)
    }

    /// Starts a command as a host's server or agent, in place of none. It is started again when the host is.
    ///
    /// # Errors
    /// When the host is off or the command cannot be started.
    pub fn start(&self, host: &str, command: &[String]) -> Result<(), LabError> {
        self.change_host(host, |host, _| Ok(host.start_service(command)?))
    }

    /// Fills a host's disk to the last block.
    ///
    /// # Errors
    /// When it has no disk of its own.
    pub fn fill_disk(&self, host: &str) -> Result<(), LabError> {
        Ok(self.host(host)?.fill_disk()?)
    }

    /// Takes away what [`Lab::fill_disk`] filled the disk with.
    ///
    /// # Errors
    /// When it has no disk of its own.
    pub fn free_disk(&self, host: &str) -> Result<(), LabError> {
        Ok(self.host(host)?.free_disk()?)
    }

    /// Cuts the power of a host and leaves it off: what was not synced is lost, every process is gone.
    ///
    /// # Errors
    /// When it has no disk of its own.
    pub fn power_off(&self, host: &str) -> Result<(), LabError> {
        self.change_host(host, |host, _| Ok(host.lose_power()?))
    }

    /// Cuts the power of a host, switches it on again and starts its server or agent.
    ///
    /// # Errors
    /// When it has no disk of its own, or does not come back.
    pub fn power_cut(&self, host: &str) -> Result<(), LabError> {
        self.power_off(host)?;
        self.start_host(host)
    }

    /// Switches a host on that is off, and starts its server or agent if that does not run.
    ///
    /// # Errors
    /// When it does not come.
    pub fn start_host(&self, host: &str) -> Result<(), LabError> {
        self.change_host(host, |host, state| {
            if !host.lives() {
                host.switch_on(&state.program, state.subnet)?;
            }
            if !host.serves() {
                let command = host.state.command.clone();
                host.start_service(&command)?;
            }
            Ok(())
        })
    }

    /// Stops a host's server or agent cleanly, gives the host another address, and starts it again if it ran.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn readdress(&self, host: &str) -> Result<Ipv4Addr, LabError> {
        let ran = self.terminate(host)?;
        self.change_host(host, |host, state| {
            host.readdress(state.subnet)?;
            let command = host.state.command.clone();
            if ran {
                host.start_service(&command)?;
            }
            Ok(host.address())
        })
    }

    /// Removes a host with all its data, as if its machine had burnt. The cluster is not told.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn remove_host(&self, host: &str) -> Result<(), LabError> {
        let number = self.change_host(host, |host, _| {
            host.remove()?;
            during("removing the host's log", unless_absent(std::fs::remove_file(host.log())))?;
            Ok(host.state.number)
        })?;
        self.change_faults(|state| {
            state.hosts.retain(|host| host.number != number);
            faults::forget(&mut state.faults, number);
            Ok(())
        })
    }
}

fn make_host(host: &mut Host, disk_bytes: Option<u64>, program: &Path, subnet: u8) -> Result<(), LabError> {
    if let (DiskState::Image(image), Some(bytes)) = (&host.state.disk, disk_bytes) {
        during("making the host's data directory", std::fs::create_dir_all(host.data()))?;
        disk::make(image, bytes)?;
    }
    Ok(host.switch_on(program, subnet)?)
}

/// The disks of a lab's hosts, whether they are remembered or not.
fn images(data: &Path) -> Vec<std::path::PathBuf> {
    let Ok(hosts) = std::fs::read_dir(data) else {
        return vec![];
    };
    hosts
        .filter_map(Result::ok)
        .map(|host| host.path().join("disk.ext4"))
        .filter(|image| image.exists())
        .collect()
}

/// What all labs share goes with the last one: the directories that hold theirs, where these are empty, and their cgroup.
fn remove_shared(directory: &Path, data: &Path) -> Result<(), LabError> {
    let [labs, all_data] = [directory, data].map(|path| path.parent().expect("labs have a directory in common"));
    remove_empty(labs)?;
    if labs.exists() {
        return Ok(()); // Another lab is up.
    }
    remove_empty(all_data)?;
    Ok(during("removing the labs' cgroup", cgroup::remove("/trireme-lab"))?)
}

fn remove_empty(directory: &Path) -> Result<(), LabError> {
    match std::fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Ok(during(directory.display().to_string(), Err(error))?)
        }
        _ => Ok(()),
    }
}
