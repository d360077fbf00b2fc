//! The HTTP face: what a request asks for, what an answer looks like on the wire, and the server loop.

pub mod accept;
pub mod body;
pub mod decode;
mod frugal;
pub mod handle;
pub mod impersonation;
mod indent;
pub mod non_resource;
mod peers;
pub mod query;
pub mod resources;
pub mod respond;
pub mod router;
pub mod serve;
mod unread;
pub mod watch_stream;
pub mod yaml;
