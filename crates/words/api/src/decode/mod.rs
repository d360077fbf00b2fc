//! Request bodies to JSON values, as the API server's typed decoders see them: unknown fields dropped and told,
//! duplicate fields told, wrong types refused with Go's words.
//!
//! Invariant: what comes out fits the field table, in the form of Go's decode and encode round trip
//! ([`canonicalize`]). It will not look at `apiVersion` and `kind`, convert, default or validate.

mod canonical;
mod typed;

pub use canonical::canonicalize;
pub use typed::{json, value};

use serde_json::Value;

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// From the query parameter `fieldValidation`; empty means `Warn`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The value, canonical.
    pub value: Value,
    /// Warnings such as `unknown field "spec.foo"`, in the order of the body.
    pub warnings: Vec<String>,
}

/// Why a body is refused. `Display` is what upstream puts after `X in version "v1" cannot be handled as a X: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON; Go's message such as `unexpected end of JSON input`.
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong type or form; Go's message.
    #[error("{0}")]
    Type(String),
    /// Unknown or duplicate fields under [`FieldValidation::Strict`].
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}
