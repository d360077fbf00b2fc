//! Decisions about requests: who may do what, and what is admitted. Pure: objects come as arguments.

pub mod admission;
pub mod bootstrap;
pub mod node;
pub mod pod_security;
pub mod rbac;
pub mod webhook;
