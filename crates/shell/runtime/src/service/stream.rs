//! Streams into containers: exec, attach and port forwarding. The processes read and write our pipes directly; the shim
//! only passes descriptors, and copies output for attach.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::unistd::pipe2;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::container::seccomp;
use super::terminal::Terminal;
use super::{Inner, failed};
use crate::cri::{ContainerState, CriError, ExecSyncResponse, StreamRequest, StreamSession};
use crate::protocol::{self, FailureKind, Reply, Request};
use crate::state;

/// Output kept of one synchronous exec.
const EXEC_SYNC_BYTES_MAX: u64 = 16 << 20;
/// How long output may stay open after the process of a synchronous exec ended (a child of it holds it).
const DRAIN_WAIT: Duration = Duration::from_secs(2);
/// Window sizes waiting to be applied.
const RESIZES_MAX: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A process started by exec.
struct Running {
    stream: UnixStream,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

fn pipes(error: io::Error) -> CriError {
    failed("cannot make a stream", &error)
}

impl Inner {
    /// Starts a process in a container. Blocks until it was executed or cannot be.
    fn start_exec(&self, request: &StreamRequest) -> Result<Running, CriError> {
        let (record, _) = self.running(&request.container_id)?;
        let document = self.layout.container(&record.id).join("config.json");
        let document: Option<Value> =
            state::read_json(&document).map_err(|error| failed("cannot read the container's configuration", &error))?;
        let mut process = document.map(|mut document| document["process"].take()).unwrap_or_default();
        process["args"] = json!(request.command);
        process["terminal"] = json!(request.tty);
        if let (true, Some(env)) = (request.tty, process["env"].as_array_mut())
            && !env
                .iter()
                .any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")))
        {
            env.push(json!("TERM=xterm"));
        }
        let path = self
            .layout
            .sandbox_run(&record.sandbox_id)
            .join(format!("exec-{}.json", uuid::Uuid::new_v4().simple()));
        state::write_json(&path, &process).map_err(|error| failed("cannot write the process's configuration", &error))?;
        let make = || -> io::Result<(Running, Vec<OwnedFd>)> {
            let (stream, _) = UnixStream::pair()?;
            let mut running = Running {
                stream,
                stdin: None,
                stdout: None,
                stderr: None,
                terminal: None,
            };
            if request.tty {
                return Ok((running, Vec::new()));
            }
            let stdin = if request.stdin {
                let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
                running.stdin = Some(writer);
                reader
            } else {
                std::fs::File::open("/dev/null")?.into()
            };
            let (stdout, stdout_writer) = pipe2(OFlag::O_CLOEXEC)?;
            let (stderr, stderr_writer) = pipe2(OFlag::O_CLOEXEC)?;
            (running.stdout, running.stderr) = (Some(stdout), Some(stderr));
            for end in [&stdout_writer, &stderr_writer] {
                nix::unistd::fchown(end, Some(nix::unistd::Uid::from_raw(record.user)), None)?;
            }
            Ok((running, vec![stdin, stdout_writer, stderr_writer]))
        };
        let (mut running, theirs) = make().map_err(pipes)?;
        let ask = Request::Exec {
            id: record.id.clone(),
            process: path.clone(),
            tty: request.tty,
            seccomp: seccomp(&record.config),
        };
        let fds: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        let answer = self.call(&record.sandbox_id, &ask, &fds);
        state::remove_all(&path).map_err(|error| failed("cannot remove the process's configuration", &error))?;
        match answer? {
            (stream, Reply::Started { .. }, fds) => {
                running.stream = stream;
                running.terminal = fds.into_iter().next();
                Ok(running)
            }
            (
                _,
                Reply::Failed {
                    kind: FailureKind::NotFound,
                    message,
                },
                _,
            ) => Err(CriError::Other(message)),
            (_, Reply::Failed { message, .. }, _) => Err(CriError::Other(format!(
                "failed to exec in container: failed to start exec: OCI runtime exec failed: exec failed: unable to start container process: {message}"
            ))),
            (_, reply, _) => Err(CriError::Other(format!("the pod's shim answered {reply:?}"))),
        }
    }

    pub(super) async fn run_exec_sync(
        self: &Arc<Self>,
        container_id: &str,
        command: &[String],
        timeout_s: u64,
    ) -> Result<ExecSyncResponse, CriError> {
        let request = StreamRequest {
            container_id: container_id.to_owned(),
            command: command.to_vec(),
            tty: false,
            stdin: false,
        };
        let started = std::time::Instant::now();
        let running = self.blocking(move |runtime| runtime.start_exec(&request)).await?;
        let (stdout, stderr) = (reader(running.stdout).map_err(pipes)?, reader(running.stderr).map_err(pipes)?);
        let (stdout, stderr) = (tokio::spawn(collect(stdout)), tokio::spawn(collect(stderr)));
        let stop = running.stream.try_clone().map_err(pipes)?;
        let mut stream = asynchronous(running.stream).map_err(pipes)?;
        let ended = exit_code(&mut stream);
        let code = if timeout_s == 0 {
            ended.await?
        } else {
            let left = Duration::from_secs(timeout_s).saturating_sub(started.elapsed());
            match tokio::time::timeout(left, ended).await {
                Ok(code) => code?,
                Err(_) => {
                    protocol::send(&stop, &Request::StopExec, &[]).map_err(|error| failed("cannot stop the command", &error))?;
                    stdout.abort();
                    stderr.abort();
                    return Err(CriError::Timeout(timeout_s));
                }
            }
        };
        let gather = |task: tokio::task::JoinHandle<Arc<parking_lot::Mutex<Vec<u8>>>>| async move {
            match tokio::time::timeout(DRAIN_WAIT, task).await {
                Ok(Ok(bytes)) => std::mem::take(&mut *bytes.lock()),
                _ => Vec::new(),
            }
        };
        let (stdout, stderr) = tokio::join!(gather(stdout), gather(stderr));
        Ok(ExecSyncResponse {
            stdout,
            stderr,
            exit_code: code,
        })
    }

    pub(super) async fn run_exec(self: &Arc<Self>, request: &StreamRequest) -> Result<StreamSession, CriError> {
        let wanted = request.clone();
        let running = self.blocking(move |runtime| runtime.start_exec(&wanted)).await?;
        let mut stream = asynchronous(running.stream).map_err(pipes)?;
        let (sender, exit) = oneshot::channel();
        tokio::spawn(async move {
            if sender.send(exit_code(&mut stream).await).is_err() {
                tracing::debug!("nobody waits for the end of an exec");
            }
        });
        if let Some(terminal) = running.terminal {
            let terminal = Terminal::new(terminal).map_err(pipes)?;
            return Ok(StreamSession {
                stdin: request.stdin.then(|| Box::new(terminal.clone()) as _),
                resize: Some(resizer(terminal.clone())),
                stdout: Box::new(terminal),
                stderr: None,
                exit,
            });
        }
        let stdin = running.stdin.map(pipe::Sender::from_owned_fd).transpose().map_err(pipes)?;
        Ok(StreamSession {
            stdin: stdin.map(|stdin| Box::new(stdin) as _),
            stdout: reader(running.stdout).map_err(pipes)?,
            stderr: Some(reader(running.stderr).map_err(pipes)?),
            resize: None,
            exit,
        })
    }

    pub(super) async fn run_attach(self: &Arc<Self>, request: &StreamRequest) -> Result<StreamSession, CriError> {
        let (record, mut watch) = self.running(&request.container_id)?;
        let (tty, stdin_wanted) = (record.config.tty, request.stdin && record.config.stdin);
        let (stdout, stderr, back) = self
            .blocking(move |runtime| {
                let (stdout, stdout_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| pipes(error.into()))?;
                let (stderr, stderr_writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| pipes(error.into()))?;
                let fds = [stdout_writer.as_fd(), stderr_writer.as_fd()];
                let fds = if tty { &fds[..1] } else { &fds[..] };
                let ask = Request::Attach {
                    id: record.id.clone(),
                    stdin: stdin_wanted,
                };
                match runtime.call(&record.sandbox_id, &ask, fds)? {
                    (_, Reply::Attached, back) => Ok((stdout, stderr, back.into_iter().next())),
                    (_, Reply::Failed { message, .. }, _) => Err(CriError::Other(message)),
                    (_, reply, _) => Err(CriError::Other(format!("the pod's shim answered {reply:?}"))),
                }
            })
            .await?;
        let (sender, exit) = oneshot::channel();
        tokio::spawn(async move {
            let ended = watch
                .wait_for(|run| run.state == ContainerState::Exited)
                .await
                .map(|run| run.exit_code);
            if sender
                .send(ended.map_err(|_| CriError::NotFound("container".to_owned())))
                .is_err()
            {
                tracing::debug!("nobody waits for the end of an attach");
            }
        });
        let stdout = reader(Some(stdout)).map_err(pipes)?;
        if tty {
            let terminal = back.map(Terminal::new).transpose().map_err(pipes)?;
            return Ok(StreamSession {
                stdin: terminal
                    .clone()
                    .filter(|_| stdin_wanted)
                    .map(|terminal| Box::new(terminal) as _),
                stdout,
                stderr: None,
                resize: terminal.map(resizer),
                exit,
            });
        }
        let stdin = back.map(pipe::Sender::from_owned_fd).transpose().map_err(pipes)?;
        Ok(StreamSession {
            stdin: stdin.map(|stdin| Box::new(stdin) as _),
            stdout,
            stderr: Some(reader(Some(stderr)).map_err(pipes)?),
            resize: None,
            exit,
        })
    }

    /// Connects inside the pod's network namespace: to `127.0.0.1`, then to `::1`.
    pub(super) fn connect_inside(&self, sandbox_id: &str, port: u16) -> Result<std::net::TcpStream, CriError> {
        let found = self
            .sandboxes
            .lock()
            .get(sandbox_id)
            .filter(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.record.clone());
        let record = found.ok_or_else(|| CriError::NotFound(format!("sandbox {sandbox_id}")))?;
        let connect = move || -> io::Result<std::net::TcpStream> {
            if !record.config.namespaces.host_network {
                let netns = std::fs::File::open(format!("/proc/{}/ns/net", record.shim_pid))?;
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            }
            let connect = |host: std::net::IpAddr| std::net::TcpStream::connect_timeout(&(host, port).into(), CONNECT_TIMEOUT);
            let stream = connect(std::net::Ipv4Addr::LOCALHOST.into())
                .or_else(|first| connect(std::net::Ipv6Addr::LOCALHOST.into()).map_err(|_| first))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        // A thread of its own: it ends in the pod's namespace and must serve nobody else.
        let thread = std::thread::spawn(connect);
        let result = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the connecting thread died")));
        result.map_err(|error| {
            failed(
                &format!("failed to connect to localhost:{port} inside namespace of sandbox {sandbox_id}"),
                &error,
            )
        })
    }
}

fn asynchronous(stream: UnixStream) -> io::Result<tokio::net::UnixStream> {
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

fn reader(fd: Option<OwnedFd>) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    Ok(match fd {
        Some(fd) => Box::new(pipe::Receiver::from_owned_fd(fd)?),
        None => Box::new(tokio::io::empty()),
    })
}

/// Reads to the end, keeping at most so much; what comes after is read and forgotten, so that the writer is not held up.
async fn collect(reader: Box<dyn AsyncRead + Send + Unpin>) -> Arc<parking_lot::Mutex<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut limited = reader.take(EXEC_SYNC_BYTES_MAX);
    let read = match limited.read_to_end(&mut bytes).await {
        Ok(_) => tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink())
            .await
            .map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = read {
        tracing::debug!(%error, "output of an exec ended early");
    }
    Arc::new(parking_lot::Mutex::new(bytes))
}

async fn exit_code(stream: &mut tokio::net::UnixStream) -> Result<i32, CriError> {
    match protocol::receive_async::<Reply>(stream).await {
        Ok(Some(Reply::ExecEnded { code })) => Ok(code),
        Ok(_) => Err(CriError::Other("the pod ended before the command".to_owned())),
        Err(error) => Err(failed("cannot learn how the command ended", &error)),
    }
}

/// Applies window sizes as they come.
fn resizer(terminal: Terminal) -> mpsc::Sender<(u16, u16)> {
    let (sender, mut sizes) = mpsc::channel(RESIZES_MAX);
    tokio::spawn(async move {
        while let Some((columns, rows)) = sizes.recv().await {
            if let Err(error) = terminal.resize(columns, rows) {
                tracing::debug!(%error, "cannot resize a terminal");
            }
        }
    });
    sender
}
