//! From the spawned process to a serving shim: detach, join the shim cgroup, make the pod's namespaces, listen.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::{Pid, setsid};

use super::user_namespace::{self, Held};
use super::{CONFIG, SOCKET, ShimConfig, ShimReady, leave, server};
use crate::{protocol, state, sys};

/// Forks twice; the grandchild becomes the shim and writes a [`ShimReady`] to the inherited stdout.
pub(super) fn launch(directory: &Path) -> i32 {
    let detach = || -> nix::Result<bool> {
        sys::cloexec_from(3)?;
        if sys::fork()?.is_some() {
            return Ok(false);
        }
        setsid()?;
        if sys::fork()?.is_some() {
            leave(0);
        }
        Ok(true)
    };
    match detach() {
        Ok(false) => 0,
        Ok(true) => run(directory),
        Err(error) => {
            super::complain(format_args!("cannot detach the shim: {error}"));
            1
        }
    }
}

/// The shim's life.
fn run(directory: &Path) -> ! {
    let prepared = prepare(directory);
    let ready = match &prepared {
        Ok((_, _, pause, held)) => ShimReady {
            pid: std::process::id() as i32,
            pause_pid: pause.map_or(0, Pid::as_raw),
            user_fd: user_namespace::find(held, "user").map_or(0, |fd| fd.as_raw_fd()),
            error: String::new(),
        },
        Err(error) => ShimReady {
            pid: 0,
            pause_pid: 0,
            user_fd: 0,
            error: error.to_string(),
        },
    };
    let told = serde_json::to_vec(&ready)
        .map_err(io::Error::from)
        .and_then(|bytes| io::stdout().write_all(&bytes));
    let silent = io::stdout().flush().and_then(|()| silence());
    match (prepared, told, silent) {
        (Ok((config, listener, pause, held)), Ok(()), Ok(())) => {
            if let Err(error) = server::serve(config, listener, pause, held) {
                super::complain(format_args!("shim ends: {error}"));
                leave(1);
            }
            leave(0)
        }
        _ => leave(1),
    }
}

/// Lets go of the stdin and stdout of the starter; stderr stays (a file).
fn silence() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    Ok(())
}

type Prepared = (ShimConfig, UnixListener, Option<Pid>, Held);

fn prepare(directory: &Path) -> io::Result<Prepared> {
    let config: ShimConfig = state::read_json(&directory.join(CONFIG))?.ok_or(io::ErrorKind::NotFound)?;
    std::env::set_current_dir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::sys::prctl::set_name(c"trireme-shim")?;
    nix::sys::prctl::set_child_subreaper(true)?;
    for file in &config.procs_files {
        fs::write(file, "0").map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    }
    ignore_signals()?;
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, config.own_network);
    flags.set(CloneFlags::CLONE_NEWIPC, config.own_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, config.own_uts);
    let mut held = Held::new();
    match config.user {
        Some(mapping) => held = user_namespace::make(mapping, flags)?,
        None if flags.is_empty() => {}
        None => unshare(flags)?,
    }
    if config.own_uts && !config.hostname.is_empty() {
        nix::unistd::sethostname(&config.hostname)?;
    }
    if config.own_network {
        sys::raise_loopback()?;
        // Any user of the pod may send pings and bind low ports, as with other runtimes.
        for (path, value) in [
            ("net/ipv4/ping_group_range", "0 2147483647"),
            ("net/ipv4/ip_unprivileged_port_start", "0"),
        ] {
            if let Err(error) = fs::write(Path::new("/proc/sys").join(path), value) {
                super::complain(format_args!("sysctl {path}: {error}"));
            }
        }
    }
    match user_namespace::find(&held, "user") {
        // Settings of namespaces belong to their own root, not to the host's.
        Some(user) if !config.sysctls.is_empty() => user_namespace::within(user, || set_sysctls(&config))?,
        _ => set_sysctls(&config)?,
    }
    let pause = if config.shared_pid {
        Some(hold_pid_namespace(user_namespace::find(&held, "user"))?)
    } else {
        None
    };
    if let (Some(pause), Some(_)) = (pause, config.user) {
        held.push(("pid", File::open(format!("/proc/{pause}/ns/pid"))?.into()));
    }
    let socket = directory.join(SOCKET);
    state::remove_all(&socket)?;
    let listener = protocol::with_socket_path(&socket, |path| {
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(listener)
    })?;
    listener.set_nonblocking(true)?;
    Ok((config, listener, pause, held))
}

fn set_sysctls(config: &ShimConfig) -> io::Result<()> {
    for (name, value) in &config.sysctls {
        let path = sysctl_path(name).ok_or_else(|| io::Error::other(format!("sysctl {name:?} is not allowed")))?;
        fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}: {error}")))?;
    }
    Ok(())
}

/// File of a sysctl; `None` for names that leave `/proc/sys`.
fn sysctl_path(name: &str) -> Option<PathBuf> {
    let name = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    let inside = name.split('/').all(|part| !part.is_empty() && part != "..");
    inside.then(|| Path::new("/proc/sys").join(name))
}

/// A terminal's hang-up or a write to a client that left must not end the shim.
fn ignore_signals() -> nix::Result<()> {
    for signal in [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGINT, Signal::SIGQUIT] {
        let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        sys::set_signal_action(signal, &action)?;
    }
    Ok(())
}

/// Starts the first process of a pid namespace that the containers join; it reaps what is left to it and sleeps, until
/// the shim, which alone holds the other end of a pipe, is no more. It belongs to the pod's user namespace where there is one.
fn hold_pid_namespace(user: Option<BorrowedFd<'_>>) -> io::Result<Pid> {
    let (reader, writer) = nix::unistd::pipe()?;
    let (end, life) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let Some(middle) = sys::fork()? else {
        if user.map_or(Ok(()), user_namespace::enter).is_err() || unshare(CloneFlags::CLONE_NEWPID).is_err() {
            leave(1);
        }
        match sys::fork() {
            Ok(Some(pause)) => {
                let written = nix::unistd::write(&writer, &pause.as_raw().to_le_bytes());
                leave(i32::from(written.is_err()));
            }
            Ok(None) => pause(&end),
            Err(_) => leave(1),
        }
    };
    drop(writer);
    let mut pid = [0; 4];
    let read = nix::unistd::read(&reader, &mut pid);
    nix::sys::wait::waitpid(middle, None)?;
    match read {
        Ok(4) => {
            // Never closed: the kernel does it when the shim ends.
            let _: RawFd = life.into_raw_fd();
            Ok(Pid::from_raw(i32::from_le_bytes(pid)))
        }
        _ => Err(io::Error::other("cannot make the shared pid namespace")),
    }
}

fn pause(end: &OwnedFd) -> ! {
    // With SIGCHLD ignored the kernel reaps for us.
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::SA_NOCLDWAIT, SigSet::empty());
    let named = nix::sys::prctl::set_name(c"trireme-pause");
    let silent = silence().and_then(|()| Ok(nix::unistd::dup2_stdin(end)?));
    if sys::set_signal_action(Signal::SIGCHLD, &ignore).is_err() || named.is_err() || silent.is_err() {
        leave(1);
    }
    sys::close_from(3);
    sys::trim_heap();
    let text = sys::TextPages::find();
    let end = sys::borrow_fd(0);
    if let Ok(text) = &text {
        text.let_go();
    }
    while nix::unistd::read(end, &mut [0]) != Ok(0) {}
    leave(0)
}
