//! The words of the Kubernetes API: field table, object bytes and views, metadata, quantity, selectors, JSON and
//! protobuf. No async, no I/O, no clock.

pub mod field;
pub mod object;
pub mod status;

pub use object::{Header, Object, Owner};
pub use status::{Status, StatusCause, StatusDetails};
