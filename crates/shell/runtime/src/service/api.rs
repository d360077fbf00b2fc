//! CRI's traits on the runtime: each method hands on to the file that does the work.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::{Runtime, failed};
use crate::cri::{
    AuthConfig, ContainerConfig, ContainerEvent, ContainerStats, ContainerStatus, CriError, ExecSyncResponse, Image,
    ImageService, LinuxContainerResources, PodSandboxConfig, PodSandboxStatus, RuntimeService, StreamRequest, StreamSession,
    Usage,
};

#[async_trait]
impl RuntimeService for Runtime {
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, CriError> {
        self.inner.make_sandbox(config).await
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.inner.stop_sandbox(id).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.inner.remove_sandbox(id).await
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>, CriError> {
        Ok(self.inner.sandbox_statuses())
    }

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String, CriError> {
        let (sandbox_id, config) = (sandbox_id.to_owned(), config.clone());
        self.inner
            .blocking(move |runtime| runtime.make_container(&sandbox_id, config))
            .await
    }

    async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let id = id.to_owned();
        self.inner.blocking(move |runtime| runtime.start(&id)).await
    }

    async fn stop_container(&self, id: &str, timeout_s: i64) -> Result<(), CriError> {
        self.inner.stop(id, timeout_s).await
    }

    async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        self.inner.delete_container(id).await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, CriError> {
        Ok(self.inner.container_statuses())
    }

    async fn exec_sync(&self, container_id: &str, command: &[String], timeout_s: u64) -> Result<ExecSyncResponse, CriError> {
        self.inner.run_exec_sync(container_id, command, timeout_s).await
    }

    async fn exec(&self, request: &StreamRequest) -> Result<StreamSession, CriError> {
        self.inner.run_exec(request).await
    }

    async fn attach(&self, request: &StreamRequest) -> Result<StreamSession, CriError> {
        self.inner.run_attach(request).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<tokio::net::TcpStream, CriError> {
        let id = sandbox_id.to_owned();
        let stream = self.inner.blocking(move |runtime| runtime.connect_inside(&id, port)).await?;
        tokio::net::TcpStream::from_std(stream).map_err(|error| failed("cannot use the connection", &error))
    }

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, CriError> {
        self.inner.blocking(|runtime| Ok(runtime.stats())).await
    }

    async fn pod_sandbox_stats(&self, id: &str) -> Result<Usage, CriError> {
        let id = id.to_owned();
        self.inner.blocking(move |runtime| runtime.sandbox_usage(&id)).await
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: &LinuxContainerResources,
        annotations: &BTreeMap<String, String>,
    ) -> Result<(), CriError> {
        let (id, resources, annotations) = (id.to_owned(), resources.clone(), annotations.clone());
        self.inner
            .blocking(move |runtime| runtime.update(&id, &resources, annotations))
            .await
    }

    async fn update_pod_sandbox_resources(&self, id: &str, resources: &LinuxContainerResources) -> Result<(), CriError> {
        let (id, resources) = (id.to_owned(), resources.clone());
        self.inner
            .blocking(move |runtime| runtime.update_sandbox(&id, &resources))
            .await
    }

    fn subscribe(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }
}

#[async_trait]
impl ImageService for Runtime {
    async fn image_status(&self, reference: &str) -> Result<Option<Image>, CriError> {
        let reference = reference.to_owned();
        self.inner
            .blocking(move |runtime| Ok(runtime.images.find(&reference)?.map(|record| record.image())))
            .await
    }

    async fn pull_image(&self, reference: &str, auth: Option<&AuthConfig>) -> Result<String, CriError> {
        self.inner.images.pull(reference, auth).await
    }

    async fn list_images(&self) -> Result<Vec<Image>, CriError> {
        self.inner.blocking(|runtime| runtime.images.list()).await
    }

    async fn remove_image(&self, reference: &str) -> Result<(), CriError> {
        let reference = reference.to_owned();
        self.inner
            .blocking(move |runtime| runtime.images.remove(&reference).map(drop))
            .await
    }
}
