//! Orders of volumes on nodes' own disks, given to the nodes' kubelets, and the class that they are had by.
//!
//! Invariant: an order that was not answered counts as not carried out; it may be given again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use trireme_api::Status;
use trireme_apiserver::{ApiServer, NodeDialer, NodeEndpoint};
use trireme_manager::controllers::LocalVolumes;
use trireme_reconcile::local_volume::{Answer, Order, PROVISIONER};

/// Longest wait for a node: it may make a large file system on a slow disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Largest answer: a path, or why not.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Name of the class.
const CLASS: &str = "local";
/// ConfigMap in `kube-system` that says what was made once, and is not made again when somebody has removed it.
const MADE: &str = "trireme-defaults";

/// The disks of all nodes, through their kubelets.
pub(crate) struct NodeDisks {
    dialer: Arc<dyn NodeDialer>,
}

impl NodeDisks {
    pub(crate) fn new(dialer: Arc<dyn NodeDialer>) -> Self {
        Self { dialer }
    }

    async fn order(&self, node: &Value, method: http::Method, path: String) -> Answer {
        let Some(endpoint) = NodeEndpoint::of(node) else {
            return Answer::Silent("the node has not told its address".into());
        };
        if !crate::metrics::is_ready(node) {
            return Answer::Silent(format!("node {} is not ready", endpoint.name));
        }
        match tokio::time::timeout(ANSWER_LIMIT, self.ask(&endpoint, method, path)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Silent(format!("node {}: {error}", endpoint.name)),
            Err(_) => Answer::Silent(format!("node {} does not answer", endpoint.name)),
        }
    }

    async fn ask(&self, node: &NodeEndpoint, method: http::Method, path: String) -> Result<Answer, AskError> {
        let stream = self.dialer.connect(node).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &node.host)
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|_| AskError::Body)?.to_bytes();
        drop(driver);
        let text = String::from_utf8_lossy(&body).into_owned();
        match status {
            http::StatusCode::OK => Ok(Answer::Done(text)),
            http::StatusCode::UNPROCESSABLE_ENTITY => Ok(Answer::Refused(text)),
            status => Err(AskError::Status(status)),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("its answer is too long, or was cut off")]
    Body,
    #[error("status {0}")]
    Status(http::StatusCode),
}

#[async_trait]
impl LocalVolumes for NodeDisks {
    async fn ensure(&self, node: &Value, order: &Order) -> Answer {
        let path = format!(
            "/localVolumes/{}?bytes={}&enforced={}",
            order.name, order.bytes, order.enforced
        );
        self.order(node, http::Method::PUT, path).await
    }

    async fn remove(&self, node: &Value, name: &str) -> Answer {
        self.order(node, http::Method::DELETE, format!("/localVolumes/{name}")).await
    }
}

/// Makes the default class once in a cluster's life: whoever removes or changes it is not overruled at the next start.
///
/// # Errors
/// The first failure; calling again is safe.
pub(crate) async fn make_class(server: &ApiServer) -> Result<(), Status> {
    let row = |group: &str, plural: &str| trireme_resources::find(group, "v1", plural).expect("a built-in row");
    if server.has(row("", "configmaps"), "kube-system", MADE) {
        return Ok(());
    }
    let class = json!({
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    });
    server
        .ensure(row("storage.k8s.io", "storageclasses"), "", CLASS, class)
        .await?;
    let made = json!({"metadata": {"name": MADE, "namespace": "kube-system"}, "data": {"storageclass": CLASS}});
    server.ensure(row("", "configmaps"), "kube-system", MADE, made).await
}
