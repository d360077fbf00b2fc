//! Who belongs to the group: one change after another, made by the leader, whoever was asked.
//!
//! Invariant: no change is begun that could cost the quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};

use super::{Core, LOOK_EVERY, SILENCE, lag};
use crate::disk::blocking;
use crate::machine::{Standing, parts};
use crate::peer::{CallError, Change, Failure};
use crate::{Leadership, Member, MemberError};

/// A learner that lacks no more than this gets its vote.
const CAUGHT_UP_ENTRIES: u64 = 100;
/// Longest wait for a change of members to be committed.
const CHANGE_WITHIN: Duration = Duration::from_secs(8);
/// How often a member without a leader asks the others whether it still is one.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Core {
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

    /// Makes known what another member says of itself. It may ask one that does not lead, because it finds the leader as
    /// little as the leader finds it.
    pub(crate) async fn announced(&self, member: &Member) -> Result<(), MemberError> {
        self.peers.relocate(member);
        let change = Change::Update(member.clone());
        let led = matches!(*self.leadership.borrow(), Leadership::Follower { .. });
        if led {
            self.change_once(change).await
        } else {
            self.change_here(change).await
        }
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

    /// Gives learners their votes once they have caught up, as the leader. Runs until it is aborted.
    pub(crate) async fn promote_learners(self: Arc<Self>) {
        let mut leadership = self.leadership.subscribe();
        loop {
            if !matches!(*leadership.borrow_and_update(), Leadership::Leader { .. }) || Self::alone(&self.metrics()) {
                // A group of one becomes more by a change of members, which shows in the metrics.
                let mut standing = self.raft.server_metrics();
                let grown = async {
                    while standing.borrow_and_update().membership_config.nodes().count() < 2 {
                        standing.changed().await?;
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
}
