//! openraft's network on the peers' protocol.
//!
//! Invariant: appends of one connection are sent in openraft's order and answered in it. Heartbeats, log and snapshots have
//! a connection each, so that none waits behind another.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Fuse, StreamExt};
use openraft::AnyError;
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::Member;
use crate::disk::Disk;
use crate::peer::{CallError, Link, Peers};
use crate::snapshot::SnapshotFile;
use crate::types::{Group, Vote};

/// How many appends may be on their way to one peer.
const PIPELINE: usize = 32;
/// A peer that has not answered an append for this long is taken for unreachable.
const APPEND_WITHIN: Duration = Duration::from_secs(3);
/// How often the task that sends a commit alone yields to others before.
const COURTESY: usize = 3;
/// Wait before an unreachable peer is tried again, at first and at most.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

/// Makes networks to members.
pub(crate) struct Network {
    pub(crate) peers: Arc<Peers>,
    pub(crate) disk: Arc<dyn Disk>,
}

/// The way to one member.
pub(crate) struct Way {
    /// Where votes and the like go; shared with all else that asks this member.
    shared: Option<Arc<Link>>,
    /// Where this instance's appends or snapshots go.
    own: Option<Arc<Link>>,
    disk: Arc<dyn Disk>,
}

impl RaftNetworkFactory<Group> for Network {
    type Network = Way;

    async fn new_client(&mut self, _target: u64, node: &Member) -> Way {
        Way {
            shared: self.peers.link(node),
            own: self.peers.own_link(node),
            disk: Arc::clone(&self.disk),
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Way {
        self.new_client(target, node).await
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Way {
        self.new_client(target, node).await
    }
}

fn unreachable(error: &(dyn std::error::Error + 'static)) -> RPCError<Group> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(error.to_string())))
}

fn failed(error: CallError) -> RPCError<Group> {
    unreachable(&error)
}

fn alone() -> RPCError<Group> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(
        "this server was started without a way to others",
    )))
}

impl Way {
    fn shared(&self) -> Result<&Link, RPCError<Group>> {
        self.shared.as_deref().ok_or_else(alone)
    }

    fn own(&self) -> Result<&Arc<Link>, RPCError<Group>> {
        self.own.as_ref().ok_or_else(alone)
    }
}

/// Lets other work go before what only tells a follower how far the log is committed: above all the answer to whoever
/// wrote it. What was written meanwhile tells it too, and takes its place.
fn unhurried<S>(input: S) -> BoxStream<'static, AppendEntriesRequest<Group>>
where
    S: futures::Stream<Item = AppendEntriesRequest<Group>> + Send + Unpin + 'static,
{
    let next = |mut input: Fuse<S>| async move {
        let mut request = input.next().await?;
        for _ in 0..COURTESY {
            if !request.entries.is_empty() {
                break;
            }
            tokio::task::yield_now().await;
            match input.next().now_or_never() {
                Some(Some(later)) => request = later,
                Some(None) => break,
                None => {}
            }
        }
        Some((request, input))
    };
    futures::stream::unfold(input.fuse(), next).boxed()
}

impl RaftNetworkV2<Group> for Way {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Group>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
        self.own()?.append(&request, APPEND_WITHIN).await.map_err(failed)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Group>, RPCError<Group>>>, RPCError<Group>>>
    where
        S: futures::Stream<Item = AppendEntriesRequest<Group>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft waits out its back-off where it hands over the first request, so that comes before connecting.
            let Some(first) = input.next().await else {
                return Ok(futures::stream::empty().boxed());
            };
            let input = futures::stream::once(std::future::ready(first)).chain(unhurried(input));
            let connection = tokio::time::timeout(APPEND_WITHIN, self.own()?.connection())
                .await
                .map_err(|late| unreachable(&late))?
                .map_err(|error| unreachable(&error))?;
            // The request is sent while the input is read, so that the order is the input's; only answers are waited for
            // at the same time.
            let sent = input.map(move |request| {
                let previous = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(previous);
                let asked = connection.ask_append(&request);
                let connection = Arc::clone(&connection);
                async move {
                    match tokio::time::timeout(APPEND_WITHIN, asked.answer()).await {
                        Ok(answer) => {
                            let answer = answer.and_then(|content| crate::peer::read_append_answer(&content));
                            answer.map(|answer| answer.into_stream_result(previous, last)).map_err(failed)
                        }
                        Err(late) => {
                            connection.close();
                            Err(unreachable(&late))
                        }
                    }
                }
            });
            // openraft takes the stream no further than the first failure.
            Ok(sent.buffered(PIPELINE).boxed())
        })
    }

    async fn vote(&mut self, request: VoteRequest<Group>, option: RPCOption) -> Result<VoteResponse<Group>, RPCError<Group>> {
        self.shared()?.vote(&request, false, option.soft_ttl()).await.map_err(failed)
    }

    async fn pre_vote(&mut self, request: VoteRequest<Group>, option: RPCOption) -> Result<VoteResponse<Group>, RPCError<Group>> {
        self.shared()?.vote(&request, true, option.soft_ttl()).await.map_err(failed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Group, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        let link = Arc::clone(self.own().map_err(|_| {
            StreamingError::Unreachable(Unreachable::new(&AnyError::error(
                "this server was started without a way to others",
            )))
        })?);
        let send = link.send_snapshot(&self.disk, vote, snapshot);
        tokio::select! {
            sent = send => sent.map_err(|error| StreamingError::Unreachable(Unreachable::new(&AnyError::error(error.to_string())))),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Group>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Group>, RPCError<Group>> {
        self.shared()?
            .transfer_leader(&request, option.soft_ttl())
            .await
            .map_err(failed)
    }

    fn backoff(&self) -> Option<Backoff> {
        let [first, most] = AGAIN_AFTER;
        let waits = std::iter::successors(Some(first), move |wait| Some((*wait * 2).min(most)));
        Some(Backoff::new(waits))
    }
}
