//! Decoding.

use serde_json::Value;

use super::{ProtobufError, Unknown};
use crate::schema::Struct;

/// A bare message to its canonical JSON value.
///
/// # Errors
/// As [`ProtobufError`] says.
pub fn decode(_bytes: &[u8], _ty: &'static Struct) -> Result<Value, ProtobufError> {
    Err(ProtobufError::Truncated)
}

/// The envelope of a top-level object.
///
/// # Errors
/// As [`ProtobufError`] says.
pub fn unwrap(_bytes: &[u8]) -> Result<Unknown, ProtobufError> {
    Err(ProtobufError::Magic)
}
