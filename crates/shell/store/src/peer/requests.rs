//! What is asked of a peer, one function per kind of request.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use serde::{Deserialize, Serialize};
use trireme_mvcc::{Applied, Command, Revision};

use super::link::{Asked, CallError, Connection, Link};
use super::wire::{self, Failure, SnapshotHead, kind};
use crate::disk::{Disk, Sequential, blocking};
use crate::snapshot::SnapshotFile;
use crate::types::{Group, Vote};
use crate::{ClusterStatus, Member, MemberError};

/// Size of the pieces in which a snapshot is sent; each is answered before the next, so the receiver's disk sets the pace.
const CHUNK_BYTES: usize = 1 << 20;
/// Longest wait for one of them.
const CHUNK_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for a snapshot to be read and taken over by the receiver; all of it is on its disk by then. A way that is
/// cut just then would cost as much before it is sent again.
const INSTALL_WITHIN: Duration = Duration::from_secs(20);
/// Longest wait for a forwarded write, and for a member change.
const PROPOSE_WITHIN: Duration = Duration::from_secs(10);
/// Longest wait for a read index, and for a status.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// A change of members, as a server forwards it to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    AddLearner(Member),
    Promote(u64),
    Remove(u64),
    Update(Member),
    Lead(Option<u64>),
}

/// Reads the answer to an append.
pub(crate) fn read_append_answer(content: &[u8]) -> Result<AppendEntriesResponse<Group>, CallError> {
    wire::from_json(content).map_err(CallError::Failed)
}

impl Connection {
    /// Sends an append behind all others.
    pub(crate) fn ask_append(&self, request: &AppendEntriesRequest<Group>) -> Asked {
        self.ask(kind::APPEND, &wire::put_append(request))
    }
}

impl Link {
    pub(crate) async fn append(
        &self,
        request: &AppendEntriesRequest<Group>,
        within: Duration,
    ) -> Result<AppendEntriesResponse<Group>, CallError> {
        let answer = self.call(kind::APPEND, &wire::put_append(request), within).await?;
        read_append_answer(&answer)
    }

    pub(crate) async fn vote(
        &self,
        request: &VoteRequest<Group>,
        only_asking: bool,
        within: Duration,
    ) -> Result<VoteResponse<Group>, CallError> {
        let kind = if only_asking { kind::PRE_VOTE } else { kind::VOTE };
        let answer = self.call(kind, &wire::json(request), within).await?;
        wire::from_json(&answer).map_err(CallError::Failed)
    }

    pub(crate) async fn transfer_leader(
        &self,
        request: &TransferLeaderRequest<Group>,
        within: Duration,
    ) -> Result<TransferLeaderResponse<Group>, CallError> {
        let answer = self.call(kind::TRANSFER_LEADER, &wire::json(request), within).await?;
        wire::from_json(&answer).map_err(CallError::Failed)
    }

    /// Sends a snapshot from its file.
    pub(crate) async fn send_snapshot(
        &self,
        disk: &Arc<dyn Disk>,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Group, SnapshotFile>,
    ) -> Result<SnapshotResponse<Group>, CallError> {
        let path = snapshot.snapshot.path.clone();
        // The file stays readable through this handle, also when a newer snapshot takes its place meanwhile.
        let mut file = Sequential::open(&**disk, &path).map_err(CallError::NotSent)?;
        let head = SnapshotHead {
            vote,
            meta: snapshot.meta,
        };
        self.call(kind::SNAPSHOT_BEGIN, &wire::json(&head), CHUNK_WITHIN).await?;
        loop {
            let read = blocking(&**disk, move || {
                let mut chunk = vec![0; CHUNK_BYTES];
                let mut length = 0;
                while length < chunk.len() {
                    match file.read(&mut chunk[length..])? {
                        0 => break,
                        more => length += more,
                    }
                }
                chunk.truncate(length);
                Ok::<_, std::io::Error>((file, chunk))
            });
            let (same, chunk) = read.await.and_then(|read| read).map_err(CallError::NotSent)?;
            file = same;
            if chunk.is_empty() {
                break;
            }
            self.call(kind::SNAPSHOT_CHUNK, &chunk, CHUNK_WITHIN).await?;
        }
        let answer = self.call(kind::SNAPSHOT_END, &[], INSTALL_WITHIN).await?;
        wire::from_json(&answer).map_err(CallError::Failed)
    }

    /// Has the leader commit a command; what applying gave, and a revision to wait for.
    pub(crate) async fn propose(&self, command: Command) -> Result<(Applied, Revision), CallError> {
        let answer = self.call(kind::PROPOSE, &wire::put_command(command), PROPOSE_WITHIN).await?;
        wire::take_applied(answer).ok_or(CallError::Lost)
    }

    /// The index up to which a reader must have applied the log.
    pub(crate) async fn read_index(&self) -> Result<u64, CallError> {
        let answer = self.call(kind::READ_INDEX, &[], READ_WITHIN).await?;
        wire::from_json(&answer).map_err(CallError::Failed)
    }

    /// Term and index of the last entry in the peer's log.
    pub(crate) async fn last_log(&self, within: Duration) -> Result<(u64, u64), CallError> {
        let answer = self.call(kind::LAST_LOG, &[], within).await?;
        wire::from_json(&answer).map_err(CallError::Failed)
    }

    pub(crate) async fn change(&self, change: &Change) -> Result<Result<(), MemberError>, CallError> {
        let answer = self.call(kind::CHANGE_MEMBERS, &wire::json(change), PROPOSE_WITHIN).await?;
        wire::from_json(&answer).map_err(CallError::Failed)
    }

    pub(crate) async fn status(&self) -> Result<ClusterStatus, CallError> {
        let answer = self.call(kind::STATUS, &[], READ_WITHIN).await?;
        wire::from_json(&answer).map_err(CallError::Failed)
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
