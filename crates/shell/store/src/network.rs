//! How members reach each other. A group of one has nobody to reach: openraft never asks, and if it did, the answer is
//! that the peer is unreachable. The real network takes this place when there are more servers.

use openraft::AnyError;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};

use crate::Member;
use crate::snapshot::SnapshotFile;
use crate::types::{Group, Vote};

/// No peers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoPeers;

fn unreachable() -> Unreachable<Group> {
    Unreachable::new(&AnyError::error("this group has one member"))
}

impl RaftNetworkFactory<Group> for NoPeers {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _node: &Member) -> Self {
        Self
    }
}

impl RaftNetworkV2<Group> for NoPeers {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<Group>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
        Err(unreachable().into())
    }

    async fn vote(&mut self, _: VoteRequest<Group>, _: RPCOption) -> Result<VoteResponse<Group>, RPCError<Group>> {
        Err(unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: openraft::alias::SnapshotOf<Group, SnapshotFile>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        Err(unreachable().into())
    }
}
