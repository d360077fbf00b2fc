//! Pod lifecycle as a pure function of spec, observation and time.
//!
//! Invariant: nothing here does I/O, reads a clock or draws a random number. [`plan`] says what to do next,
//! [`status`] what to tell the API; both look at the whole observation each time and remember nothing, so a restart of
//! the kubelet anywhere in between goes on from what the runtime shows.

pub mod admission;
pub mod allocation;
pub mod backoff;
mod conditions;
pub mod downward;
pub mod env;
#[cfg(test)]
mod fixture;
pub mod hosts;
mod init;
pub mod observed;
pub mod plan;
pub mod qos;
pub mod quantity;
pub mod resize;
mod resize_conditions;
pub mod resolv;
pub mod resources;
pub mod restart;
pub mod room;
pub mod services;
pub mod spec;
pub mod status;
mod status_container;
mod status_resources;

pub use backoff::Backoff;
pub use observed::{Container, ContainerState, Observed, ProbeResults, Sandbox, Verdict, Waiting};
pub use plan::{Actions, ContainerKind, KillReason, Step, StopTarget, plan};
pub use resize_conditions::{ResizeCondition, ResizeConditions, event_message};
pub use status::status;
