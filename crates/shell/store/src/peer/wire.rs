//! The peers' protocol: frames of requests and answers on one stream.
//!
//! A frame is `length u32, id u64, kind u8, content`, the length without itself. An answer has the id of its request and the kind
//! [`OK`] or [`FAILED`]. Entries and commands go in the log's own encoding, small things as JSON.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use openraft::raft::AppendEntriesRequest;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use trireme_api::Object;
use trireme_mvcc::{Applied, Command, Revision};

use crate::codec;
use crate::types::{Entry, Group, LogId, Proposal, SnapshotMeta, Vote, log_id};

/// Longest frame: an append of the most that openraft sends at once, or a chunk of a snapshot.
const FRAME_BYTES_MAX: usize = 128 << 20;

/// Kinds of requests.
pub(super) mod kind {
    pub(crate) const APPEND: u8 = 1;
    pub(crate) const VOTE: u8 = 2;
    pub(crate) const PRE_VOTE: u8 = 3;
    pub(crate) const SNAPSHOT_BEGIN: u8 = 4;
    pub(crate) const SNAPSHOT_CHUNK: u8 = 5;
    pub(crate) const SNAPSHOT_END: u8 = 6;
    pub(crate) const TRANSFER_LEADER: u8 = 7;
    pub(crate) const PROPOSE: u8 = 8;
    pub(crate) const READ_INDEX: u8 = 9;
    pub(crate) const CHANGE_MEMBERS: u8 = 10;
    pub(crate) const STATUS: u8 = 11;
    pub(crate) const LAST_LOG: u8 = 12;
}

/// Kind of a good answer.
pub(super) const OK: u8 = 0;
/// Kind of an answer that is a [`Failure`].
pub(super) const FAILED: u8 = 1;

/// Why a peer does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Failure {
    /// Not the leader, or without quorum. Nothing was done.
    #[error("not the leader")]
    NotLeader,
    /// Its disk does not take it. Nothing was done.
    #[error("the disk does not take it: {0}")]
    Disk(String),
    /// Consensus stopped there, or stopped waiting. It may have been done.
    #[error("the outcome is unknown")]
    Unknown,
    /// Whoever asks is no member, as this server knows it.
    #[error("no member of this cluster (any more)")]
    NotMember {
        /// Term and index of the entry that made the committed members without him.
        by: Option<(u64, u64)>,
    },
    /// The request makes no sense there.
    #[error("refused: {0}")]
    Refused(String),
}

/// One frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) id: u64,
    pub(super) kind: u8,
    pub(super) content: Bytes,
}

/// Puts a frame together.
pub(super) fn frame(id: u64, kind: u8, content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len() + 9).expect("frames are below 4 GiB");
    let mut out = Vec::with_capacity(content.len() + 13);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(content);
    out.into()
}

/// Reads the next frame; `None` where the stream ends between two.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
    loop {
        if let Some(length) = buffer.first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if !(9..=FRAME_BYTES_MAX).contains(&length) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of impossible length"));
            }
            if buffer.len() >= length + 4 {
                buffer.advance(4);
                let mut whole = buffer.split_to(length).freeze();
                let id = whole.get_u64_le();
                let kind = whole.get_u8();
                return Ok(Some(Frame {
                    id,
                    kind,
                    content: whole,
                }));
            }
            buffer.reserve(length + 4 - buffer.len());
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
}

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
}

/// JSON of something plain.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data serialises")
}

/// Reads what [`json`] wrote.
pub(super) fn from_json<T: for<'de> Deserialize<'de>>(content: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(content).map_err(|error| Failure::Refused(error.to_string()))
}

pub(super) fn put_append(request: &AppendEntriesRequest<Group>) -> Vec<u8> {
    let head = json(&AppendHead {
        vote: request.vote,
        prev_log_id: request.prev_log_id,
        leader_commit: request.leader_commit,
    });
    let mut out = Vec::with_capacity(head.len() + 4);
    out.extend_from_slice(&u32::try_from(head.len()).expect("a short head").to_le_bytes());
    out.extend_from_slice(&head);
    for entry in &request.entries {
        codec::encode(entry, &mut out);
    }
    out
}

pub(super) fn take_append(mut content: Bytes) -> Result<AppendEntriesRequest<Group>, Failure> {
    let wrong = || Failure::Refused("an append that cannot be read".into());
    if content.len() < 4 {
        return Err(wrong());
    }
    let length = content.get_u32_le() as usize;
    if content.len() < length {
        return Err(wrong());
    }
    let head: AppendHead = from_json(&content.split_to(length))?;
    let entries = codec::Decoder::new(content).entries().ok_or_else(wrong)?;
    Ok(AppendEntriesRequest {
        vote: head.vote,
        prev_log_id: head.prev_log_id,
        entries,
        leader_commit: head.leader_commit,
    })
}

pub(super) fn put_command(command: Command) -> Vec<u8> {
    let entry = Entry {
        log_id: log_id(0, 0),
        payload: openraft::EntryPayload::Normal(Proposal::from(command)),
    };
    let mut out = Vec::new();
    codec::encode(&entry, &mut out);
    out
}

pub(super) fn take_command(content: Bytes) -> Result<Command, Failure> {
    let entries = codec::Decoder::new(content).entries().unwrap_or_default();
    match entries.into_iter().next().map(|entry| entry.payload) {
        Some(openraft::EntryPayload::Normal(proposal)) => Ok(proposal.into_command()),
        _ => Err(Failure::Refused("a command that cannot be read".into())),
    }
}

const COMMITTED: u8 = 0;
const CONFLICT: u8 = 1;
const FENCED: u8 = 2;
const DONE: u8 = 3;
const UNGUARDED: u8 = 4;

/// What applying gave, and the revision of the replica that said so.
pub(super) fn put_applied(applied: &Applied, revision: Revision) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&revision.to_le_bytes());
    let put_object = |out: &mut Vec<u8>, object: &Object| {
        out.extend_from_slice(
            &u32::try_from(object.bytes().len())
                .expect("objects are below 4 GiB")
                .to_le_bytes(),
        );
        out.extend_from_slice(object.bytes());
    };
    match applied {
        Applied::Committed { revision, objects } => {
            out.push(COMMITTED);
            out.extend_from_slice(&revision.to_le_bytes());
            for object in objects {
                put_object(&mut out, object);
            }
        }
        Applied::Conflict { write, current } => {
            out.push(CONFLICT);
            out.extend_from_slice(&(*write as u64).to_le_bytes());
            if let Some(object) = current {
                put_object(&mut out, object);
            }
        }
        Applied::Fenced { term } => {
            out.push(FENCED);
            out.extend_from_slice(&term.to_le_bytes());
        }
        Applied::Unguarded { guard } => {
            out.push(UNGUARDED);
            out.extend_from_slice(&(*guard as u64).to_le_bytes());
        }
        Applied::Done => out.push(DONE),
    }
    out
}

/// Reads what [`put_applied`] wrote.
pub(super) fn take_applied(mut content: Bytes) -> Option<(Applied, Revision)> {
    let number = |content: &mut Bytes| (content.len() >= 8).then(|| content.get_u64_le());
    let object = |content: &mut Bytes| {
        let length = (content.len() >= 4).then(|| content.get_u32_le() as usize)?;
        let bytes = (content.len() >= length).then(|| content.split_to(length))?;
        // A slice would keep the whole answer in memory for as long as the object lives.
        Object::parse(Bytes::copy_from_slice(&bytes)).ok()
    };
    let replica = number(&mut content)?;
    let tag = (!content.is_empty()).then(|| content.get_u8())?;
    let applied = match tag {
        COMMITTED => {
            let revision = number(&mut content)?;
            let mut objects = Vec::new();
            while !content.is_empty() {
                objects.push(object(&mut content)?);
            }
            Applied::Committed { revision, objects }
        }
        CONFLICT => Applied::Conflict {
            write: usize::try_from(number(&mut content)?).ok()?,
            current: if content.is_empty() {
                None
            } else {
                Some(object(&mut content)?)
            },
        },
        FENCED => Applied::Fenced {
            term: number(&mut content)?,
        },
        UNGUARDED => Applied::Unguarded {
            guard: usize::try_from(number(&mut content)?).ok()?,
        },
        DONE => Applied::Done,
        _ => return None,
    };
    Some((applied, replica))
}

/// What begins a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotHead {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_were() {
        let bytes = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"7"}}"#;
        let object = Object::parse(Bytes::from_static(bytes)).unwrap();
        for applied in [
            Applied::Committed {
                revision: 7,
                objects: vec![object.clone(), object.clone()],
            },
            Applied::Conflict {
                write: 1,
                current: Some(object),
            },
            Applied::Conflict { write: 2, current: None },
            Applied::Unguarded { guard: 3 },
            Applied::Fenced { term: 4 },
            Applied::Done,
        ] {
            let (read, revision) = take_applied(put_applied(&applied, 9).into()).unwrap();
            assert_eq!((format!("{read:?}"), revision), (format!("{applied:?}"), 9));
        }
        assert!(take_applied(Bytes::from_static(&[0; 9])).is_none(), "cut short");
    }
}
