//! The container runtime: images, overlay snapshots, one shim per pod, cgroups.

pub mod cri;
