//! `trireme server`: checks, opens, builds and runs all parts, in the order in which they can fail without trace.
//!
//! Invariant: ports are bound and the data directory is locked before anything is written; pods, their network and rules
//! stay when the server ends, in whatever way.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_apiserver::authn::{BootstrapTokens, Chain, ClientCertificate, ServiceAccountTokens, TokenFile};
use trireme_apiserver::policy::{PolicyAdmission, PolicyAuthorizer};
use trireme_apiserver::{ApiServer, Authenticator, InProcess, Plugins, UserInfo, connection_limits};
use trireme_client::{Cache, Client, Clock, SystemClock};
use trireme_connections::{Shares, open_metrics};
use trireme_store::{RaftStore, Store, StoreConfig};

use crate::certificates::{ADMIN, Certificates};
use crate::cluster::{self, Control, Duties};
use crate::config::{Checked, Part};
use crate::control::ControlPlane;
use crate::files::DataDirectory;
use crate::join::server::Cluster;
use crate::kubeconfig::kubeconfig;
use crate::local_volumes::NodeDisks;
use crate::metrics::ClusterMetrics;
use crate::node::{Node, NodeSettings};
use crate::peers::{self, PeerTls, TlsDialer};
use crate::pki::{Authority, Identity};
use crate::place::{Addresses, Joining, Place};
use crate::seams::KubeletDialer;
use crate::{files, footprint, tls};

/// Longest wait for parts to end after a signal.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Runs a server until SIGTERM or SIGINT.
///
/// # Errors
/// One line that says what to do, when it cannot start.
pub async fn run_server(config: Checked) -> Result<()> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider is installed already");
    }
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let shares = descriptor_shares()?;
    let options = &config.options;
    for field in &config.scheduler.unused {
        tracing::warn!(field, "a field of --scheduler-config is accepted and does nothing here");
    }
    let node_ip = match options.node.node_ip {
        Some(address) => address,
        None => trireme_network::main_address()
            .await
            .map(IpAddr::V4)
            .context("this host has no default route and no global address; name its address with --node-ip")?,
    };
    let node_name = options.node.node_name.clone().map_or_else(host_name, Ok)?;
    let listener = listen(options.bind_address, options.secure_port, "--secure-port").await?;
    let peer_listener = listen(options.bind_address, options.peer_port, "--peer-port").await?;
    if config.runs(Part::Node) {
        // The kubelet binds its port when there is something to serve; whether it can is known before anything is made.
        drop(listen(options.bind_address, options.node.kubelet_port, "--kubelet-port").await?);
        trireme_network::Nft.check().await?;
    }

    let data = Arc::new(DataDirectory::open(&options.node.data_dir)?);
    let settings = config.cluster_settings();
    let reached_at = config.reached_at(node_ip);
    let addresses = Addresses {
        node: node_ip,
        peer: SocketAddr::new(reached_at, options.peer_port).to_string(),
        api: format!("https://{}", SocketAddr::new(reached_at, options.secure_port)),
    };
    let token = options.node.token()?;
    let joining = token.as_deref().map(|token| Joining {
        servers: &options.node.join,
        token,
        within: options.node.join_timeout,
        settings: settings.clone(),
    });
    let mut place = Place::find(&options.node.data_dir, &node_name, addresses, joining).await?;
    let (certificates, mut renewal) = Certificates::open(&config, &place, node_ip, now())?;
    let certificates = Arc::new(certificates);
    let (peers, peer_renewal) = PeerTls::open(&place, now())?;
    let peers = Arc::new(peers);
    let store: Arc<RaftStore> = RaftStore::open(StoreConfig {
        dialer: Some(Arc::new(TlsDialer(Arc::clone(&peers)))),
        established: place.is_complete(),
        ..StoreConfig::new(place.store(), place.start())
    })
    .await?;
    place.complete(certificates.fingerprints().into_iter().chain([peers.fingerprint()]))?;
    let strangers = peers::strangers(&shares);
    tasks.spawn(peers::serve(
        peer_listener,
        (peers, Arc::clone(&strangers)),
        Arc::clone(&store),
        shutdown.clone(),
    ));
    let to_kubelets = tls::client(&certificates.to_kubelets, certificates.authority.certificate())?;
    let dialer = Arc::new(KubeletDialer::new(to_kubelets));
    tasks.spawn(footprint::keep_small(shutdown.clone()));
    let own_name = config.runs(Part::Node).then(|| node_name.clone());
    let metrics = Arc::new(ClusterMetrics::new(own_name, Arc::clone(&dialer) as _));
    let disks = Arc::new(NodeDisks::new(Arc::clone(&dialer) as _));
    let extension = Cluster {
        store: Arc::clone(&store),
        settings,
        ca_pem: certificates.authority.certificate_pem().to_owned(),
        pki: place.pki(),
        version: crate::KUBERNETES_VERSION.to_owned(),
    };
    let (server, admin_access) = api_server(
        &config,
        (node_ip, shares),
        &certificates,
        &store,
        (dialer, &metrics),
        extension,
    )?;
    let looked_after = Arc::clone(&data);
    let in_place = move || looked_after.trouble().map_or(Ok(()), Err);
    server.health().add("data-dir", true, Arc::new(in_place));
    let tls = tls::server(&certificates.api, certificates.authority.certificate())?;
    tasks.spawn(Arc::clone(&server).serve(listener, tls, shutdown.clone()));
    let kubeconfig = AdminKubeconfig::new(&config, node_ip, &certificates.authority);
    kubeconfig.write(&certificates.admin.identity())?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    renewal.follow_up(ADMIN, move |identity| kubeconfig.write(identity));
    tasks.spawn(renewal.run(Arc::clone(&clock), shutdown.clone()));
    tasks.spawn(peer_renewal.run(Arc::clone(&clock), shutdown.clone()));
    let cache = Cache::new(&admin_access, shutdown.clone());
    metrics.follow(&cache);
    let control: Control = {
        let control = ControlPlane::new(&config, (&server, disks), &cache, &clock, &certificates)?;
        Arc::new(move |term, tasks, ended| {
            control.start(term, tasks, ended);
            Ok(())
        })
    };
    let duties = Duties {
        store: Arc::clone(&store),
        server: Arc::clone(&server),
        member: place.member().clone(),
        control,
        virtual_addresses: options.vip.clone(),
        default_class: config.runs(Part::Controllers),
    };
    let mut duties = tasks.spawn(duties.run(shutdown.clone()));
    tokio::select! {
        started = cluster::wait_for_start(&server, &mut duties) => started?,
        error = end_of_membership(&store) => return Err(error),
    }
    let mut ports = vec![Arc::clone(server.connections()), strangers];
    let node = if config.runs(Part::Node) {
        let client = Client::new(InProcess::new(
            Arc::clone(&server),
            UserInfo::new(&format!("system:node:{node_name}"), &["system:nodes"]),
        ));
        let settings = NodeSettings {
            options: options.node.clone(),
            data: Arc::clone(&data),
            name: node_name,
            address: node_ip,
            cluster: config.cluster_settings(),
            serving: Arc::clone(&certificates.kubelet) as _,
            authority: certificates.authority.certificate().clone(),
            proxy: config.runs(Part::Proxy),
            dns: config.runs(Part::Dns),
            range_is_given: config.runs(Part::Controllers),
            api_port: Some(options.secure_port),
            own_pods_only: false,
            shares,
        };
        let node = Node::start(settings, &client, Arc::clone(&cache), cache, &tasks, &shutdown).await?;
        metrics.set_own(node.metrics());
        ports.extend(node.connections());
        Some(node)
    } else {
        None
    };
    server.add_metrics(move || open_metrics(&ports));
    let counted = Arc::downgrade(&store);
    server.add_metrics(move || counted.upgrade().map(|store| footprint::render(&store)).unwrap_or_default());
    tracing::info!(address = %SocketAddr::new(node_ip, options.secure_port), "the API is served");

    let failed = wait_for_end(node, duties, &store).await;
    tracing::info!("stopping; pods go on running");
    server.health().set_shutting_down();
    // While peers still reach this server: what they forward to it then is done or told to go elsewhere.
    store.retire().await;
    shutdown.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_LIMIT, tasks.wait()).await.is_err() {
        tracing::warn!("some parts did not end in time");
    }
    store.shutdown().await;
    failed
}

/// Returns on a signal, or with the error of a part without which a server makes no sense.
async fn wait_for_end(node: Option<Node>, duties: JoinHandle<Result<()>>, store: &RaftStore) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let failure = async {
        match node {
            Some(node) => node.failure().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        error = failure => Err(error),
        ended = duties => ended.context("the duties of a member panicked")?,
        error = end_of_membership(store) => Err(error),
    }
}

/// Resolves when this server can be a member no more, with what to do about it.
async fn end_of_membership(store: &RaftStore) -> anyhow::Error {
    let (mut removed, mut failed) = (store.removed(), store.failed());
    let error = tokio::select! {
        Ok(_) = removed.wait_for(|removed| *removed) => anyhow!(
            "this server was removed from its cluster: to join again, remove its data directory and start it with --join and a token"
        ),
        Ok(reason) = failed.wait_for(Option::is_some) => {
            let reason = reason.clone().unwrap_or_default();
            anyhow!("the store takes part in consensus no more: {reason}; look after the disk and start the server again")
        }
        else => std::future::pending().await,
    };
    error
}

/// Raises the limit of open files as far as it goes, and shares it out.
pub(crate) fn descriptor_shares() -> Result<Shares> {
    let limit = trireme_connections::raise_limit().context("raising the limit of open files")?;
    let shares = Shares::of(limit);
    tracing::debug!(limit, ?shares, "descriptors");
    Ok(shares)
}

pub(crate) async fn listen(address: IpAddr, port: u16, flag: &str) -> Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("{address} is in use by another program: stop it, or choose another {flag}")
        }
        Err(error) => Err(error).with_context(|| format!("listening on {address}")),
    }
}

pub(crate) fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname()?;
    Ok(name.to_string_lossy().to_lowercase())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn api_server(
    config: &Checked,
    (node_ip, shares): (IpAddr, Shares),
    certificates: &Certificates,
    store: &Arc<RaftStore>,
    (dialer, metrics): (Arc<KubeletDialer>, &Arc<ClusterMetrics>),
    extension: Cluster,
) -> Result<(Arc<ApiServer>, Client)> {
    let options = &config.options;
    let store: Arc<dyn Store> = Arc::clone(store) as Arc<dyn Store>;
    // What stock servers call themselves; bound tokens name it as issuer and audience.
    let issuer = "https://kubernetes.default.svc".to_owned();
    let key = &certificates.signing_key;
    let tokens = Arc::new(ServiceAccountTokens::new(
        &key.serialize_pem(),
        key.public_key_raw(),
        &issuer,
        vec![issuer.clone()],
        &store,
    )?);
    let certified = ClientCertificate::new(tls::roots(certificates.authority.certificate())?)?;
    let mut authenticators: Vec<Arc<dyn Authenticator>> = vec![Arc::new(certified)];
    if let Some(path) = &options.token_auth_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("--token-auth-file: reading {}", path.display()))?;
        let file = TokenFile::parse(&text).with_context(|| format!("--token-auth-file: {}", path.display()))?;
        authenticators.push(Arc::new(file));
    }
    authenticators.push(Arc::clone(&tokens) as Arc<dyn Authenticator>);
    authenticators.push(Arc::new(BootstrapTokens::new(&store)));
    let authorizer = PolicyAuthorizer::start(Arc::clone(&store));
    let plugins = Plugins {
        authorizer: Arc::clone(&authorizer) as _,
        admission: Arc::new(PolicyAdmission::new(authorizer)),
        authenticator: Arc::new(Chain::new(authenticators)),
        dialer: Some(dialer),
        tokens: Some(tokens),
        metrics: Some(Arc::clone(metrics) as _),
        extension: Some(Arc::new(extension)),
    };
    let service_cidr = trireme_apiserver::Cidr::parse(&options.service_cidr).context("--service-cidr")?;
    let settings = trireme_apiserver::Config {
        advertise_address: config.reached_at(node_ip),
        port: options.secure_port,
        service_cidrs: vec![service_cidr],
        node_ports: config.node_ports.0..=config.node_ports.1,
        anonymous: options.anonymous_auth,
        git_version: crate::KUBERNETES_VERSION.to_owned(),
        connections: connection_limits(shares),
        warn_unenforced: options.warn_unenforced,
        ..trireme_apiserver::Config::default()
    };
    let server = ApiServer::build(settings, store, plugins);
    let access = Client::new(InProcess::new(Arc::clone(&server), UserInfo::apiserver()));
    Ok((server, access))
}

/// The first administrator's kubeconfig, written at start and with each new certificate.
struct AdminKubeconfig {
    path: PathBuf,
    url: String,
    authority_pem: String,
}

impl AdminKubeconfig {
    fn new(config: &Checked, node_ip: IpAddr, authority: &Authority) -> Self {
        Self {
            path: config.options.kubeconfig.clone(),
            url: format!(
                "https://{}",
                SocketAddr::new(config.answers_at(node_ip), config.options.secure_port)
            ),
            authority_pem: authority.certificate_pem().to_owned(),
        }
    }

    fn write(&self, identity: &Identity) -> Result<()> {
        let text = kubeconfig(&self.url, &self.authority_pem, identity);
        files::write_atomically(&self.path, text.as_bytes(), 0o600).with_context(|| format!("writing {}", self.path.display()))
    }
}
