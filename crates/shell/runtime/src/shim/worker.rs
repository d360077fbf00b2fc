//! A short-lived fork of the shim in which libcontainer builds a container or joins one. The processes it makes are
//! siblings of it, that is children of the shim. Whatever libcontainer does to its own process (cwd, oom_score_adj,
//! dumpable, heap) ends with the worker.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::signal::SigSet;
use serde::{Deserialize, Serialize};

use super::diagnosis::Diagnosis;
use super::enter::Entry;
use super::executor::ContainerExecutor;
use super::{ShimConfig, leave};
use crate::protocol::{self, FailureKind, StartRequest};
use crate::{spec, state, sys};

/// What a worker reports; a terminal's descriptor goes with `Started`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Started { pid: i32 },
    Failed { kind: FailureKind, message: String },
}

/// stdin, stdout and stderr of the new process; none with a terminal.
#[derive(Default)]
pub(super) struct Stdio {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// A namespace that is held open, by its name in the runtime document.
pub(super) type Held<'a> = (&'static str, BorrowedFd<'a>);

/// What to do.
pub(super) enum Task<'a> {
    /// A container, with the namespaces that its document leaves open.
    Start(&'a StartRequest, &'a [Held<'a>]),
    /// A further process, with the user namespace of the pod if that has one.
    Exec {
        user: Option<BorrowedFd<'a>>,
        id: &'a str,
        process: &'a Path,
        tty: bool,
        seccomp: bool,
    },
}

/// Forks a worker; returns its pid and the channel its [`Outcome`] comes on.
pub(super) fn spawn(config: &ShimConfig, task: &Task<'_>, stdio: Stdio) -> io::Result<(i32, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    if let Some(pid) = sys::fork()? {
        return Ok((pid.as_raw(), ours));
    }
    drop(ours);
    let diagnosis = Diagnosis::begin();
    let (outcome, terminal) = match SigSet::empty()
        .thread_set_mask()
        .map_err(io::Error::from)
        .and_then(|()| run(config, task, stdio))
    {
        Ok((pid, terminal)) => (Outcome::Started { pid }, terminal),
        Err(error) => {
            let (kind, mut message) = (kind(&error), error.to_string());
            let cause = diagnosis.ok().and_then(|diagnosis| diagnosis.cause());
            if let Some(cause) = cause.filter(|_| kind == FailureKind::Other) {
                message = format!("{message}: {cause}");
            }
            (Outcome::Failed { kind, message }, None)
        }
    };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    leave(i32::from(protocol::send(&theirs, &outcome, &fds).is_err()))
}

/// Our executor's words begin with `exec`; they are the user's mistake and not ours.
fn kind(error: &io::Error) -> FailureKind {
    let text = error.to_string();
    if text.starts_with("exec") || text.starts_with("error mounting") {
        FailureKind::Command
    } else {
        FailureKind::Other
    }
}

fn run(config: &ShimConfig, task: &Task<'_>, stdio: Stdio) -> io::Result<(i32, Option<OwnedFd>)> {
    let (id, tty, seccomp) = match task {
        Task::Start(request, _) => (request.id.as_str(), request.tty, request.seccomp),
        Task::Exec { id, tty, seccomp, .. } => (*id, *tty, *seccomp),
    };
    if let Task::Start(request, held) = task {
        fill_in(&request.bundle.join("config.json"), held)?;
        set_oom_score_adj(request.oom_score_adj);
        fs::create_dir_all(&config.oci_root)?;
        // What a start that was cut short left behind.
        state::remove_all(&config.oci_root.join(id))?;
        if let Some((_, user)) = held.iter().find(|(name, _)| *name == "user") {
            super::stage::enter(config, request, *user)?;
        }
    }
    let (errors_reader, errors_writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let console = if tty {
        Some(Console::listen(&config.directory)?)
    } else {
        None
    };
    let entry = match (task, config.user) {
        (
            Task::Exec {
                process,
                user: Some(user),
                ..
            },
            Some(ids),
        ) => Some(Entry::prepare(process, *user, ids)?),
        _ => None,
    };
    let executor = ContainerExecutor {
        entry,
        errors: errors_writer.as_raw_fd(),
        seccomp,
        is_init: matches!(task, Task::Start(..)),
    };
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(&config.oci_root)
        .map_err(plain)?
        .with_executor(executor)
        .with_console_socket(console.as_ref().map(|console| console.path.clone()));
    if let Some(fd) = stdio.stdin {
        builder = builder.with_stdin(fd);
    }
    if let Some(fd) = stdio.stdout {
        builder = builder.with_stdout(fd);
    }
    if let Some(fd) = stdio.stderr {
        builder = builder.with_stderr(fd);
    }
    let pid = match task {
        Task::Start(request, _) => {
            let built = builder
                .as_init(&request.bundle)
                .with_systemd(false)
                .with_detach(true)
                .as_sibling(true)
                .build();
            let mut container = built.map_err(plain)?;
            container.start().map_err(plain)?;
            container.pid().ok_or(io::ErrorKind::NotFound)?.as_raw()
        }
        Task::Exec { process, .. } => builder
            .as_tenant()
            .with_process(Some(process))
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(plain)?
            .as_raw(),
    };
    let terminal = console.map(Console::accept).transpose()?;
    drop(errors_writer);
    // Ends when the process has executed its command, or has told why not.
    let mut message = Vec::new();
    let mut part = [0; 512];
    loop {
        match nix::unistd::read(&errors_reader, &mut part) {
            Ok(0) => break,
            Ok(read) => message.extend_from_slice(&part[..read]),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if message.is_empty() {
        Ok((pid, terminal))
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&message).into_owned()))
    }
}

/// The innermost cause that a user can do something about.
fn plain(error: LibcontainerError) -> io::Error {
    let mut text = error.to_string();
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    match text.find("exec: \"") {
        Some(at) => io::Error::other(text[at..].trim_end_matches('\0').to_owned()),
        None => io::Error::other(text.trim_end_matches('\0').to_owned()),
    }
}

/// Puts the descriptors of held namespaces, which the container's processes inherit until they execute their command, where the
/// document names them.
fn fill_in(document: &Path, held: &[Held<'_>]) -> io::Result<()> {
    if held.is_empty() {
        return Ok(());
    }
    let mut value: serde_json::Value = state::read_json(document)?.ok_or(io::ErrorKind::NotFound)?;
    for namespace in value["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        let name = namespace["path"].as_str().and_then(|path| path.strip_prefix(spec::HELD));
        let found = held.iter().find(|(known, _)| Some(*known) == name);
        if let Some((_, fd)) = found {
            namespace["path"] = format!("/proc/self/fd/{}", fd.as_raw_fd()).into();
        }
    }
    state::write_json(document, &value)
}

/// Lowering it needs CAP_SYS_RESOURCE, which a nested machine may lack: warn and go on.
fn set_oom_score_adj(value: i32) {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", value.to_string()) {
        super::complain(format_args!("oom_score_adj {value} is refused: {error}"));
    }
}

/// Where libcontainer delivers the terminal it made.
struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    fn listen(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("console-{}.sock", std::process::id()));
        let listener = protocol::with_socket_path(&path, |path| UnixListener::bind(path))?;
        Ok(Console { path, listener })
    }

    fn accept(self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        let (_, fds) = sys::receive_with_fds(stream.as_fd(), &mut [0; 64])?;
        fds.into_iter()
            .next()
            .ok_or_else(|| io::Error::other("no terminal was delivered"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            super::complain(format_args!("{}: {error}", self.path.display()));
        }
    }
}
