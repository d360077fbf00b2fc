//! Placement of a pod on a node as a pure function: [`decide`] of a [`Snapshot`] and a pod, and [`preempt`] where it fits nowhere.
//!
//! Invariant: the same snapshot, pod and seed give the same node. It holds no queue and knows no time; the manager's
//! scheduler loop does. Filters and scores, their order, weights, rounding and texts are upstream's
//! (pkg/scheduler/framework/plugins); `tests/placement/reference.rs` holds them against a slow, obvious implementation.

pub mod configuration;
pub mod explain;
pub mod filter;
pub mod hints;
pub mod node;
pub mod pod;
pub mod profile;
pub mod requests;
pub mod selector;
pub mod volumes;

mod preempt;
mod relations;
mod schedule;
mod score;
mod snapshot;
mod topology;
mod view;

pub use filter::{Plugins, Rejection};
pub use node::{NodeRecord, NodeState};
pub use pod::{PodRecord, Template, Templates};
pub use preempt::{Preemption, preempt};
pub use profile::Profile;
pub use requests::{HostPort, PodRequests, Resources};
pub use schedule::{Placement, Refused, decide, rank};
pub use snapshot::{CONTROLLERS, Snapshot};
