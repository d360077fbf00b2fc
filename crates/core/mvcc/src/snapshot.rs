//! The state as bytes: whole records in chunks, so that a snapshot streams and loads with bounded memory.
//!
//! Invariant: loading what freezing wrote gives the same revision, objects and expiries. History is not part of it:
//! a state from a snapshot can be read and watched from its own revision on. Integrity (checksums) is the caller's.

use std::sync::Arc;

use bytes::Bytes;
use im::OrdMap;
use trireme_api::Object;

use crate::{Key, Revision, State};

/// A chunk is closed once it is at least this long.
pub const CHUNK_BYTES: usize = 256 << 10;

const VERSION: u8 = 1;

/// Why bytes are not a snapshot of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by another version.
    #[error("snapshot version {0} is not known")]
    Version(u8),
    /// A record does not fit its chunk, or is not what it should be.
    #[error("a record is malformed")]
    Malformed,
    /// The number of objects is not the one that was announced.
    #[error("{found} objects where {announced} were announced")]
    Incomplete {
        /// How many came.
        found: u64,
        /// How many should have.
        announced: u64,
    },
}

/// A frozen state that chunks are made from while the state goes on.
#[derive(Debug, Clone)]
pub struct Frozen {
    revision: Revision,
    objects: OrdMap<Key, Object>,
    expiries: OrdMap<Key, u64>,
}

impl State {
    /// Freezes the state in constant time.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        Frozen {
            revision: self.revision,
            objects: self.objects.clone(),
            expiries: self.expiries.clone(),
        }
    }
}

impl Frozen {
    /// The revision of the frozen state.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The chunks in order; the first holds the head.
    pub fn chunks(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let mut head = vec![VERSION];
        head.extend_from_slice(&self.revision.to_le_bytes());
        head.extend_from_slice(&(self.objects.len() as u64).to_le_bytes());
        let mut objects = self.objects.iter();
        let mut head = Some(head);
        std::iter::from_fn(move || {
            let mut chunk = head.take().unwrap_or_default();
            while chunk.len() < CHUNK_BYTES {
                let Some((key, object)) = objects.next() else { break };
                let expiry = self.expiries.get(&**key).copied().unwrap_or(0);
                put_record(&mut chunk, key, expiry, object.bytes());
            }
            (!chunk.is_empty()).then_some(chunk)
        })
    }
}

fn put_record(chunk: &mut Vec<u8>, key: &str, expiry: u64, bytes: &[u8]) {
    let length = |length: usize| u32::try_from(length).expect("keys and bodies are below 4 GiB").to_le_bytes();
    chunk.reserve(16 + key.len() + bytes.len());
    chunk.extend_from_slice(&length(key.len()));
    chunk.extend_from_slice(&length(bytes.len()));
    chunk.extend_from_slice(&expiry.to_le_bytes());
    chunk.extend_from_slice(key.as_bytes());
    chunk.extend_from_slice(bytes);
}

/// Builds a state from chunks, fed in order.
#[derive(Debug, Default)]
pub struct Loader {
    head: Option<(Revision, u64)>,
    objects: OrdMap<Key, Object>,
    expiries: OrdMap<Key, u64>,
}

impl Loader {
    /// Nothing loaded yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// When it is not what [`Frozen::chunks`] writes.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), DecodeError> {
        let mut rest = chunk;
        if self.head.is_none() {
            let [version] = *take::<1>(&mut rest)?;
            if version != VERSION {
                return Err(DecodeError::Version(version));
            }
            let revision = u64::from_le_bytes(*take::<8>(&mut rest)?);
            self.head = Some((revision, u64::from_le_bytes(*take::<8>(&mut rest)?)));
        }
        while !rest.is_empty() {
            let key = u32::from_le_bytes(*take::<4>(&mut rest)?) as usize;
            let body = u32::from_le_bytes(*take::<4>(&mut rest)?) as usize;
            let expiry = u64::from_le_bytes(*take::<8>(&mut rest)?);
            let (key, after) = rest.split_at_checked(key).ok_or(DecodeError::Malformed)?;
            let (body, after) = after.split_at_checked(body).ok_or(DecodeError::Malformed)?;
            rest = after;
            let key: Key = Arc::from(std::str::from_utf8(key).map_err(|_| DecodeError::Malformed)?);
            let object = Object::parse(Bytes::copy_from_slice(body)).map_err(|_| DecodeError::Malformed)?;
            if expiry != 0 {
                self.expiries.insert(Arc::clone(&key), expiry);
            }
            self.objects.insert(key, object);
        }
        Ok(())
    }

    /// The state, once all chunks are in.
    ///
    /// # Errors
    /// When chunks are missing.
    pub fn finish(self) -> Result<State, DecodeError> {
        let (revision, announced) = self.head.ok_or(DecodeError::Malformed)?;
        let found = self.objects.len() as u64;
        if found != announced {
            return Err(DecodeError::Incomplete { found, announced });
        }
        Ok(State::from_parts(revision, self.objects, self.expiries, revision))
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], DecodeError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(DecodeError::Malformed)?;
    *rest = tail;
    Ok(head)
}
