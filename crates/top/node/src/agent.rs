//! `trireme agent`: joins once, then lives by what it keeps on disk: which cluster, which servers, and its certificates.
//!
//! Invariant: after the first start neither the token nor any particular server is needed; while no server answers, pods,
//! routing and DNS go on with what was last known. An agent holds no key but its own.

mod certificates;
mod membership;
mod memory;

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_client::{Cache, Client, Credentials, Failover, HttpsTransport, Servers};

use crate::config::AgentOptions;
use crate::files::DataDirectory;
use crate::join::token::Token;
use crate::node::{Node, NodeSettings};
use crate::server::{STOP_LIMIT, descriptor_shares, host_name, listen};

use certificates::{Certificates, Subject};
use membership::Membership;

/// Runs an agent until SIGTERM or SIGINT.
///
/// # Errors
/// One line that says what to do, when it cannot start.
pub async fn run_agent(options: AgentOptions) -> Result<()> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let shares = descriptor_shares()?;
    let options = options.node;
    let address = match options.node_ip {
        Some(address) => address,
        None => trireme_network::main_address()
            .await
            .map(IpAddr::V4)
            .context("this host has no default route and no global address; name its address with --node-ip")?,
    };
    let name = options.node_name.clone().map_or_else(host_name, Ok)?;
    let any = IpAddr::from([0, 0, 0, 0]);
    drop(listen(any, options.kubelet_port, "--kubelet-port").await?);
    trireme_network::Nft.check().await?;
    let directory = options.data_dir.join("agent");
    let data = Arc::new(DataDirectory::open(&options.data_dir)?);
    if options.data_dir.join(crate::place::MEMBER_FILE).exists() {
        bail!(
            "the data directory {} belongs to a server: start it with `trireme server`, or choose another --data-dir",
            options.data_dir.display()
        );
    }

    let token = match options.token()? {
        Some(text) => Some(text.parse::<Token>().context("--token")?),
        None => None,
    };
    let membership = Membership::open(
        &directory,
        &name,
        address,
        (&options.join, options.join_timeout),
        token.as_ref(),
    )
    .await?;
    let authority =
        CertificateDer::from_pem_slice(membership.cluster.ca_pem.as_bytes()).context("the cluster's CA certificate")?;
    let servers = membership.servers(&options.join, &tasks, &shutdown)?;
    let subject = Subject {
        name: name.clone(),
        address,
    };
    let certificates = Certificates::open(&directory, &authority, subject, &servers, token.as_ref()).await?;
    let way = Failover::new(Arc::clone(&servers), Arc::clone(&certificates.credentials));
    let client = Client::new(Arc::new(HttpsTransport::over(&way)));
    let cache = Cache::new(&client, shutdown.clone());
    let all_pods = Cache::new(
        &Client::new(Arc::new(HttpsTransport::over(&way).of_peers())),
        shutdown.clone(),
    );
    memory::recall(&cache, &directory);
    tasks.spawn(crate::footprint::keep_small(shutdown.clone()));
    tasks.spawn(memory::remember(Arc::clone(&cache), directory, shutdown.clone()));
    servers.follow(&cache);
    let serving = certificates.serving();
    tasks.spawn(certificates.keep(Arc::clone(&way), client.clone(), shutdown.clone()));

    let settings = NodeSettings {
        options,
        data,
        name: name.clone(),
        address,
        cluster: membership.cluster.settings.clone(),
        serving,
        authority,
        proxy: true,
        dns: true,
        range_is_given: true,
        api_port: None,
        own_pods_only: true,
        shares,
    };
    let node = Node::start(settings, &client, cache, all_pods, &tasks, &shutdown).await?;
    tracing::info!(name, %address, "the node runs");
    let ended = wait_for_end(node).await;
    tracing::info!("stopping; pods go on running");
    shutdown.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_LIMIT, tasks.wait()).await.is_err() {
        tracing::warn!("some parts did not end in time");
    }
    ended
}

/// Returns on a signal, or with the error of a part without which a node makes no sense.
async fn wait_for_end(node: Node) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = node.failure() => Err(error),
    }
}

/// As an agent without certificates, by its token.
fn bootstrap_client(servers: &Arc<Servers>, authority: &CertificateDer<'static>, token: &Token) -> Result<Client> {
    let credentials = Credentials::new(std::slice::from_ref(authority))?.with_token(&token.bearer())?;
    let way = Failover::new(Arc::clone(servers), Arc::new(credentials));
    Ok(Client::new(Arc::new(HttpsTransport::over(&way))))
}

#[cfg(test)]
mod tests;
