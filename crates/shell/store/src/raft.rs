//! The replicated store: consensus over the log on disk, driving the replica.
//!
//! Invariant: `commit` returns after the command's frame was flushed here and the command applied here. Reads never wait
//! for the disk. A group of one takes the same way as a group of three; it only has no need of a clock, so it is idle
//! when nothing is written.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::fcntl::Flock;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use trireme_api::Object;
use trireme_mvcc::{Applied, Command, Page, ReadError, Revision, State};

use crate::disk::{damaged, lock, read_checked, refused, replace_checked};
use crate::log::Log;
use crate::machine::Machine;
use crate::network::NoPeers;
use crate::replica::Replica;
use crate::snapshot;
use crate::types::{Group, Proposal};
use crate::upkeep::Upkeep;
use crate::{OpenError, Store, StoreConfig, Watch, WriteError};

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
        let read = tokio::task::spawn_blocking(move || read_dir(&ours));
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
        let raft = Raft::new(config.member_id, settings, NoPeers, log.clone(), machine.clone())
            .await
            .map_err(|error| consensus(&dir, &error))?;
        let store = Self {
            upkeep: Mutex::new(None),
            raft: raft.clone(),
            log: log.clone(),
            replica: Arc::clone(&replica),
        };
        store.lead(&config).await?;
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
            let members = BTreeMap::from([(config.member_id, BasicNode::default())]);
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

type Opened = (Log, Option<snapshot::SnapshotFile>, State, Arc<Flock<File>>);

fn read_dir(config: &StoreConfig) -> Result<Opened, OpenError> {
    let dir = &config.data_dir;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| refused(dir, source))?;
    let lock = Arc::new(lock(dir)?);
    identify(dir, config.member_id)?;
    remove_unfinished(dir)?;
    let (snapshot, state) = match snapshot::load_newest(dir)? {
        Some((file, state)) => (Some(file), state),
        None => (None, State::new()),
    };
    let from = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id);
    let log = Log::open(dir, config.segment_bytes, Arc::clone(&lock), from)?;
    Ok((log, snapshot, state, lock))
}

/// Writes or compares whose directory it is.
fn identify(dir: &Path, wanted: u64) -> Result<(), OpenError> {
    let path = dir.join("member");
    let Some(content) = read_checked(&path)? else {
        return replace_checked(&path, wanted.to_string().as_bytes()).map_err(|source| refused(&path, source));
    };
    let found = std::str::from_utf8(&content).ok().and_then(|number| number.parse().ok());
    match found.ok_or_else(|| damaged(&path, 0, "not a member's number"))? {
        found if found == wanted => Ok(()),
        found => Err(OpenError::Member {
            path: dir.to_owned(),
            found,
            wanted,
        }),
    }
}

/// Removes files that a crash left before they got their names.
fn remove_unfinished(dir: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(|source| refused(dir, source))? {
        let path = entry.map_err(|source| refused(dir, source))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::remove_file(&path).map_err(|source| refused(&path, source))?;
        }
    }
    Ok(())
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
