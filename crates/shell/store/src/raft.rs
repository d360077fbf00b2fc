//! The replicated store: consensus over the log on disk, driving the replica.
//!
//! Invariant: `commit` returns after the command's frame was flushed here and the command applied here. Reads never wait
//! for the disk. A group of one takes the same way as a group of three; it only has no need of a clock, so it is idle
//! when nothing is written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use trireme_api::Object;
use trireme_mvcc::{Applied, Command, Page, ReadError, Revision};

use crate::directory;
use crate::disk::blocking;
use crate::group::Core;
use crate::log::Log;
use crate::machine::Machine;
use crate::network::Network;
use crate::peer::{Change, Peers, serve};
use crate::replica::Replica;
use crate::types::{Group, Proposal};
use crate::upkeep::Upkeep;
use crate::{ClusterStatus, Leadership, Member, MemberError, OpenError, Start, Store, StoreConfig, Stream, Watch, WriteError};

/// A member that does not lead or has not replayed its log after this long does not open.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// An entry that is not applied after so long is given up by its proposer: too few members answer.
const APPLIED_WITHIN: Duration = Duration::from_secs(8);

/// How many entries leave the log together, if so many are kept at all.
const PURGED_TOGETHER: u64 = 256;

/// A member of the replicated store.
pub struct RaftStore {
    core: Arc<Core>,
    /// Ended one after the other when the store is.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// How much the store holds and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Revision of the replica.
    pub revision: Revision,
    /// Index of the last log entry that is applied.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// Number of objects.
    pub objects: usize,
    /// Number of events in history.
    pub history_events: usize,
    /// What the objects take in memory, about.
    pub object_bytes: usize,
    /// What history takes beside them, about.
    pub history_bytes: usize,
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
    /// Boxed, as [`serve_peer`](Self::serve_peer) is, so that consensus is compiled here: the code of an `async fn` is made in
    /// each crate that awaits it, and this one's is several megabytes of openraft.
    ///
    /// # Errors
    /// When the directory is in use, damaged, full or not accessible.
    pub fn open(config: StoreConfig) -> BoxFuture<'static, Result<Arc<Self>, OpenError>> {
        Box::pin(Self::open_here(config))
    }

    async fn open_here(config: StoreConfig) -> Result<Arc<Self>, OpenError> {
        let dir = config.data_dir.clone();
        let ours = config.clone();
        let read = blocking(&*config.disk, move || directory::open(&ours));
        let directory::Opened {
            log,
            snapshot,
            state,
            lock,
            removed,
        } = read.await.map_err(|error| consensus(&dir, &error))??;
        let replica = Arc::new(Replica::new(state));
        let id = config.start.member().id;
        let machine = Machine::new(dir.clone(), id, Arc::clone(&replica), log.clone(), snapshot);
        if removed {
            machine.removed();
        }
        let (least, most) = config.election_ms;
        let settings = Config {
            cluster_name: "trireme".into(),
            // A group of one has no heartbeats to send and no leader to miss; the clock starts with the second member.
            enable_tick: false,
            heartbeat_interval: config.heartbeat_ms,
            election_timeout_min: least,
            election_timeout_max: most,
            enable_pre_vote: Some(true),
            // A restarted leader does not know any more what it had committed, and would serve reads that lack it: it is
            // elected anew, like everyone.
            enable_leader_restore: Some(false),
            // A leader that hears nobody must fall silent, or those who hear it would wait for it for ever.
            quorum_loss_probe_interval: Some(2 * most),
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: config.entries_behind_snapshot,
            purge_batch_size: config.entries_behind_snapshot.clamp(1, PURGED_TOGETHER),
            ..Config::default()
        };
        let settings = Arc::new(settings.validate().map_err(|error| consensus(&dir, &error))?);
        let peers = Arc::new(Peers::new(config.dialer.clone()));
        let network = Network {
            peers: Arc::clone(&peers),
            disk: Arc::clone(&config.disk),
        };
        let me = config.start.member().clone();
        let raft = Raft::new(me.id, settings, network, log.clone(), machine.clone())
            .await
            .map_err(|error| consensus(&dir, &error))?;
        let core = Arc::new(Core::new(
            me,
            dir.clone(),
            raft.clone(),
            log.clone(),
            machine.clone(),
            Arc::clone(&replica),
            peers,
            config.seed,
        ));
        let store = Self {
            core: Arc::clone(&core),
            tasks: Mutex::default(),
        };
        // Asked of consensus itself: its metrics say nothing before it has begun to run.
        let members = raft.with_raft_state(|state| {
            let members = state.membership_state.effective();
            members.nodes().map(|(id, _)| *id).collect::<Vec<u64>>()
        });
        let members = members.await.map_err(|error| consensus(&dir, &error))?;
        let alone = match members.as_slice() {
            [] => matches!(config.start, Start::Cluster(_)),
            [only] => *only == id,
            _ => false,
        };
        if alone {
            store.lead(&config).await?;
        } else if !removed {
            raft.runtime_config().tick(true);
        }
        let mut tasks = vec![
            tokio::spawn(Arc::clone(&core).observe()),
            tokio::spawn(Arc::clone(&core).promote_learners()),
            tokio::spawn(Arc::clone(&core).catch_up()),
            tokio::spawn(Arc::clone(&core).hold_rounds()),
        ];
        if config.dialer.is_some() {
            tasks.push(tokio::spawn(Arc::clone(&core).notice_removal()));
            tasks.push(tokio::spawn(Arc::clone(&core).guard()));
        }
        let upkeep = Upkeep::new(&config, lock, raft, log, replica, machine);
        tasks.push(tokio::spawn(upkeep.run()));
        *store.tasks.lock() = tasks;
        if alone {
            // What it leads it can also write from the first moment on.
            let mut leadership = store.leadership();
            let leads = leadership.wait_for(|leadership| matches!(leadership, Leadership::Leader { .. }));
            leads.await.map_err(|error| consensus(&dir, &error))?;
        }
        Ok(Arc::new(store))
    }

    /// Makes this member the leader of its group of one, with everything applied that the log holds.
    async fn lead(&self, config: &StoreConfig) -> Result<(), OpenError> {
        let dir = &config.data_dir;
        if self
            .core
            .raft
            .is_initialized()
            .await
            .map_err(|error| consensus(dir, &error))?
        {
            if !self.core.raft.is_leader() {
                self.core
                    .raft
                    .trigger()
                    .elect(false)
                    .await
                    .map_err(|error| consensus(dir, &error))?;
            }
        } else {
            let members = BTreeMap::from([(config.start.member().id, config.start.member().clone())]);
            self.core
                .raft
                .initialize(members)
                .await
                .map_err(|error| consensus(dir, &error))?;
        }
        let last = self.core.log.last();
        let ready = move |metrics: &openraft::RaftMetrics<Group>| metrics.state.is_leader() && metrics.last_applied >= last;
        let wait = self.core.raft.wait(Some(READY_WITHIN));
        wait.metrics(ready, "leading with the log applied")
            .await
            .map_err(|error| consensus(dir, &error))?;
        Ok(())
    }

    /// Lets another server lead if this one does, and leads no more: the first step of a clean stop, while peers and
    /// clients are still served.
    pub async fn retire(&self) {
        self.core.retire().await;
    }

    /// Lets another server lead if this one does, stops consensus and closes the log. Writes from now on are `Unavailable`;
    /// reads go on.
    pub async fn shutdown(&self) {
        self.retire().await;
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            if let Err(error) = task.await
                && !error.is_cancelled()
            {
                tracing::error!(%error, "a task of the store had failed");
            }
        }
        if let Err(error) = self.core.raft.shutdown().await {
            tracing::error!(%error, "consensus had failed before it was shut down");
        }
        self.core.leadership.send_replace(Leadership::Unknown);
        self.core.quorum.send_replace(false);
        self.core.log.close().await;
    }

    /// Answers a peer's requests until its stream ends. `peer_id` is who the caller has made sure that it is.
    pub fn serve_peer(&self, peer_id: u64, stream: Box<dyn Stream>) -> BoxFuture<'static, ()> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            if let Err(error) = serve(core, peer_id, stream).await {
                tracing::debug!(peer_id, %error, "a peer's connection broke");
            }
        })
    }

    /// Who leads. It says that this server does only once everything that earlier leaders had committed is applied here.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.subscribe()
    }

    /// Whether a majority of the voters was heard of a moment ago, here or by the leader that this server hears.
    #[must_use]
    pub fn quorum(&self) -> watch::Receiver<bool> {
        self.core.quorum.subscribe()
    }

    /// Whether this server once had everything that was committed since it was opened.
    #[must_use]
    pub fn caught_up(&self) -> watch::Receiver<bool> {
        self.core.caught_up.subscribe()
    }

    /// Whether this server was removed from the cluster, for good. It then serves no linearizable read and no write; what it
    /// holds only grows older. It stays true after a restart.
    #[must_use]
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.core.removed.subscribe()
    }

    /// Why this store takes part in consensus no more, if so: its disk failed in a way after which only another start
    /// knows what it holds. Until then it serves nothing but stale reads.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.core.failed.subscribe()
    }

    /// Whether this server's disk has room for what comes next. It asks the disk only where no room is set aside.
    ///
    /// # Errors
    /// `Disk` with what the disk says, as writes are refused.
    pub async fn has_room(&self) -> Result<(), WriteError> {
        self.core.log.has_spare().await
    }

    /// The group: from the leader where it can be asked, else as this server knows it.
    pub async fn status(&self) -> ClusterStatus {
        self.core.status().await
    }

    /// Adds a server without a vote; it gets one by itself once it has caught up. Any server may be asked.
    ///
    /// # Errors
    /// When it clashes with a member, or there is no leader.
    pub async fn add_learner(&self, member: Member) -> Result<(), MemberError> {
        self.core.change(Change::AddLearner(member)).await
    }

    /// Gives a learner a vote.
    ///
    /// # Errors
    /// When it is no member, or has not caught up, or there is no leader.
    pub async fn promote(&self, id: u64) -> Result<(), MemberError> {
        self.core.change(Change::Promote(id)).await
    }

    /// Removes a member for good.
    ///
    /// # Errors
    /// When it is no member, or the others could not go on without it, or there is no leader.
    pub async fn remove(&self, id: u64) -> Result<(), MemberError> {
        self.core.change(Change::Remove(id)).await
    }

    /// Changes a member's name and addresses; its id stays.
    ///
    /// # Errors
    /// When it is no member, or clashes with another, or there is no leader.
    pub async fn update_member(&self, member: Member) -> Result<(), MemberError> {
        self.core.change(Change::Update(member)).await
    }

    /// Makes another voter lead: the one that is named, or the one that is best prepared.
    ///
    /// # Errors
    /// When there is none that can.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<(), MemberError> {
        self.core.change(Change::Lead(to)).await
    }

    /// How much the store holds and does.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let ((applied_term, applied_index), (revision, objects, history_events)) = self
            .core
            .machine
            .look(|state| (state.revision(), state.len(), state.history_len()));
        let (object_bytes, history_bytes) = self.core.replica.with(|state| (state.bytes(), state.history_bytes()));
        Statistics {
            revision,
            applied_index,
            applied_term,
            objects,
            history_events,
            object_bytes,
            history_bytes,
            log_bytes: self.core.log.written(),
            log_flushes: self.core.log.flushes(),
        }
    }
}

impl Drop for RaftStore {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

/// Proposes a command and waits for it, but not for ever.
pub(crate) async fn propose(raft: &Raft<Group, Machine>, log: &Log, command: Command) -> Result<Applied, WriteError> {
    let until = tokio::time::Instant::now() + APPLIED_WITHIN;
    let admitted = tokio::time::timeout_at(until, log.admit(&command)).await;
    // What was proposed before keeps all room and is not committed.
    let room = admitted.map_err(|_| WriteError::Unavailable)??;
    let proposal = Proposal::new(command, room);
    let appended = proposal.appended();
    match tokio::time::timeout_at(until, raft.client_write(proposal)).await {
        Ok(Ok(response)) => Ok(response.data.0),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) if !appended.load(Ordering::Acquire) => {
            Err(WriteError::Unavailable)
        }
        Ok(Err(RaftError::APIError(_))) => Err(WriteError::Unknown),
        Ok(Err(RaftError::Fatal(_))) if !appended.load(Ordering::Acquire) => Err(log.stopped()),
        Ok(Err(RaftError::Fatal(_))) => Err(WriteError::Unknown),
        // It may lie before consensus yet, and be appended later.
        Err(_) => Err(WriteError::Unknown),
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
        self.core.commit(command).await
    }

    async fn barrier(&self) -> Result<Revision, WriteError> {
        self.core.barrier().await?;
        Ok(self.revision())
    }

    fn get(&self, key: &str) -> Option<Object> {
        self.core.replica.get(key)
    }

    fn range(&self, prefix: &str, after: Option<&str>, limit: Option<usize>, at: Option<Revision>) -> Result<Page, ReadError> {
        self.core.replica.range(prefix, after, limit, at)
    }

    fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.core.replica.watch(prefix, None, after)
    }

    fn watch_topic(&self, prefix: &str, topic: &str, after: Revision) -> Result<Box<dyn Watch>, ReadError> {
        self.core.replica.watch(prefix, Some(topic), after)
    }

    fn revision(&self) -> Revision {
        self.core.replica.revision()
    }

    async fn reached(&self, revision: Revision) {
        self.core.replica.reached(revision).await;
    }
}
