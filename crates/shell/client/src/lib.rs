//! The transport trait, typed access and the shared cache: how every part of Trireme reaches the API.
//!
//! Invariant: nothing here goes around authentication, authorisation or admission; a [`Transport`] is the only way out.

pub mod cache;
pub mod clock;
pub mod events;
pub mod failover;
pub mod https;
pub mod kinds;
pub mod servers;
pub mod testing;
pub mod transport;
pub mod typed;

mod correlate;
mod reflector;
mod refused;
mod store;

pub use cache::{Cache, Subscription};
pub use clock::{Clock, ManualClock, SystemClock};
pub use events::{EventRecorder, EventType, Regarding};
pub use failover::{Credentials, Failover};
pub use https::HttpsTransport;
pub use kinds::Kinds;
pub use servers::{ServerAddress, Servers};
pub use store::Change;
pub use transport::{
    DeleteOptions, ListOptions, ObjectList, Patch, Propagation, ResourceRef, ScopeName, Target, Transport, WatchEvent,
    WatchOptions, WriteOptions,
};
pub use typed::{ApiObject, Client, retry_on_conflict};
