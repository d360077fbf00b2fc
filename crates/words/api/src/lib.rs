//! The words of the Kubernetes API: field table, object bytes and views, metadata, quantity, selectors, JSON and
//! protobuf. No async, no I/O, no clock.

pub mod bulk;
pub mod cost;
pub mod decode;
pub mod decoded;
pub mod facts;
pub mod field;
pub mod fit;
pub mod go;
pub mod object;
pub mod path;
pub mod protobuf;
pub mod quantity;
mod read;
pub mod schema;
pub mod selector;
mod splice;
pub mod status;
pub mod time;
pub mod volume;
pub mod write;

pub use object::{Header, Object, Owner};
pub use status::{Status, StatusCause, StatusDetails};
