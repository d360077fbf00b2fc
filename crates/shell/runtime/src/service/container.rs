//! Containers: root, cgroup and runtime document; start, stop, removal, status and statistics.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::{Container, Inner, failed};
use crate::cgroup::DeviceRule;
use crate::cri::{ContainerConfig, ContainerState, ContainerStats, ContainerStatus, CriError, LinuxContainerResources};
use crate::images::ImageRecord;
use crate::protocol::{FailureKind, Reply, Request, StartRequest};
use crate::rootfs::Mapping;
use crate::spec::{self, Device};
use crate::state::{self, ContainerRecord, RunState, SandboxRecord};
use crate::user::{self, Wanted};
use crate::{capability, rootfs};

/// Exit code of a container that could not be started.
const EXIT_CODE_START_ERROR: i32 = 128;
/// How long a killed container may take to be reaped.
const KILL_WAIT: Duration = Duration::from_secs(30);

/// Number of a signal named `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse().ok()?
        };
        return Some(libc::SIGRTMIN() + offset).filter(|number| *number <= libc::SIGRTMAX());
    }
    Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32)
}

/// Device nodes of the host below `/dev`, for privileged containers.
fn host_devices(directory: &Path, found: &mut Vec<Device>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let kind = meta.file_type();
        if kind.is_dir() && !matches!(name, "pts" | "shm" | "fd" | "mqueue" | ".lxc" | ".lxd-mounts" | ".udev") {
            host_devices(&path, found)?;
        } else if (kind.is_char_device() || kind.is_block_device())
            && !matches!(
                name,
                "console" | "ptmx" | "tty" | "null" | "zero" | "full" | "random" | "urandom"
            )
        {
            found.push(Device {
                path: path.display().to_string(),
                kind: if kind.is_block_device() { 'b' } else { 'c' },
                major: nix::sys::stat::major(meta.rdev()) as u32,
                minor: nix::sys::stat::minor(meta.rdev()) as u32,
                mode: meta.mode() & 0o7777,
                uid: meta.uid(),
                gid: meta.gid(),
            });
        }
    }
    Ok(())
}

impl Inner {
    pub(super) fn make_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String, CriError> {
        let sandbox = self
            .sandboxes
            .lock()
            .get(sandbox_id)
            .filter(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.record.clone());
        let sandbox = sandbox.ok_or_else(|| CriError::NotFound(format!("sandbox {sandbox_id}")))?;
        let image = self
            .images
            .find(&config.image)?
            .ok_or_else(|| CriError::NotFound(format!("image {:?}", config.image)))?;
        if spec::command(&config, &image.config).is_empty() {
            return Err(CriError::CreateContainer("no command specified".to_owned()));
        }
        let stop_signal = config.stop_signal.as_deref().unwrap_or(&image.config.stop_signal);
        let id = state::new_id();
        let mut record = ContainerRecord {
            stop_signal: signal_number(stop_signal).unwrap_or(libc::SIGTERM),
            cgroup: format!("{}/{id}", self.pod_cgroup(&sandbox.config)),
            image_id: image.id.clone(),
            image_ref: image.reference(),
            layers: image.layers(),
            sandbox_id: sandbox_id.to_owned(),
            created_at: state::now(),
            config,
            id: id.clone(),
            user: 0,
            staged: Vec::new(),
            volume_layers: Vec::new(),
        };
        if let Err(text) = self.prepare(&mut record, &sandbox, &image) {
            self.discard(&record)?;
            return Err(CriError::CreateContainer(text));
        }
        let run = watch::Sender::new(RunState::created(&id));
        self.containers.lock().insert(id.clone(), Container { record, run });
        self.announce(sandbox_id, &id);
        Ok(id)
    }

    /// Makes everything on disk and in the kernel but the process. The record comes last: it makes the container exist.
    fn prepare(&self, record: &mut ContainerRecord, sandbox: &SandboxRecord, image: &ImageRecord) -> Result<(), String> {
        let say = |error: io::Error| error.to_string();
        let directory = self.layout.container(&record.id);
        let root = directory.join("rootfs");
        fs::create_dir_all(&directory).map_err(say)?;
        let mapping = mapping(sandbox).map_err(say)?;
        let mapping = mapping.as_ref();
        let mut config = record.config.clone();
        record.volume_layers = self.mount_images(&mut config, &directory, mapping)?;
        let config = &config;
        rootfs::mount_overlay(&self.images.layers(), &record.layers, &directory, mapping)
            .map_err(|error| format!("cannot mount the root: {error}"))?;
        let security = &config.security_context;
        let wanted = Wanted {
            image: &image.config.user,
            run_as_user: security.run_as_user,
            run_as_group: security.run_as_group,
            supplemental_groups: &security.supplemental_groups,
            strict: security.supplemental_groups_strict,
        };
        let (users, groups) = (
            rootfs::read_text(&root, "/etc/passwd").map_err(say)?,
            rootfs::read_text(&root, "/etc/group").map_err(say)?,
        );
        let identity = user::resolve(&wanted, &users, &groups)?;
        if let Some(mapping) = mapping
            && let Some(id) = [identity.uid, identity.gid]
                .iter()
                .chain(&identity.groups)
                .find(|id| **id >= mapping.length)
        {
            return Err(format!(
                "id {id} is not mapped in the pod's user namespace, which has {}",
                mapping.length
            ));
        }
        record.user = mapping.map_or(0, |mapping| mapping.root) + identity.uid;
        let capabilities = capability::resolve(
            security.privileged,
            &security.add_capabilities,
            &security.drop_capabilities,
            self.bounding,
        )?;
        let cwd = if config.working_dir.is_empty() {
            &image.config.working_dir
        } else {
            &config.working_dir
        };
        rootfs::make_directory(&root, cwd, mapping.map_or(0, |mapping| mapping.root))
            .map_err(|error| format!("cannot make the working directory {cwd:?}: {error}"))?;
        for mount in &config.mounts {
            if !mount.host_path.exists() {
                fs::create_dir_all(&mount.host_path)
                    .map_err(|error| format!("failed to mkdir {:?}: {error}", mount.host_path))?;
            }
        }
        let mut devices = Vec::new();
        if security.privileged {
            host_devices(Path::new("/dev"), &mut devices).map_err(say)?;
        }
        let borrowed = if seccomp(config) && !security.no_new_privs {
            capability::to_install_a_filter(&capabilities)
        } else {
            Vec::new()
        };
        self.hierarchies.create(&record.cgroup).map_err(say)?;
        self.hierarchies.limit(&record.cgroup, &config.resources, true).map_err(say)?;
        let rules = if security.privileged {
            DeviceRule::all()
        } else {
            DeviceRule::defaults()
        };
        self.hierarchies.allow_devices(&record.cgroup, &rules).map_err(say)?;
        let kept = self.layout.sandbox(&sandbox.id);
        let text = |path: &Path| path.display().to_string();
        let shm = self.layout.sandbox_run(&sandbox.id).join("shm");
        let mut document = spec::document(&spec::Inputs {
            config,
            sandbox: &sandbox.config,
            image: &image.config,
            identity: &identity,
            capabilities: &capabilities,
            borrowed: &borrowed,
            shim_pid: sandbox.shim_pid,
            pause_pid: sandbox.pause_pid,
            rootfs: &text(&root),
            cgroup: &record.cgroup,
            resolv_conf: &text(&kept.join("resolv.conf")),
            hostname_file: &text(&kept.join("hostname")),
            shm: &if sandbox.config.namespaces.host_ipc {
                "/dev/shm".to_owned()
            } else {
                text(&shm)
            },
            devices: &devices,
            cgroup_views: &self.hierarchies.views(&record.cgroup),
        });
        if mapping.is_some() {
            // Of the pod's shared memory and of image volumes, the ids are the namespace's already.
            let images = directory.join(rootfs::IMAGES);
            record.staged = spec::stage(&mut document, |source| source != shm && !source.starts_with(&images));
        }
        state::write_json(&directory.join("config.json"), &document).map_err(say)?;
        state::write_json(&directory.join("container.json"), &*record).map_err(say)
    }

    /// Mounts the images that a container has as volumes, where the mounts then take them from; returns their layers.
    fn mount_images(
        &self,
        config: &mut ContainerConfig,
        directory: &Path,
        mapping: Option<&Mapping>,
    ) -> Result<Vec<String>, String> {
        let mut layers = Vec::new();
        for (index, mount) in config.mounts.iter_mut().enumerate() {
            let Some(reference) = &mount.image else { continue };
            let failed = |why: &dyn std::fmt::Display| format!("ImageVolumeMountFailed: image {reference:?}: {why}");
            let image = self.images.find(reference).map_err(|error| failed(&error))?;
            let own = image.ok_or_else(|| failed(&"not found"))?.layers();
            let at = directory.join(rootfs::IMAGES).join(index.to_string());
            let root = rootfs::mount_image(&self.images.layers(), &own, &at, mapping).map_err(|error| failed(&error))?;
            let found = rootfs::resolve(&root, &mount.image_sub_path).map_err(|error| failed(&error))?;
            mount.host_path = found
                .strip_prefix("/")
                .map_or_else(|_| root.clone(), |below| root.join(below));
            if !mount.host_path.exists() {
                return Err(failed(&format!("{}: no such file or directory", mount.image_sub_path)));
            }
            mount.readonly = true;
            layers.extend(own);
        }
        Ok(layers)
    }

    /// Removes what `prepare` made. Idempotent.
    fn discard(&self, record: &ContainerRecord) -> Result<(), CriError> {
        let directory = self.layout.container(&record.id);
        let discard = || -> io::Result<()> {
            self.hierarchies.remove(&record.cgroup)?;
            rootfs::unmount_all(&directory)?;
            state::remove_all(&self.layout.oci_root().join(&record.id))?;
            state::remove_all(&directory)
        };
        discard().map_err(|error| failed(&format!("cannot remove container {}", record.id), &error))
    }

    fn container(&self, id: &str) -> Result<(ContainerRecord, watch::Receiver<RunState>), CriError> {
        let containers = self.containers.lock();
        let container = containers
            .get(id)
            .ok_or_else(|| CriError::NotFound(format!("container {id}")))?;
        Ok((container.record.clone(), container.run.subscribe()))
    }

    /// A container that runs now.
    pub(super) fn running(&self, id: &str) -> Result<(ContainerRecord, watch::Receiver<RunState>), CriError> {
        let (record, watch) = self.container(id)?;
        if watch.borrow().state != ContainerState::Running {
            return Err(CriError::Other(format!("container {id} is not running")));
        }
        Ok((record, watch))
    }

    fn log_path(&self, record: &ContainerRecord) -> std::path::PathBuf {
        let sandboxes = self.sandboxes.lock();
        let directory = sandboxes
            .get(&record.sandbox_id)
            .map(|sandbox| sandbox.record.config.log_directory.clone());
        directory.unwrap_or_default().join(&record.config.log_path)
    }

    /// Starts; blocks until the command was executed or cannot be.
    pub(super) fn start(&self, id: &str) -> Result<(), CriError> {
        let (record, watch) = self.container(id)?;
        let now = watch.borrow().state;
        if now != ContainerState::Created {
            return Err(CriError::Other(format!(
                "container {id} is not in created state: it is {now:?}"
            )));
        }
        match self.launch(&record) {
            Ok(pid) => {
                // The shim has written when it started it; another time here would change with the next start of Trireme.
                let written = state::read_json(&self.layout.container(id).join("run.json"));
                self.apply(written.ok().flatten().unwrap_or_else(|| RunState {
                    state: ContainerState::Running,
                    pid,
                    started_at: state::now(),
                    ..RunState::created(id)
                }));
                Ok(())
            }
            Err(text) => {
                let run = RunState {
                    state: ContainerState::Exited,
                    started_at: state::now(),
                    finished_at: state::now(),
                    exit_code: EXIT_CODE_START_ERROR,
                    reason: "StartError".to_owned(),
                    message: text.clone(),
                    ..RunState::created(id)
                };
                self.save_run(&run);
                self.apply(run);
                Err(CriError::StartContainer(text))
            }
        }
    }

    fn launch(&self, record: &ContainerRecord) -> Result<i32, String> {
        let directory = self.layout.container(&record.id);
        let sandbox = self
            .sandboxes
            .lock()
            .get(&record.sandbox_id)
            .map(|sandbox| sandbox.record.clone());
        let sandbox = sandbox.ok_or_else(|| format!("sandbox {} not found", record.sandbox_id))?;
        mapping(&sandbox)
            .and_then(|mapping| rootfs::mount_overlay(&self.images.layers(), &record.layers, &directory, mapping.as_ref()))
            .map_err(|error| format!("cannot mount the root: {error}"))?;
        let log_path = match self.log_path(record) {
            path if path.is_absolute() && !record.config.log_path.is_empty() => path,
            _ => directory.join("log"),
        };
        if let Some(parent) = log_path.parent() {
            fs::create_dir_all(parent).map_err(|error| format!("cannot make {}: {error}", parent.display()))?;
        }
        let config = &record.config;
        for mount in &config.mounts {
            let landed = rootfs::resolve(&directory.join("rootfs"), &mount.container_path)
                .map_err(|error| format!("{}: {error}", mount.container_path))?;
            let is_proc = rootfs::is_procfs(&mount.host_path);
            if let Some(why) = spec::misplaced(&mount.host_path, &mount.container_path, &landed, is_proc) {
                return Err(failed_init(&why));
            }
        }
        let request = Request::Start(StartRequest {
            id: record.id.clone(),
            state_path: directory.join("run.json"),
            bundle: directory,
            log_path,
            tty: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            oom_score_adj: config.resources.oom_score_adj,
            oom_files: self.hierarchies.oom_files(&record.cgroup),
            procs_files: self.hierarchies.procs_files(&record.cgroup),
            seccomp: seccomp(config),
            pid_target: config.security_context.pid_target.clone(),
            staged: record.staged.clone(),
            user: record.user,
        });
        match self.call(&record.sandbox_id, &request, &[]) {
            Ok((_, Reply::Started { pid }, _)) => Ok(pid),
            Ok((
                _,
                Reply::Failed {
                    kind: FailureKind::Command,
                    message,
                },
                _,
            )) => Err(failed_init(&message)),
            Ok((_, Reply::Failed { message, .. }, _)) => Err(format!("failed to create task for container: {message}")),
            Ok((_, reply, _)) => Err(format!("the pod's shim answered {reply:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) async fn stop(self: &Arc<Self>, id: &str, timeout_s: i64) -> Result<(), CriError> {
        let (record, mut watch) = match self.container(id) {
            Ok(found) => found,
            Err(CriError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        if watch.borrow().state != ContainerState::Running {
            return Ok(());
        }
        let mut send = async |signal: i32, all: bool, wait: Duration| -> Result<bool, CriError> {
            let (sandbox_id, id) = (record.sandbox_id.clone(), record.id.clone());
            // An answer that there is no such container means that it just ended.
            self.blocking(move |runtime| runtime.call(&sandbox_id, &Request::Kill { id, signal, all }, &[]).map(drop))
                .await?;
            let ended = watch.wait_for(|run| run.state != ContainerState::Running);
            Ok(tokio::time::timeout(wait, ended).await.is_ok())
        };
        if let Ok(timeout_s @ 1..) = u64::try_from(timeout_s)
            && send(record.stop_signal, false, Duration::from_secs(timeout_s)).await?
        {
            return Ok(());
        }
        if send(libc::SIGKILL, true, KILL_WAIT).await? {
            return Ok(());
        }
        Err(CriError::Other(format!("container {id} does not end after SIGKILL")))
    }

    pub(super) async fn delete_container(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        self.stop(id, 0).await?;
        let id = id.to_owned();
        self.blocking(move |runtime| {
            let Ok((record, _)) = runtime.container(&id) else {
                return Ok(());
            };
            runtime.discard(&record)?;
            runtime.containers.lock().remove(&id);
            Ok(())
        })
        .await
    }

    pub(super) fn container_statuses(&self) -> Vec<ContainerStatus> {
        let all: Vec<(ContainerRecord, RunState)> = {
            let containers = self.containers.lock();
            containers
                .values()
                .map(|container| (container.record.clone(), container.run.borrow().clone()))
                .collect()
        };
        let status = |(record, run): (ContainerRecord, RunState)| ContainerStatus {
            log_path: self.log_path(&record),
            resources: record.config.resources.clone(),
            reason: run.reason(),
            state: run.state,
            created_at: record.created_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            exit_code: run.exit_code,
            message: run.message,
            id: record.id,
            pod_sandbox_id: record.sandbox_id,
            image: record.config.image,
            metadata: record.config.metadata,
            image_ref: record.image_ref,
            labels: record.config.labels,
            annotations: record.config.annotations,
        };
        all.into_iter().map(status).collect()
    }

    pub(super) fn stats(&self) -> Vec<ContainerStats> {
        let running: Vec<ContainerRecord> = {
            let containers = self.containers.lock();
            let running = containers
                .values()
                .filter(|container| container.run.borrow().state == ContainerState::Running);
            running.map(|container| container.record.clone()).collect()
        };
        let stats = |record: ContainerRecord| match self.hierarchies.usage(&record.cgroup) {
            Ok(usage) => Some(ContainerStats {
                id: record.id,
                pod_sandbox_id: record.sandbox_id,
                name: record.config.metadata.name,
                usage,
            }),
            Err(error) => {
                tracing::debug!(id = record.id, %error, "no statistics of a container");
                None
            }
        };
        running.into_iter().filter_map(stats).collect()
    }

    /// Changes limits and annotations. What the kernel took is what is recorded.
    pub(super) fn update(
        &self,
        id: &str,
        resources: &LinuxContainerResources,
        annotations: BTreeMap<String, String>,
    ) -> Result<(), CriError> {
        let (mut record, _) = self.container(id)?;
        self.hierarchies
            .limit(&record.cgroup, resources, true)
            .map_err(|error| failed("cannot change the limits", &error))?;
        record.config.resources = record.config.resources.changed(resources);
        record.config.annotations.extend(annotations);
        state::write_json(&self.layout.container(id).join("container.json"), &record)
            .map_err(|error| failed("cannot record the limits", &error))?;
        if let Some(container) = self.containers.lock().get_mut(id) {
            container.record = record;
        }
        Ok(())
    }

    /// Lifts the quotas of a sandbox's containers that have ended: version 1 lets no cgroup's quota fall below that of one
    /// below it, be it empty.
    pub(super) fn lift_ended(&self, sandbox_id: &str) -> io::Result<()> {
        let ended: Vec<String> = {
            let containers = self.containers.lock();
            let ended = containers.values().filter(|container| {
                container.record.sandbox_id == sandbox_id && container.run.borrow().state == ContainerState::Exited
            });
            ended.map(|container| container.record.cgroup.clone()).collect()
        };
        let lifted = LinuxContainerResources {
            cpu_quota: -1,
            ..LinuxContainerResources::default()
        };
        ended
            .iter()
            .try_for_each(|cgroup| match self.hierarchies.limit(cgroup, &lifted, false) {
                // It is being removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            })
    }
}

/// The user namespace of a sandbox, which its shim holds.
fn mapping(sandbox: &SandboxRecord) -> io::Result<Option<Mapping>> {
    let Some(ids) = sandbox.config.namespaces.user else {
        return Ok(None);
    };
    let namespace = fs::File::open(format!("/proc/{}/fd/{}", sandbox.shim_pid, sandbox.user_fd))?.into();
    Ok(Some(Mapping {
        namespace,
        root: ids.host_id,
        length: ids.length,
    }))
}

fn failed_init(why: &str) -> String {
    format!("failed to create task for container: failed to start container process: error during container init: {why}")
}

/// Whether the default seccomp profile is for this container.
pub(super) fn seccomp(config: &ContainerConfig) -> bool {
    config.security_context.seccomp_runtime_default && !config.security_context.privileged
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals_have_many_names() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("", None),
            ("SIGNOPE", None),
            ("0", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
        assert_eq!(signal_number("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
    }
}
