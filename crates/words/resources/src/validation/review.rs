//! Questions about access (pkg/apis/authorization/validation).
//!
//! Invariant: the question's form alone; the answer is for the authorizer.

use serde_json::Value;

use super::errors::Errors;
use super::metadata;
use super::node::{Node, same};
use super::show;

/// Whose access a review asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// The one who asks.
    Own,
    /// Anyone.
    Any,
    /// Anyone, in one namespace.
    Local,
}

/// A review of access.
pub(super) fn access(errors: &mut Errors, root: &Node<'_>, subject: Subject) {
    let spec = root.at("spec");
    let (resource, other) = (spec.at("resourceAttributes"), spec.at("nonResourceAttributes"));
    let shown = show::internal("api/authorization/v1", "NonResourceAttributes", other.value);
    if resource.set() && other.set() {
        errors.push(other.invalid_as(shown.clone(), "cannot be specified in combination with resourceAttributes"));
    }
    if !resource.set() && !other.set() {
        errors.push(resource.invalid_as(
            "null",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    if subject != Subject::Own && spec.text("user").is_empty() && spec.at("groups").is_empty() {
        errors.push(spec.at("user").bad("at least one of user or group must be specified"));
    }
    for name in ["fieldSelector", "labelSelector"] {
        selector(errors, &resource.at(name));
    }
    let meta = root.at("metadata");
    let own = |name: &str| name == "managedFields" || (name == "namespace" && subject == Subject::Local);
    let mut members = meta.value.as_object().into_iter().flatten();
    // What metadata has of objects are maps, and an empty one is none.
    let none = |value: &Value| same(value, &Value::Null) || value.as_object().is_some_and(serde_json::Map::is_empty);
    if members.any(|(name, value)| !own(name) && !none(value)) {
        let shown = show::internal("apimachinery/pkg/apis/meta/v1", "ObjectMeta", meta.value);
        errors.push(meta.invalid_as(
            shown,
            if subject == Subject::Local {
                "must be empty except for namespace"
            } else {
                "must be empty"
            },
        ));
    }
    if subject == Subject::Local {
        let namespace = resource.at("namespace");
        if resource.set() && namespace.str() != root.at("metadata").text("namespace") {
            errors.push(namespace.bad("must match metadata.namespace"));
        }
        if other.set() {
            errors.push(other.invalid_as(shown, "disallowed on this kind of request"));
        }
    }
}

fn selector(errors: &mut Errors, node: &Node<'_>) {
    if !node.set() {
        return;
    }
    let (raw, requirements) = (node.at("rawSelector"), node.at("requirements"));
    if !raw.is_empty() && !requirements.is_empty() {
        errors.push(raw.bad("may not specified at the same time as requirements"));
    }
    if raw.is_empty() && requirements.is_empty() {
        errors.push(requirements.required(format!(
            "when {} is specified, requirements or rawSelector is required",
            node.path
        )));
    }
    let labels = node.path.to_string().ends_with("labelSelector");
    for requirement in requirements.items() {
        let (key, values) = (requirement.at("key"), requirement.at("values"));
        if !labels && key.is_empty() {
            errors.push(key.required("must be specified"));
        }
        match requirement.text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
            }
            _ => {}
        }
        if labels {
            metadata::label_name(errors, &key, key.str());
            for value in values.items() {
                value.each(errors, super::names::label_value(value.str()));
            }
        }
    }
}
