//! The seams to what the API server reaches but does not hold: kubelets, the token issuer, resource metrics.
//!
//! Invariant: where a seam is not filled, the requests that need it are answered with an error, not with nothing.

use std::net::SocketAddr;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use trireme_api::{Object, Status};

use crate::user::UserInfo;

/// A byte stream to a kubelet, TLS already done.
pub trait NodeStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> NodeStream for T {}

/// Where a kubelet listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// Name of the node.
    pub name: String,
    /// Its address, out of `status.addresses`.
    pub host: String,
    /// Its port, out of `status.daemonEndpoints`.
    pub port: u16,
}

const KUBELET_PORT: u16 = 10250;

impl NodeEndpoint {
    /// Where a node's kubelet listens; `None` before the node has told its address.
    #[must_use]
    pub fn of(node: &Value) -> Option<Self> {
        let addresses = node["status"]["addresses"].as_array()?;
        let of = |kind: &str| {
            addresses
                .iter()
                .find(|own| own["type"] == kind)
                .and_then(|own| own["address"].as_str())
        };
        let host = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"]
            .into_iter()
            .find_map(of)?;
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
        Some(Self {
            name: node["metadata"]["name"].as_str()?.to_owned(),
            host: host.to_owned(),
            port: port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0)
                .unwrap_or(KUBELET_PORT),
        })
    }
}

/// Opens authenticated connections to kubelets.
#[async_trait]
pub trait NodeDialer: Send + Sync + 'static {
    /// Connects, shows the API server's client certificate and verifies the kubelet's.
    async fn connect(&self, node: &NodeEndpoint) -> std::io::Result<Box<dyn NodeStream>>;

    /// Connects to a pod, or to another port of a node, as anybody.
    async fn connect_address(&self, address: SocketAddr) -> std::io::Result<Box<dyn NodeStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

/// Signs service account tokens.
#[async_trait]
pub trait TokenIssuer: Send + Sync + 'static {
    /// Fills in the status of a `TokenRequest` for a service account.
    ///
    /// # Errors
    /// As the API answers them.
    async fn issue(&self, account: &Object, request: Value, user: &UserInfo) -> Result<Value, Status>;

    /// The audiences that this API server answers to.
    fn audiences(&self) -> Vec<String>;

    /// The JSON Web Key Set that tokens are verified with.
    fn key_set(&self) -> Value;

    /// The issuer's URL.
    fn issuer(&self) -> String;

    /// The algorithm that tokens are signed with, as JSON Web Algorithms name it.
    fn algorithm(&self) -> &'static str;
}

/// Resource metrics of nodes and pods, as `metrics.k8s.io/v1beta1` objects.
#[async_trait]
pub trait MetricsSource: Send + Sync + 'static {
    /// `NodeMetrics` of all nodes that are known.
    async fn nodes(&self) -> Vec<Value>;

    /// `PodMetrics` of a namespace, or of all.
    async fn pods(&self, namespace: Option<&str>) -> Vec<Value>;
}
