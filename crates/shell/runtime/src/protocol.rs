//! What Trireme and a shim say to each other over the shim's socket: a length (u32, little endian), then JSON, with
//! descriptors beside the length. One connection carries one operation. Both ends are the same binary or neighbours in
//! version, so fields are only ever added.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::spec::StagedMount;
use crate::state::RunState;
use crate::sys;

/// Longest message; the longest in use are lists of states.
const MESSAGE_BYTES_MAX: u32 = 4 << 20;

/// Everything the shim needs to start a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartRequest {
    pub(crate) id: String,
    /// Directory with `config.json`.
    pub(crate) bundle: PathBuf,
    pub(crate) state_path: PathBuf,
    pub(crate) log_path: PathBuf,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) oom_score_adj: i32,
    /// Files that count OOM kills of the container's cgroup.
    pub(crate) oom_files: Vec<PathBuf>,
    /// `cgroup.procs` files of the container's cgroup.
    pub(crate) procs_files: Vec<PathBuf>,
    /// Install the default seccomp profile.
    pub(crate) seccomp: bool,
    /// Container whose pid namespace is joined.
    #[serde(default)]
    pub(crate) pid_target: Option<String>,
    /// Sources of the document's mounts, for a pod with a user namespace of its own.
    #[serde(default)]
    pub(crate) staged: Vec<StagedMount>,
    /// User of the host that the process is, who may open its own stdout and stderr again by `/dev/stdout`.
    #[serde(default)]
    pub(crate) user: u32,
}

/// From Trireme to the shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Makes and starts a container.
    Start(StartRequest),
    /// Sends a signal to a container's first process, or to all of its processes.
    Kill { id: String, signal: i32, all: bool },
    /// Runs a process; descriptors: stdin, stdout, stderr, or none with a terminal.
    Exec {
        id: String,
        process: PathBuf,
        tty: bool,
        seccomp: bool,
    },
    /// Kills the exec of this connection.
    StopExec,
    /// Copies output from now on; descriptors: stdout, and stderr without a terminal.
    Attach { id: String, stdin: bool },
    /// All states now, then each change.
    Subscribe,
    /// Kills everything and ends the shim.
    Shutdown,
}

/// Which kind of failure a shim reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    /// No such container or it does not run.
    NotFound,
    /// The command cannot be executed.
    Command,
    /// Anything else.
    Other,
}

/// From the shim to Trireme.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// Failed.
    Failed { kind: FailureKind, message: String },
    /// The process runs; an exec with a terminal brings the terminal's descriptor.
    Started { pid: i32 },
    /// The exec of this connection ended.
    ExecEnded { code: i32 },
    /// Attached; descriptors: the terminal, or stdin where asked for and open.
    Attached,
    /// All states.
    States(Vec<RunState>),
    /// One state changed.
    Changed(RunState),
}

/// Sends one message.
pub(crate) fn send<T: Serialize>(stream: &UnixStream, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = encode(message)?;
    let sent = sys::send_with_fds(stream.as_fd(), &bytes, fds)?;
    let mut stream = stream;
    stream.write_all(&bytes[sent..])
}

/// Length and body of one message.
pub(crate) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).map_err(|_| io::ErrorKind::InvalidData)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Receives one message; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let (read, fds) = sys::receive_with_fds(stream.as_fd(), &mut length)?;
    if read == 0 {
        return Ok(None);
    }
    let mut stream = stream;
    stream.read_exact(&mut length[read..])?;
    let mut body = vec![0; body_length(length)?];
    stream.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, fds)))
}

/// Checks a received length.
pub(crate) fn body_length(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message from the shim is too long",
        ));
    }
    Ok(length as usize)
}

/// Receives one message without descriptors on an asynchronous stream; `None` at the end.
pub(crate) async fn receive_async<T: DeserializeOwned>(stream: &mut tokio::net::UnixStream) -> io::Result<Option<T>> {
    use tokio::io::AsyncReadExt;
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; body_length(length)?];
    stream.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// A path of any length as an address of at most 108 bytes: through the open directory.
pub(crate) fn with_socket_path<T>(path: &std::path::Path, f: impl FnOnce(&std::path::Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = std::fs::File::open(parent)?;
    f(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

/// Connects to a shim.
pub(crate) fn connect(path: &std::path::Path) -> io::Result<UnixStream> {
    with_socket_path(path, |path| UnixStream::connect(path))
}
