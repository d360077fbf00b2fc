//! What is replicated: commands, and the answers that applying them gives.
//!
//! Invariant: applying a command depends on the state and the command alone; time and ids are in the command.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use trireme_api::bulk::Spliced;
use trireme_api::{Object, write};

/// Where an object lives: `group/resource/namespace/name`, the group empty for core and the namespace empty for
/// cluster-scoped resources (`apps/deployments/default/nginx`, `/nodes//node-1`). Keys sort as bytes, which is the
/// order of lists.
pub type Key = std::sync::Arc<str>;

/// A revision of the whole store; it is what `resourceVersion` shows. Starts at 1.
pub type Revision = u64;

/// One entry of the replicated log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// All writes or none, at one new revision.
    Transaction {
        /// Each key at most once.
        writes: Vec<Write>,
        /// The proposer's clock in Unix milliseconds: TTLs count from here.
        now_ms: u64,
        /// The term in which alone this may be applied: what a leader's controllers write, no later leader takes over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fence: Option<u64>,
        /// Keys, other than the writes', whose objects must be there and not be being deleted: what is created in a
        /// namespace names the namespace's.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        guards: Vec<Key>,
    },
    /// Forget history below this revision; reads and watches from before it are answered with "compacted".
    Compact {
        /// The oldest revision that stays readable.
        revision: Revision,
    },
    /// Delete all keys whose TTL has run out at `now_ms`, each as an ordinary deletion.
    Expire {
        /// Unix milliseconds.
        now_ms: u64,
    },
}

/// One write of a transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Write {
    /// Which key.
    pub key: Key,
    /// What must hold of the key for the transaction to commit.
    pub precondition: Precondition,
    /// What to do.
    pub operation: Operation,
}

/// A condition on a key's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// The key does not exist.
    Absent,
    /// The key exists and was last changed at this revision.
    Revision(Revision),
    /// No condition.
    None,
}

/// A put or a delete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Store this body.
    Put {
        /// The new object.
        body: Body,
        /// Seconds after which the key expires, counted from the command's `now_ms`.
        ttl_seconds: Option<u32>,
    },
    /// Remove the key. The body is the last state that the DELETED event shows, with the deletion's revision.
    Delete {
        /// The object as it was, or as its last update made it.
        last: Body,
    },
}

/// Canonical JSON of an object without `metadata.resourceVersion`, and the place where the state machine writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Body {
    /// JSON bytes.
    pub bytes: Bytes,
    /// Byte offset at which `"resourceVersion":"N",` is inserted: right behind the opening brace of `metadata`, which
    /// must have at least one other member.
    pub revision_at: u32,
}

/// What applying a command gave.
#[derive(Clone, Debug)]
pub enum Applied {
    /// A transaction committed; one object per write in order, as stored (or as last shown, for a delete).
    Committed {
        /// The new revision.
        revision: Revision,
        /// The objects, with their resourceVersion in the bytes.
        objects: Vec<Object>,
    },
    /// A precondition failed; nothing changed.
    Conflict {
        /// Index of the first write whose precondition failed.
        write: usize,
        /// What the key holds.
        current: Option<Object>,
    },
    /// A guard's object is not there or is being deleted; nothing changed.
    Unguarded {
        /// Index of the first such guard.
        guard: usize,
    },
    /// The transaction was fenced to another term than the one it came in; nothing changed.
    Fenced {
        /// The term of its log entry.
        term: u64,
    },
    /// Compaction or expiry done.
    Done,
}

impl Body {
    /// Serialises a value, leaving out `metadata.resourceVersion` and noting where it belongs.
    ///
    /// # Panics
    /// When the value has no `metadata` object with a member other than `resourceVersion`: every stored object has a
    /// name (our own bug otherwise).
    #[must_use]
    pub fn new(value: serde_json::Value) -> Self {
        Self::spliced(value, None)
    }

    /// Likewise, with a text in the place of one member, which is not in `metadata`.
    ///
    /// # Panics
    /// As [`Self::new`].
    #[must_use]
    pub fn spliced(mut value: serde_json::Value, with: Option<Spliced<'_>>) -> Self {
        let metadata = value["metadata"].as_object_mut().expect("a stored object has metadata");
        metadata.remove("resourceVersion");
        assert!(!metadata.is_empty(), "a stored object's metadata has a name");
        let bytes = write::spliced(value, with);
        let revision_at = metadata_offset(&bytes).expect("metadata was just serialised");
        Self {
            bytes: bytes.into(),
            revision_at: u32::try_from(revision_at).expect("bodies are below 4 GiB"),
        }
    }

    /// The body of a stored object again: its bytes without `metadata.resourceVersion`, found without parsing. What a
    /// deletion of an unchanged object needs.
    ///
    /// # Panics
    /// When the object was not made by the state machine (our own bug).
    #[must_use]
    pub fn from_object(object: &Object) -> Self {
        const NAME: &[u8] = b"\"resourceVersion\":\"";
        let bytes = object.bytes();
        let at = metadata_offset(bytes).expect("a stored object has metadata");
        let value = at + NAME.len();
        assert!(
            bytes[at..].starts_with(NAME),
            "a stored object's metadata begins with its resourceVersion"
        );
        let digits = bytes[value..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let rest = value + digits + 2;
        let mut out = Vec::with_capacity(bytes.len() - (rest - at));
        out.extend_from_slice(&bytes[..at]);
        out.extend_from_slice(&bytes[rest..]);
        Self {
            bytes: out.into(),
            revision_at: u32::try_from(at).expect("bodies are below 4 GiB"),
        }
    }

    /// The stored bytes at a revision.
    #[must_use]
    pub fn at(&self, revision: Revision) -> Bytes {
        let at = self.revision_at as usize;
        let member = format!("\"resourceVersion\":\"{revision}\",");
        // Exactly as long as needed: the bytes stay for as long as the object lives.
        let mut out = Vec::with_capacity(self.bytes.len() + member.len());
        out.extend_from_slice(&self.bytes[..at]);
        out.extend_from_slice(member.as_bytes());
        out.extend_from_slice(&self.bytes[at..]);
        out.into()
    }
}

/// Offset right behind the brace that opens the top-level `metadata` of compact JSON.
fn metadata_offset(bytes: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\"metadata\":{";
    let (mut depth, mut in_string, mut at) = (0_u32, false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' if in_string => in_string = false,
            b'"' => {
                if depth == 1 && bytes[at..].starts_with(NAME) {
                    return Some(at + NAME.len());
                }
                in_string = true;
            }
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}
