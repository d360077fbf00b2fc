//! The container runtime: images, overlay snapshots, one shim per pod, cgroups.

mod capability;
mod cgroup;
pub mod cri;
pub mod images;
mod protocol;
mod rootfs;
mod service;
pub mod shim;
mod spec;
mod state;
mod sys;
mod user;

pub use service::{Runtime, RuntimeConfig};
pub use sys::TextPages;
