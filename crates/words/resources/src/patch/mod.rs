//! The three kinds of patches that are not server-side apply.
//!
//! Invariant: a patch is applied to a copy and either gives the whole result or a `Status`; what comes out is to be
//! decoded again against the field table. Work and memory are bounded by the ledger, not only by the body.

mod json;
mod lazy;
mod strategic;

use serde_json::{Map, Value};
use trireme_api::bulk::{self, Present};
use trireme_api::cost::{CostError, Ledger};
use trireme_api::decode::{self, DecodeError, Node, Touched};
use trireme_api::schema::Struct;
use trireme_api::{Status, StatusDetails, go};

use self::lazy::{Lazy, Members};

use crate::rows::Resource;

/// Operations of a JSON patch above this number are refused.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// What a patch gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched<T> {
    /// The document with the patch applied.
    pub document: T,
    /// What strict decoding finds in the patch itself, such as `duplicate field "spec.replicas"`.
    pub strict: Vec<String>,
    /// What of the document it may have changed, where the document does not say so itself.
    pub touched: Touched,
    /// Whether the bulk of the object that is patched stayed where it is, or what stands there for it.
    pub kept: bool,
}

/// Applies a JSON patch (RFC 6902) to an object of that type. `look` says whether strict decoding's findings are wanted. The
/// outcome is in the order in which upstream writes it.
///
/// # Errors
/// 400 for what is no patch, 413 for too many operations or one that costs too much, 422 where an operation does not apply.
pub fn json_patch<'a>(
    ty: &'static Struct,
    present: &'a Present,
    patch: &'a [u8],
    look: bool,
) -> Result<Patched<Node<'a>>, Status> {
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
    let mut document = lazy::document(present.value(), ty);
    if let Some(at) = present.bulk_at().filter(|at| json::look_into(&operations, at))
        && let Some(bulk) = present.bulk_node()
    {
        lazy::put(&mut document, at, bulk);
    }
    match json::apply(document, operations, &mut ledger) {
        Ok(document) => {
            let document = lazy::whole(document, ty)?;
            Ok(Patched {
                kept: keeps(&document, present),
                document,
                strict,
                touched: Touched::All,
            })
        }
        // Upstream hides its limit on copies like everything else; the limit of our own on shifting is told.
        Err(json::Refused::Cost(error @ CostError::Shifted)) => Err(error.into()),
        Err(json::Refused::Unfit | json::Refused::Cost(_)) => Err(unprocessable()),
    }
}

/// Why the patch of an admission webhook is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnfitPatch {
    /// It is no JSON patch.
    #[error("{0}")]
    Undecodable(String),
    /// An operation does not apply; in upstream's library's words.
    #[error("{0}")]
    Unfit(String),
    /// It would cost too much.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// Applies the JSON patch of an admission webhook to an object of that type; none where it has no operations.
///
/// # Errors
/// What the webhook's mistake is, to be told to whom asked for the write.
pub fn by_webhook<'a>(ty: &'static Struct, present: &'a Present, patch: &'a [u8]) -> Result<Option<Node<'a>>, UnfitPatch> {
    let mut ledger = Ledger::new();
    let decoded = json::operations(patch, false, &mut ledger);
    let (operations, _) = decoded.map_err(|error| match error {
        DecodeError::Cost(error) => UnfitPatch::Cost(error),
        error => UnfitPatch::Undecodable(error.to_string()),
    })?;
    if operations.is_empty() {
        return Ok(None);
    }
    if operations.len() > JSON_PATCH_OPERATIONS_MAX {
        return Err(UnfitPatch::Unfit(format!(
            "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let document = lazy::document(present.whole(), ty);
    let document = json::apply_telling(document, operations, &mut ledger).map_err(|why| match why {
        Ok(text) => UnfitPatch::Unfit(text),
        Err(error) => UnfitPatch::Cost(error),
    })?;
    match lazy::whole(document, ty) {
        Ok(document) => Ok(Some(document)),
        Err(error) => Err(UnfitPatch::Unfit(Status::from(error).message)),
    }
}

/// Whether a document holds what stands for the bulk of the present object.
fn keeps(document: &Node<'_>, present: &Present) -> bool {
    let own = present.bulk_at().and_then(|at| Some((at, bulk::at(present.value(), at)?)));
    own.is_some_and(|(at, own)| document.holds(at, own))
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

/// Applies a merge patch (RFC 7386) to an object of that type. The outcome is in the order in which upstream writes it.
///
/// # Errors
/// 400 when the patch is not a JSON object.
pub fn merge_patch<'a>(
    ty: &'static Struct,
    present: &'a Present,
    patch: &'a [u8],
    look: bool,
) -> Result<Patched<Node<'a>>, Status> {
    let mut ledger = Ledger::new();
    let (patch, strict) = decode::any_node(patch, look, &mut ledger).map_err(|why| no_patch(why, true))?;
    let mut patch = match patch {
        patch @ Node::Object(_) => Lazy::Sent(patch),
        Node::Null => return Err(Status::bad_request("Invalid JSON Patch")),
        other => return Err(no_patch(no_object(other.kind()), true)),
    };
    // A list stays as it is or is replaced.
    let mut document = lazy::document(present.value(), ty);
    if let Some(sent) = patch.as_members() {
        merge(&mut document, std::mem::take(sent));
    }
    let document = lazy::whole(Lazy::Object(document), ty)?;
    Ok(Patched {
        kept: keeps(&document, present),
        document,
        strict,
        touched: Touched::All,
    })
}

/// Lays a merge patch over an object: nulls remove, objects merge, all else replaces.
fn merge<'a>(members: &mut Members<'a>, patch: Members<'a>) {
    for (name, mut sent) in patch {
        if sent.is_null() {
            members.remove(&name);
            continue;
        }
        match members.get_mut(&name).filter(|present| !present.is_null()) {
            None => {
                sent.prune();
                members.insert(name, sent);
            }
            Some(present) => match present.as_members() {
                Some(present) => match sent.as_members() {
                    Some(sent) => merge(present, std::mem::take(sent)),
                    None => drop(members.insert(name, sent)),
                },
                None => {
                    sent.prune();
                    *present = sent;
                }
            },
        }
    }
}

/// Applies a strategic merge patch along the field table: the document with it, still to be converted to its type.
///
/// # Errors
/// 400 for a malformed directive, 500 (as upstream) for a missing merge key, an unknown directive or a wrong order.
pub fn strategic_merge(row: &Resource, present: &Present, patch: &[u8], look: bool) -> Result<Patched<Value>, Status> {
    let (patch, strict) = object(patch, look).map_err(|why| no_patch(why, false))?;
    let patch = patch.unwrap_or_default();
    let touched = Touched::by(&patch);
    // A list that has no keys stays as it is or is replaced; what a directive does is another matter.
    let doc = match present.bulk_at() {
        Some(at) if !touched.is_told_at(at) => present.whole(),
        _ => present.value(),
    };
    let document = strategic::merge(row.schema(), doc, patch)?;
    Ok(Patched {
        kept: present.bulk_at().is_some_and(|at| !touched.reaches(at)),
        document,
        strict,
        touched,
    })
}

/// A strategic merge patch that could be applied, as upstream's errors show it.
#[must_use]
pub fn strategic_shown(row: &Resource, doc: &Value, patch: &[u8]) -> String {
    let patch = object(patch, false).ok().and_then(|(members, _)| members);
    go::plain(&strategic::as_shown(
        row.schema(),
        doc,
        &Value::Object(patch.unwrap_or_default()),
    ))
}

/// An object's members, none for null, and what a strict look at it finds.
type Told = (Option<Map<String, Value>>, Vec<String>);

/// Parses a patch body that must be an object or null.
fn object(patch: &[u8], look: bool) -> Result<Told, DecodeError> {
    let decoded = decode::any(patch, look, &mut Ledger::new())?;
    match decoded.value {
        Value::Object(members) => Ok((Some(members), decoded.warnings)),
        Value::Null => Ok((None, Vec::new())),
        other => Err(no_object(go::kind(&other))),
    }
}

fn no_object(kind: &str) -> DecodeError {
    DecodeError::Type(format!(
        "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    ))
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
