//! A server or an agent: Config → build → spawn. It holds the wiring of all parts and their life cycle, the cluster's
//! keys, and nothing that a part could decide for itself.

pub mod config;
mod files;
pub mod kubeconfig;
pub mod pki;
