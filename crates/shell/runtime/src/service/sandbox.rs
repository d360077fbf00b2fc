//! Sandboxes: cgroup, shim, files and network of a pod.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::{Inner, Sandbox, failed};
use crate::cri::{
    ContainerState, CriError, LinuxContainerResources, NamespaceOptions, PodSandboxConfig, PodSandboxState, PodSandboxStatus,
    RUNTIME_HANDLERS, Usage,
};
use crate::protocol::Request;
use crate::shim::{self, ShimConfig, ShimReady};
use crate::state::{self, SandboxRecord};
use crate::{rootfs, sys};

/// cgroup of all shims below the node's cgroup root: not a pod's, so that its limits do not reach them, and not Trireme's.
const SHIM_CGROUP: &str = "trireme-shims";
/// A container log is rotated at this size (the kubelet's containerLogMaxSize).
const LOG_BYTES_MAX: u64 = 10 << 20;
/// Files of one log (the kubelet's containerLogMaxFiles).
const LOG_FILES_MAX: usize = 5;
/// How long the ends of a stopped pod's containers may take to be seen.
const SETTLE_WAIT: Duration = Duration::from_secs(10);

impl Inner {
    /// cgroup path below the hierarchies' roots of a path below the node's.
    pub(super) fn cgroup(&self, path: &str) -> String {
        format!("/{}/{}", self.cgroup_root, path.trim_matches('/')).replace("//", "/")
    }

    /// The pod's own cgroup.
    pub(super) fn pod_cgroup(&self, config: &PodSandboxConfig) -> String {
        if config.cgroup_parent.trim_matches('/').is_empty() {
            self.cgroup(&format!("kubepods/pod{}", config.metadata.uid))
        } else {
            self.cgroup(&config.cgroup_parent)
        }
    }

    pub(super) async fn make_sandbox(self: &Arc<Self>, config: &PodSandboxConfig) -> Result<String, CriError> {
        if !RUNTIME_HANDLERS.contains(&config.runtime_handler.as_str()) {
            return Err(CriError::Other(format!(
                "failed to get sandbox runtime: no runtime for {:?} is configured",
                config.runtime_handler
            )));
        }
        let shared = config.namespaces;
        if shared.user.is_some() && (shared.host_network || shared.host_pid || shared.host_ipc) {
            let text = "a pod with a user namespace of its own has all other namespaces of its own";
            return Err(CriError::Other(text.to_owned()));
        }
        if let Some(name) = config.sysctls.keys().find(|name| !is_namespaced(name, shared)) {
            let text = format!("sysctl {name:?} is not in a separate kernel namespace");
            return Err(CriError::Other(text));
        }
        let id = state::new_id();
        let (wanted, sandbox_id) = (config.clone(), id.clone());
        let made = self.blocking(move |runtime| {
            runtime.making.lock().push(runtime.pod_cgroup(&wanted));
            runtime
                .start_shim(&sandbox_id, wanted)
                .map_err(|error| failed("failed to create the pod sandbox", &error))
        });
        let made = match made.await {
            Ok(record) => self.join_network(record).await,
            Err(error) => Err(error),
        };
        let cgroup = self.pod_cgroup(config);
        self.blocking(move |runtime| {
            let mut making = runtime.making.lock();
            if let Some(at) = making.iter().position(|other| *other == cgroup) {
                making.swap_remove(at);
            }
            Ok(())
        })
        .await?;
        if let Err(error) = made {
            if let Err(second) = self.unmake_sandbox(&id, config).await {
                tracing::warn!(id, error = %second, "cannot clean up after a sandbox that could not be made");
            }
            return Err(error);
        }
        self.announce(&id, &id);
        Ok(id)
    }

    /// Undoes whatever was done for a sandbox that could not be made.
    async fn unmake_sandbox(self: &Arc<Self>, id: &str, config: &PodSandboxConfig) -> Result<(), CriError> {
        if !config.namespaces.host_network {
            self.network.detach(id).await?;
        }
        self.remove_sandbox(id).await?;
        let cgroup = self.pod_cgroup(config);
        self.blocking(move |runtime| {
            runtime
                .remove_pod_cgroup(&cgroup)
                .map_err(|error| failed("cannot remove the pod's cgroup", &error))
        })
        .await
    }

    /// Removes a pod's cgroup unless another sandbox of the same pod uses it or is about to.
    fn remove_pod_cgroup(&self, cgroup: &str) -> io::Result<()> {
        let making = self.making.lock();
        let used = self
            .sandboxes
            .lock()
            .values()
            .any(|other| self.pod_cgroup(&other.record.config) == cgroup);
        if used || making.iter().any(|other| other == cgroup) {
            Ok(())
        } else {
            self.hierarchies.remove(cgroup)
        }
    }

    async fn join_network(self: &Arc<Self>, mut record: SandboxRecord) -> Result<(), CriError> {
        let id = record.id.clone();
        if !record.config.namespaces.host_network {
            let netns = format!("/proc/{}/ns/net", record.shim_pid);
            let addresses = self.network.attach(&id, Path::new(&netns), &record.config).await?;
            record.ips = addresses.iter().map(ToString::to_string).collect();
        }
        let stream = self
            .blocking(move |runtime| {
                let path = runtime.layout.sandbox(&record.id).join("sandbox.json");
                state::write_json(&path, &record).map_err(|error| failed("cannot record the sandbox", &error))?;
                let stream = runtime
                    .connect(&record.id)
                    .map_err(|error| failed("the pod's shim does not answer", &error))?;
                runtime
                    .sandboxes
                    .lock()
                    .insert(record.id.clone(), Sandbox { record, ready: true });
                Ok(stream)
            })
            .await?;
        self.follow(id, stream);
        Ok(())
    }

    fn start_shim(&self, id: &str, config: PodSandboxConfig) -> io::Result<SandboxRecord> {
        let (kept, run) = (self.layout.sandbox(id), self.layout.sandbox_run(id));
        std::fs::create_dir_all(&kept)?;
        std::fs::create_dir_all(&run)?;
        let cgroup = self.pod_cgroup(&config);
        self.hierarchies.create(&cgroup)?;
        self.hierarchies.limit(&cgroup, &config.resources, false)?;
        let procs_files = self.hierarchies.create_apart(&self.cgroup(SHIM_CGROUP))?;
        let resolv_conf = match &config.resolv_conf {
            Some(text) => text.clone(),
            None => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        };
        std::fs::write(kept.join("resolv.conf"), resolv_conf)?;
        let hostname = if config.hostname.is_empty() {
            host_name()?
        } else {
            config.hostname.clone()
        };
        std::fs::write(kept.join("hostname"), format!("{hostname}\n"))?;
        if !config.namespaces.host_ipc {
            let owner = config.namespaces.user.map_or(0, |mapping| mapping.host_id);
            let options = format!("mode=1777,size=65536k,uid={owner},gid={owner}");
            rootfs::mount_tmpfs(&run.join("shm"), &options)?;
        }
        let shared = config.namespaces;
        let shim_config = ShimConfig {
            id: id.to_owned(),
            directory: run.clone(),
            oci_root: self.layout.oci_root(),
            procs_files,
            own_network: !shared.host_network,
            own_ipc: !shared.host_ipc,
            own_uts: !shared.host_network,
            shared_pid: shared.share_process_namespace && !shared.host_pid,
            hostname: config.hostname.clone(),
            sysctls: config.sysctls.clone(),
            user: shared.user,
            log_bytes_max: LOG_BYTES_MAX,
            log_files_max: LOG_FILES_MAX,
        };
        state::write_json(&run.join(shim::CONFIG), &shim_config)?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(run.join("shim.log"))?;
        // From a read-only view of the program, so that no container can write to it through its process.
        let view = sys::read_only_clone(&self.shim_exe);
        let program = match &view {
            Ok(view) => format!("/proc/self/fd/{}", view.as_raw_fd()).into(),
            Err(error) => {
                tracing::warn!(%error, "the kernel gives no read-only view of the shim's program");
                self.shim_exe.clone()
            }
        };
        let mut child = Command::new(program)
            .arg("shim")
            .arg(&run)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut told = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut told)?;
        }
        let status = child.wait()?;
        if told.is_empty() {
            let log = std::fs::read_to_string(run.join("shim.log")).unwrap_or_default();
            return Err(io::Error::other(format!("the shim did not start ({status}): {}", log.trim())));
        }
        let ready: ShimReady = serde_json::from_slice(&told)?;
        if !ready.error.is_empty() {
            return Err(io::Error::other(ready.error));
        }
        Ok(SandboxRecord {
            id: id.to_owned(),
            config,
            created_at: state::now(),
            shim_pid: ready.pid,
            pause_pid: ready.pause_pid,
            user_fd: ready.user_fd,
            ips: Vec::new(),
            stopped: false,
        })
    }

    pub(super) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        let known = self
            .sandboxes
            .lock()
            .get(id)
            .map(|sandbox| (sandbox.record.clone(), sandbox.ready));
        let Some((record, _)) = known else { return Ok(()) };
        self.shut_down(id).await?;
        if !record.config.namespaces.host_network {
            self.network.detach(id).await?;
        }
        let id = id.to_owned();
        self.blocking(move |runtime| {
            let record = {
                let mut sandboxes = runtime.sandboxes.lock();
                let Some(sandbox) = sandboxes.get_mut(&id) else {
                    return Ok(());
                };
                sandbox.ready = false;
                sandbox.record.stopped = true;
                sandbox.record.clone()
            };
            state::write_json(&runtime.layout.sandbox(&id).join("sandbox.json"), &record)
                .map_err(|error| failed("cannot record that the sandbox stopped", &error))
        })
        .await
    }

    /// Ends the shim and everything in it, and waits until its containers' ends are known.
    async fn shut_down(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        let sandbox_id = id.to_owned();
        self.blocking(move |runtime| {
            // No connection means no shim.
            if runtime.connect(&sandbox_id).is_ok() {
                let ended = runtime.call(&sandbox_id, &Request::Shutdown, &[]);
                if let Err(error) = ended {
                    tracing::warn!(sandbox_id, %error, "a shim did not end as asked");
                    runtime.kill_shim(&sandbox_id);
                }
            }
            runtime.settle(&sandbox_id);
            Ok(())
        })
        .await?;
        let watches: Vec<_> = {
            let containers = self.containers.lock();
            containers
                .values()
                .filter(|container| container.record.sandbox_id == id)
                .map(|container| container.run.subscribe())
                .collect()
        };
        for mut watch in watches {
            let ended = watch.wait_for(|run| run.state != ContainerState::Running);
            if tokio::time::timeout(SETTLE_WAIT, ended).await.is_err() {
                return Err(CriError::Other(format!("a container of sandbox {id} does not end")));
            }
        }
        Ok(())
    }

    fn kill_shim(&self, id: &str) {
        let pid = self.sandboxes.lock().get(id).map(|sandbox| sandbox.record.shim_pid);
        // The pid may belong to somebody else by now: only a process in the shims' cgroup is ours.
        let ours = self.hierarchies.processes(&self.cgroup(SHIM_CGROUP));
        if let Some(pid) = pid.filter(|pid| ours.contains(pid))
            && let Err(error) = sys::kill(pid, libc::SIGKILL)
        {
            tracing::warn!(pid, %error, "cannot kill a shim");
        }
    }

    pub(super) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        self.stop_sandbox(id).await?;
        // Also for a sandbox that was never recorded.
        self.shut_down(id).await?;
        let containers: Vec<String> = {
            let containers = self.containers.lock();
            containers
                .values()
                .filter(|container| container.record.sandbox_id == id)
                .map(|container| container.record.id.clone())
                .collect()
        };
        for container in containers {
            self.delete_container(&container).await?;
        }
        let sandbox_id = id.to_owned();
        self.blocking(move |runtime| {
            let known = runtime.sandboxes.lock().remove(&sandbox_id);
            let remove = || -> io::Result<()> {
                if let Some(sandbox) = &known {
                    runtime.remove_pod_cgroup(&runtime.pod_cgroup(&sandbox.record.config))?;
                }
                let run = runtime.layout.sandbox_run(&sandbox_id);
                rootfs::unmount(&run.join("shm"))?;
                state::remove_all(&run)?;
                state::remove_all(&runtime.layout.sandbox(&sandbox_id))
            };
            remove().map_err(|error| {
                if let Some(sandbox) = known {
                    runtime.sandboxes.lock().insert(sandbox_id.clone(), sandbox);
                }
                failed("cannot remove the sandbox", &error)
            })
        })
        .await
    }

    /// Changes limits of the pod's own cgroup. What the kernel took is what is recorded.
    pub(super) fn update_sandbox(&self, id: &str, resources: &LinuxContainerResources) -> Result<(), CriError> {
        let cgroup = self
            .sandboxes
            .lock()
            .get(id)
            .map(|sandbox| self.pod_cgroup(&sandbox.record.config))
            .ok_or_else(|| CriError::NotFound(format!("sandbox {id}")))?;
        self.lift_ended(id)
            .and_then(|()| self.hierarchies.limit(&cgroup, resources, false))
            .map_err(|error| failed("cannot change the pod's limits", &error))?;
        loop {
            let record = {
                let mut sandboxes = self.sandboxes.lock();
                let Some(sandbox) = sandboxes.get_mut(id) else { return Ok(()) };
                sandbox.record.config.resources = sandbox.record.config.resources.changed(resources);
                sandbox.record.clone()
            };
            state::write_json(&self.layout.sandbox(id).join("sandbox.json"), &record)
                .map_err(|error| failed("cannot record the pod's limits", &error))?;
            // A stop that was recorded meanwhile must not be undone by this.
            let stopped = self.sandboxes.lock().get(id).is_none_or(|sandbox| sandbox.record.stopped);
            if stopped == record.stopped {
                return Ok(());
            }
        }
    }

    pub(super) fn sandbox_usage(&self, id: &str) -> Result<Usage, CriError> {
        let cgroup = self
            .sandboxes
            .lock()
            .get(id)
            .map(|sandbox| self.pod_cgroup(&sandbox.record.config))
            .ok_or_else(|| CriError::NotFound(format!("sandbox {id}")))?;
        self.hierarchies
            .usage(&cgroup)
            .map_err(|error| failed("cannot read what the pod uses", &error))
    }

    pub(super) fn sandbox_statuses(&self) -> Vec<PodSandboxStatus> {
        let sandboxes = self.sandboxes.lock();
        let status = |Sandbox { record, ready, .. }: &Sandbox| {
            let state = if *ready {
                PodSandboxState::Ready
            } else {
                PodSandboxState::NotReady
            };
            record.config.status(&record.id, state, record.created_at, record.ips.clone())
        };
        sandboxes.values().map(status).collect()
    }
}

/// Whether a kernel setting belongs to a namespace that the pod has for itself; any other would be the host's.
fn is_namespaced(name: &str, shared: NamespaceOptions) -> bool {
    const OF_IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let name = name.replace('/', ".");
    if name.starts_with("net.") {
        return !shared.host_network;
    }
    (OF_IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.")) && !shared.host_ipc
}

fn host_name() -> io::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}
