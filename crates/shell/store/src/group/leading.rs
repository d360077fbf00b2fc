//! Who leads: what a member sees of it, and how a leader that is gone is followed by another.
//!
//! Invariant: whoever hears no majority leads nobody, whatever consensus still calls it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use tokio::time::Instant;

use super::{Core, LOOK_EVERY, SILENCE, heard_ms};
use crate::peer::{Change, Failure, Link};
use crate::types::Group;
use crate::{Leadership, MemberError};

/// An heir that was asked to stand and has not been elected for so long is passed over.
const HEIR_WITHIN: Duration = Duration::from_millis(100);
/// How long the first round of an election gets before the next; each further one gets twice the time of the one before.
const ROUND_WITHIN: Duration = Duration::from_millis(40);
/// How many rounds there are before the matter is left to the election's own clock.
const ROUNDS: u32 = 5;
/// Longest wait for what another follower has in its log, and for an heir to hear that it is one.
const ASKED_WITHIN: Duration = Duration::from_millis(50);
/// First pause before a leader is dialled again that cannot be reached; it doubles up to [`LOOK_EVERY`]. A process that
/// ends may break a connection or two that its host took for it before nobody listens any more.
const REDIAL_AFTER: Duration = Duration::from_millis(2);
/// How often a follower looks whether it has a connection to every other one.
const WAYS_EVERY: Duration = Duration::from_secs(1);

impl Core {
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
        let mut everything = self.raft.metrics();
        // Who leads changes seldom, everything else several times with each write: it would wake this task in vain.
        let mut standing = self.raft.server_metrics();
        loop {
            // In this order: consensus tells the standing first, so that of two that differ the rest is yet to come.
            let metrics = everything.borrow_and_update().clone();
            let agrees = {
                let standing = standing.borrow_and_update();
                standing.state == metrics.state
                    && standing.current_leader == metrics.current_leader
                    && standing.membership_config.log_id() == metrics.membership_config.log_id()
            };
            let alone = Self::alone(&metrics);
            if !alone {
                self.raft.runtime_config().tick(!*self.removed.borrow());
            }
            self.note(&metrics);
            let settled = agrees && *self.leadership.borrow() != Leadership::Unknown;
            let changed = async {
                tokio::select! {
                    changed = standing.changed() => changed,
                    changed = everything.changed(), if !settled => changed,
                }
            };
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
        self.leadership.send_if_modified(|known| {
            let changed = *known != leadership;
            if changed || leadership != Leadership::Unknown {
                *self.led.lock() = now;
            }
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
                let mut pause = REDIAL_AFTER;
                loop {
                    match link.connection().await {
                        Ok(connection) => {
                            connection.ended().await;
                            pause = REDIAL_AFTER;
                        }
                        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                        // Ending just now, cut off, or busy: if it stays so, the election's own clock decides.
                        Err(_) => {
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(LOOK_EVERY);
                        }
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
                () = self.keep_ways(leader.id) => {}
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The ways to the voters that are neither this server nor among these.
    fn voters_but(&self, these: &BTreeSet<u64>) -> Vec<Arc<Link>> {
        let metrics = self.metrics();
        let voters = Self::voters(&metrics);
        let others = metrics.membership_config.nodes().filter(|(id, _)| {
            let other = **id != self.me.id && !these.contains(id);
            other && voters.contains(id)
        });
        others.filter_map(|(_, member)| self.peers.link(member)).collect()
    }

    /// Keeps a connection to every other follower: where the leader is gone, who comes next is not to wait for one.
    async fn keep_ways(&self, leader: u64) {
        let leader = BTreeSet::from([leader]);
        loop {
            let others = self.voters_but(&leader);
            // Who cannot be reached now is dialled the next time.
            drop(futures::future::join_all(others.iter().map(|link| link.connection())).await);
            tokio::time::sleep(WAYS_EVERY).await;
        }
    }

    /// Brings about another leader in place of the one of a term, whose process is gone. The heir stands; whoever is not
    /// the heir tells it so, since it may not have noticed, and stands itself only where the heir comes to nothing.
    async fn succeed(&self, term: u64, gone: u64) {
        let mut leadership = self.leadership.subscribe();
        let led = leadership.wait_for(|leadership| match leadership {
            Leadership::Leader { term: now } | Leadership::Follower { term: now, .. } => *now > term,
            Leadership::Unknown => false,
        });
        let elect = async {
            let begun = Instant::now();
            let mut passed = BTreeSet::from([gone]);
            let mut asked = None;
            let mut round = ROUND_WITHIN;
            for _ in 0..ROUNDS {
                if begun.elapsed() >= HEIR_WITHIN {
                    passed.extend(asked);
                }
                match self.heir(&passed).await {
                    None => self.stand().await,
                    Some(heir) => {
                        asked = Some(heir.member().id);
                        self.ask_to_stand(&heir).await;
                    }
                }
                // Where several stood, they do not do it again at the same time.
                let spread = u64::try_from(round.as_millis() / 4).unwrap_or(u64::MAX).max(1);
                tokio::time::sleep(round + Duration::from_millis(self.random(spread))).await;
                round *= 2;
            }
        };
        tokio::select! {
            _ = led => {}
            () = elect => {}
        }
    }

    /// Who is to follow a leader that is gone, where it is not this server: of the voters that answer, the one whose log no
    /// other's is ahead of. If the followers of one leader stood all at once, each could keep the others from winning.
    async fn heir(&self, passed: &BTreeSet<u64>) -> Option<Arc<Link>> {
        let asked = self.voters_but(passed).into_iter().map(|link| async move {
            let last = link.last_log(ASKED_WITHIN).await.ok()?;
            Some(((last, link.member().id), link))
        });
        let answers = futures::future::join_all(asked).await;
        // The own one as late as theirs: entries of the leader may still come in.
        let own = (self.last_log(), self.me.id);
        let best = answers.into_iter().flatten().max_by_key(|(last, _)| *last);
        best.filter(|(last, _)| *last > own).map(|(_, link)| link)
    }

    /// Tells an heir that the leader is gone, as if the leader had asked it to take over. One that knows it and stands already
    /// does not mind.
    async fn ask_to_stand(&self, heir: &Link) {
        let metrics = self.metrics();
        tracing::info!(term = metrics.current_term, heir = %heir.member().name, "the heir is to stand for election");
        let request = TransferLeaderRequest::new(metrics.vote, heir.member().id, None);
        if let Err(error) = heir.transfer_leader(&request, ASKED_WITHIN).await {
            tracing::debug!(%error, "the heir does not hear that it is one");
        }
    }

    /// Stands where the leader, or another follower of it, asks for it.
    pub(crate) async fn stand_for(
        &self,
        request: TransferLeaderRequest<Group>,
    ) -> Result<TransferLeaderResponse<Group>, Failure> {
        if self.retired.load(Ordering::Relaxed) && *request.to_node_id() == self.me.id {
            return Err(Failure::Refused("this server leads no more until it is started again".into()));
        }
        let answer = self.raft.handle_transfer_leader(request).await;
        answer.map_err(|error| Failure::Refused(error.to_string()))
    }

    /// The last entry of the own log, for those who ask whether this server could lead.
    pub(crate) fn last_log_of_heir(&self) -> Result<(u64, u64), Failure> {
        if self.retired.load(Ordering::Relaxed) {
            return Err(Failure::Refused("this server leads no more until it is started again".into()));
        }
        Ok(self.last_log())
    }

    /// Term and index of the last entry in the own log.
    fn last_log(&self) -> (u64, u64) {
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
}
