//! How servers and agents join a cluster: the token, what is asked and answered, and both ends of it.
//!
//! Invariant: whoever joins sends nothing secret before the other side has proved that it holds the CA that the token
//! names; whoever is asked changes nothing before every check has passed.

pub mod client;
pub mod server;
pub mod token;
pub mod wire;
