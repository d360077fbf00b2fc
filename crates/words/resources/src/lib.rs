//! Resource rows, defaults, validation, patches, server-side apply and tables.
//!
//! Invariant: everything here is a function of its arguments: rows are data, objects are `serde_json::Value`, time comes
//! in as text. No async, no I/O, no clock.

pub mod apply;
pub mod convert;
pub mod cron;
pub mod custom;
pub mod defaults;
pub mod patch;
pub mod quota;
pub mod references;
pub mod rows;
pub mod selectable;
pub mod strategy;
pub mod table;
pub mod unenforced;
pub mod validation;

pub use convert::convert;
pub use rows::{Defined, Group, Resource, Subresource, Unenforced, by_storage, find, find_kind, groups, rows};
