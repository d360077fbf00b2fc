//! What the leader does beside writes: lets keys expire, forgets history, writes snapshots.
//!
//! Invariant: nothing here is needed for a write to succeed, and every failure is tried again later. It looks at the
//! state every other second, and when the log has grown, and is otherwise asleep.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use openraft::Raft;
use tokio::time::Instant;
use trireme_mvcc::{Command, Revision};

use crate::disk::{Lock, Mode, blocking};
use crate::log::Log;
use crate::machine::Machine;
use crate::raft::propose;
use crate::replica::Replica;
use crate::types::Group;
use crate::{Clock, StoreConfig, WriteError};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often it notes the revision, and so how exactly history ends; compared with its length.
const SAMPLES_PER_HISTORY: u32 = 20;

/// How many revisions one command forgets.
const COMPACT_STEP: u64 = 10_000;

/// How long it waits after a snapshot that could not be written.
const SNAPSHOT_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The upkeep of one store.
pub(crate) struct Upkeep {
    /// Keeps the directory this process's while a snapshot is written.
    lock: Lock,
    raft: Raft<Group, Machine>,
    log: Log,
    replica: Arc<Replica>,
    machine: Machine,
    clock: Clock,
    history: Duration,
    snapshot_log_bytes: u64,
    /// When the store was at which revision, oldest first; reaches back one history.
    samples: VecDeque<(Instant, Revision)>,
    /// Bytes of log behind the last snapshot, when this many were written altogether.
    log_bytes: u64,
    written: u64,
    /// How many bytes more make a snapshot due.
    snapshot_in: u64,
    snapshot_bytes: u64,
    snapshot_not_before: Instant,
}

impl Upkeep {
    pub(crate) fn new(
        config: &StoreConfig,
        lock: Lock,
        raft: Raft<Group, Machine>,
        log: Log,
        replica: Arc<Replica>,
        machine: Machine,
    ) -> Self {
        let now = Instant::now();
        Self {
            lock,
            raft,
            log_bytes: log.bytes_after(machine.snapshot_next()),
            written: log.written(),
            log,
            clock: Arc::clone(&config.clock),
            history: Duration::from_millis(config.history_ms),
            snapshot_log_bytes: config.snapshot_log_bytes,
            samples: VecDeque::from([(now, replica.revision())]),
            replica,
            machine,
            // The first look finds out.
            snapshot_in: 0,
            snapshot_bytes: 0,
            snapshot_not_before: now,
        }
    }

    /// Runs until it is aborted.
    pub(crate) async fn run(mut self) {
        loop {
            let log = self.log.clone();
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = log.grown_by(self.snapshot_in) => {}
            }
            let now = Instant::now();
            let compacted = match self.expire().await {
                Ok(()) => self.compact(now).await,
                failed => failed,
            };
            if let Err(error) = compacted {
                tracing::debug!(%error, "upkeep is put off");
            }
            self.snapshot(now).await;
        }
    }

    async fn expire(&self) -> Result<(), WriteError> {
        loop {
            let now_ms = (self.clock)();
            let next = self.replica.with(trireme_mvcc::State::next_expiry_ms);
            if next.is_none_or(|next| next > now_ms) {
                return Ok(());
            }
            propose(&self.raft, &self.log, Command::Expire { now_ms }).await?;
        }
    }

    async fn compact(&mut self, now: Instant) -> Result<(), WriteError> {
        let due = |(at, _): &(Instant, Revision)| now.duration_since(*at) >= self.history / SAMPLES_PER_HISTORY;
        if !self.samples.back().is_none_or(due) {
            return Ok(());
        }
        self.samples.push_back((now, self.replica.revision()));
        // The newest sample that is at least one history old.
        let old = |(at, _): &&(Instant, Revision)| now.duration_since(*at) >= self.history;
        let count = self.samples.iter().take_while(old).count();
        let Some((_, revision)) = count.checked_sub(1).and_then(|last| self.samples.get(last)).copied() else {
            return Ok(());
        };
        self.samples.drain(..count);
        // In steps: dropping events takes the state's lock, and a minute of a busy store is a lot of them.
        loop {
            let oldest = self.replica.with(trireme_mvcc::State::oldest);
            if oldest >= revision {
                return Ok(());
            }
            let revision = revision.min(oldest + COMPACT_STEP);
            propose(&self.raft, &self.log, Command::Compact { revision }).await?;
        }
    }

    async fn snapshot(&mut self, now: Instant) {
        self.snapshot_in = u64::MAX;
        if now < self.snapshot_not_before {
            return;
        }
        let written = self.log.written();
        let grown = written - self.written;
        self.written = written;
        self.log_bytes += grown;
        // Not more often than the log outgrows the snapshot: writing stays in proportion to what is written anyway.
        let threshold = self.snapshot_log_bytes.max(self.snapshot_bytes);
        if self.log_bytes < threshold {
            self.snapshot_in = threshold - self.log_bytes;
            return;
        }
        let (machine, lock) = (self.machine.clone(), Arc::clone(&self.lock));
        let disk = Arc::clone(self.log.disk());
        let write = blocking(&*disk, move || {
            let written = machine.write_snapshot();
            drop(lock);
            written
        });
        let outcome = write.await;
        let failed = match outcome {
            Ok(Ok(file)) => {
                let length = disk.open(&file.path, Mode::Existing).and_then(|file| file.length());
                self.snapshot_bytes = length.unwrap_or(0);
                self.log_bytes = self.log.bytes_after(self.machine.snapshot_next());
                self.written = self.log.written();
                self.raft.trigger().snapshot().await.err().map(|error| error.to_string())
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed {
            tracing::warn!(error, "no snapshot could be written; the log grows until one can");
            self.snapshot_not_before = now + SNAPSHOT_AGAIN_AFTER;
        }
    }
}
