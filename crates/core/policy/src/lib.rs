//! Decisions about requests: who may do what, and what is admitted. Pure: objects come as arguments.

pub mod bootstrap;
pub mod rbac;
