//! Links, addresses, routes and nftables of a node.
//!
//! Invariant: it touches only what it made: the bridge, the `tri…` links on it, the tunnel `trireme-vx`, routes of its own
//! protocol number, the tables called `trireme`, and the sysctls of forwarding. It works in whatever network namespace its caller is in, a lab host's or the machine's. It will
//! not decide rules: scripts come as text.

mod addresses;
pub mod conntrack;
mod detect;
mod error;
mod frames;
mod guard;
mod links;
mod mesh;
mod namespace;
mod nft;
mod paths;
mod pod_network;
mod range;
mod sources;
mod sys;
mod sysctl;
mod virtual_address;

pub use detect::main_address;
pub use error::NetworkError;
pub use guard::{guard, lasting_addresses};
pub use mesh::{PodMesh, TUNNEL};
pub use nft::{Nft, NftError, Nftables};
pub use pod_network::{PodNetwork, PodNetworkConfig};
pub use range::{Ipv4Range, RangeError};
pub use virtual_address::{Duty, Holder, LIFETIME_S, Renewal, VirtualAddress};
