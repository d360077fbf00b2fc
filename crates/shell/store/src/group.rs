//! What a member does with others: forwards writes and reads to the leader, changes members, knows who leads.
//!
//! Invariant: a command is proposed once. Whoever is not sure that nothing was done says `Unknown`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, Raft, RaftMetrics, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use trireme_mvcc::{Applied, Command};

use crate::disk::blocking;
use crate::log::Log;
use crate::machine::{Machine, Standing, parts};
use crate::peer::{CallError, Change, Failure, Peers};
use crate::raft::propose;
use crate::replica::Replica;
use crate::types::Group;
use crate::{ClusterStatus, Leadership, Member, MemberError, MemberStatus, Role, WriteError};

/// How long after the leader was lost writes and reads wait for another before they are refused. Later ones are refused
/// at once: nobody is better off by waiting.
const LEADER_WITHIN: Duration = Duration::from_secs(5);
/// Someone who was not heard of for so long does not count.
const SILENCE: Duration = Duration::from_millis(1500);
/// How often it is looked who was heard of, where there are others.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A learner that lacks no more than this gets its vote.
const CAUGHT_UP_ENTRIES: u64 = 100;
/// Longest wait for a change of members to be committed.
const CHANGE_WITHIN: Duration = Duration::from_secs(8);
/// How long those who are not the heir of a leader that is gone give the heir to be elected; and how long an election
/// takes at most, before it is tried again.
const HEIR_WITHIN: Duration = Duration::from_millis(100);
/// Longest random wait on top of that, so that not all do the same at once.
const ELECT_DELAY_MS: u64 = 40;
/// Longest wait for what another follower has in its log.
const ASKED_WITHIN: Duration = Duration::from_millis(50);
/// How often an heir stands before it leaves the matter to the election's own clock.
const ELECTIONS: usize = 5;

/// A leader whose disk took no write lets another one lead, but not again for so long: theirs may be no better.
const ASIDE_EVERY: Duration = Duration::from_secs(30);
/// How often a member without a leader asks the others whether it still is one.
const ASK_EVERY: Duration = Duration::from_secs(1);
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

    /// Changes members, wherever the leader is.
    pub(crate) async fn change(&self, change: Change) -> Result<(), MemberError> {
        let before = self.leadership.borrow().clone();
        let unled = before == Leadership::Unknown;
        // A leader that does not know where this server is now cannot make itself known.
        let first = match &change {
            Change::Update(_) if unled => self.ask_everyone(&change).await,
            _ => self.change_once(change.clone()).await,
        };
        match (first, &change) {
            // The leader handed over rather than remove itself: the next one does it.
            (Err(MemberError::Unavailable), Change::Remove(_)) => {
                self.leader_changes(&before).await;
                self.change_once(change).await
            }
            (outcome, _) => outcome,
        }
    }

    /// Asks every other member for a change, which the leader among them makes.
    async fn ask_everyone(&self, change: &Change) -> Result<(), MemberError> {
        let others = self.members().into_values().filter(|member| member.id != self.me.id);
        let links: Vec<_> = others.filter_map(|member| self.peers.link(&member)).collect();
        let mut asked: FuturesUnordered<_> = links.iter().map(|link| link.change(change)).collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Err(MemberError::Unavailable)) => {}
                Ok(outcome) => return outcome,
                Err(error) => tracing::debug!(?error, "asking a member for a change"),
            }
        }
        Err(MemberError::Unavailable)
    }

    async fn change_once(&self, change: Change) -> Result<(), MemberError> {
        match self.leader().await.map_err(|_| MemberError::Unavailable)? {
            Leadership::Leader { .. } => self.change_here(change).await,
            Leadership::Follower { leader, .. } => {
                let link = self.peers.link(&leader).ok_or(MemberError::Unavailable)?;
                match link.change(&change).await {
                    Ok(outcome) => outcome,
                    Err(CallError::NotSent(_) | CallError::Failed(Failure::NotLeader)) => Err(MemberError::Unavailable),
                    Err(_) => Err(MemberError::Unknown),
                }
            }
            Leadership::Unknown => Err(MemberError::Unavailable),
        }
    }

    /// Changes members as the leader, one change after another.
    pub(crate) async fn change_here(&self, change: Change) -> Result<(), MemberError> {
        if let Change::Lead(to) = change {
            return self.transfer(to).await;
        }
        let _one = self.changing.lock().await;
        if !self.raft.is_leader() {
            return Err(MemberError::Unavailable);
        }
        let metrics = self.metrics();
        let voters = Self::voters(&metrics);
        let members = self.members();
        let known = |id: &u64| members.get(id).ok_or(MemberError::NoSuchMember(*id));
        let clash = |member: &Member| {
            let others = || members.values().filter(|other| other.id != member.id);
            if others().any(|other| other.name == member.name) {
                return Err(MemberError::NameTaken(member.name.clone()));
            }
            if others().any(|other| other.peer == member.peer) {
                return Err(MemberError::AddressTaken(member.peer.clone()));
            }
            Ok(())
        };
        // Whoever is added needs the clock that a group of one does without.
        self.raft.runtime_config().tick(true);
        match change {
            Change::AddLearner(member) => {
                if members.contains_key(&member.id) {
                    return Err(MemberError::IdTaken(member.id));
                }
                clash(&member)?;
                self.apply(ChangeMembers::AddNodes(BTreeMap::from([(member.id, member)])))
                    .await
            }
            Change::Update(member) => {
                known(&member.id)?;
                clash(&member)?;
                self.apply(ChangeMembers::SetNodes(BTreeMap::from([(member.id, member)])))
                    .await
            }
            Change::Promote(id) => {
                known(&id)?;
                if voters.contains(&id) {
                    return Ok(());
                }
                let lag_entries = lag(&metrics, id).unwrap_or(u64::MAX);
                if lag_entries > CAUGHT_UP_ENTRIES {
                    return Err(MemberError::NotCaughtUp { lag_entries });
                }
                self.apply(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
            }
            Change::Remove(id) => {
                known(&id)?;
                if voters.contains(&id) {
                    let left: Vec<u64> = voters.iter().copied().filter(|voter| *voter != id).collect();
                    if left.is_empty() {
                        return Err(MemberError::LastVoter);
                    }
                    let alive = left.iter().filter(|voter| self.lives(&metrics, **voter)).count();
                    if alive <= left.len() / 2 {
                        return Err(MemberError::QuorumAtRisk);
                    }
                    if id == self.me.id {
                        // A leader that is to go lets another one see to it.
                        self.transfer(None).await?;
                        return Err(MemberError::Unavailable);
                    }
                    self.apply(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await?;
                }
                if self.members().contains_key(&id) {
                    self.apply(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await?;
                }
                Ok(())
            }
            Change::Lead(_) => Ok(()),
        }
    }

    async fn apply(&self, change: ChangeMembers<u64, Member>) -> Result<(), MemberError> {
        let before = *self.metrics().membership_config.log_id();
        match tokio::time::timeout(CHANGE_WITHIN, self.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(MemberError::Unavailable),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the members were not changed");
                if *self.metrics().membership_config.log_id() == before {
                    // An earlier change is not committed yet.
                    return Err(MemberError::Unavailable);
                }
                Err(MemberError::Unknown)
            }
            Err(_) => Err(MemberError::Unknown),
        }
    }

    fn lives(&self, metrics: &RaftMetrics<Group>, id: u64) -> bool {
        id == self.me.id || heard_ms(metrics, id).is_some_and(|ms| u128::from(ms) < SILENCE.as_millis())
    }

    async fn transfer(&self, to: Option<u64>) -> Result<(), MemberError> {
        let metrics = self.metrics();
        if !metrics.state.is_leader() {
            return Err(MemberError::Unavailable);
        }
        let mut able: Vec<u64> = Self::voters(&metrics)
            .into_iter()
            .filter(|id| *id != self.me.id && self.lives(&metrics, *id))
            .collect();
        able.sort_by_key(|id| lag(&metrics, *id).unwrap_or(u64::MAX));
        let target = match to {
            Some(id) if id == self.me.id => return Ok(()),
            Some(id) if able.contains(&id) => id,
            Some(id) => return Err(MemberError::CannotLead(id)),
            None => *able.first().ok_or(MemberError::NobodyElse)?,
        };
        let mut leadership = self.leadership.subscribe();
        self.raft
            .trigger()
            .transfer_leader(target)
            .await
            .map_err(|_| MemberError::Unavailable)?;
        let gone = leadership.wait_for(|leadership| matches!(leadership, Leadership::Follower { .. }));
        match tokio::time::timeout(SILENCE, gone).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(MemberError::Unknown),
        }
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

    /// Keeps up who leads and whether there is a quorum. Runs until it is aborted.
    pub(crate) async fn observe(self: Arc<Self>) {
        self.look_on().await;
        // It says nothing any more where it panicked.
        self.leadership.send_replace(Leadership::Unknown);
        self.quorum.send_replace(false);
        let running = self.metrics().running_state;
        let reason = match (self.log.failure(), running) {
            (Some(failure), _) => failure.to_owned(),
            (None, Err(fatal)) => fatal.to_string(),
            (None, Ok(())) => "consensus panicked".to_owned(),
        };
        tracing::error!(reason, "consensus has ended here; this server must be started again");
        self.failed.send_replace(Some(reason));
    }

    async fn look_on(&self) {
        let mut changes = self.raft.metrics();
        loop {
            let metrics = changes.borrow_watched().clone();
            let alone = Self::alone(&metrics);
            if !alone {
                self.raft.runtime_config().tick(!*self.removed.borrow());
            }
            self.note(&metrics);
            let changed = changes.changed();
            if alone {
                if changed.await.is_err() {
                    return;
                }
            } else if let Ok(Err(_)) = tokio::time::timeout(LOOK_EVERY, changed).await {
                return;
            }
        }
    }

    /// Tells an operator whom the leader hears no more, and whom again.
    fn tell_silence(&self, metrics: &RaftMetrics<Group>) {
        let mut silent = self.silent.lock();
        for (id, member) in metrics.membership_config.nodes() {
            if self.lives(metrics, *id) {
                if silent.remove(id) {
                    tracing::info!(member = %member.name, "answers again");
                }
            } else if heard_ms(metrics, *id).is_some() && silent.insert(*id) {
                tracing::warn!(member = %member.name, peer = %member.peer, "does not answer any more");
            }
        }
    }

    fn note(&self, metrics: &RaftMetrics<Group>) {
        let members = &metrics.membership_config;
        let changed_at = members.log_id().map(|id| id.index);
        self.peers.locate(changed_at, members.nodes().map(|(_, member)| member));
        let now = Instant::now();
        let recently = |id: u64| self.heard.lock().get(&id).is_some_and(|at| now.duration_since(*at) < SILENCE);
        let leads = metrics.state.is_leader();
        let applied = metrics
            .last_applied
            .is_some_and(|id| id.leader_id.term == metrics.current_term);
        if leads {
            self.tell_silence(metrics);
        }
        let leads = leads
            && (Self::alone(metrics) || {
                let voters = Self::voters(metrics);
                voters.iter().filter(|id| self.lives(metrics, **id)).count() > voters.len() / 2
            });
        let leadership = match metrics.current_leader.filter(|_| metrics.running_state.is_ok()) {
            // Whoever hears no majority cannot do anything, and must not believe that nobody else leads.
            Some(id) if id == self.me.id && leads && applied => Leadership::Leader {
                term: metrics.current_term,
            },
            Some(id) if id != self.me.id && recently(id) => metrics
                .membership_config
                .nodes()
                .find(|(known, _)| **known == id)
                .map_or(Leadership::Unknown, |(_, leader)| Leadership::Follower {
                    term: metrics.current_term,
                    leader: leader.clone(),
                }),
            _ => Leadership::Unknown,
        };
        let quorum = leadership != Leadership::Unknown;
        if leadership != Leadership::Unknown {
            *self.led.lock() = now;
        }
        self.leadership.send_if_modified(|known| {
            let changed = *known != leadership;
            if changed {
                match &leadership {
                    Leadership::Unknown => tracing::warn!("no leader that a majority follows is known"),
                    Leadership::Follower { term, leader } => tracing::info!(term, leader = %leader.name, "follows"),
                    Leadership::Leader { term } => tracing::info!(term, "leads"),
                }
                *known = leadership.clone();
            }
            changed
        });
        self.quorum
            .send_if_modified(|known| std::mem::replace(known, quorum) != quorum);
    }

    /// Watches over the leader's process: when its connection breaks and its host says that nobody listens any more, it
    /// is gone, and this server need not wait until its lease is over. Runs until it is aborted.
    pub(crate) async fn guard(self: Arc<Self>) {
        let mut leadership = self.leadership.subscribe();
        loop {
            let now = leadership.borrow_and_update().clone();
            let Leadership::Follower { term, leader } = now else {
                if leadership.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let Some(link) = self.peers.link(&leader) else { return };
            let watch = async {
                loop {
                    match link.connection().await {
                        Ok(connection) => connection.ended().await,
                        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                        // Cut off, or busy: the election's own clock decides.
                        Err(_) => tokio::time::sleep(LOOK_EVERY).await,
                    }
                }
            };
            tokio::select! {
                () = watch => {
                    tracing::info!(term, leader = %leader.name, "the leader's process is gone");
                    self.succeed(term, leader.id).await;
                    // Until somebody else leads, or the same one is back.
                    drop(tokio::time::timeout(SILENCE, leadership.changed()).await);
                }
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Brings about another leader in place of the one of a term, whose process is gone.
    async fn succeed(&self, term: u64, gone: u64) {
        let mut leadership = self.leadership.subscribe();
        let led = leadership.wait_for(|leadership| match leadership {
            Leadership::Leader { term: now } | Leadership::Follower { term: now, .. } => *now > term,
            Leadership::Unknown => false,
        });
        let stand = async {
            for _ in 0..ELECTIONS {
                if !self.is_heir(gone).await {
                    tokio::time::sleep(HEIR_WITHIN).await;
                }
                self.stand().await;
                tokio::time::sleep(HEIR_WITHIN + Duration::from_millis(self.random(ELECT_DELAY_MS))).await;
            }
        };
        tokio::select! {
            _ = led => {}
            () = stand => {}
        }
    }

    /// Whether this server is the one to follow a leader that is gone: of the voters that answer, the one whose log no
    /// other's is ahead of. If the followers of one leader stood all at once, each could keep the others from winning.
    async fn is_heir(&self, gone: u64) -> bool {
        let metrics = self.metrics();
        let own = (self.last_log(), self.me.id);
        let others = metrics
            .membership_config
            .nodes()
            .filter(|(id, _)| **id != gone && **id != self.me.id)
            .filter(|(id, _)| Self::voters(&metrics).contains(id))
            .filter_map(|(_, member)| self.peers.link(member));
        let asked = others.map(|link| async move {
            let last = link.last_log(ASKED_WITHIN).await.ok()?;
            Some((last, link.member().id))
        });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().all(|other| other < own)
    }

    /// Term and index of the last entry in the own log.
    pub(crate) fn last_log(&self) -> (u64, u64) {
        self.log.last().map_or((0, 0), |id| (id.leader_id.term, id.index))
    }

    /// Stands for election as if the leader had asked for it: those who vote need not wait for its lease.
    async fn stand(&self) {
        let metrics = self.metrics();
        if metrics.state.is_leader() || self.retired.load(Ordering::Relaxed) || !Self::voters(&metrics).contains(&self.me.id) {
            return;
        }
        tracing::info!(term = metrics.current_term, "standing for election");
        let request = TransferLeaderRequest::new(metrics.vote, self.me.id, None);
        if let Err(error) = self.raft.handle_transfer_leader(request).await {
            tracing::warn!(%error, "cannot stand for election");
        }
    }

    /// Lets another server lead, and does not lead again.
    pub(crate) async fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        if self.raft.is_leader()
            && let Err(error) = self.change_here(Change::Lead(None)).await
            && error != MemberError::NobodyElse
        {
            tracing::warn!(%error, "nobody took over the leadership before this server stops");
        }
        // A group of one has nobody else to lead it to its end.
        if !Self::alone(&self.metrics()) {
            self.raft.runtime_config().elect(false);
        }
    }

    /// Gives learners their votes once they have caught up, as the leader. Runs until it is aborted.
    pub(crate) async fn promote_learners(self: Arc<Self>) {
        let mut leadership = self.leadership.subscribe();
        loop {
            if !matches!(*leadership.borrow_and_update(), Leadership::Leader { .. }) || Self::alone(&self.metrics()) {
                // A group of one becomes more by a change of members, which shows in the metrics.
                let mut metrics = self.raft.metrics();
                let grown = async {
                    while Self::alone(&metrics.borrow_watched()) {
                        metrics.changed().await?;
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                    Ok::<(), openraft::async_runtime::watch::RecvError>(())
                };
                tokio::select! {
                    // Consensus has ended, and so has this.
                    grown = grown => if grown.is_err() { return },
                    changed = leadership.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let metrics = self.metrics();
            let voters = Self::voters(&metrics);
            let ready = self.members().into_keys().find(|id| {
                !voters.contains(id)
                    && self.lives(&metrics, *id)
                    && lag(&metrics, *id).is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES)
            });
            if let Some(id) = ready {
                match self.change_here(Change::Promote(id)).await {
                    Ok(()) => tracing::info!(member = id, "a server has caught up and has a vote from here on"),
                    Err(error) => tracing::debug!(member = id, %error, "not promoted yet"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Notes when this server is no member any more, for good: by what was committed, or by what the others say who go on
    /// without it. Runs until then.
    pub(crate) async fn notice_removal(self: Arc<Self>) {
        let mut standing = self.machine.standing();
        let mut leadership = self.leadership.subscribe();
        loop {
            let now = *standing.borrow_and_update();
            let led = *leadership.borrow_and_update() != Leadership::Unknown;
            match now {
                Standing::Removed => break,
                _ if led => {}
                Standing::Member { .. } | Standing::Stranger => {
                    if let Some(by) = self.included_by(now)
                        && self.removed_after(by).await
                    {
                        break;
                    }
                }
            }
            tokio::select! {
                _ = standing.changed() => {}
                _ = leadership.changed() => {}
                () = tokio::time::sleep(ASK_EVERY), if !led => {}
            }
        }
        self.machine.removed();
        self.raft.runtime_config().tick(false);
        let (disk, dir) = (Arc::clone(self.log.disk()), self.dir.clone());
        let noted = blocking(&**self.log.disk(), move || crate::directory::note_removed(&*disk, &dir)).await;
        if let Err(error) = noted.and_then(|noted| noted) {
            tracing::warn!(%error, "that this server was removed could not be noted; it will find out again");
        }
        tracing::error!("this server was removed from the cluster: it serves nothing that must be up to date");
        self.removed.send_replace(true);
    }

    /// Term and index of the entry that made the last members that include this server, also where it only has that entry
    /// in its log and does not know it to be committed.
    fn included_by(&self, standing: Standing) -> Option<(u64, u64)> {
        let metrics = self.metrics();
        let members = &metrics.membership_config;
        let logged = members.log_id().as_ref().map(parts);
        let logged = logged.filter(|_| members.nodes().any(|(id, _)| *id == self.me.id));
        match standing {
            Standing::Member { by } => Some(logged.map_or(by, |logged| logged.max(by))),
            Standing::Stranger | Standing::Removed => logged,
        }
    }

    /// Whether a member says that this server is none, by members that were committed after those that include it.
    async fn removed_after(&self, included: (u64, u64)) -> bool {
        let others = self.members().into_values().filter(|member| member.id != self.me.id);
        let asked = others.filter_map(|member| self.peers.link(&member)).map(|link| async move {
            match link.status().await {
                Err(CallError::Failed(Failure::NotMember { by: Some(without) })) => without > included,
                _ => false,
            }
        });
        futures::future::join_all(asked).await.into_iter().any(|removed| removed)
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
