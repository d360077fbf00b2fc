//! The replicated state machine: an in-memory MVCC map with history. Pure: no clock, no I/O, no randomness.

pub mod command;

pub use command::{Applied, Body, Command, Key, Operation, Precondition, Revision, Write};
