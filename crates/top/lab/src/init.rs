//! The first process of a host: it holds the namespaces, makes the host's root and reaps what is orphaned. Once it is in that
//! root it starts nothing.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname, setsid};
use serde::{Deserialize, Serialize};

use crate::sys::{self, Side};
use crate::{cgroup, root};

/// The first argument with which a program that makes hosts is started as the first process of one. It must then call
/// [`run`] with the second before it starts any thread.
pub const INIT_ARGUMENT: &str = "lab-init";

/// What a host's first process is told, as one JSON argument.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitSpec {
    pub(crate) hostname: String,
    /// The cgroup that it enters before all else, so that nothing of a host is ever outside.
    pub(crate) cgroup: String,
    /// Directory of what is the host's own.
    pub(crate) data: PathBuf,
    /// File that holds its disk, if it has one.
    pub(crate) image: Option<PathBuf>,
}

/// Runs `trireme lab-init SPEC`. The outer process prints the inner one's PID and ends; the inner one stays. Must be
/// called before any thread is started. Returns an exit code.
#[must_use]
pub fn run(spec: &str) -> i32 {
    let outcome = serde_json::from_str::<InitSpec>(spec)
        .map_err(io::Error::from)
        .and_then(|spec| start(&spec));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab host: {error}");
            1
        }
    }
}

fn start(spec: &InitSpec) -> io::Result<i32> {
    // Blocked before the fork, so that no SIGCHLD is missed.
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    setsid()?;
    cgroup::join(&spec.cgroup, Pid::this().as_raw())?;
    sys::leave()?;
    let (ready, tell) = nix::unistd::pipe()?;
    match sys::split()? {
        Side::Parent(child) => {
            drop(tell);
            let mut byte = [0_u8; 1];
            if nix::unistd::read(&ready, &mut byte)? == 0 {
                return Ok(1); // The child said why on standard error.
            }
            println!("{child}");
            Ok(0)
        }
        Side::Child => {
            drop(ready);
            root::enter(&spec.data, spec.image.as_deref())?;
            sethostname(&spec.hostname)?;
            fs::File::from(tell).write_all(b"1")?;
            reap(&children)
        }
    }
}

fn reap(children: &SigSet) -> io::Result<i32> {
    loop {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => break,
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        children.wait()?;
    }
}
