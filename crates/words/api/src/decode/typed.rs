//! Typed decoding with Go's messages.
use serde_json::Value;
use super::{DecodeError, Decoded, FieldValidation, canonicalize};
use crate::schema::Struct;

/// Decodes JSON.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn json(bytes: &[u8], ty: &'static Struct, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    let parsed: Value = serde_json::from_slice(bytes).map_err(|error| DecodeError::Syntax(error.to_string()))?;
    value(parsed, ty, mode)
}

/// Decodes an already parsed value.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn value(mut value: Value, ty: &'static Struct, _mode: FieldValidation) -> Result<Decoded, DecodeError> {
    canonicalize(&mut value, ty);
    Ok(Decoded { value, warnings: Vec::new() })
}
