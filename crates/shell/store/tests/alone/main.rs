//! A store of one server, on a disk of its own: what it promises to those who write, read and watch, and to its files.

#[path = "../common/mod.rs"]
mod common;
mod disk_full;
#[path = "../common/host.rs"]
mod host;
mod missing;
mod reopen;
mod upkeep;
mod watch;
