//! Log entries as bytes: length, log id, kind, and the command with its bodies raw.
//!
//! Invariant: decoding gives what was encoded; anything else is `None`. Integrity (checksums) is the frame's.
//! An entry: `length u32`, then that many bytes: `term index` as varints, `kind u8`, payload.

use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use trireme_mvcc::{Body, Command, Key, Operation, Precondition, Write};

use crate::types::{Entry, LogId, Proposal, log_id};

/// What an entry takes beyond its keys and bodies, per entry and per write, at most.
const ENTRY_OVERHEAD: usize = 64;
const WRITE_OVERHEAD: usize = 48;
const GUARD_OVERHEAD: usize = 10;

const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

const TRANSACTION: u8 = 0;
const COMPACT: u8 = 1;
const EXPIRE: u8 = 2;
const FENCED_TRANSACTION: u8 = 3;
/// A transaction with guards: the kind that it is without them follows the guards.
const GUARDED: u8 = 4;

const PUT: u8 = 0;
const PUT_WITH_TTL: u8 = 1;
const DELETE: u8 = 2;

const NONE: u8 = 0;
const ABSENT: u8 = 1;
const REVISION: u8 = 2;

/// An upper bound of the encoded length of an entry with this command.
pub(crate) fn length_max(command: &Command) -> usize {
    let Command::Transaction { writes, guards, .. } = command else {
        return ENTRY_OVERHEAD;
    };
    let guarded = guards
        .iter()
        .fold(ENTRY_OVERHEAD, |sum, key| sum + GUARD_OVERHEAD + key.len());
    writes.iter().fold(guarded, |sum, write| {
        let body = match &write.operation {
            Operation::Put { body, .. } => body,
            Operation::Delete { last } => last,
        };
        sum + WRITE_OVERHEAD + write.key.len() + body.bytes.len()
    })
}

/// An upper bound of the encoded length of an entry.
pub(crate) fn entry_length_max(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Blank => ENTRY_OVERHEAD,
        EntryPayload::Normal(proposal) => length_max(&proposal.command),
        // They are few.
        EntryPayload::Membership(_) => {
            let mut out = Vec::new();
            encode(entry, &mut out);
            out.len()
        }
    }
}

/// Appends an entry to `out`.
pub(crate) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    put_number(out, entry.log_id.leader_id.term);
    put_number(out, entry.log_id.index);
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(proposal) => {
            out.reserve(length_max(&proposal.command));
            out.push(COMMAND);
            put_command(out, &proposal.command);
        }
        EntryPayload::Membership(membership) => {
            out.push(MEMBERSHIP);
            serde_json::to_writer(&mut *out, membership).expect("a membership serialises");
        }
    }
    let length = u32::try_from(out.len() - start - 4).expect("an entry is below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Transaction {
            writes,
            now_ms,
            fence,
            guards,
        } => {
            if !guards.is_empty() {
                out.push(GUARDED);
                put_number(out, guards.len() as u64);
                guards.iter().for_each(|key| put_bytes(out, key.as_bytes()));
            }
            match fence {
                None => out.push(TRANSACTION),
                Some(term) => {
                    out.push(FENCED_TRANSACTION);
                    put_number(out, *term);
                }
            }
            put_number(out, *now_ms);
            put_number(out, writes.len() as u64);
            for write in writes {
                put_write(out, write);
            }
        }
        Command::Compact { revision } => {
            out.push(COMPACT);
            put_number(out, *revision);
        }
        Command::Expire { now_ms } => {
            out.push(EXPIRE);
            put_number(out, *now_ms);
        }
    }
}

fn put_write(out: &mut Vec<u8>, write: &Write) {
    put_bytes(out, write.key.as_bytes());
    match write.precondition {
        Precondition::None => out.push(NONE),
        Precondition::Absent => out.push(ABSENT),
        Precondition::Revision(revision) => {
            out.push(REVISION);
            put_number(out, revision);
        }
    }
    let body = match &write.operation {
        Operation::Put { body, ttl_seconds: None } => {
            out.push(PUT);
            body
        }
        Operation::Put {
            body,
            ttl_seconds: Some(seconds),
        } => {
            out.push(PUT_WITH_TTL);
            put_number(out, u64::from(*seconds));
            body
        }
        Operation::Delete { last } => {
            out.push(DELETE);
            last
        }
    };
    put_number(out, u64::from(body.revision_at));
    put_bytes(out, &body.bytes);
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Entries of a frame's payload, one after the other.
pub(crate) struct Decoder {
    rest: Bytes,
}

impl Decoder {
    pub(crate) fn new(payload: Bytes) -> Self {
        Self { rest: payload }
    }

    /// The bytes of the next entry, if there is one and it is whole.
    fn next_entry(&mut self) -> Option<Option<Bytes>> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self
            .rest
            .first_chunk::<4>()
            .map(|length| u32::from_le_bytes(*length) as usize);
        let whole = length
            .and_then(|length| length.checked_add(4))
            .filter(|end| *end <= self.rest.len());
        Some(whole.map(|end| self.rest.split_to(end).slice(4..)))
    }

    /// The log ids alone, without the payloads; `None` when the payload is not what [`encode`] writes.
    pub(crate) fn log_ids(mut self) -> Option<Vec<LogId>> {
        let mut ids = Vec::new();
        while let Some(entry) = self.next_entry() {
            ids.push(take_log_id(&mut entry?)?);
        }
        Some(ids)
    }

    /// All entries; `None` when the payload is not what [`encode`] writes.
    pub(crate) fn entries(mut self) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        while let Some(entry) = self.next_entry() {
            let mut rest = entry?;
            let log_id = take_log_id(&mut rest)?;
            let payload = match take_byte(&mut rest)? {
                BLANK => EntryPayload::Blank,
                COMMAND => EntryPayload::Normal(Proposal::from(take_command(&mut rest)?)),
                MEMBERSHIP => EntryPayload::Membership(serde_json::from_slice(&std::mem::take(&mut rest)).ok()?),
                _ => return None,
            };
            if !rest.is_empty() {
                return None;
            }
            entries.push(Entry { log_id, payload });
        }
        Some(entries)
    }
}

fn take_log_id(rest: &mut Bytes) -> Option<LogId> {
    Some(log_id(take_number(rest)?, take_number(rest)?))
}

fn take_command(rest: &mut Bytes) -> Option<Command> {
    let (kind, guards) = match take_byte(rest)? {
        GUARDED => {
            let count = take_count(rest)?;
            let guards = (0..count).map(|_| take_key(rest)).collect::<Option<Vec<_>>>()?;
            (take_byte(rest)?, guards)
        }
        kind => (kind, Vec::new()),
    };
    match kind {
        kind @ (TRANSACTION | FENCED_TRANSACTION) => {
            let fence = if kind == FENCED_TRANSACTION {
                Some(take_number(rest)?)
            } else {
                None
            };
            let now_ms = take_number(rest)?;
            let count = take_count(rest)?;
            let writes = (0..count).map(|_| take_write(rest)).collect::<Option<Vec<_>>>()?;
            Some(Command::Transaction {
                writes,
                now_ms,
                fence,
                guards,
            })
        }
        _ if !guards.is_empty() => None,
        COMPACT => Some(Command::Compact {
            revision: take_number(rest)?,
        }),
        EXPIRE => Some(Command::Expire {
            now_ms: take_number(rest)?,
        }),
        _ => None,
    }
}

fn take_write(rest: &mut Bytes) -> Option<Write> {
    let key = take_key(rest)?;
    let precondition = match take_byte(rest)? {
        NONE => Precondition::None,
        ABSENT => Precondition::Absent,
        REVISION => Precondition::Revision(take_number(rest)?),
        _ => return None,
    };
    let operation = match take_byte(rest)? {
        PUT => Operation::Put {
            ttl_seconds: None,
            body: take_body(rest)?,
        },
        PUT_WITH_TTL => Operation::Put {
            ttl_seconds: Some(u32::try_from(take_number(rest)?).ok()?),
            body: take_body(rest)?,
        },
        DELETE => Operation::Delete { last: take_body(rest)? },
        _ => return None,
    };
    Some(Write {
        key,
        precondition,
        operation,
    })
}

fn take_key(rest: &mut Bytes) -> Option<Key> {
    let key = take_bytes(rest)?;
    Some(Arc::from(std::str::from_utf8(&key).ok()?))
}

/// A number of things that take at least a byte each.
fn take_count(rest: &mut Bytes) -> Option<usize> {
    let count = usize::try_from(take_number(rest)?).ok()?;
    (count <= rest.len()).then_some(count)
}

fn take_body(rest: &mut Bytes) -> Option<Body> {
    let revision_at = u32::try_from(take_number(rest)?).ok()?;
    let bytes = take_bytes(rest)?;
    (revision_at as usize <= bytes.len()).then_some(Body { bytes, revision_at })
}

fn take_byte(rest: &mut Bytes) -> Option<u8> {
    let byte = *rest.first()?;
    *rest = rest.slice(1..);
    Some(byte)
}

fn take_number(rest: &mut Bytes) -> Option<u64> {
    let mut number = 0_u64;
    for (at, byte) in rest.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *rest = rest.slice(at + 1..);
            return Some(number);
        }
    }
    None
}

fn take_bytes(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    (length <= rest.len()).then(|| rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openraft::Membership;
    use proptest::prelude::*;

    use super::*;

    fn write() -> impl Strategy<Value = Write> {
        let precondition = prop_oneof![
            Just(Precondition::None),
            Just(Precondition::Absent),
            any::<u64>().prop_map(Precondition::Revision)
        ];
        let body = proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Body {
            revision_at: u32::try_from(bytes.len() / 2).unwrap(),
            bytes: bytes.into(),
        });
        let operation = prop_oneof![
            (body.clone(), proptest::option::of(any::<u32>()))
                .prop_map(|(body, ttl_seconds)| Operation::Put { body, ttl_seconds }),
            body.prop_map(|last| Operation::Delete { last })
        ];
        ("[a-z/é]{0,40}", precondition, operation).prop_map(|(key, precondition, operation)| Write {
            key: Arc::from(key),
            precondition,
            operation,
        })
    }

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            (
                proptest::collection::vec(write(), 0..4),
                any::<u64>(),
                proptest::option::of(any::<u64>()),
                proptest::collection::vec("[a-z/é]{0,40}".prop_map(Arc::from), 0..3)
            )
                .prop_map(|(writes, now_ms, fence, guards)| Command::Transaction {
                    writes,
                    now_ms,
                    fence,
                    guards,
                }),
            any::<u64>().prop_map(|revision| Command::Compact { revision }),
            any::<u64>().prop_map(|now_ms| Command::Expire { now_ms })
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn entries_come_back_as_they_were(commands in proptest::collection::vec((command(), any::<u64>()), 1..5)) {
            let mut out = Vec::new();
            for (command, number) in &commands {
                let before = out.len();
                let payload = EntryPayload::Normal(Proposal::from(command.clone()));
                encode(&Entry { log_id: log_id(*number, u64::MAX), payload }, &mut out);
                prop_assert!(out.len() - before <= length_max(command));
            }
            let ids = Decoder::new(out.clone().into()).log_ids().unwrap();
            let entries = Decoder::new(out.clone().into()).entries().unwrap();
            prop_assert_eq!(ids, entries.iter().map(|entry| entry.log_id).collect::<Vec<_>>());
            for (entry, (command, number)) in entries.iter().zip(&commands) {
                prop_assert_eq!(entry.log_id, log_id(*number, u64::MAX));
                let EntryPayload::Normal(proposal) = &entry.payload else { panic!("a command was encoded") };
                prop_assert_eq!(format!("{:?}", proposal.command), format!("{command:?}"));
            }
            // Cut anywhere, it is refused (or, between entries, shorter) and never panics.
            for end in 0..out.len() {
                let short = Decoder::new(Bytes::copy_from_slice(&out[..end])).entries();
                prop_assert!(short.is_none_or(|short| short.len() < commands.len()));
            }
        }
    }

    #[test]
    fn blank_and_membership_entries_come_back() {
        let membership = Membership::<u64, crate::Member>::new_with_defaults(vec![BTreeSet::from([1, 2])], [3]);
        let mut out = Vec::new();
        for payload in [EntryPayload::Blank, EntryPayload::Membership(membership.clone())] {
            encode(
                &Entry {
                    log_id: log_id(1, 3),
                    payload,
                },
                &mut out,
            );
        }
        let entries = Decoder::new(out.into()).entries().unwrap();
        assert!(matches!(entries[0].payload, EntryPayload::Blank));
        let EntryPayload::Membership(found) = &entries[1].payload else {
            panic!("a membership was encoded")
        };
        assert_eq!(*found, membership);
    }
}
