//! A server as a member of its cluster: what it does always, and what while it leads.
//!
//! Invariant: what a leader runs ends with its term, and carries that term as fence.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use trireme_apiserver::ApiServer;
use trireme_apiserver::policy::bootstrap_roles;
use trireme_network::VirtualAddress;
use trireme_store::{Leadership, Member, RaftStore, Role as MemberRole, Store};

use crate::local_volumes;

/// How often the leader looks which servers live.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A server that the leader did not hear from for so long is no endpoint of the `kubernetes` Service.
const SILENT_MS: u64 = 1500;
/// Wait after a failure of what must succeed once per term.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often a server that hears of no leader looks whether the others know where it is.
const SEEK_EVERY: Duration = Duration::from_secs(1);
/// How long the node waits for the cluster before it goes on without.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Address and port of a member's API.
pub(crate) fn address_of(api: &str) -> Option<IpAddr> {
    let authority = api.strip_prefix("https://")?;
    authority.parse::<std::net::SocketAddr>().ok().map(|address| address.ip())
}

/// Waits until what every cluster has is there, but not long: pods must go on where too few servers are up for that.
///
/// # Errors
/// When the member's duties failed.
pub(crate) async fn wait_for_start(server: &ApiServer, duties: &mut JoinHandle<Result<()>>) -> Result<()> {
    tokio::select! {
        () = server.health().started() => Ok(()),
        () = tokio::time::sleep(START_WITHIN) => {
            tracing::warn!("no leader yet: fewer than half of the servers are up; this host's pods go on without");
            Ok(())
        }
        ended = duties => ended.context("the duties of a member panicked")?,
    }
}

/// How often the disk is asked whether it takes writes.
const DISK_LOOK_EVERY: Duration = Duration::from_secs(2);

/// Tells why this server could store nothing, as long as nobody stands in for it: of several servers one with room leads.
async fn look_at_disk(store: Arc<RaftStore>, told: watch::Sender<Option<String>>) {
    loop {
        let refusal = match store.has_room().await {
            Err(error) if store.status().await.members.len() <= 1 => Some(error.to_string()),
            _ => None,
        };
        told.send_replace(refusal);
        tokio::time::sleep(DISK_LOOK_EVERY).await;
    }
}

/// What runs on the leader, for one term.
pub(crate) type Control = Arc<dyn Fn(u64, &TaskTracker, &CancellationToken) -> Result<()> + Send + Sync>;

/// A member's duties: what each server does, and what only the leader does.
pub(crate) struct Duties {
    pub(crate) store: Arc<RaftStore>,
    pub(crate) server: Arc<ApiServer>,
    pub(crate) member: Member,
    pub(crate) control: Control,
    /// Addresses that the leader holds.
    pub(crate) virtual_addresses: Vec<IpAddr>,
    /// Whether a new cluster gets a default class of volumes.
    pub(crate) default_class: bool,
}

impl Duties {
    /// Runs until shutdown.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let quorum = self.store.quorum();
        let has_quorum = move || {
            if *quorum.borrow() {
                Ok(())
            } else {
                Err("no majority of servers".to_owned())
            }
        };
        self.server.health().add("etcd-readiness", true, Arc::new(has_quorum));
        let (told, refusal) = watch::channel(None);
        let has_room = move || refusal.borrow().clone().map_or(Ok(()), Err);
        self.server.health().add("store-disk", true, Arc::new(has_room));
        let looking = AbortOnDropHandle::new(tokio::spawn(look_at_disk(Arc::clone(&self.store), told)));
        let (holds, wanted) = watch::channel(false);
        let holders = TaskTracker::new();
        for address in &self.virtual_addresses {
            holders.spawn(VirtualAddress::new(*address).run(wanted.clone()));
        }
        drop(wanted);
        let outcome = self.serve(&holds, &shutdown).await;
        drop(looking);
        drop(holds);
        holders.close();
        holders.wait().await;
        outcome
    }

    /// The duties, by who leads.
    async fn serve(&self, holds: &watch::Sender<bool>, shutdown: &CancellationToken) -> Result<()> {
        let mut leadership = self.store.leadership();
        let mut announced = false;
        loop {
            let now = leadership.borrow_and_update().clone();
            match now {
                Leadership::Leader { term } => {
                    tracing::info!(term, "leads");
                    holds.send_replace(true);
                    self.announce(&mut announced).await;
                    let ended = shutdown.child_token();
                    let tasks = TaskTracker::new();
                    let lead = self.lead(term, &tasks, &ended);
                    tokio::select! {
                        outcome = lead => outcome?,
                        _ = leadership.changed() => {}
                        () = shutdown.cancelled() => {}
                    }
                    holds.send_replace(false);
                    ended.cancel();
                    tasks.close();
                    tasks.wait().await;
                    tracing::info!(term, "leads no more");
                }
                Leadership::Follower { .. } => {
                    let follow = async {
                        self.announce(&mut announced).await;
                        // What every cluster has was made by a leader; this replica has it once it caught up.
                        while let Err(error) = self.store.barrier().await {
                            tracing::debug!(%error, "not caught up yet");
                            tokio::time::sleep(AGAIN_AFTER).await;
                        }
                        self.server.health().set_started();
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        () = follow => {}
                        _ = leadership.changed() => {}
                        () = shutdown.cancelled() => {}
                    }
                }
                Leadership::Unknown => {
                    // The leader may be looking for this server where it was.
                    let seek = async {
                        loop {
                            tokio::time::sleep(SEEK_EVERY).await;
                            self.announce(&mut announced).await;
                        }
                    };
                    tokio::select! {
                        () = seek => {}
                        _ = leadership.changed() => {}
                        () = shutdown.cancelled() => {}
                    }
                }
            }
            if shutdown.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Tells the cluster where this server is now and what it runs, if that changed while it was away.
    async fn announce(&self, announced: &mut bool) {
        if *announced {
            return;
        }
        let members = self.store.status().await.members;
        let known = members.into_iter().find(|known| known.member.id == self.member.id);
        match known {
            Some(known) if known.member != self.member => match self.store.update_member(self.member.clone()).await {
                Ok(()) => {
                    tracing::info!(
                        peer = self.member.peer,
                        api = self.member.api,
                        version = self.member.version,
                        "told the cluster what is new of this server"
                    );
                    *announced = true;
                }
                Err(error) => tracing::warn!(%error, "the cluster does not know yet what is new of this server"),
            },
            Some(_) => *announced = true,
            None => {}
        }
    }

    /// The leader's work, until it is dropped.
    async fn lead(&self, term: u64, tasks: &TaskTracker, ended: &CancellationToken) -> Result<()> {
        while let Err(error) = self.bootstrap().await {
            tracing::warn!(%error, "making the objects that every cluster has");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        (self.control)(term, tasks, ended)?;
        let mut published = BTreeSet::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            look.tick().await;
            let ready: BTreeSet<IpAddr> = self.ready().await;
            if ready == published || ready.is_empty() {
                continue;
            }
            let addresses: Vec<IpAddr> = ready.iter().copied().collect();
            match self.server.publish_endpoints(&addresses, Some(term)).await {
                Ok(()) => published = ready,
                Err(error) => tracing::warn!(%error, "publishing the servers that are ready"),
            }
        }
    }

    async fn bootstrap(&self) -> Result<(), trireme_api::Status> {
        bootstrap_roles(&self.server).await?;
        self.server.bootstrap().await?;
        if self.default_class {
            local_volumes::make_class(&self.server).await?;
        }
        Ok(())
    }

    /// Addresses of the servers that have a vote and show signs of life.
    async fn ready(&self) -> BTreeSet<IpAddr> {
        let members = self.store.status().await.members;
        let lives = |heard: Option<u64>| heard.is_some_and(|ms| ms <= SILENT_MS);
        members
            .into_iter()
            .filter(|known| known.role == MemberRole::Voter && (known.member.id == self.member.id || lives(known.last_heard_ms)))
            .filter_map(|known| address_of(&known.member.api))
            .collect()
    }
}
