//! Volumes of a pod: emptyDir to projected, updated atomically.
//!
//! Invariant: [`Volumes::mount`] is idempotent: it makes what is missing, refreshes what changed and disturbs nothing that
//! is in use, so it serves first mount, refresh and restart alike. It knows nothing of containers.

mod atomic;
mod claims;
mod content;
mod disk;
mod local;
mod ownership;
mod sub_path;
mod token;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Volume};
use parking_lot::Mutex;
use trireme_client::Client;
use trireme_pod::downward::NodeFacts;
use trireme_pod::room::{Room, VOLUMES_BYTES_MAX};
use trireme_pod::{qos, spec};

pub use disk::{Disk, DiskError};
pub use sub_path::SubPathRequest;

/// Why a volume cannot be had. The kubelet shows `FailedMount` with the text and tries again.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A volume could not be set up.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
    SetUp {
        /// Name in the pod.
        volume: String,
        /// What is wrong.
        why: String,
    },
    /// A claim has no volume that the pod may use, or not yet.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process volumes=[{volume}]: {why}"
    )]
    Claim {
        /// Name in the pod.
        volume: String,
        /// What is wrong.
        why: String,
    },
    /// A volume is not to be had from this node, or not so.
    #[error("MountVolume.{check} check failed for volume \"{volume}\" : {why}")]
    Check {
        /// Upstream's name of what was checked.
        check: &'static str,
        /// Name of the volume.
        volume: String,
        /// What is wrong.
        why: String,
    },
    /// A sub-path does not exist and cannot be made, or leads out of its volume.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {why}")]
    SubPath {
        /// Name in the pod.
        volume: String,
        /// Container.
        container: String,
        /// What is wrong.
        why: String,
    },
    /// Something could not be taken away.
    #[error("{path}: {error}")]
    TearDown {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// What the file system of a mounted claim holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUsage {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the volume in the pod.
    pub volume: String,
    /// Size.
    pub capacity_bytes: u64,
    /// What users may still write.
    pub available_bytes: u64,
    /// What is written.
    pub used_bytes: u64,
    /// Most files.
    pub inodes: u64,
    /// Files that can still be made.
    pub inodes_free: u64,
}

/// The volumes of a node's pods, below `data_dir/pods/<uid>/volumes`, and those that are made for claims, below
/// `data_dir/local-volumes`.
pub struct Volumes {
    data_dir: PathBuf,
    client: Client,
    tokens: token::Tokens,
    disk: Arc<Disk>,
    /// Where the claims of pods are, by the pod's uid and the volume's name: once a claim is mounted it stays so, whatever
    /// the API says of it later.
    claims: Mounted,
    /// Nobody reads the volumes: what they hold is asked for, and nothing is written.
    without_files: bool,
}

/// Paths of claims that pods have, by the pod's uid and the volume's name.
pub(crate) type Mounted = Arc<Mutex<HashMap<(String, String), PathBuf>>>;

impl Volumes {
    /// Volumes below a directory, with a client to read ConfigMaps, Secrets and tokens.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, client: Client) -> Self {
        let data_dir = data_dir.into();
        let claims = Mounted::default();
        Self {
            disk: Arc::new(Disk::new(data_dir.join("local-volumes"), Arc::clone(&claims))),
            data_dir,
            client: client.clone(),
            tokens: token::Tokens::new(client),
            claims,
            without_files: false,
        }
    }

    /// Volumes for containers without processes: objects and tokens are asked for as ever, but nothing is written, mounted
    /// or looked for on this machine.
    #[must_use]
    pub fn without_files(data_dir: impl Into<PathBuf>, client: Client) -> Self {
        Self {
            without_files: true,
            ..Self::new(data_dir, client)
        }
    }

    /// The volumes on this node's own disk.
    #[must_use]
    pub fn disk(&self) -> Arc<Disk> {
        Arc::clone(&self.disk)
    }

    /// What the file systems of mounted claims hold. It blocks where a file system does.
    #[must_use]
    pub fn claim_usage(&self) -> Vec<ClaimUsage> {
        let claims: Vec<_> = self
            .claims
            .lock()
            .iter()
            .map(|(key, path)| (key.clone(), path.clone()))
            .collect();
        let of = |((pod_uid, volume), path): ((String, String), PathBuf)| {
            let held = nix::sys::statvfs::statvfs(&path).ok()?;
            let bytes = |blocks: u64| blocks * held.fragment_size();
            Some(ClaimUsage {
                pod_uid,
                volume,
                capacity_bytes: bytes(held.blocks()),
                available_bytes: bytes(held.blocks_available()),
                used_bytes: bytes(held.blocks() - held.blocks_free()),
                inodes: held.files(),
                inodes_free: held.files_free(),
            })
        };
        claims.into_iter().filter_map(of).collect()
    }

    /// A pod's own directory.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// UIDs of pods that have a directory.
    #[must_use]
    pub fn pods_on_disk(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.data_dir.join("pods")) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Sets up or refreshes all volumes of a pod; the host path of each by name.
    ///
    /// # Errors
    /// The first volume that cannot be had; the others are tried all the same.
    pub async fn mount(&self, pod: &Pod, node: &NodeFacts) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
        let mut paths = BTreeMap::new();
        let mut failed = None;
        let mut room = Room::of(VOLUMES_BYTES_MAX);
        for volume in spec::of(pod).volumes.iter().flatten() {
            match self.mount_one(pod, volume, node, &mut room).await {
                Ok(path) => {
                    paths.insert(volume.name.clone(), path);
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(paths), Err)
    }

    async fn mount_one(&self, pod: &Pod, volume: &Volume, node: &NodeFacts, room: &mut Room) -> Result<PathBuf, VolumeError> {
        if claims::claim_of(pod, volume).is_some() {
            return self.mount_claim(pod, volume).await;
        }
        let mounted = self.mount_own(pod, volume, node, room).await;
        mounted.map_err(|why| VolumeError::SetUp {
            volume: volume.name.clone(),
            why,
        })
    }

    /// Mounts what a claim is bound to.
    async fn mount_claim(&self, pod: &Pod, volume: &Volume) -> Result<PathBuf, VolumeError> {
        let key = (spec::uid(pod).to_owned(), volume.name.clone());
        if let Some(path) = self.claims.lock().get(&key) {
            return Ok(path.clone());
        }
        let found = claims::resolve(&self.client, pod, volume).await?;
        if self.without_files {
            self.claims.lock().insert(key, PathBuf::new());
            return Ok(PathBuf::new());
        }
        let name = found.metadata.name.clone().unwrap_or_default();
        let read_only = volume.persistent_volume_claim.as_ref().and_then(|source| source.read_only) == Some(true);
        let fs_group = spec::of(pod).security_context.as_ref().and_then(|context| context.fs_group);
        let disk = Arc::clone(&self.disk);
        // A file system may be checked here, and a tree may be given to a group.
        let mounted = tokio::task::spawn_blocking(move || {
            let path = set_up(&disk, &found)?;
            if !read_only && found.spec.as_ref().is_some_and(|spec| spec.local.is_some()) {
                ownership::apply(&path, fs_group, false).map_err(|error| error.to_string())?;
            }
            Ok(path)
        });
        let mounted = mounted.await.unwrap_or_else(|error| Err(error.to_string()));
        let path = mounted.map_err(|why| VolumeError::SetUp { volume: name, why })?;
        self.claims.lock().insert(key, path.clone());
        Ok(path)
    }

    /// Mounts what needs nobody but this node and the pod's own objects.
    async fn mount_own(&self, pod: &Pod, volume: &Volume, node: &NodeFacts, room: &mut Room) -> Result<PathBuf, String> {
        if self.without_files && (volume.host_path.is_some() || volume.empty_dir.is_some()) {
            return Ok(PathBuf::new());
        }
        if let Some(source) = &volume.host_path {
            return local::host_path(source).map_err(|error| error.to_string());
        }
        if volume.image.is_some() {
            // The runtime mounts it, from an image that the container's start waits for.
            return Ok(PathBuf::new());
        }
        let fs_group = spec::of(pod).security_context.as_ref().and_then(|context| context.fs_group);
        let directory = |plugin: &str| {
            self.pod_dir(spec::uid(pod))
                .join("volumes")
                .join(format!("kubernetes.io~{plugin}"))
                .join(&volume.name)
        };
        let io = |error: std::io::Error| error.to_string();
        if let Some(source) = &volume.empty_dir {
            let path = directory("empty-dir");
            // What a container made there since is its own.
            let known = [node.allocatable_memory, qos::pod_limits(pod).memory_bytes];
            let memory_max = known.into_iter().filter(|bytes| *bytes > 0).min();
            if local::empty_dir(&path, source, memory_max).map_err(io)? {
                ownership::apply(&path, fs_group, false).map_err(io)?;
            }
            return Ok(path);
        }
        let mut fetch = content::Fetch {
            client: &self.client,
            tokens: &self.tokens,
            pod,
            node,
            room,
        };
        let (plugin, in_memory, files) = if let Some(source) = &volume.config_map {
            ("configmap", false, fetch.config_map_volume(source).await?)
        } else if let Some(source) = &volume.secret {
            ("secret", true, fetch.secret_volume(source).await?)
        } else if let Some(source) = &volume.downward_api {
            ("downward-api", false, fetch.downward_volume(source)?)
        } else if let Some(source) = &volume.projected {
            ("projected", true, fetch.projected_volume(&volume.name, source).await?)
        } else {
            return Err(unsupported(volume));
        };
        if self.without_files {
            return Ok(PathBuf::new());
        }
        let path = directory(plugin);
        if in_memory {
            local::memory(&path, None, 0o755).map_err(io)?;
        } else {
            std::fs::create_dir_all(&path).map_err(io)?;
        }
        let owner = content::token_owner(pod);
        atomic::write(&path, &files, &|new| {
            ownership::own_tokens(new, &files, owner)?;
            ownership::apply(new, fs_group, true)
        })
        .map_err(io)?;
        ownership::apply_top(&path, fs_group).map_err(io)?;
        Ok(path)
    }

    /// Opens a sub-path of a mounted volume safely and gives a stable path to bind it from.
    ///
    /// # Errors
    /// When it leads out of the volume or cannot be made.
    pub fn sub_path(&self, request: &SubPathRequest<'_>) -> Result<PathBuf, VolumeError> {
        let target = self
            .pod_dir(request.pod_uid)
            .join("volume-subpaths")
            .join(request.volume)
            .join(request.container)
            .join(request.index.to_string());
        sub_path::bind(request, &target).map_err(|error| VolumeError::SubPath {
            volume: request.volume.into(),
            container: request.container.into(),
            why: error.to_string(),
        })?;
        Ok(target)
    }

    /// Unmounts everything below a pod's directory and removes the directory. Idempotent.
    ///
    /// # Errors
    /// When something is still in use.
    pub fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        self.tokens.forget(uid);
        self.claims.lock().retain(|(pod, _), _| pod != uid);
        if self.without_files {
            return Ok(());
        }
        let path = self.pod_dir(uid);
        let failed = |error| VolumeError::TearDown {
            path: path.clone(),
            error,
        };
        local::unmount_below(&path).map_err(failed)?;
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

/// Where a volume is on this node, after what it needs was done.
fn set_up(disk: &Disk, volume: &PersistentVolume) -> Result<PathBuf, String> {
    let spec = volume.spec.as_ref();
    if let Some(source) = spec.and_then(|spec| spec.host_path.as_ref()) {
        return local::host_path(source).map_err(|error| error.to_string());
    }
    let Some(source) = spec.and_then(|spec| spec.local.as_ref()) else {
        return Err(claims::unsupported(volume));
    };
    let path = PathBuf::from(&source.path);
    disk.activate(&path).map_err(|error| error.to_string())?;
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(format!("path \"{}\" is not a directory", source.path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(format!("path \"{}\" does not exist", source.path)),
        Err(error) => Err(format!("path \"{}\": {error}", source.path)),
    }
}

fn unsupported(volume: &Volume) -> String {
    if volume.csi.is_some() || volume.nfs.is_some() {
        return "CSI and NFS volumes are not supported yet".into();
    }
    "no volume plugin matched".into()
}

/// Whether a path is a mount point.
pub(crate) fn is_mount_point(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = match std::fs::metadata(path) {
        Ok(own) => own,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let parent = std::fs::metadata(path.parent().unwrap_or(path))?;
    Ok(own.dev() != parent.dev())
}

#[cfg(test)]
mod tests;
