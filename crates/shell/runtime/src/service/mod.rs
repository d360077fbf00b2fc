//! The embedded runtime: records on disk, one shim per pod, and CRI's services over them.
//!
//! Invariants: what is on disk is enough to go on after SIGKILL; libcontainer never runs in this process; a shim that
//! does not answer is dead, and its containers' ends are read from disk or made certain by killing their cgroups.

mod api;
mod container;
mod sandbox;
mod stream;
mod terminal;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use crate::cgroup::Hierarchies;
use crate::cri::{ContainerEvent, ContainerState, CriError, SandboxNetwork};
use crate::images::ImageStore;
use crate::protocol::{self, Reply, Request};
use crate::shim;
use crate::state::{self, ContainerRecord, Layout, RunState, SandboxRecord};
use crate::{capability, rootfs};

/// Events kept for a slow receiver.
const EVENTS_MAX: usize = 1024;
/// How often a shim that exists but cannot be reached is tried again.
const REACH_TRIES_MAX: u32 = 20;
const REACH_PAUSE: Duration = Duration::from_millis(100);
/// A shim answers within this time; starting a container is the longest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Exit code of a container whose end nobody saw.
const EXIT_CODE_UNKNOWN: i32 = 255;

/// How to open a [`Runtime`].
pub struct RuntimeConfig {
    /// Kept over reboots: images, containers (`/var/lib/trireme/runtime`).
    pub data_dir: PathBuf,
    /// Gone at reboot: sockets (`/run/trireme/runtime`).
    pub run_dir: PathBuf,
    /// The cgroup below which pods' cgroups are made, `/` for the hierarchies' roots.
    pub cgroup_root: String,
    /// Program whose `shim <directory>` subcommand is [`crate::shim::main`].
    pub shim_exe: PathBuf,
    /// How sandboxes get addresses.
    pub network: Arc<dyn SandboxNetwork>,
}

struct Sandbox {
    record: SandboxRecord,
    ready: bool,
}

struct Container {
    record: ContainerRecord,
    run: watch::Sender<RunState>,
}

/// The embedded runtime. Pods go on when it is dropped.
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    cgroup_root: String,
    shim_exe: PathBuf,
    network: Arc<dyn SandboxNetwork>,
    hierarchies: Hierarchies,
    /// Capabilities this machine can give.
    bounding: u64,
    images: ImageStore,
    events: broadcast::Sender<ContainerEvent>,
    /// cgroups of pods whose sandbox is being made. Locked before `sandboxes`.
    making: Mutex<Vec<String>>,
    sandboxes: Mutex<BTreeMap<String, Sandbox>>,
    containers: Mutex<BTreeMap<String, Container>>,
}

/// Hands on a shim's states until the connection ends.
async fn listen(runtime: &Weak<Inner>, stream: UnixStream) -> io::Result<()> {
    protocol::send(&stream, &Request::Subscribe, &[])?;
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    while let Some(reply) = protocol::receive_async::<Reply>(&mut stream).await? {
        let Some(runtime) = runtime.upgrade() else { return Ok(()) };
        match reply {
            Reply::States(states) => states.into_iter().for_each(|run| runtime.apply(run)),
            Reply::Changed(run) => runtime.apply(run),
            _ => {}
        }
    }
    Ok(())
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> CriError {
    CriError::Other(format!("{what}: {error}"))
}

impl Runtime {
    /// Opens the runtime and finds the pods that outlived the last one. Must be called within a tokio runtime.
    pub async fn open(config: RuntimeConfig) -> Result<Arc<Self>, CriError> {
        // Ignoring the result is right: an error says that a provider is installed already.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS provider is installed already");
        }
        let layout = Layout {
            data: config.data_dir,
            run: config.run_dir,
        };
        for directory in [
            layout.sandboxes(),
            layout.containers(),
            layout.oci_root(),
            layout.run.join("pods"),
        ] {
            std::fs::create_dir_all(&directory)
                .map_err(|error| failed(&format!("cannot make {}", directory.display()), &error))?;
        }
        // Environments of containers hold secrets.
        for directory in [&layout.data, &layout.run] {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))
                .map_err(|error| failed(&format!("cannot close {}", directory.display()), &error))?;
        }
        let inner = Arc::new(Inner {
            images: ImageStore::open(&layout.data)?,
            layout,
            cgroup_root: config.cgroup_root.trim_matches('/').to_owned(),
            shim_exe: config.shim_exe,
            network: config.network,
            hierarchies: Hierarchies::detect().map_err(|error| failed("cannot find the cgroup hierarchies", &error))?,
            bounding: capability::bounding().map_err(|error| failed("cannot read the capabilities", &error))?,
            events: broadcast::Sender::new(EVENTS_MAX),
            making: Mutex::default(),
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
        });
        let live = inner
            .blocking(|inner| inner.recover().map_err(|error| failed("cannot read the records", &error)))
            .await?;
        for (id, stream) in live {
            inner.follow(id, stream);
        }
        Ok(Arc::new(Runtime { inner }))
    }

    /// The image store, for the command line's needs in the same process.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }
}

impl Inner {
    /// Runs `f` where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&Arc<Self>) -> Result<T, CriError> + Send + 'static,
    ) -> Result<T, CriError> {
        let runtime = self.clone();
        tokio::task::spawn_blocking(move || f(&runtime))
            .await
            .map_err(|error| failed("a runtime task died", &error))?
    }

    /// Reads all records; returns the shims that live, connected.
    fn recover(&self) -> io::Result<Vec<(String, UnixStream)>> {
        let mut live = Vec::new();
        for entry in std::fs::read_dir(self.layout.containers())? {
            let directory = entry?.path();
            let record: Option<ContainerRecord> = state::read_json(&directory.join("container.json"))?;
            let Some(record) = record else {
                // The creation was cut short before the container existed for anyone.
                rootfs::unmount_all(&directory)?;
                state::remove_all(&directory)?;
                continue;
            };
            let run = state::read_json(&directory.join("run.json"))?.unwrap_or_else(|| RunState::created(&record.id));
            self.containers.lock().insert(
                record.id.clone(),
                Container {
                    record,
                    run: watch::Sender::new(run),
                },
            );
        }
        for entry in std::fs::read_dir(self.layout.sandboxes())? {
            let directory = entry?.path();
            let record: Option<SandboxRecord> = state::read_json(&directory.join("sandbox.json"))?;
            let Some(record) = record else {
                self.discard_sandbox(&directory)?;
                continue;
            };
            let id = record.id.clone();
            let stream = if record.stopped { None } else { self.reach(&id)? };
            let ready = stream.is_some();
            self.sandboxes.lock().insert(id.clone(), Sandbox { record, ready });
            match stream {
                Some(stream) => live.push((id, stream)),
                None => self.settle(&id),
            }
        }
        Ok(live)
    }

    /// Undoes a sandbox whose making was cut short before it was recorded.
    fn discard_sandbox(&self, directory: &std::path::Path) -> io::Result<()> {
        if let Some(id) = directory.file_name().and_then(|name| name.to_str()) {
            if let Ok(stream) = self.connect(id) {
                protocol::send(&stream, &Request::Shutdown, &[])?;
                protocol::receive::<Reply>(&stream)?;
            }
            let run = self.layout.sandbox_run(id);
            rootfs::unmount(&run.join("shm"))?;
            state::remove_all(&run)?;
        }
        state::remove_all(directory)
    }

    fn connect(&self, sandbox_id: &str) -> io::Result<UnixStream> {
        protocol::connect(&self.layout.sandbox_run(sandbox_id).join(shim::SOCKET))
    }

    /// One request and its first answer. Blocks.
    fn call(
        &self,
        sandbox_id: &str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(UnixStream, Reply, Vec<OwnedFd>), CriError> {
        let call = || -> io::Result<_> {
            let stream = self.connect(sandbox_id)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            protocol::send(&stream, request, fds)?;
            let (reply, fds) = protocol::receive(&stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            stream.set_read_timeout(None)?;
            Ok((stream, reply, fds))
        };
        call().map_err(|error| failed("the pod's shim does not answer", &error))
    }

    /// A connection to a shim, `None` if there is no shim any more. Blocks.
    fn reach(&self, sandbox_id: &str) -> io::Result<Option<UnixStream>> {
        let mut tries = 0;
        loop {
            match self.connect(sandbox_id) {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    return Ok(None);
                }
                Err(error) if tries == REACH_TRIES_MAX => return Err(error),
                Err(_) => std::thread::sleep(REACH_PAUSE),
            }
            tries += 1;
        }
    }

    /// Follows a shim's states until it ends.
    fn follow(self: &Arc<Self>, sandbox_id: String, stream: UnixStream) {
        let runtime = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut next = Some(stream);
            while let Some(stream) = next.take() {
                if let Err(error) = listen(&runtime, stream).await {
                    tracing::warn!(sandbox_id, %error, "lost the connection to a shim");
                }
                let Some(runtime) = runtime.upgrade() else { return };
                let id = sandbox_id.clone();
                // The end of a connection is not the end of the shim: it drops clients that do not keep up.
                let again =
                    runtime.blocking(move |runtime| runtime.reach(&id).map_err(|error| failed("cannot reach a shim", &error)));
                next = match again.await {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::error!(sandbox_id, %error, "a pod is no longer followed");
                        return;
                    }
                };
            }
            let Some(runtime) = runtime.upgrade() else { return };
            if let Some(sandbox) = runtime.sandboxes.lock().get_mut(&sandbox_id) {
                sandbox.ready = false;
            }
            let id = sandbox_id.clone();
            let settled = runtime.blocking(move |runtime| {
                runtime.settle(&id);
                Ok(())
            });
            if let Err(error) = settled.await {
                tracing::warn!(sandbox_id, %error, "cannot settle a pod whose shim ended");
            }
            runtime.announce(&sandbox_id, &sandbox_id);
        });
    }

    /// Takes over a state a shim reported. A state never goes back.
    fn apply(&self, run: RunState) {
        let rank = |state| match state {
            ContainerState::Created | ContainerState::Unknown => 0,
            ContainerState::Running => 1,
            ContainerState::Exited => 2,
        };
        let (id, mut sandbox_id) = (run.id.clone(), None);
        if let Some(container) = self.containers.lock().get(&id) {
            let changed = container.run.send_if_modified(|current| {
                let newer = rank(run.state) > rank(current.state);
                if newer {
                    *current = run;
                }
                newer
            });
            sandbox_id = changed.then(|| container.record.sandbox_id.clone());
        }
        if let Some(sandbox_id) = sandbox_id {
            self.announce(&sandbox_id, &id);
        }
    }

    fn announce(&self, sandbox_id: &str, id: &str) {
        let pod_uid = self
            .sandboxes
            .lock()
            .get(sandbox_id)
            .map(|sandbox| sandbox.record.config.metadata.uid.clone());
        let event = ContainerEvent {
            pod_uid: pod_uid.unwrap_or_default(),
            id: id.to_owned(),
        };
        if self.events.send(event).is_err() {
            tracing::trace!("nobody listens for container events");
        }
    }

    /// After a shim's end: every container of it has ended; says how. Blocks.
    fn settle(&self, sandbox_id: &str) {
        let open: Vec<ContainerRecord> = {
            let containers = self.containers.lock();
            let open = containers
                .values()
                .filter(|container| container.record.sandbox_id == sandbox_id);
            open.filter(|container| container.run.borrow().state != ContainerState::Exited)
                .map(|container| container.record.clone())
                .collect()
        };
        for record in open {
            let path = self.layout.container(&record.id).join("run.json");
            let run = match state::read_json::<RunState>(&path) {
                Ok(Some(run)) if run.state == ContainerState::Running => self.end_unseen(&record, run),
                Ok(Some(run)) => run,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(id = record.id, %error, "cannot read a container's state");
                    self.end_unseen(&record, RunState::created(&record.id))
                }
            };
            self.apply(run);
        }
    }

    /// Makes sure that a container without a shim is gone, and records that nobody saw its end.
    fn end_unseen(&self, record: &ContainerRecord, run: RunState) -> RunState {
        for pid in self.hierarchies.processes(&record.cgroup) {
            match crate::sys::kill(pid, libc::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => tracing::warn!(pid, %error, "cannot kill a process without a shim"),
            }
        }
        let run = RunState {
            state: ContainerState::Exited,
            finished_at: state::now(),
            exit_code: EXIT_CODE_UNKNOWN,
            reason: "Unknown".to_owned(),
            ..run
        };
        self.save_run(&run);
        run
    }

    fn save_run(&self, run: &RunState) {
        let path = self.layout.container(&run.id).join("run.json");
        if let Err(error) = state::write_json(&path, run) {
            tracing::warn!(path = %path.display(), %error, "cannot record a container's state");
        }
    }
}
