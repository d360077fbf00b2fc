//! Controllers: e(t) = r(t) - y(t). Each file is a pure function from a snapshot of desired and observed state, and the
//! time, to a [`plan::Plan`]. No reconciler is told what changed.

pub mod account_token;
pub mod cluster_role_aggregation;
pub mod cron_job;
pub mod csr;
pub mod csr_approving;
pub mod csr_cleaner;
pub mod csr_signing;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod endpoints_of;
pub mod garbage;
pub mod history;
pub mod job;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod ownership;
pub mod plan;
pub mod pod_gc;
pub mod pods;
pub mod replicaset;
pub mod replication_controller;
pub mod resource_quota;
pub mod root_ca;
pub mod service;
pub mod service_account;
pub mod statefulset;
pub mod storage_protection;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod ttl_after_finished;
