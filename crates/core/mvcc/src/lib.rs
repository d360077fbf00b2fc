//! The replicated state machine: an in-memory MVCC map with history. Pure: no clock, no I/O, no randomness.

pub mod command;
mod event;
mod history;
mod snapshot;
mod state;
mod topic;

pub use command::{Applied, Body, Command, Key, Operation, Precondition, Revision, Write};
pub use event::{Event, EventKind};
pub use history::{HISTORY_BYTES_MAX, HISTORY_EVENTS_MAX};
pub use snapshot::{CHUNK_BYTES, DecodeError, Frozen, Loader};
pub use state::{EXPIRE_KEYS_MAX, Page, ReadError, State, Tail, View};
pub use topic::topic;
