//! The answering side of a connection.
//!
//! Invariant: appends of one connection reach consensus in the order in which they came; everything else is answered as it
//! is done. An append is taken only after the disk has room for it.

use std::io::{self, Write};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesOrdered;
use openraft::{EntryPayload, Raft, Snapshot};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::wire::{self, Failure, Frame, SnapshotHead, kind};
use super::{Change, Stream};
use crate::disk::{Disk, Sequential, blocking};
use crate::group::Core;
use crate::machine::Machine;
use crate::snapshot::{self, SnapshotFile};
use crate::types::Group;

/// How many appends of one connection may wait for the disk.
const APPENDS_MAX: usize = 64;

/// A snapshot that is being received.
struct Serving {
    head: SnapshotHead,
    file: Sequential,
    path: std::path::PathBuf,
}

type Answer = Result<Vec<u8>, Failure>;

fn put(id: u64, answer: &Answer) -> Bytes {
    match answer {
        Ok(content) => wire::frame(id, wire::OK, content),
        Err(failure) => wire::frame(id, wire::FAILED, &wire::json(failure)),
    }
}

fn told<T: Serialize, E: std::fmt::Display>(outcome: Result<T, E>) -> Answer {
    match outcome {
        Ok(value) => Ok(wire::json(&value)),
        Err(error) => Err(Failure::Refused(error.to_string())),
    }
}

/// Serves one stream until it ends.
pub(crate) async fn serve(core: Arc<Core>, peer: u64, stream: Box<dyn Stream>) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (answers, mut outgoing) = mpsc::unbounded_channel::<Bytes>();
    let write = async move {
        while let Some(frame) = outgoing.recv().await {
            writer.write_all(&frame).await?;
            if outgoing.is_empty() {
                writer.flush().await?;
            }
        }
        io::Result::Ok(())
    };
    let mut receiving: Option<Serving> = None;
    let disk = Arc::clone(core.log.disk());
    let read = async {
        let mut buffer = BytesMut::new();
        let mut appends: FuturesOrdered<BoxFuture<'static, (u64, Answer)>> = FuturesOrdered::new();
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        loop {
            let frame = tokio::select! {
                frame = wire::read(&mut reader, &mut buffer), if appends.len() < APPENDS_MAX => frame?,
                Some((id, answer)) = appends.next() => {
                    send(&answers, put(id, &answer));
                    continue;
                }
            };
            let Some(Frame { id, kind, content }) = frame else {
                return Ok(());
            };
            core.heard(peer);
            match kind {
                kind::APPEND => {
                    let (core, turn) = (Arc::clone(&core), Arc::clone(&turn));
                    appends.push_back(async move { (id, append(&core, peer, content, &turn).await) }.boxed());
                }
                kind::SNAPSHOT_BEGIN | kind::SNAPSHOT_CHUNK | kind::SNAPSHOT_END => {
                    let answer = snapshot_part(&core, kind, &content, &mut receiving).await;
                    send(&answers, put(id, &answer));
                }
                _ => {
                    let (core, answers) = (Arc::clone(&core), answers.clone());
                    tokio::spawn(async move {
                        let answer = handle(&core, peer, kind, content).await;
                        send(&answers, put(id, &answer));
                    });
                }
            }
        }
    };
    let outcome = tokio::select! {
        outcome = write => outcome,
        outcome = read => outcome,
    };
    forget(&*disk, &mut receiving);
    outcome
}

fn send(answers: &mpsc::UnboundedSender<Bytes>, frame: Bytes) {
    if answers.send(frame).is_err() {
        tracing::trace!("the peer that asked is gone");
    }
}

async fn append(core: &Core, peer: u64, content: Bytes, turn: &tokio::sync::Mutex<()>) -> Answer {
    let length = content.len();
    let request = wire::take_append(content)?;
    // One after the other, as they came: who waits for room is not overtaken. The leader would take the answer to the one
    // that came too early for a follower that lost part of its log.
    let turn = turn.lock().await;
    // Without room now, the entries stay with the leader, which tries again; taken halfway they would stop consensus here.
    // What consensus itself writes, after an election or about members, has its room always.
    let commands = request
        .entries
        .iter()
        .any(|entry| matches!(entry.payload, EntryPayload::Normal(_)));
    let room = if !commands {
        None
    } else {
        let room = core.log.admit_append(length).await;
        Some(room.map_err(|error| Failure::Disk(error.to_string()))?)
    };
    let mut answer = pin!(core.raft.append_entries(request));
    // Polled once, it lies in consensus' queue, which is longer than all that connections hold.
    let at_once = futures::poll!(&mut answer);
    drop(turn);
    let answer = match at_once {
        Poll::Ready(answer) => answer,
        Poll::Pending => answer.await,
    };
    drop(room);
    core.heard(peer);
    told(answer)
}

async fn handle(core: &Arc<Core>, peer: u64, kind: u8, content: Bytes) -> Answer {
    if !core.knows(peer) {
        return Err(Failure::NotMember {
            by: core.machine.members_without(peer),
        });
    }
    match kind {
        kind::VOTE => told(core.raft.vote(wire::from_json(&content)?).await),
        kind::PRE_VOTE => told(core.raft.pre_vote(wire::from_json(&content)?).await),
        kind::TRANSFER_LEADER => Ok(wire::json(&core.stand_for(wire::from_json(&content)?).await?)),
        kind::PROPOSE => {
            let applied = core.propose_here(wire::take_command(content)?).await?;
            Ok(wire::put_applied(&applied, core.replica.revision()))
        }
        kind::READ_INDEX => Ok(wire::json(&core.read_index_here().await?)),
        kind::CHANGE_MEMBERS => {
            let change: Change = wire::from_json(&content)?;
            let outcome = match &change {
                Change::Update(member) if member.id == peer => core.announced(member).await,
                _ => core.change_here(change).await,
            };
            Ok(wire::json(&outcome))
        }
        kind::LAST_LOG => Ok(wire::json(&core.last_log_of_heir()?)),
        kind::STATUS => Ok(wire::json(&core.status_here())),
        _ => Err(Failure::Refused(format!("a request of unknown kind {kind}"))),
    }
}

async fn snapshot_part(core: &Core, kind: u8, content: &[u8], receiving: &mut Option<Serving>) -> Answer {
    let disk = Arc::clone(core.log.disk());
    let full = |error: io::Error| Failure::Disk(error.to_string());
    match kind {
        kind::SNAPSHOT_BEGIN => {
            // Each has a file of its own: the peer may begin anew on another connection while this one is not known to be dead.
            let path = core.machine.unfinished();
            forget(&*disk, receiving);
            *receiving = Some(Serving {
                head: wire::from_json(content)?,
                file: Sequential::create(&*disk, &path).map_err(full)?,
                path,
            });
            Ok(Vec::new())
        }
        kind::SNAPSHOT_CHUNK => {
            let Some(mut serving) = receiving.take() else {
                return Err(Failure::Refused("a piece of a snapshot that was not begun".into()));
            };
            let chunk = content.to_vec();
            let written = blocking(&*disk, move || {
                let written = serving.file.write_all(&chunk).and_then(|()| serving.file.sync());
                (serving, written)
            });
            let (serving, written) = written.await.map_err(full)?;
            *receiving = Some(serving);
            if let Err(error) = written {
                forget(&*disk, receiving);
                return Err(full(error));
            }
            Ok(Vec::new())
        }
        _ => {
            let Some(serving) = receiving.take() else {
                return Err(Failure::Refused("the end of a snapshot that was not begun".into()));
            };
            let path = serving.path.clone();
            let answer = install(&core.raft, core, serving).await;
            if answer.is_err() {
                remove(&*disk, &path);
            }
            answer
        }
    }
}

/// Removes what was received of a snapshot that does not come to its end.
fn forget(disk: &dyn Disk, receiving: &mut Option<Serving>) {
    if let Some(serving) = receiving.take() {
        remove(disk, &serving.path);
    }
}

fn remove(disk: &dyn Disk, path: &Path) {
    if let Err(error) = disk.remove(path) {
        tracing::debug!(%error, path = %path.display(), "nothing of the received snapshot to remove");
    }
}

async fn install(raft: &Raft<Group, Machine>, core: &Core, serving: Serving) -> Answer {
    let disk = Arc::clone(core.log.disk());
    let ours = Arc::clone(&disk);
    let path = serving.path.clone();
    // Read before consensus hears of it: what is damaged must not replace anything.
    let whole = blocking(&*disk, move || snapshot::load(&*ours, path).map(|(file, _)| file)).await;
    let file: SnapshotFile = whole
        .map_err(|error| Failure::Disk(error.to_string()))?
        .map_err(|error| Failure::Disk(error.to_string()))?;
    // Behind it the log begins anew in a segment that there must be room for.
    core.log.has_spare().await.map_err(|error| Failure::Disk(error.to_string()))?;
    let snapshot = Snapshot {
        meta: serving.head.meta,
        snapshot: file,
    };
    told(raft.install_full_snapshot(serving.head.vote, snapshot).await)
}
