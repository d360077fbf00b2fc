//! The shim's event loop: one `poll` over the socket, its connections, workers, outputs and SIGCHLD.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid, pipe2};

use super::ShimConfig;
use super::log::{Log, Stream};
use super::output::Output;
use super::user_namespace::{self, Held as Namespaces};
use super::worker::{self, Held, Outcome, Stdio, Task};
use crate::cri::ContainerState;
use crate::protocol::{self, FailureKind, Reply, Request, StartRequest};
use crate::spec::HELD_TARGET;
use crate::state::{self, RunState};
use crate::sys;

/// A client that does not send or take a message in this time is dropped.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often stalled readers are looked at.
const STALL_CHECK_MS: u16 = 1000;
/// A shim with nothing to do for this long gives memory back.
const IDLE_MS: u16 = 100;
/// A shim that is never idle gives back program text this often, so that what one start or exec needed does not stay.
const BUSY_SHRINK: Duration = Duration::from_secs(1);
/// Chunks read of one output before the others get their turn.
const CHUNKS_PER_TURN: usize = 16;
/// Chunks read at the end of a container at most: a pipe holds at most 1 MiB.
const CHUNKS_AT_END: usize = 128;

struct Container {
    request: StartRequest,
    run: RunState,
    log: Log,
    outputs: Vec<Output>,
    /// Our end of stdin.
    stdin: Option<OwnedFd>,
    /// The terminal.
    terminal: Option<OwnedFd>,
}

enum Job {
    Start(Box<Container>),
    Exec { container: String },
}

struct Worker {
    channel: UnixStream,
    client: UnixStream,
    job: Job,
}

struct Exec {
    pid: i32,
    container: String,
    client: Option<UnixStream>,
}

struct Server {
    config: ShimConfig,
    containers: BTreeMap<String, Container>,
    workers: Vec<Worker>,
    execs: Vec<Exec>,
    subscribers: Vec<UnixStream>,
    /// Output of ended containers that attached readers have not taken yet.
    lingering: Vec<Output>,
    /// Ends of children whose worker has not reported yet.
    early: BTreeMap<i32, (i32, i32)>,
    /// Those that belong to the pod's user namespace, if it has one.
    namespaces: Namespaces,
    pause: Option<Pid>,
    ended: bool,
    /// Something happened since memory was last given back.
    busy: bool,
    text: sys::TextPages,
    /// When program text was last given back.
    shrunk: Instant,
}

/// What a ready descriptor belongs to.
enum Source {
    Listener,
    Signals,
    Worker(usize),
    Exec(usize),
    Subscriber(usize),
    Output(String),
    Lingering,
}

/// Serves until told to shut down.
pub(super) fn serve(config: ShimConfig, listener: UnixListener, pause: Option<Pid>, namespaces: Namespaces) -> io::Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut server = Server {
        config,
        containers: BTreeMap::new(),
        workers: Vec::new(),
        execs: Vec::new(),
        subscribers: Vec::new(),
        lingering: Vec::new(),
        early: BTreeMap::new(),
        namespaces,
        pause,
        ended: false,
        busy: true,
        text: sys::TextPages::find()?,
        shrunk: Instant::now(),
    };
    while !server.ended {
        let ready = server.wait(&listener, &signals)?;
        // From the back, so that removing one leaves earlier indices valid.
        for source in ready.into_iter().rev() {
            match source {
                Source::Listener => server.accept(&listener),
                Source::Signals => {
                    while signals.read_signal()?.is_some() {}
                    server.reap();
                }
                Source::Worker(index) => server.worker_reported(index),
                Source::Exec(index) => server.exec_client(index),
                Source::Subscriber(index) => drop(server.subscribers.remove(index)),
                Source::Output(id) => server.pump(&id),
                Source::Lingering => server.flush_lingering(),
            }
        }
    }
    Ok(())
}

impl Server {
    fn wait(&mut self, listener: &UnixListener, signals: &SignalFd) -> io::Result<Vec<Source>> {
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let mut sources = Vec::new();
        let mut timeout = if self.busy {
            PollTimeout::from(IDLE_MS)
        } else {
            PollTimeout::NONE
        };
        let mut watch = |fd, source, flags| {
            fds.push(PollFd::new(fd, flags));
            sources.push(source);
        };
        watch(listener.as_fd(), Source::Listener, PollFlags::POLLIN);
        watch(signals.as_fd(), Source::Signals, PollFlags::POLLIN);
        for (index, worker) in self.workers.iter().enumerate() {
            watch(worker.channel.as_fd(), Source::Worker(index), PollFlags::POLLIN);
        }
        for (index, exec) in self.execs.iter().enumerate() {
            if let Some(client) = &exec.client {
                watch(client.as_fd(), Source::Exec(index), PollFlags::POLLIN);
            }
        }
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            watch(subscriber.as_fd(), Source::Subscriber(index), PollFlags::POLLIN);
        }
        for (id, container) in &self.containers {
            for output in &container.outputs {
                if output.stalled() {
                    timeout = PollTimeout::from(STALL_CHECK_MS);
                    for tap in output.waiting() {
                        watch(tap.fd.as_fd(), Source::Output(id.clone()), PollFlags::POLLOUT);
                    }
                } else {
                    watch(output.fd.as_fd(), Source::Output(id.clone()), PollFlags::POLLIN);
                }
            }
        }
        for tap in self.lingering.iter().flat_map(Output::waiting) {
            timeout = PollTimeout::from(STALL_CHECK_MS);
            watch(tap.fd.as_fd(), Source::Lingering, PollFlags::POLLOUT);
        }
        let idle = self.busy && timeout == PollTimeout::from(IDLE_MS);
        if self.busy && self.shrunk.elapsed() >= BUSY_SHRINK {
            self.shrunk = Instant::now();
            self.text.let_go();
        }
        let mut ready = poll(&mut fds, timeout);
        if idle && ready == Ok(0) {
            self.busy = false;
            sys::trim_heap();
            self.text.let_go();
            ready = poll(&mut fds, PollTimeout::NONE);
        }
        match ready {
            Ok(0) => {
                let stalled = self
                    .containers
                    .iter()
                    .filter(|(_, container)| container.outputs.iter().any(Output::stalled));
                let mut sources: Vec<Source> = stalled.map(|(id, _)| Source::Output(id.clone())).collect();
                sources.extend(self.lingering.first().map(|_| Source::Lingering));
                Ok(sources)
            }
            Ok(_) => {
                let ready = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect::<Vec<_>>();
                self.busy = true;
                Ok(sources
                    .into_iter()
                    .zip(ready)
                    .filter_map(|(source, ready)| ready.then_some(source))
                    .collect())
            }
            Err(nix::errno::Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return super::complain(format_args!("accept: {error}")),
        };
        let limited = client
            .set_read_timeout(Some(CLIENT_TIMEOUT))
            .and_then(|()| client.set_write_timeout(Some(CLIENT_TIMEOUT)));
        match limited.and_then(|()| protocol::receive::<Request>(&client)) {
            Ok(Some((request, fds))) => self.serve_request(client, request, fds),
            Ok(None) => {}
            Err(error) => super::complain(format_args!("request: {error}")),
        }
    }

    fn serve_request(&mut self, client: UnixStream, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Start(request) => self.start(client, request),
            Request::Kill { id, signal, all } => reply(&client, &self.kill(&id, signal, all), &[]),
            Request::Exec {
                id,
                process,
                tty,
                seccomp,
            } => self.exec(client, &id, &process, tty, seccomp, fds),
            Request::StopExec => reply(
                &client,
                &failed(FailureKind::Other, "no exec on this connection".to_owned()),
                &[],
            ),
            Request::Attach { id, stdin } => self.attach(&client, &id, stdin, fds),
            Request::Subscribe => {
                let states = self.containers.values().map(|container| container.run.clone()).collect();
                if protocol::send(&client, &Reply::States(states), &[]).is_ok() {
                    self.subscribers.push(client);
                }
            }
            Request::Shutdown => {
                self.shutdown();
                reply(&client, &Reply::Done, &[]);
            }
        }
    }

    fn start(&mut self, client: UnixStream, request: StartRequest) {
        let prepare = || -> io::Result<(Container, Stdio)> {
            let log = Log::open(&request.log_path, self.config.log_bytes_max, self.config.log_files_max)?;
            let mut container = Container {
                run: RunState::created(&request.id),
                log,
                outputs: Vec::new(),
                stdin: None,
                terminal: None,
                request: request.clone(),
            };
            let mut stdio = Stdio::default();
            if !request.tty {
                let (stdout, stdout_writer) = pipe2(OFlag::O_CLOEXEC)?;
                let (stderr, stderr_writer) = pipe2(OFlag::O_CLOEXEC)?;
                for end in [&stdout_writer, &stderr_writer] {
                    nix::unistd::fchown(end, Some(Uid::from_raw(request.user)), None)?;
                }
                container.outputs = vec![Output::new(stdout, Stream::Stdout)?, Output::new(stderr, Stream::Stderr)?];
                let stdin = if request.stdin {
                    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
                    container.stdin = Some(writer);
                    reader
                } else {
                    fs::File::open("/dev/null")?.into()
                };
                stdio = Stdio {
                    stdin: Some(stdin),
                    stdout: Some(stdout_writer),
                    stderr: Some(stderr_writer),
                };
            }
            Ok((container, stdio))
        };
        if self
            .containers
            .get(&request.id)
            .is_some_and(|container| container.run.state == ContainerState::Running)
        {
            return reply(
                &client,
                &failed(FailureKind::Other, "container is running already".to_owned()),
                &[],
            );
        }
        let spawned = prepare().and_then(|(container, stdio)| {
            let target = request.pid_target.as_deref().map(|id| self.pid_namespace(id)).transpose()?;
            let target = target.iter().map(|fd| (HELD_TARGET, fd.as_fd()));
            let held: Vec<Held<'_>> = self
                .namespaces
                .iter()
                .map(|(name, fd)| (*name, fd.as_fd()))
                .chain(target)
                .collect();
            let (_, channel) = worker::spawn(&self.config, &Task::Start(&request, &held), stdio)?;
            Ok((container, channel))
        });
        match spawned {
            Ok((container, channel)) => self.workers.push(Worker {
                channel,
                client,
                job: Job::Start(Box::new(container)),
            }),
            Err(error) => reply(&client, &failed(FailureKind::Other, error.to_string()), &[]),
        }
    }

    /// The pid namespace of a container. It is our child and not reaped, so its pid is nobody else's.
    fn pid_namespace(&self, id: &str) -> io::Result<OwnedFd> {
        match self.containers.get(id) {
            Some(target) if target.run.state == ContainerState::Running => {
                Ok(fs::File::open(format!("/proc/{}/ns/pid", target.run.pid))?.into())
            }
            _ => Err(io::Error::other(format!(
                "invalid target container: container {id:?} is not running"
            ))),
        }
    }

    fn exec(&mut self, client: UnixStream, id: &str, process: &std::path::Path, tty: bool, seccomp: bool, fds: Vec<OwnedFd>) {
        if !self
            .containers
            .get(id)
            .is_some_and(|container| container.run.state == ContainerState::Running)
        {
            return reply(
                &client,
                &failed(FailureKind::NotFound, "container not running".to_owned()),
                &[],
            );
        }
        let mut fds = fds.into_iter();
        let stdio = Stdio {
            stdin: fds.next(),
            stdout: fds.next(),
            stderr: fds.next(),
        };
        match worker::spawn(
            &self.config,
            &Task::Exec {
                user: user_namespace::find(&self.namespaces, "user"),
                id,
                process,
                tty,
                seccomp,
            },
            stdio,
        ) {
            Ok((_, channel)) => self.workers.push(Worker {
                channel,
                client,
                job: Job::Exec {
                    container: id.to_owned(),
                },
            }),
            Err(error) => reply(&client, &failed(FailureKind::Other, error.to_string()), &[]),
        }
    }

    fn worker_reported(&mut self, index: usize) {
        let Worker { channel, client, job } = self.workers.remove(index);
        let (outcome, fds) = match protocol::receive::<Outcome>(&channel) {
            Ok(Some(received)) => received,
            Ok(None) => (
                Outcome::Failed {
                    kind: FailureKind::Other,
                    message: "the worker died".to_owned(),
                },
                Vec::new(),
            ),
            Err(error) => (
                Outcome::Failed {
                    kind: FailureKind::Other,
                    message: error.to_string(),
                },
                Vec::new(),
            ),
        };
        match (job, outcome) {
            (Job::Start(container), Outcome::Started { pid }) => self.started(&client, *container, pid, fds.into_iter().next()),
            (Job::Start(container), Outcome::Failed { kind, message }) => {
                signal_group(&container.request, Signal::SIGKILL as i32);
                reply(&client, &failed(kind, message), &[]);
            }
            (Job::Exec { container }, Outcome::Started { pid }) => {
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                reply(&client, &Reply::Started { pid }, &fds);
                self.execs.push(Exec {
                    pid,
                    container,
                    client: Some(client),
                });
            }
            (Job::Exec { .. }, Outcome::Failed { kind, message }) => reply(&client, &failed(kind, message), &[]),
        }
        self.settle_early();
    }

    fn started(&mut self, client: &UnixStream, mut container: Container, pid: i32, terminal: Option<OwnedFd>) {
        container.run = RunState {
            state: ContainerState::Running,
            pid,
            started_at: state::now(),
            ..container.run
        };
        if let Some(terminal) = terminal {
            match terminal.try_clone().and_then(|fd| Ok(Output::new(fd, Stream::Stdout)?)) {
                Ok(output) => container.outputs.push(output),
                Err(error) => super::complain(format_args!("terminal: {error}")),
            }
            container.terminal = Some(terminal);
        }
        save(&container);
        reply(client, &Reply::Started { pid }, &[]);
        let run = container.run.clone();
        self.containers.insert(run.id.clone(), container);
        self.publish(&run);
    }

    /// Deals with children that ended before their worker reported.
    fn settle_early(&mut self) {
        for (pid, (code, signal)) in std::mem::take(&mut self.early) {
            if !self.child_ended(pid, code, signal) && !self.workers.is_empty() {
                self.early.insert(pid, (code, signal));
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.note(pid.as_raw(), code, 0),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.note(pid.as_raw(), 128 + signal as i32, signal as i32),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return super::complain(format_args!("wait: {error}")),
            }
        }
    }

    fn note(&mut self, pid: i32, code: i32, signal: i32) {
        if !self.child_ended(pid, code, signal) && !self.workers.is_empty() {
            self.early.insert(pid, (code, signal));
        }
    }

    /// Records the end of a container or an exec; `false` if the child is neither.
    fn child_ended(&mut self, pid: i32, code: i32, signal: i32) -> bool {
        if let Some(index) = self.execs.iter().position(|exec| exec.pid == pid) {
            if let Some(client) = self.execs.remove(index).client {
                reply(&client, &Reply::ExecEnded { code }, &[]);
            }
            return true;
        }
        let running = |container: &&mut Container| container.run.pid == pid && container.run.state == ContainerState::Running;
        let Some(container) = self.containers.values_mut().find(running) else {
            return false;
        };
        // Without a pid namespace of its own, other processes of the container may have outlived the first.
        signal_group(&container.request, Signal::SIGKILL as i32);
        let log = &mut container.log;
        container.outputs.iter_mut().for_each(|output| {
            // What the end of the stream would have done, where somebody else still holds it.
            if !output.pump(log, CHUNKS_AT_END) {
                output.finish(log);
            }
        });
        self.lingering.extend(container.outputs.drain(..).filter(Output::stalled));
        container.stdin = None;
        container.terminal = None;
        let oom_killed = container.request.oom_files.iter().any(|path| oom_kills(path) > 0);
        container.run = RunState {
            state: ContainerState::Exited,
            finished_at: state::now(),
            exit_code: code,
            signal,
            oom_killed,
            ..container.run.clone()
        };
        save(container);
        let run = container.run.clone();
        self.containers.remove(&run.id);
        for exec in self.execs.iter().filter(|exec| exec.container == run.id) {
            signal_process(exec.pid, Signal::SIGKILL as i32);
        }
        let oci_state = self.config.oci_root.join(&run.id);
        if let Err(error) = state::remove_all(&oci_state) {
            super::complain(format_args!("{}: {error}", oci_state.display()));
        }
        self.publish(&run);
        true
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Reply {
        match self.containers.get(id) {
            Some(container) if all => {
                signal_group(&container.request, signal);
                signal_process(container.run.pid, signal);
                Reply::Done
            }
            Some(container) => {
                signal_process(container.run.pid, signal);
                Reply::Done
            }
            None => failed(FailureKind::NotFound, "container not running".to_owned()),
        }
    }

    fn attach(&mut self, client: &UnixStream, id: &str, stdin: bool, fds: Vec<OwnedFd>) {
        let Some(container) = self.containers.get_mut(id) else {
            return reply(
                client,
                &failed(FailureKind::NotFound, "container not running".to_owned()),
                &[],
            );
        };
        for (output, fd) in container.outputs.iter_mut().zip(fds) {
            if let Err(error) = output.tap(fd) {
                return reply(client, &failed(FailureKind::Other, error.to_string()), &[]);
            }
        }
        let back = if container.request.tty {
            &container.terminal
        } else {
            &container.stdin
        };
        let fds: Vec<BorrowedFd<'_>> = back
            .iter()
            .filter(|_| stdin || container.request.tty)
            .map(AsFd::as_fd)
            .collect();
        reply(client, &Reply::Attached, &fds);
        if stdin && container.request.stdin_once {
            // From now on the client holds the only writing end; when it closes, the container sees the end of stdin.
            container.stdin = None;
        }
    }

    fn exec_client(&mut self, index: usize) {
        let Some(exec) = self.execs.get_mut(index) else { return };
        let Some(client) = &exec.client else { return };
        match protocol::receive::<Request>(client) {
            Ok(Some((Request::StopExec, _))) => signal_process(exec.pid, Signal::SIGKILL as i32),
            // The client is gone; the process goes on without it.
            _ => exec.client = None,
        }
    }

    fn pump(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let (log, now) = (&mut container.log, Instant::now());
        let ended = container.outputs.extract_if(.., |output| {
            output.flush(now);
            !output.stalled() && output.pump(log, CHUNKS_PER_TURN)
        });
        // The last of it may have come faster than a reader takes it.
        self.lingering.extend(ended.filter(Output::stalled));
    }

    fn flush_lingering(&mut self) {
        let now = Instant::now();
        self.lingering.retain_mut(|output| {
            output.flush(now);
            output.stalled()
        });
    }

    fn publish(&mut self, run: &RunState) {
        self.subscribers
            .retain(|subscriber| protocol::send(subscriber, &Reply::Changed(run.clone()), &[]).is_ok());
    }

    fn shutdown(&mut self) {
        for container in self.containers.values() {
            signal_group(&container.request, Signal::SIGKILL as i32);
            signal_process(container.run.pid, Signal::SIGKILL as i32);
        }
        let give_up = Instant::now() + CLIENT_TIMEOUT;
        while !self.containers.is_empty() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(5));
            self.reap();
        }
        if let Some(pause) = self.pause {
            signal_process(pause.as_raw(), Signal::SIGKILL as i32);
            // Not left to the machine's init as a zombie.
            while matches!(waitpid(pause, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)) && Instant::now() < give_up {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Nobody may take this shim for a living one from here on.
        if let Err(error) = state::remove_all(&self.config.directory.join(super::SOCKET)) {
            super::complain(format_args!("socket: {error}"));
        }
        self.ended = true;
    }
}

fn failed(kind: FailureKind, message: String) -> Reply {
    Reply::Failed { kind, message }
}

/// A client that left learns nothing.
fn reply(client: &UnixStream, reply: &Reply, fds: &[BorrowedFd<'_>]) {
    if let Err(error) = protocol::send(client, reply, fds) {
        super::complain(format_args!("reply: {error}"));
    }
}

fn save(container: &Container) {
    if let Err(error) = state::write_json(&container.request.state_path, &container.run) {
        super::complain(format_args!("{}: {error}", container.request.state_path.display()));
    }
}

fn signal_process(pid: i32, signal: i32) {
    match sys::kill(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => super::complain(format_args!("kill {pid} with {signal}: {error}")),
    }
}

/// Signals every process in the container's cgroup. A shim is never in one.
fn signal_group(request: &StartRequest, signal: i32) {
    for pid in request
        .procs_files
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .next()
        .unwrap_or_default()
        .lines()
    {
        match pid.parse::<i32>() {
            Ok(pid) if pid > 1 => signal_process(pid, signal),
            _ => {}
        }
    }
}

/// `oom_kill <n>` of `memory.oom_control` (v1) or `memory.events` (v2).
fn oom_kills(path: &std::path::Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or(0)
}
