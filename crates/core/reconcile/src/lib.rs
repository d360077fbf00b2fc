//! Controllers: e(t) = r(t) - y(t). Each file is a pure function from a snapshot of desired and observed state, and the
//! time, to a [`plan::Plan`]. No reconciler is told what changed.

pub mod deployment;
pub mod ownership;
pub mod plan;
pub mod pods;
pub mod replicaset;
pub mod service_account;
pub mod endpoint_slice;
pub mod endpoints;
pub mod endpoints_of;
pub mod service;
