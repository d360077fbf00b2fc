//! Warnings about what is stored and does nothing yet: kinds by their rows, fields of pods and services by a table.
//!
//! Invariant: a server that lacks nothing gives none of these, and they refuse nothing. `docs/STATUS.md` lists all of it.

mod fields;

use serde_json::Value;
use trireme_api::path;

use crate::rows::Resource;
use crate::strategy::pod_spec_of;

/// What a client is told that creates an object, or changes the spec of `old` other than through a subresource.
#[must_use]
pub fn warnings(row: &Resource, value: &Value, old: Option<&Value>, subresource: Option<&str>) -> Vec<String> {
    if subresource.is_some() {
        return Vec::new();
    }
    let mut out = Vec::new();
    if let Some(unenforced) = &row.unenforced {
        let asked = unenforced.with.is_empty() || path::get(value, unenforced.with).is_some_and(|field| !field.is_null());
        if asked {
            out.push(format!("{} is stored but not acted on yet: {}", row.kind, unenforced.text));
        }
    }
    if old.is_some_and(|old| old.get("spec") == value.get("spec")) {
        return out;
    }
    if let Some(at) = pod_spec_of(row) {
        let shown = at[1..].replace('/', ".");
        let spec = value.pointer(at).unwrap_or(&Value::Null);
        out.extend(fields::found(spec, &shown, fields::POD));
    } else if row.storage == "core/services" {
        out.extend(fields::found(&value["spec"], "spec", fields::SERVICE));
    }
    out
}

#[cfg(test)]
mod tests;
