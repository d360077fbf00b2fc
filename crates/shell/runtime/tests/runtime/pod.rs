//! One part's pod: its names, its runtime, and what parts do with containers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trireme_runtime::cri::*;
use trireme_runtime::{Runtime, RuntimeConfig};

pub(crate) const IMAGE: &str = "busybox:test";
/// No part waits longer for anything; it is a guard against hanging, not a measure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct NoNetwork;

#[async_trait]
impl SandboxNetwork for NoNetwork {
    async fn attach(&self, _: &str, netns: &Path, config: &PodSandboxConfig) -> Result<Vec<IpAddr>, CriError> {
        assert!(netns.exists());
        if config.metadata.name == "no-network" {
            return Err(CriError::Other("no addresses are left".into()));
        }
        Ok(vec![IpAddr::from([10, 1, 2, 3])])
    }
    async fn detach(&self, _: &str) -> Result<(), CriError> {
        Ok(())
    }
}

/// Directories and names of one run.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) cgroup: String,
}

impl Place {
    pub(crate) async fn open(&self) -> Arc<Runtime> {
        let config = RuntimeConfig {
            data_dir: self.root.join("data"),
            run_dir: self.root.join("run"),
            cgroup_root: self.cgroup.clone(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            network: Arc::new(NoNetwork),
        };
        Runtime::open(config).await.expect("open")
    }

    pub(crate) fn sandbox(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "test".into(),
                attempt: 0,
            },
            hostname: name.into(),
            log_directory: self.root.join("logs").join(name),
            resolv_conf: Some("nameserver 192.0.2.1\n".into()),
            cgroup_parent: format!("kubepods/burstable/pod-{name}"),
            sysctls: BTreeMap::from([("kernel.shm_rmid_forced".to_owned(), "1".to_owned())]),
            ..PodSandboxConfig::default()
        }
    }
}

pub(crate) fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata {
            name: name.into(),
            attempt: 0,
        },
        image: IMAGE.into(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}/0.log"),
        ..ContainerConfig::default()
    }
}

/// The pod and container of one part.
pub(crate) struct Pod {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) place: Place,
    pub(crate) name: &'static str,
    pub(crate) sandbox: String,
}

impl Pod {
    pub(crate) async fn new(runtime: &Arc<Runtime>, place: &Place, name: &'static str) -> Pod {
        Pod::with(runtime, place, name, |_| {}).await
    }

    pub(crate) async fn with(
        runtime: &Arc<Runtime>,
        place: &Place,
        name: &'static str,
        change: impl FnOnce(&mut PodSandboxConfig),
    ) -> Pod {
        let mut config = place.sandbox(name);
        change(&mut config);
        let sandbox = runtime.run_pod_sandbox(&config).await.expect("sandbox");
        Pod {
            runtime: runtime.clone(),
            place: place.clone(),
            name,
            sandbox,
        }
    }

    pub(crate) async fn run(&self, config: &ContainerConfig) -> String {
        let id = self.runtime.create_container(&self.sandbox, config).await.expect("create");
        self.runtime.start_container(&id).await.expect("start");
        id
    }

    pub(crate) async fn status(&self, id: &str) -> ContainerStatus {
        let all = self.runtime.list_containers().await.expect("list");
        all.into_iter()
            .find(|status| status.id == id)
            .expect("the container is listed")
    }

    /// Waits for the end.
    pub(crate) async fn end(&self, id: &str) -> ContainerStatus {
        let wait = async {
            loop {
                let status = self.status(id).await;
                if status.state == ContainerState::Exited {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the container ends")
    }

    pub(crate) fn log(&self, container: &str) -> String {
        let path = self.place.root.join("logs").join(self.name).join(container).join("0.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| format!("{}\n", line.split_once(' ').map_or("", |(_, rest)| rest)))
            .collect()
    }

    pub(crate) async fn exec(&self, id: &str, script: &str) -> ExecSyncResponse {
        let command: Vec<String> = ["sh", "-c", script].iter().map(|word| (*word).to_owned()).collect();
        self.runtime.exec_sync(id, &command, 30).await.expect("exec")
    }

    pub(crate) async fn remove(self) {
        self.runtime.stop_pod_sandbox(&self.sandbox).await.expect("stop");
        self.runtime.stop_pod_sandbox(&self.sandbox).await.expect("stop again");
        self.runtime.remove_pod_sandbox(&self.sandbox).await.expect("remove");
        self.runtime.remove_pod_sandbox(&self.sandbox).await.expect("remove again");
    }
}
