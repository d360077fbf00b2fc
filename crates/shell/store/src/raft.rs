//! The replicated store: consensus over the log on disk, driving the replica.
//!
//! Invariant: `commit` returns after the command's frame was flushed here and the command applied here. Reads never wait
//! for the disk. A group of one takes the same way as a group of three; it only has no need of a clock, so it is idle
//! when nothing is written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use trireme_api::Object;
use trireme_mvcc::{Applied, Command, Page, ReadError, Revision};

use crate::directory;
use crate::disk::blocking;
use crate::log::Log;
use crate::machine::Machine;
use crate::network::NoPeers;
use crate::replica::Replica;
use crate::types::{Group, Proposal};
use crate::upkeep::Upkeep;
use crate::{
    ClusterStatus, Leadership, Member, MemberError, MemberStatus, OpenError, Role, Store, StoreConfig, Stream, Watch, WriteError,
};

/// A member that does not lead or has not replayed its log after this long does not open.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How many entries stay in the log behind a snapshot, for peers that are a little behind.
const ENTRIES_BEHIND_SNAPSHOT: u64 = 1000;

/// A member of the replicated store.
pub struct RaftStore {
    raft: Raft<Group, Machine>,
    log: Log,
    replica: Arc<Replica>,
    upkeep: Mutex<Option<JoinHandle<()>>>,
    me: Member,
    leadership: watch::Sender<Leadership>,
    quorum: watch::Sender<bool>,
    caught_up: watch::Sender<bool>,
}

/// How much the store holds and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Revision of the replica.
    pub revision: Revision,
    /// Number of objects.
    pub objects: usize,
    /// Number of events in history.
    pub history_events: usize,
    /// Bytes written to the log since the process began.
    pub log_bytes: u64,
    /// How often the log was flushed since the process began.
    pub log_flushes: u64,
}

impl std::fmt::Debug for RaftStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftStore")
            .field("statistics", &self.statistics())
            .finish_non_exhaustive()
    }
}

impl RaftStore {
    /// Opens or makes the store in a directory, and returns once it can be read and written.
    ///
    /// # Errors
    /// When the directory is in use, damaged, full or not accessible.
    pub async fn open(config: StoreConfig) -> Result<Arc<Self>, OpenError> {
        let dir = config.data_dir.clone();
        let ours = config.clone();
        let read = blocking(&*config.disk, move || directory::open(&ours));
        let (log, snapshot, state, lock) = read.await.map_err(|error| consensus(&dir, &error))??;
        let replica = Arc::new(Replica::new(state));
        let machine = Machine::new(dir.clone(), Arc::clone(&replica), log.clone(), snapshot);
        let settings = Config {
            cluster_name: "trireme".into(),
            // A group of one has no heartbeats to send and no leader to miss.
            enable_tick: false,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: ENTRIES_BEHIND_SNAPSHOT,
            ..Config::default()
        };
        let settings = Arc::new(settings.validate().map_err(|error| consensus(&dir, &error))?);
        let raft = Raft::new(config.start.member().id, settings, NoPeers, log.clone(), machine.clone())
            .await
            .map_err(|error| consensus(&dir, &error))?;
        let store = Self {
            upkeep: Mutex::new(None),
            raft: raft.clone(),
            log: log.clone(),
            replica: Arc::clone(&replica),
            me: config.start.member().clone(),
            leadership: watch::Sender::new(Leadership::Unknown),
            quorum: watch::Sender::new(false),
            caught_up: watch::Sender::new(false),
        };
        store.lead(&config).await?;
        let term = store.raft.metrics().borrow_watched().current_term;
        store.leadership.send_replace(Leadership::Leader { term });
        store.quorum.send_replace(true);
        store.caught_up.send_replace(true);
        let upkeep = Upkeep::new(&config, lock, raft, log, replica, machine);
        *store.upkeep.lock() = Some(tokio::spawn(upkeep.run()));
        Ok(Arc::new(store))
    }

    /// Makes this member the leader of its group of one, with everything applied that the log holds.
    async fn lead(&self, config: &StoreConfig) -> Result<(), OpenError> {
        let dir = &config.data_dir;
        if self.raft.is_initialized().await.map_err(|error| consensus(dir, &error))? {
            if !self.raft.is_leader() {
                self.raft
                    .trigger()
                    .elect(false)
                    .await
                    .map_err(|error| consensus(dir, &error))?;
            }
        } else {
            let members = BTreeMap::from([(config.start.member().id, config.start.member().clone())]);
            self.raft.initialize(members).await.map_err(|error| consensus(dir, &error))?;
        }
        let last = self.log.last();
        let ready = move |metrics: &openraft::RaftMetrics<Group>| metrics.state.is_leader() && metrics.last_applied >= last;
        let wait = self.raft.wait(Some(READY_WITHIN));
        wait.metrics(ready, "leading with the log applied")
            .await
            .map_err(|error| consensus(dir, &error))?;
        Ok(())
    }

    /// Stops consensus and closes the log. Writes from now on are `Unavailable`; reads go on.
    pub async fn shutdown(&self) {
        let upkeep = self.upkeep.lock().take();
        if let Some(upkeep) = upkeep {
            upkeep.abort();
            if let Err(error) = upkeep.await
                && !error.is_cancelled()
            {
                tracing::error!(%error, "the store's upkeep had failed");
            }
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "consensus had failed before it was shut down");
        }
        self.log.close().await;
    }

    /// Answers a peer's requests until its stream ends. `peer_id` is who the caller has made sure that it is.
    pub async fn serve_peer(&self, peer_id: u64, stream: Box<dyn Stream>) {
        tracing::warn!(peer_id, "peers are not served yet");
        drop(stream);
    }

    /// Who leads. It says that this server does only once everything that earlier leaders had committed is applied here.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Whether a majority of the voters was heard of a moment ago, here or by the leader that this server hears.
    #[must_use]
    pub fn quorum(&self) -> watch::Receiver<bool> {
        self.quorum.subscribe()
    }

    /// Whether this server once had everything that was committed since it was opened.
    #[must_use]
    pub fn caught_up(&self) -> watch::Receiver<bool> {
        self.caught_up.subscribe()
    }

    /// The group: from the leader where it can be asked, else as this server knows it.
    pub async fn status(&self) -> ClusterStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        ClusterStatus {
            id: self.me.id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_applied: metrics.last_applied.map_or(0, |id| id.index),
            committed: metrics.last_applied.map_or(0, |id| id.index),
            quorum: *self.quorum.borrow(),
            members: vec![MemberStatus {
                member: self.me.clone(),
                role: Role::Voter,
                lag_entries: Some(0),
                last_heard_ms: Some(0),
            }],
        }
    }

    /// Adds a server without a vote; it gets one by itself once it has caught up. Any server may be asked.
    ///
    /// # Errors
    /// When it clashes with a member, or there is no leader.
    pub async fn add_learner(&self, member: Member) -> Result<(), MemberError> {
        self.change(member.id).await
    }

    /// Gives a learner a vote.
    ///
    /// # Errors
    /// When it is no member, or has not caught up, or there is no leader.
    pub async fn promote(&self, id: u64) -> Result<(), MemberError> {
        self.change(id).await
    }

    /// Removes a member for good.
    ///
    /// # Errors
    /// When it is no member, or the others could not go on without it, or there is no leader.
    pub async fn remove(&self, id: u64) -> Result<(), MemberError> {
        self.change(id).await
    }

    /// Changes a member's name and addresses; its id stays.
    ///
    /// # Errors
    /// When it is no member, or clashes with another, or there is no leader.
    pub async fn update_member(&self, member: Member) -> Result<(), MemberError> {
        self.change(member.id).await
    }

    /// Makes another voter lead: the one that is named, or the one that is best prepared.
    ///
    /// # Errors
    /// When there is none that can.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<(), MemberError> {
        self.change(to.unwrap_or_default()).await
    }

    async fn change(&self, _id: u64) -> Result<(), MemberError> {
        Err(MemberError::Unavailable)
    }

    /// How much the store holds and does.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let (revision, objects, history_events) = self
            .replica
            .with(|state| (state.revision(), state.len(), state.history_len()));
        Statistics {
            revision,
            objects,
            history_events,
            log_bytes: self.log.written(),
            log_flushes: self.log.flushes(),
        }
    }
}

impl Drop for RaftStore {
    fn drop(&mut self) {
        if let Some(upkeep) = self.upkeep.lock().take() {
            upkeep.abort();
        }
    }
}

/// Proposes a command and waits for it.
pub(crate) async fn propose(raft: &Raft<Group, Machine>, log: &Log, command: Command) -> Result<Applied, WriteError> {
    let room = log.admit(&command).await?;
    match raft.client_write(Proposal::new(command, room)).await {
        Ok(response) => Ok(response.data.0),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(WriteError::Unavailable),
        Err(RaftError::APIError(_)) => Err(WriteError::Unknown),
        Err(RaftError::Fatal(_)) => Err(match log.stopped() {
            WriteError::Unavailable => WriteError::Unknown,
            stopped => stopped,
        }),
    }
}

fn consensus(dir: &Path, reason: &dyn std::fmt::Display) -> OpenError {
    OpenError::Consensus {
        path: dir.to_owned(),
        reason: reason.to_string(),
    }
}

#[async_trait]
impl Store for RaftStore {
    async fn commit(&self, command: Command) -> Result<Applied, WriteError> {
        propose(&self.raft, &self.log, command).await
    }

    async fn barrier(&self) -> Result<Revision, WriteError> {
        // With one member, what was acknowledged was applied here; a stopped one may not say so.
        if let Some(failure) = self.log.failure() {
            return Err(WriteError::Disk(failure.to_owned()));
        }
        if self.raft.is_leader() {
            Ok(self.revision())
        } else {
            Err(WriteError::Unavailable)
        }
    }

    fn get(&self, key: &str) -> Option<Object> {
        self.replica.get(key)
    }

    fn range(&self, prefix: &str, after: Option<&str>, limit: Option<usize>, at: Option<Revision>) -> Result<Page, ReadError> {
        self.replica.range(prefix, after, limit, at)
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.replica.watch(prefix, after)
    }

    fn revision(&self) -> Revision {
        self.replica.revision()
    }

    async fn reached(&self, revision: Revision) {
        self.replica.reached(revision).await;
    }
}
