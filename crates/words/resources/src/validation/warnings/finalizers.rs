//! Finalizers of custom resources that anybody may use (pkg/registry/customresource/validator.go of apiextensions).
//!
//! Invariant: what was there before is not told again.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Warnings;
use crate::validation::show::quoted;

/// What is said of finalizers of a custom resource that are new to it and have no domain: others may have the same name.
pub(in crate::validation) fn of_finalizers(value: &Value, old: Option<&Value>) -> Warnings {
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    let names = |value: &Value| -> BTreeSet<String> {
        let list = value["metadata"]["finalizers"].as_array();
        list.into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    let known = old.map(names).unwrap_or_default();
    let odd = |name: &String| !(known.contains(name) || name.contains('/') || STANDARD.contains(&name.as_str()));
    let told = names(value).into_iter().filter(odd).map(|name| {
        let path = if name.contains('.') { " including a path (/)" } else { "" };
        format!(
            "metadata.finalizers: {}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other \
             finalizer writers",
            quoted(&name)
        )
    });
    told.collect()
}
