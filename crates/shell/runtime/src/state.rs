//! What the runtime keeps on disk, and where. Every file is replaced atomically, so that a reader sees the old or the
//! new record and never a part. Nothing here talks to a process.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cri::{ContainerConfig, ContainerState, PodSandboxConfig};
use crate::spec::StagedMount;

/// Where things lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Kept over reboots.
    pub(crate) data: PathBuf,
    /// Gone at reboot.
    pub(crate) run: PathBuf,
}

impl Layout {
    /// Records of sandboxes.
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.data.join("sandboxes")
    }
    /// Directory of one sandbox.
    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }
    /// Socket, shm and log of one sandbox's shim.
    pub(crate) fn sandbox_run(&self, id: &str) -> PathBuf {
        self.run.join("pods").join(id)
    }
    /// Records of containers.
    pub(crate) fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }
    /// Bundle, record and writable layer of one container.
    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }
    /// libcontainer's own state.
    pub(crate) fn oci_root(&self) -> PathBuf {
        self.run.join("oci")
    }
}

/// A sandbox as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) created_at: i64,
    pub(crate) shim_pid: i32,
    /// Pid of the holder of a shared pid namespace, 0 without.
    pub(crate) pause_pid: i32,
    /// Descriptor of the shim that holds the pod's user namespace, 0 without.
    #[serde(default)]
    pub(crate) user_fd: i32,
    pub(crate) ips: Vec<String>,
    /// Set when it was stopped on purpose.
    pub(crate) stopped: bool,
}

/// A container as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) config: ContainerConfig,
    pub(crate) image_id: String,
    pub(crate) image_ref: String,
    /// Layer directory names, lowest first.
    pub(crate) layers: Vec<String>,
    pub(crate) created_at: i64,
    pub(crate) stop_signal: i32,
    /// cgroup below the hierarchy's root.
    pub(crate) cgroup: String,
    /// User of the host that the process is.
    #[serde(default)]
    pub(crate) user: u32,
    /// Sources of the document's mounts, for a pod with a user namespace of its own.
    #[serde(default)]
    pub(crate) staged: Vec<StagedMount>,
    /// Layers of image volumes, which are needed as long as the container's own.
    #[serde(default)]
    pub(crate) volume_layers: Vec<String>,
}

/// The life of a container's first process, written by its shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunState {
    pub(crate) id: String,
    pub(crate) state: ContainerState,
    pub(crate) pid: i32,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    /// Signal that ended it, 0 if none.
    pub(crate) signal: i32,
    pub(crate) oom_killed: bool,
    /// Set where the reason does not follow from the exit code.
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl RunState {
    /// A container that never ran.
    pub(crate) fn created(id: &str) -> Self {
        RunState {
            id: id.to_owned(),
            state: ContainerState::Created,
            pid: 0,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            signal: 0,
            oom_killed: false,
            reason: String::new(),
            message: String::new(),
        }
    }

    /// CRI's reason.
    pub(crate) fn reason(&self) -> String {
        match self.state {
            ContainerState::Exited if !self.reason.is_empty() => self.reason.clone(),
            ContainerState::Exited if self.oom_killed => "OOMKilled".to_owned(),
            ContainerState::Exited if self.exit_code == 0 => "Completed".to_owned(),
            ContainerState::Exited => "Error".to_owned(),
            _ => String::new(),
        }
    }
}

/// Writes `value` to `path` so that it is there wholly or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_data()?;
    drop(file);
    fs::rename(&temporary, path)
}

/// Reads a record; `None` where there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file or a tree; absence is fine.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unix nanoseconds now.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// 64 hexadecimal digits, as other runtimes name sandboxes and containers.
pub(crate) fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}
