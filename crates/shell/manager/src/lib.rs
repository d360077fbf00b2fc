//! Runs reconcilers and the scheduler: keyed queues, back-off, execution of plans.
//!
//! Invariants: one key is reconciled by one worker at a time; a reconciler never sees a cache older than what any
//! controller of this process wrote (see [`written`]); a panic stays with its key. It decides nothing itself: decisions
//! are `reconcile`'s and `scheduling`'s.

pub mod controllers;
mod definitions;
pub mod execute;
mod facts;
pub mod metrics;
pub mod queue;
pub mod registration;
pub mod scheduler;

pub mod written;

mod run;
mod workload_metrics;

pub use metrics::Metrics;
pub use registration::{Context, Key, Registration};
pub use run::Manager;
pub use scheduler::Scheduler;
pub use trireme_scheduling::configuration as scheduler_configuration;
