//! Glue where one part's seam meets another part: each is a few lines, and decides nothing.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use trireme_apiserver::authn::SecretTokens;
use trireme_apiserver::{NodeDialer, NodeEndpoint, NodeStream};
use trireme_manager::controllers::{TokenSigner, Unsigned};
use trireme_network::PodNetwork;
use trireme_proxy::{Gate, Newcomer};
use trireme_reconcile::account_token::Order;
use trireme_runtime::cri::{CriError, PodSandboxConfig, SandboxNetwork};

/// The API server's way to kubelets: TLS with certificates of the cluster's CA on both sides.
pub(crate) struct KubeletDialer {
    connector: TlsConnector,
}

impl KubeletDialer {
    pub(crate) fn new(config: rustls::ClientConfig) -> Self {
        Self {
            connector: TlsConnector::from(Arc::new(config)),
        }
    }
}

#[async_trait]
impl NodeDialer for KubeletDialer {
    async fn connect(&self, node: &NodeEndpoint) -> std::io::Result<Box<dyn NodeStream>> {
        let stream = TcpStream::connect((node.host.as_str(), node.port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(node.host.clone()).map_err(std::io::Error::other)?;
        Ok(Box::new(self.connector.connect(name, stream).await?))
    }
}

/// The pod network as the runtime asks for it. The network is opened once the node has its range; until then sandboxes
/// wait.
#[derive(Default)]
pub(crate) struct Sandboxes {
    opened: tokio::sync::OnceCell<Opened>,
    opening: tokio::sync::Notify,
}

struct Opened {
    network: Arc<PodNetwork>,
    /// Where pods wait for the rules of network policies; none where nobody keeps them.
    gate: Option<Gate>,
}

impl Sandboxes {
    pub(crate) fn open(&self, network: Arc<PodNetwork>, gate: Option<Gate>) {
        if self.opened.set(Opened { network, gate }).is_ok() {
            self.opening.notify_waiters();
        }
    }

    async fn opened(&self) -> &Opened {
        loop {
            let opening = self.opening.notified();
            if let Some(opened) = self.opened.get() {
                return opened;
            }
            opening.await;
        }
    }
}

fn network_error(error: impl std::fmt::Display) -> CriError {
    CriError::Other(format!("pod network: {error}"))
}

#[async_trait]
impl SandboxNetwork for Sandboxes {
    async fn attach(&self, sandbox_id: &str, netns: &Path, config: &PodSandboxConfig) -> Result<Vec<IpAddr>, CriError> {
        let Opened { network, gate } = self.opened().await;
        if let Some(gate) = gate {
            let address = network.reserve(sandbox_id).await.map_err(network_error)?;
            let pod = Newcomer {
                namespace: config.metadata.namespace.clone(),
                name: config.metadata.name.clone(),
                uid: config.metadata.uid.clone(),
            };
            gate.admit(sandbox_id, pod, address).await.map_err(network_error)?;
        }
        let address = network.attach(sandbox_id, netns).await;
        address.map(|address| vec![address]).map_err(network_error)
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), CriError> {
        let Opened { network, gate } = self.opened().await;
        network.detach(sandbox_id).await.map_err(network_error)?;
        if let Some(gate) = gate {
            gate.leave(sandbox_id);
        }
        Ok(())
    }
}

/// Signs the tokens of hand-made Secrets with the cluster's key for service accounts.
pub(crate) struct AccountTokens(SecretTokens);

impl AccountTokens {
    pub(crate) fn new(key: &rcgen::KeyPair) -> Result<Self> {
        Ok(Self(SecretTokens::new(&key.serialize_pem(), key.public_key_raw())?))
    }
}

impl TokenSigner for AccountTokens {
    fn sign(&self, order: &Order) -> Result<String, Unsigned> {
        let signed = self
            .0
            .sign(&order.namespace, &order.secret, &order.account, &order.account_uid);
        signed.map_err(|error| {
            tracing::error!(%error, secret = order.secret, "signing the token of a service account");
            Unsigned
        })
    }
}
