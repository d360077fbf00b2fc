//! Owner references that stand twice: one is kept, and the client is told.
//!
//! Invariant: only equal references are dropped; two of one uid that differ are validation's matter.

use std::collections::HashSet;

use serde_json::Value;

/// When they were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In what the client sent.
    Sent,
    /// After mutating admission; of a patch, only then.
    AfterAdmission,
}

/// Drops owner references that equal one before them, with upstream's warning.
pub fn deduplicate(value: &mut Value, found: Found, warnings: &mut Vec<String>) {
    let references = value.get_mut("metadata").and_then(|meta| meta.get_mut("ownerReferences"));
    let Some(Value::Array(references)) = references else {
        return;
    };
    if references.len() < 2 {
        return;
    }
    let mut uids = HashSet::with_capacity(references.len());
    if references.iter().all(|reference| uids.insert(reference["uid"].as_str())) {
        return;
    }
    let mut seen = HashSet::new();
    let again: Vec<bool> = references.iter().map(|reference| !seen.insert(reference)).collect();
    let mut duplicates = Vec::new();
    let mut again = again.into_iter();
    references.retain(|reference| {
        let again = again.next().unwrap_or_default();
        if again {
            duplicates.push(reference["uid"].as_str().unwrap_or_default().to_owned());
        }
        !again
    });
    if duplicates.is_empty() {
        return;
    }
    let when = match found {
        Found::Sent => "",
        Found::AfterAdmission => " after mutating admission happens",
    };
    warnings.push(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject \
         such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        duplicates.join(", ")
    ));
}
