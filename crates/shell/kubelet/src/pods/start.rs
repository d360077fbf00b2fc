//! Makes sandboxes and starts containers: image, environment, mounts, create, start, postStart.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trireme_client::EventType;
use trireme_pod::env::{self, Sources};
use trireme_pod::observed::Waiting;
use trireme_pod::{Backoff, Step, hosts, services, spec};
use trireme_runtime::cri::{CriError, IdMapping, Mount};
use trireme_volumes::SubPathRequest;

use super::convert::{self, Surroundings};
use super::kill;
use super::worker::Outcome;
use crate::lifecycle;
use crate::shared::Shared;

/// Pause after a container could not be configured, created or run.
const RETRY: SignedDuration = SignedDuration::from_secs(5);
const RETRY_RUN: SignedDuration = SignedDuration::from_secs(10);

/// Makes a pod's sandbox after stopping earlier ones.
pub(super) async fn sandbox(shared: &Shared, pod: &Pod, attempt: u32, stop: &[String]) -> Result<(), String> {
    if !stop.is_empty() {
        shared.pod_event(
            pod,
            EventType::Normal,
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.",
        );
    }
    for id in stop {
        match shared.runtime.stop_pod_sandbox(id).await {
            Ok(()) | Err(CriError::NotFound(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    if shared.runtime.runs_processes() {
        let directory = shared.log_directory(pod);
        std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let handler = runtime_handler(shared, pod).await?;
    let user = match spec::of(pod).host_users {
        Some(false) if shared.runtime.runs_processes() => Some(user_namespace(shared, pod).await?),
        _ => None,
    };
    let config = convert::sandbox(shared, pod, attempt, handler, user);
    shared
        .runtime
        .run_pod_sandbox(&config)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

/// The ids of a pod with a user namespace of its own.
async fn user_namespace(shared: &Shared, pod: &Pod) -> Result<IdMapping, String> {
    let (ranges, uid) = (Arc::clone(&shared.user_namespaces), spec::uid(pod).to_owned());
    let found = tokio::task::spawn_blocking(move || ranges.get_or_create(&uid).map_err(|error| error.to_string()));
    found.await.map_err(|error| error.to_string())?
}

/// The handler of the pod's RuntimeClass, empty without a class.
async fn runtime_handler(shared: &Shared, pod: &Pod) -> Result<String, String> {
    let class = spec::of(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty());
    let Some(name) = class else { return Ok(String::new()) };
    match shared.client.get::<RuntimeClass>("", name).await {
        Ok(found) => Ok(found.handler.clone()),
        Err(status) if status.is_not_found() => Err(status.message),
        Err(status) => Err(format!("failed to lookup RuntimeClass {name}: {}", status.message)),
    }
}

/// Containers to start one after another.
pub(super) struct Job {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: Arc<Pod>,
    pub(super) pod_ips: Vec<String>,
    pub(super) volumes: BTreeMap<String, PathBuf>,
    pub(super) backoffs: BTreeMap<String, Backoff>,
    pub(super) cancel: CancellationToken,
    pub(super) sender: mpsc::UnboundedSender<Outcome>,
}

impl Job {
    pub(super) async fn run(self, steps: Vec<Step>) {
        for step in steps {
            let Step::StartContainer {
                name,
                sandbox_id,
                attempt,
                ended,
                obsolete,
                ..
            } = step
            else {
                continue;
            };
            let result = match spec::container(&self.pod, &name) {
                Some(container) if !self.cancel.is_cancelled() => {
                    for id in &obsolete {
                        if let Err(error) = self.shared.runtime.remove_container(id).await {
                            tracing::warn!(container = name, "an old run stays: {error}");
                        }
                    }
                    self.start(&container, &sandbox_id, attempt, ended).await
                }
                _ => Ok(()),
            };
            if self.sender.send(Outcome::Started { name, result }).is_err() {
                return;
            }
        }
    }

    async fn start(
        &self,
        container: &Container,
        sandbox_id: &str,
        attempt: Option<u32>,
        ended: Option<Timestamp>,
    ) -> Result<(), Waiting> {
        let shared = &self.shared;
        let name = &container.name;
        let volumes = self.image_volumes(container);
        let images = tokio::select! {
            images = volumes => images?,
            () = self.cancel.cancelled() => return Ok(()),
        };
        let image = tokio::select! {
            image = shared.images.ensure(shared, &self.pod, container) => image?,
            () = self.cancel.cancelled() => return Ok(()),
        };
        if let Some(ended) = ended {
            // Back-off grows when a container comes back, not when its image was waited for.
            let backoff = Backoff::next(self.backoffs.get(name), ended, Timestamp::now());
            if self
                .sender
                .send(Outcome::Starting {
                    name: name.clone(),
                    backoff,
                })
                .is_err()
            {
                return Ok(());
            }
        }
        let failed = |reason: &str, message: String, pause| {
            shared.container_event(&self.pod, name, EventType::Warning, "Failed", format!("Error: {message}"));
            Waiting {
                reason: reason.into(),
                message,
                retry_at: Timestamp::now().saturating_add(pause).unwrap_or(Timestamp::MAX),
            }
        };
        convert::check_non_root(&self.pod, container, &image).map_err(|why| failed("CreateContainerConfigError", why, RETRY))?;
        let pid_target = self
            .pid_target(name, sandbox_id)
            .await
            .map_err(|why| failed("CreateContainerConfigError", why, RETRY))?;
        convert::refuse_container(&self.pod, container).map_err(|why| failed("CreateContainerError", why, RETRY_RUN))?;
        let attempt = attempt.unwrap_or_else(|| next_by_logs(&shared.log_directory(&self.pod).join(name)));
        let environment = self
            .environment(container)
            .await
            .map_err(|why| failed("CreateContainerConfigError", why, RETRY))?;
        let mounts = self
            .mounts(container, attempt, &environment, &images)
            .map_err(|why| failed("CreateContainerConfigError", why, RETRY))?;
        let around = Surroundings {
            attempt,
            environment,
            mounts,
            pid_target,
        };
        let config = convert::container(shared, &self.pod, container, around)
            .map_err(|why| failed("CreateContainerConfigError", why.to_string(), RETRY))?;
        if shared.runtime.runs_processes() {
            self.make_log_directory(name, attempt)
                .map_err(|why| failed("CreateContainerError", why, RETRY))?;
        }
        let id = shared
            .runtime
            .create_container(sandbox_id, &config)
            .await
            .map_err(|error| failed("CreateContainerError", error.to_string(), RETRY_RUN))?;
        shared.container_event(&self.pod, name, EventType::Normal, "Created", "Container created");
        shared
            .runtime
            .start_container(&id)
            .await
            .map_err(|error| failed("RunContainerError", error.to_string(), RETRY_RUN))?;
        shared.container_event(&self.pod, name, EventType::Normal, "Started", "Container started");
        self.post_start(container, &id).await
    }

    /// Makes the directory of a container's logs, and takes away what earlier runs left that nobody knows any more.
    fn make_log_directory(&self, container: &str, attempt: u32) -> Result<(), String> {
        let log = self.shared.log_directory(&self.pod).join(container);
        std::fs::create_dir_all(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        prune(&log, attempt);
        let own = self.shared.volumes.pod_dir(spec::uid(&self.pod));
        prune(&own.join("containers").join(container), attempt);
        Ok(())
    }

    /// The container that an ephemeral one names as its target: its newest run in this sandbox.
    async fn pid_target(&self, container: &str, sandbox_id: &str) -> Result<Option<String>, String> {
        let ephemeral = spec::of(&self.pod).ephemeral_containers.iter().flatten();
        let target = ephemeral
            .filter(|known| known.name == container)
            .find_map(|known| known.target_container_name.as_deref())
            .filter(|name| !name.is_empty());
        let Some(target) = target else { return Ok(None) };
        let runs = self
            .shared
            .runtime
            .list_containers()
            .await
            .map_err(|error| error.to_string())?;
        runs.into_iter()
            .filter(|run| run.pod_sandbox_id == sandbox_id && run.metadata.name == target)
            .max_by_key(|run| (run.created_at, run.metadata.attempt))
            .map(|run| Some(run.id))
            .ok_or_else(|| format!("unable to find target container {target}"))
    }

    async fn post_start(&self, container: &Container, id: &str) -> Result<(), Waiting> {
        let Some(hook) = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref())
        else {
            return Ok(());
        };
        let ip = self.pod_ips.first().cloned().unwrap_or_default();
        let run = lifecycle::run(self.shared.runtime.as_ref(), hook, container, id, &ip);
        let result = tokio::select! {
            result = run => result,
            () = self.cancel.cancelled() => return Ok(()),
        };
        let Err(why) = result else { return Ok(()) };
        self.shared.container_event(
            &self.pod,
            &container.name,
            EventType::Warning,
            "FailedPostStartHook",
            "PostStartHook failed",
        );
        let grace = trireme_pod::plan::pod_grace_seconds(&self.pod);
        kill::one(
            &self.shared,
            &self.pod,
            id,
            &container.name,
            "FailedPostStartHook",
            grace,
            &ip,
        )
        .await;
        let retry_at = Timestamp::now().saturating_add(RETRY_RUN).unwrap_or(Timestamp::MAX);
        Err(Waiting {
            reason: "PostStartHookError".into(),
            message: why,
            retry_at,
        })
    }

    async fn environment(&self, container: &Container) -> Result<BTreeMap<String, String>, String> {
        let namespace = spec::namespace(&self.pod);
        let client = &self.shared.client;
        let (config_maps, secrets) = env::references(container);
        let mut sources = Sources {
            node: self.shared.node_facts(self.pod_ips.clone()),
            ..Sources::default()
        };
        for name in config_maps {
            let found = client
                .find::<ConfigMap>(namespace, &name)
                .await
                .map_err(|status| status.message)?;
            sources
                .config_maps
                .insert(name, found.map(|found| found.data.clone().unwrap_or_default()));
        }
        for name in secrets {
            let found = client
                .find::<Secret>(namespace, &name)
                .await
                .map_err(|status| status.message)?;
            let data = found.map(|found| {
                found
                    .data
                    .iter()
                    .flatten()
                    .map(|(key, value)| (key.clone(), value.0.clone()))
                    .collect()
            });
            sources.secrets.insert(name, data);
        }
        let links = spec::of(&self.pod).enable_service_links.unwrap_or(true);
        let mut known = self.shared.cache.list::<Service>(Some("default"));
        if namespace != "default" && links {
            known.extend(self.shared.cache.list::<Service>(Some(namespace)));
        }
        sources.services = services::variables(known.iter().map(AsRef::as_ref), namespace, links);
        env::environment(&self.pod, container, &sources).map_err(|error| error.to_string())
    }

    /// The ids of the images that are volumes of a container, by the volumes' names.
    async fn image_volumes(&self, container: &Container) -> Result<BTreeMap<String, String>, Waiting> {
        let mut found = BTreeMap::new();
        for volume in spec::of(&self.pod).volumes.iter().flatten() {
            let used = container
                .volume_mounts
                .iter()
                .flatten()
                .any(|mount| mount.name == volume.name);
            let Some(source) = volume.image.as_ref().filter(|_| used) else {
                continue;
            };
            match self.shared.images.ensure_volume(&self.shared, &self.pod, source).await {
                Ok(image) => {
                    found.insert(volume.name.clone(), image.id);
                }
                Err(waiting) => {
                    let message = format!("Error: {}", waiting.reason);
                    self.shared
                        .container_event(&self.pod, &container.name, EventType::Warning, "Failed", message);
                    return Err(waiting);
                }
            }
        }
        Ok(found)
    }

    fn mounts(
        &self,
        container: &Container,
        attempt: u32,
        environment: &BTreeMap<String, String>,
        images: &BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, String> {
        let shared = &self.shared;
        let uid = spec::uid(&self.pod);
        let mut mounts = Vec::new();
        if !shared.runtime.runs_processes() {
            return Ok(mounts);
        }
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let image = images.get(&mount.name);
            let volume = self.volumes.get(&mount.name).ok_or_else(|| {
                format!(
                    "cannot find volume \"{}\" to mount into container \"{}\"",
                    mount.name, container.name
                )
            })?;
            let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
                (Some(path), _) if !path.is_empty() => path.clone(),
                (_, Some(expression)) if !expression.is_empty() => env::expand_all([expression], environment)
                    .map_err(|error| error.to_string())?
                    .concat(),
                _ => String::new(),
            };
            let host_path = if sub_path.is_empty() || image.is_some() {
                volume.clone()
            } else {
                let request = SubPathRequest {
                    pod_uid: uid,
                    volume: &mount.name,
                    volume_path: volume,
                    sub_path: &sub_path,
                    container: &container.name,
                    index,
                };
                shared.volumes.sub_path(&request).map_err(|error| error.to_string())?
            };
            let container_path = if mount.mount_path.starts_with('/') {
                mount.mount_path.clone()
            } else {
                format!("/{}", mount.mount_path)
            };
            mounts.push(Mount {
                container_path,
                host_path,
                readonly: mount.read_only.unwrap_or(false) || is_read_only(&self.pod, &mount.name),
                recursive_read_only: matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
                propagation: convert::propagation(mount.mount_propagation.as_deref()),
                image: image.cloned(),
                image_sub_path: image.map_or_else(String::new, |_| sub_path.clone()),
            });
        }
        if !mounts.iter().any(|mount| mount.container_path == "/etc/hosts") {
            let path = shared.volumes.pod_dir(uid).join("etc-hosts");
            let host_file = std::fs::read_to_string("/etc/hosts").ok();
            let text = hosts::content(&self.pod, &self.pod_ips, &shared.config.cluster_domain, host_file.as_deref());
            put(&path, Some(&text), 0o644)?;
            mounts.push(convert::own_mount("/etc/hosts", path, false));
        }
        let message_path = container
            .termination_message_path
            .as_deref()
            .unwrap_or("/dev/termination-log");
        if !message_path.is_empty() {
            let path = shared.message_path(uid, &container.name, attempt);
            put(&path, None, 0o666)?;
            mounts.push(convert::own_mount(message_path, path, false));
        }
        Ok(mounts)
    }
}

/// Whether a volume's content is the API's, which nobody may write to, or a claim's that is asked for to be read only.
fn is_read_only(pod: &Pod, volume: &str) -> bool {
    spec::of(pod)
        .volumes
        .iter()
        .flatten()
        .filter(|known| known.name == volume)
        .any(|known| {
            known.config_map.is_some()
                || known.secret.is_some()
                || known.projected.is_some()
                || known.downward_api.is_some()
                || known.image.is_some()
                || known
                    .persistent_volume_claim
                    .as_ref()
                    .is_some_and(|claim| claim.read_only == Some(true))
        })
}

/// Writes a file of the pod's own; without text it is only made. An unchanged file is left alone, as it may be mounted.
fn put(path: &Path, text: Option<&str>, mode: u32) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let current = std::fs::read_to_string(path).ok();
    if current.is_none() || text.is_some_and(|text| current.as_deref() != Some(text)) {
        std::fs::write(path, text.unwrap_or_default()).map_err(failed)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Removes files of runs before the last one, which the runtime does not know any more.
fn prune(directory: &Path, attempt: u32) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.split('.').next()?.parse::<u32>().ok());
        if number.is_some_and(|number| number + 1 < attempt)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::debug!("{} stays: {error}", entry.path().display());
        }
    }
}

/// The restart count after the logs that are there: the runtime may have forgotten earlier runs.
fn next_by_logs(directory: &Path) -> u32 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.split('.').next()?.parse::<u32>().ok())
        .max()
        .map_or(0, |last| last + 1)
}
