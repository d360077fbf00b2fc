//! Placement of a pod on a node as a pure function: [`schedule`] of a [`Snapshot`] and a pod.
//!
//! Invariant: the same snapshot, pod and seed give the same node. It holds no queue and knows no time; the manager's
//! scheduler loop does. Filters and scores, their order, weights and texts are upstream's
//! (pkg/scheduler/framework/plugins). It does not preempt.

pub mod affinity;
pub mod filter;
pub mod node;
pub mod requests;
pub mod score;
pub mod selector;
pub mod spread;

mod schedule;

pub use node::{NodeState, Snapshot};
pub use requests::{HostPort, PodRequests, Resources};
pub use schedule::{Placement, Unschedulable, schedule};
