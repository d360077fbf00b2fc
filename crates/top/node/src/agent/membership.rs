//! Which cluster an agent belongs to, kept in one file.
//!
//! Invariant: the file is written once the cluster has let the agent in, and from then on only its list of servers
//! changes. It holds nothing secret.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trireme_client::Servers;

use crate::files;
use crate::join::client;
use crate::join::token::{Role, Token};
use crate::join::wire::{ClusterSettings, JoinRequest};

/// The file.
const FILE: &str = "cluster.json";
/// Pause between two rounds.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cluster {
    /// The node's name there.
    pub(super) name: String,
    /// The cluster's settings.
    pub(super) settings: ClusterSettings,
    /// Certificate of its CA.
    pub(super) ca_pem: String,
    /// URLs of its servers, as last heard.
    pub(super) servers: Vec<String>,
}

/// An agent's place in a cluster.
pub(super) struct Membership {
    path: PathBuf,
    pub(super) cluster: Cluster,
}

impl Membership {
    /// As it was, or newly joined.
    pub(super) async fn open(
        directory: &Path,
        name: &str,
        address: IpAddr,
        (servers, within): (&[String], Duration),
        token: Option<&Token>,
    ) -> Result<Self> {
        let path = directory.join(FILE);
        let found = match std::fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice::<Cluster>(&bytes).with_context(|| {
                format!(
                    "{} cannot be read, though this host has joined a cluster: restore it from a backup, or remove it and start with \
                     --join and a --token of `trireme token create --role agent` to join anew",
                    path.display()
                )
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        if let Some(cluster) = found {
            if cluster.name != name {
                bail!(
                    "{} is of node \"{}\", this is \"{name}\": start with --node-name {}, or with another --data-dir",
                    directory.display(),
                    cluster.name,
                    cluster.name
                );
            }
            return Ok(Self { path, cluster });
        }
        let (false, Some(token)) = (servers.is_empty(), token) else {
            bail!(
                "this host has not joined a cluster yet: start with --join https://SERVER:6443 and --token (or --token-file); \
                 `trireme token create` on a server makes one"
            );
        };
        if token.role != Role::Agent {
            bail!(
                "--token: this token lets a server join; make one for agents with `trireme token create --role agent` on a server"
            );
        }
        let this = Self {
            path,
            cluster: join(name, address, (servers, within), token).await?,
        };
        files::private_directory(directory).with_context(|| format!("making {}", directory.display()))?;
        this.save(&this.cluster.servers)?;
        tracing::info!(name, "joined the cluster");
        Ok(this)
    }

    fn save(&self, servers: &[String]) -> Result<()> {
        let cluster = Cluster {
            servers: servers.to_vec(),
            ..self.cluster.clone()
        };
        let text = serde_json::to_vec_pretty(&cluster)?;
        files::write_atomically(&self.path, &text, 0o600).with_context(|| format!("writing {}", self.path.display()))
    }

    /// The servers as last heard, and those that were named; the file follows their changes.
    pub(super) fn servers(&self, named: &[String], tasks: &TaskTracker, shutdown: &CancellationToken) -> Result<Arc<Servers>> {
        let mut known = self.cluster.servers.clone();
        known.extend(named.iter().map(|url| url.trim_end_matches('/').to_owned()));
        known.dedup();
        let (tell, mut told) = watch::channel(Vec::new());
        let servers = Servers::new(&known, move |urls| {
            tell.send_replace(urls.to_vec());
        })
        .context("--join")?;
        let this = Self {
            path: self.path.clone(),
            cluster: self.cluster.clone(),
        };
        let ended = shutdown.clone();
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    changed = told.changed() => if changed.is_err() { return },
                }
                let urls = told.borrow_and_update().clone();
                if let Err(error) = this.save(&urls) {
                    tracing::warn!("the list of servers is not kept: {error:#}");
                }
            }
        });
        Ok(servers)
    }
}

/// Asks the named servers in turn until one lets the agent in.
async fn join(name: &str, address: IpAddr, (servers, within): (&[String], Duration), token: &Token) -> Result<Cluster> {
    let until = tokio::time::Instant::now() + within;
    loop {
        let mut last = None;
        for server in servers {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let request = JoinRequest {
                role: Role::Agent,
                name: name.to_owned(),
                version: crate::KUBERNETES_VERSION.to_owned(),
                time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
                address,
                settings: None,
                peer: None,
                api: None,
            };
            match client::join(server, token, &request).await {
                Ok(answer) => {
                    return Ok(Cluster {
                        name: name.to_owned(),
                        settings: answer.settings,
                        ca_pem: answer.ca_pem,
                        servers: answer.servers,
                    });
                }
                Err(failure) if failure.is_final() => return Err(failure.into()),
                Err(failure) => last = Some(failure),
            }
        }
        let Some(last) = last else { bail!("--join names no server") };
        if tokio::time::Instant::now() >= until {
            return Err(last.into());
        }
        tracing::info!(
            reason = format!("{:#}", anyhow::Error::from(last)),
            "cannot join yet; asking again"
        );
        tokio::time::sleep(JOIN_AGAIN).await;
    }
}
