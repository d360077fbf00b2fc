//! The three kinds of patches that are not server-side apply.
//!
//! Invariant: a patch is applied to a copy and either gives the whole result or a `Status`; what comes out is to be
//! decoded again against the field table. Work and memory are bounded by the ledger, not only by the body.

mod json;
mod strategic;

use serde_json::{Map, Value};
use trireme_api::cost::{CostError, Ledger};
use trireme_api::decode::{self, DecodeError};
use trireme_api::{Status, StatusDetails, go};

use crate::rows::Resource;

/// Operations of a JSON patch above this number are refused.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// What a patch gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    /// The document with the patch applied.
    pub value: Value,
    /// What strict decoding finds in the patch itself, such as `duplicate field "spec.replicas"`.
    pub strict: Vec<String>,
}

/// Applies a JSON patch (RFC 6902). `look` says whether strict decoding's findings are wanted.
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations or one that costs too much, 422 where an operation does not apply.
pub fn json_patch(doc: &Value, patch: &[u8], look: bool) -> Result<Patched, Status> {
    let mut ledger = Ledger::new();
    let (operations, strict) = json::operations(patch, look, &mut ledger).map_err(|why| no_patch(why, true))?;
    if operations.len() > JSON_PATCH_OPERATIONS_MAX {
        return Err(Status::failure(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
                operations.len()
            ),
        ));
    }
    match json::apply(doc.clone(), operations, &mut ledger) {
        Ok(value) => Ok(Patched { value, strict }),
        // Upstream hides its limit on copies like everything else; the limit of our own on shifting is told.
        Err(json::Refused::Cost(error @ CostError::Shifted)) => Err(error.into()),
        Err(json::Refused::Unfit | json::Refused::Cost(_)) => Err(unprocessable()),
    }
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
pub fn merge_patch(doc: &Value, patch: &[u8], look: bool) -> Result<Patched, Status> {
    let (patch, strict) = object(patch, look).map_err(|why| no_patch(why, true))?;
    let patch = patch.ok_or_else(|| Status::bad_request("Invalid JSON Patch"))?;
    let mut value = doc.clone();
    merge(&mut value, patch);
    Ok(Patched { value, strict })
}

/// Lays a merge patch over a value: nulls remove, objects merge, all else replaces.
fn merge(value: &mut Value, patch: Map<String, Value>) {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(members) = value else { return };
    for (name, sent) in patch {
        match sent {
            Value::Null => drop(members.remove(&name)),
            Value::Object(sent) => merge(members.entry(name).or_insert(Value::Null), sent),
            Value::Array(mut items) => {
                items.iter_mut().for_each(prune);
                members.insert(name, Value::Array(items));
            }
            other => drop(members.insert(name, other)),
        }
    }
}

/// Takes nulls out of the objects of a list; those of the list itself stay.
fn prune(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(prune);
        }
        _ => {}
    }
}

/// Applies a strategic merge patch along the field table.
///
/// # Errors
/// 400 for a malformed directive, 500 (as upstream) for a missing merge key, an unknown directive or a wrong order.
pub fn strategic_merge(row: &Resource, doc: &Value, patch: &[u8], look: bool) -> Result<Patched, Status> {
    let (patch, strict) = object(patch, look).map_err(|why| no_patch(why, false))?;
    let mut patch = patch.unwrap_or_default();
    patch.values_mut().for_each(whole_numbers);
    let value = strategic::merge(row.schema(), doc, patch)?;
    Ok(Patched { value, strict })
}

/// Takes floats without a fraction for whole numbers, as upstream's conversion from a map does.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15) {
                #[allow(clippy::cast_possible_truncation)] // whole and below 2^53
                let whole = float as i64;
                *value = Value::from(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(members) => members.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// An object's members, none for null, and what a strict look at it finds.
type Members = (Option<Map<String, Value>>, Vec<String>);

/// Parses a patch body that must be an object or null.
fn object(patch: &[u8], look: bool) -> Result<Members, DecodeError> {
    let decoded = decode::any(patch, look, &mut Ledger::new())?;
    match decoded.value {
        Value::Object(members) => Ok((Some(members), decoded.warnings)),
        Value::Null => Ok((None, Vec::new())),
        other => Err(DecodeError::Type(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go::kind(&other)
        ))),
    }
}

fn no_patch(why: DecodeError, told: bool) -> Status {
    match why {
        DecodeError::Cost(error) => error.into(),
        why if told => Status::bad_request(format!("error decoding patch: {why}")),
        why => Status::bad_request(why.to_string()),
    }
}

#[cfg(test)]
mod tests;
