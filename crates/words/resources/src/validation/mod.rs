//! What is wrong with an object, all of it, with upstream's paths and texts.
//!
//! Invariant: a validator changes nothing and returns every problem it finds.

use serde_json::Value;
use trireme_api::field::FieldError;

use crate::rows::Resource;

/// Problems of an object to create.
#[must_use]
pub fn create(_row: &Resource, _value: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// Problems of an update; `subresource` says through which door it came.
#[must_use]
pub fn update(_row: &Resource, _new: &Value, _old: &Value, _subresource: Option<&str>) -> Vec<FieldError> {
    Vec::new()
}

/// Warnings for an object that is accepted.
#[must_use]
pub fn warnings(_row: &Resource, _value: &Value) -> Vec<String> {
    Vec::new()
}
