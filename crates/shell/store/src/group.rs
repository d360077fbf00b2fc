//! What a member does with others: forwards writes and reads to the leader.
//!
//! Invariant: a command is proposed once. Whoever is not sure that nothing was done says `Unknown`.

mod leading;
mod members;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, RaftMetrics, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use trireme_mvcc::{Applied, Command};

use crate::log::Log;
use crate::machine::Machine;
use crate::peer::{CallError, Change, Failure, Peers};
use crate::raft::propose;
use crate::replica::Replica;
use crate::types::Group;
use crate::{ClusterStatus, Leadership, Member, MemberStatus, Role, WriteError};

/// How long after the leader was lost writes and reads wait for another before they are refused. Later ones are refused
/// at once: nobody is better off by waiting.
const LEADER_WITHIN: Duration = Duration::from_secs(5);
/// Someone who was not heard of for so long does not count.
const SILENCE: Duration = Duration::from_millis(1500);
/// How often it is looked who was heard of, where there are others.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A leader whose disk took no write lets another one lead, but not again for so long: theirs may be no better.
const ASIDE_EVERY: Duration = Duration::from_secs(30);
/// How many readers share a round at most.
const READERS_MAX: usize = 4096;

/// Someone who waits for the next round of the read index.
type Reader = oneshot::Sender<Result<u64, Failure>>;

/// What the parts of a member share.
pub(crate) struct Core {
    pub(crate) me: Member,
    pub(crate) dir: PathBuf,
    pub(crate) raft: Raft<Group, Machine>,
    pub(crate) log: Log,
    pub(crate) machine: Machine,
    pub(crate) replica: Arc<Replica>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) leadership: watch::Sender<Leadership>,
    /// Whether this server leads no more until it is started again.
    retired: AtomicBool,
    /// When a leader was last known.
    led: Mutex<Instant>,
    /// Whom this server as the leader does not hear.
    silent: Mutex<BTreeSet<u64>>,
    pub(crate) quorum: watch::Sender<bool>,
    pub(crate) caught_up: watch::Sender<bool>,
    /// When each member was last heard of here, by anything it asked.
    heard: Mutex<HashMap<u64, Instant>>,
    /// Whether this server was removed.
    pub(crate) removed: watch::Sender<bool>,
    /// Why consensus ended here, if it did.
    pub(crate) failed: watch::Sender<Option<String>>,
    /// Readers that wait for the next round of the read index.
    readers: mpsc::Sender<Reader>,
    /// Their other end, until somebody holds rounds.
    rounds: Mutex<Option<mpsc::Receiver<Reader>>>,
    /// When this server may let another one lead on account of its disk.
    aside_from: Mutex<Instant>,
    /// One change of members at a time.
    changing: tokio::sync::Mutex<()>,
    dice: Mutex<u64>,
}

impl Core {
    pub(crate) fn new(
        me: Member,
        dir: PathBuf,
        raft: Raft<Group, Machine>,
        log: Log,
        machine: Machine,
        replica: Arc<Replica>,
        peers: Arc<Peers>,
        seed: u64,
    ) -> Self {
        let (readers, rounds) = mpsc::channel(READERS_MAX);
        Self {
            me,
            dir,
            raft,
            log,
            machine,
            replica,
            peers,
            leadership: watch::Sender::new(Leadership::Unknown),
            retired: AtomicBool::new(false),
            led: Mutex::new(Instant::now()),
            silent: Mutex::default(),
            quorum: watch::Sender::new(false),
            caught_up: watch::Sender::new(false),
            heard: Mutex::default(),
            removed: watch::Sender::new(false),
            failed: watch::Sender::new(None),
            readers,
            rounds: Mutex::new(Some(rounds)),
            aside_from: Mutex::new(Instant::now()),
            changing: tokio::sync::Mutex::default(),
            dice: Mutex::new(seed | 1),
        }
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<Group> {
        self.raft.metrics().borrow_watched().clone()
    }

    fn random(&self, below: u64) -> u64 {
        let mut dice = self.dice.lock();
        // xorshift64: enough to keep servers apart.
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        *dice % below
    }

    /// Notes that a member asked something.
    pub(crate) fn heard(&self, peer: u64) {
        self.heard.lock().insert(peer, Instant::now());
    }

    /// Whether a server is a member, as far as is known here. One that knows no members yet believes everyone.
    pub(crate) fn knows(&self, peer: u64) -> bool {
        let metrics = self.metrics();
        let mut nodes = metrics.membership_config.nodes().peekable();
        nodes.peek().is_none() || nodes.any(|(id, _)| *id == peer)
    }

    fn members(&self) -> BTreeMap<u64, Member> {
        let metrics = self.metrics();
        metrics
            .membership_config
            .nodes()
            .map(|(id, member)| (*id, member.clone()))
            .collect()
    }

    fn voters(metrics: &RaftMetrics<Group>) -> BTreeSet<u64> {
        metrics.membership_config.voter_ids().collect()
    }

    fn alone(metrics: &RaftMetrics<Group>) -> bool {
        metrics.membership_config.nodes().count() < 2
    }

    /// The leader, once there is one.
    async fn leader(&self) -> Result<Leadership, WriteError> {
        if *self.removed.borrow() {
            return Err(WriteError::Unavailable);
        }
        let mut leadership = self.leadership.subscribe();
        let until = *self.led.lock() + LEADER_WITHIN;
        let known = leadership.wait_for(|leadership| *leadership != Leadership::Unknown);
        match tokio::time::timeout_at(until, known).await {
            Ok(Ok(leadership)) => Ok(leadership.clone()),
            _ => Err(self.log.stopped()),
        }
    }

    /// Commits a command, wherever the leader is.
    pub(crate) async fn commit(&self, command: Command) -> Result<Applied, WriteError> {
        let until = Instant::now() + LEADER_WITHIN;
        loop {
            let leadership = self.leader().await?;
            let outcome = match &leadership {
                Leadership::Leader { .. } => match self.propose_here(command.clone()).await {
                    Ok(applied) => return Ok(applied),
                    Err(failure) => failure,
                },
                Leadership::Follower { leader, .. } => match self.forward(leader, command.clone()).await {
                    Ok(applied) => return Ok(applied),
                    Err(CallError::Failed(failure)) => failure,
                    // Nothing of it left this server: whoever leads next may have it.
                    Err(CallError::NotSent(_)) => Failure::NotLeader,
                    Err(CallError::Lost) => Failure::Unknown,
                },
                Leadership::Unknown => Failure::NotLeader,
            };
            match outcome {
                Failure::NotLeader if Instant::now() < until => self.leader_changes(&leadership).await,
                Failure::NotLeader | Failure::NotMember { .. } => return Err(self.log.stopped()),
                Failure::Disk(reason) => return Err(WriteError::Disk(reason)),
                Failure::Unknown | Failure::Refused(_) => return Err(WriteError::Unknown),
            }
        }
    }

    /// Waits until someone else leads than before, but not long: the same one may be able to after all.
    async fn leader_changes(&self, before: &Leadership) {
        let mut leadership = self.leadership.subscribe();
        let other = leadership.wait_for(|leadership| leadership != before);
        drop(tokio::time::timeout(LOOK_EVERY / 4, other).await);
    }

    async fn forward(&self, leader: &Member, command: Command) -> Result<Applied, CallError> {
        let link = self.peers.link(leader).ok_or(CallError::Lost)?;
        let (applied, revision) = link.propose(command).await?;
        // A client that asks this server next must see what it wrote, or why it could not.
        match tokio::time::timeout(LEADER_WITHIN, self.replica.reached(revision)).await {
            Ok(()) => Ok(applied),
            Err(_) => Err(CallError::Lost),
        }
    }

    /// Commits a command as the leader. Where the disk does not take it, another server leads from then on, if one can.
    pub(crate) async fn propose_here(&self, command: Command) -> Result<Applied, Failure> {
        match propose(&self.raft, &self.log, command).await {
            Ok(applied) => Ok(applied),
            Err(WriteError::Unavailable) => Err(Failure::NotLeader),
            Err(WriteError::Unknown) => Err(Failure::Unknown),
            Err(WriteError::Disk(reason)) if self.step_aside().await => {
                tracing::warn!(reason, "the disk does not take writes: another server leads from here on");
                Err(Failure::NotLeader)
            }
            Err(WriteError::Disk(reason)) => Err(Failure::Disk(reason)),
        }
    }

    /// Lets another server lead, if one can. Whether this one does not lead any more.
    async fn step_aside(&self) -> bool {
        if !self.raft.is_leader() {
            return self.log.failure().is_none();
        }
        {
            let mut from = self.aside_from.lock();
            if Instant::now() < *from {
                return false;
            }
            *from = Instant::now() + ASIDE_EVERY;
        }
        self.change_here(Change::Lead(None)).await.is_ok()
    }

    /// Waits until this replica has all that was acknowledged anywhere before.
    pub(crate) async fn barrier(&self) -> Result<(), WriteError> {
        let until = Instant::now() + LEADER_WITHIN;
        loop {
            if let Some(failure) = self.log.failure() {
                return Err(WriteError::Disk(failure.to_owned()));
            }
            let leadership = self.leader().await?;
            let index = match &leadership {
                Leadership::Leader { .. } => self.read_index_here().await,
                Leadership::Follower { leader, .. } => match self.peers.link(leader) {
                    Some(link) => link.read_index().await.map_err(|_| Failure::NotLeader),
                    None => Err(Failure::NotLeader),
                },
                Leadership::Unknown => Err(Failure::NotLeader),
            };
            match index {
                Ok(index) => {
                    let left = until.saturating_duration_since(Instant::now());
                    return match tokio::time::timeout(left, self.log.applied_to(index)).await {
                        Ok(()) => Ok(()),
                        Err(_) => Err(WriteError::Unavailable),
                    };
                }
                Err(_) if Instant::now() < until => self.leader_changes(&leadership).await,
                Err(_) => return Err(self.log.stopped()),
            }
        }
    }

    /// The index that a linearizable read must have applied, as the leader. All that ask while a round is going on share
    /// the next one.
    pub(crate) async fn read_index_here(&self) -> Result<u64, Failure> {
        let metrics = self.raft.metrics();
        let alone = {
            let metrics = metrics.borrow_watched();
            metrics.state.is_leader() && Self::alone(&metrics)
        };
        if alone {
            // Nobody else can have become leader.
            return Ok(self.log.applied_index());
        }
        let (reader, index) = oneshot::channel();
        if self.readers.send(reader).await.is_err() {
            return Err(Failure::NotLeader);
        }
        // Who holds the rounds may have ended.
        index.await.unwrap_or(Err(Failure::NotLeader))
    }

    /// Holds the rounds of the read index: one after the other, each for all who waited when it began. Runs until it is
    /// aborted; whoever waits then is told.
    pub(crate) async fn hold_rounds(self: Arc<Self>) {
        // Owned here, so that who waits is told when this ends.
        let Some(mut rounds) = self.rounds.lock().take() else { return };
        let mut waiting = Vec::new();
        while rounds.recv_many(&mut waiting, READERS_MAX).await > 0 {
            let index = self.confirm().await;
            for reader in waiting.drain(..) {
                // Whoever gave up does not listen.
                drop(reader.send(index.clone()));
            }
        }
    }

    async fn confirm(&self) -> Result<u64, Failure> {
        let read = tokio::time::timeout(SILENCE, self.raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
        match read {
            Ok(Ok((read, _))) => Ok(read.log_id().index),
            _ => Err(Failure::NotLeader),
        }
    }

    fn lives(&self, metrics: &RaftMetrics<Group>, id: u64) -> bool {
        id == self.me.id || heard_ms(metrics, id).is_some_and(|ms| u128::from(ms) < SILENCE.as_millis())
    }

    /// The group as this server knows it.
    pub(crate) fn status_here(&self) -> ClusterStatus {
        let metrics = self.metrics();
        let voters = Self::voters(&metrics);
        let members = metrics.membership_config.nodes().map(|(id, member)| {
            let own = *id == self.me.id;
            let leads = metrics.state.is_leader();
            MemberStatus {
                member: member.clone(),
                role: if voters.contains(id) { Role::Voter } else { Role::Learner },
                lag_entries: if own && leads { Some(0) } else { lag(&metrics, *id) },
                last_heard_ms: if own && leads { Some(0) } else { heard_ms(&metrics, *id) },
            }
        });
        ClusterStatus {
            id: self.me.id,
            term: metrics.current_term,
            leader: match &*self.leadership.borrow() {
                Leadership::Leader { .. } => Some(self.me.id),
                Leadership::Follower { leader, .. } => Some(leader.id),
                Leadership::Unknown => None,
            },
            last_applied: metrics.last_applied.map_or(0, |id| id.index),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            quorum: *self.quorum.borrow(),
            members: members.collect(),
        }
    }

    /// The group as the leader knows it, where it can be asked.
    pub(crate) async fn status(&self) -> ClusterStatus {
        let own = self.status_here();
        let leader = self.leadership.borrow().clone();
        if let Leadership::Follower { leader, .. } = leader
            && let Some(link) = self.peers.link(&leader)
            && let Ok(asked) = link.status().await
        {
            return ClusterStatus {
                id: own.id,
                last_applied: own.last_applied,
                ..asked
            };
        }
        own
    }

    /// Notes when this server first has all that was committed. Runs until then.
    pub(crate) async fn catch_up(self: Arc<Self>) {
        while self.barrier().await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.caught_up.send_replace(true);
    }
}

/// How many entries a member lacks, as the leader knows it.
fn lag(metrics: &RaftMetrics<Group>, id: u64) -> Option<u64> {
    let matching = metrics.replication.as_ref()?.get(&id)?.as_ref()?.index;
    Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matching))
}

/// How long ago a member answered, as the leader knows it.
fn heard_ms(metrics: &RaftMetrics<Group>, id: u64) -> Option<u64> {
    let at = metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?;
    u64::try_from(openraft::Instant::elapsed(&**at).as_millis()).ok()
}
