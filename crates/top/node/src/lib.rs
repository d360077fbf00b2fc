//! A server or an agent: Config → build → spawn. It holds the wiring of all parts and their life cycle, the cluster's
//! keys, and nothing that a part could decide for itself.

pub mod admin;
mod agent;
mod announce;
mod certificates;
mod cluster;
pub mod config;
mod control;
mod files;
mod footprint;
pub mod hollow;
pub mod join;
pub mod kubeconfig;
pub mod live;
mod local_volumes;
mod mesh;
mod metrics;
mod node;
mod peers;
pub mod pki;
mod place;
pub mod renewal;
mod seams;
mod server;
mod signer;
mod tls;

pub use agent::run_agent;
pub use server::run_server;

/// The version of Kubernetes whose API this is, as `/version` and `nodeInfo` show it.
pub const KUBERNETES_VERSION: &str = concat!("v1.36.2+trireme.", env!("CARGO_PKG_VERSION"));
