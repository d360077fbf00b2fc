//! The three kinds of patches that are not server-side apply.
//!
//! Invariant: a patch is applied to a copy and either gives the whole result or a `Status`; what comes out is to be
//! decoded again against the field table.

mod go;
mod strategic;

use serde_json::Value;
use trireme_api::{Status, StatusDetails};

use crate::rows::Resource;

/// Operations of a JSON patch above this number are refused.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// Applies a JSON patch (RFC 6902).
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations, 422 where an operation does not apply.
pub fn json_patch(doc: &Value, patch: &[u8]) -> Result<Value, Status> {
    let operations: Vec<Value> = serde_json::from_slice(patch)
        .map_err(|_| Status::bad_request(format!("error decoding patch: {}", not_a(patch, "[]handlers.jsonPatchOp"))))?;
    if operations.len() > JSON_PATCH_OPERATIONS_MAX {
        return Err(Status::failure(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity is too large: The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
                operations.len()
            ),
        ));
    }
    let mut out = doc.clone();
    for operation in operations {
        // Upstream's library adds to an absent list or object only where its parent is there: the same as the crate.
        let operation: json_patch::PatchOperation = serde_json::from_value(operation).map_err(|_| unprocessable())?;
        json_patch::patch(&mut out, &[operation]).map_err(|_| unprocessable())?;
    }
    Ok(out)
}

/// The answer for a patch that does not apply: upstream keeps the cause to itself.
fn unprocessable() -> Status {
    Status::failure(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
    )
    .with_details(StatusDetails::default())
}

/// Applies a merge patch (RFC 7386).
///
/// # Errors
/// 400 when the patch is not a JSON object.
pub fn merge_patch(doc: &Value, patch: &[u8]) -> Result<Value, Status> {
    let patch = object(patch).map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?;
    let mut out = doc.clone();
    json_patch::merge(&mut out, &patch);
    Ok(out)
}

/// Applies a strategic merge patch along the field table.
///
/// # Errors
/// 400 for a malformed directive, 500 (as upstream) for a missing merge key, an unknown directive or a wrong order.
pub fn strategic_merge(row: &Resource, doc: &Value, patch: &Value) -> Result<Value, Status> {
    strategic::merge(row.schema(), doc, patch)
}

/// Parses a patch body that must be an object; the error is Go's text.
///
/// # Errors
/// With Go's words for what the body is instead.
pub fn object(patch: &[u8]) -> Result<Value, String> {
    match serde_json::from_slice(patch) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(not_a(patch, "map[string]interface {}")),
    }
}

fn not_a(patch: &[u8], go_type: &str) -> String {
    match serde_json::from_slice::<Value>(patch) {
        Ok(value) => format!("json: cannot unmarshal {} into Go value of type {go_type}", go::kind(&value)),
        Err(error) if error.is_eof() => "unexpected end of JSON input".to_owned(),
        Err(error) => go::syntax(patch, &error),
    }
}

#[cfg(test)]
mod tests;
