//! Type and metadata of resources within custom resources (apiextensions-apiserver/pkg/apiserver/schema/objectmeta/validation.go).
//!
//! Invariant: a resource within another needs no name; one in a namespace may say so.

use serde_json::Value;
use trireme_api::field::FieldError;
use trireme_structural::Structural;

use super::errors::Errors;
use super::metadata::{self, Rules};
use super::names;
use super::node::Node;

/// What is wrong with the resources within an object, as its schema says where they are.
#[must_use]
pub fn embedded(schema: &Structural, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    schema.each_embedded(object, &mut |path, value| {
        let path = path.to_owned().into();
        resource(&mut errors, &Node { path, value });
    });
    errors.into()
}

/// What is wrong with one such resource.
pub(super) fn resource(errors: &mut Errors, node: &Node<'_>) {
    for name in ["apiVersion", "kind"] {
        match node.value.get(name) {
            None => errors.push(node.child(name).required("")),
            Some(Value::String(_)) => {}
            Some(_) => errors.push(node.at(name).invalid("must be a string")),
        }
    }
    let (version, kind) = (node.at("apiVersion"), node.at("kind"));
    if version.value.is_string() {
        if version.is_empty() {
            errors.push(version.bad("must not be empty"));
        } else if version.str().matches('/').count() > 1 {
            errors.push(version.bad(format!("unexpected GroupVersion string: {}", version.str())));
        }
    }
    if kind.value.is_string() {
        let messages = names::label_1035(&kind.str().to_lowercase());
        if kind.is_empty() {
            errors.push(kind.bad("must not be empty"));
        } else if !messages.is_empty() {
            errors.push(kind.bad(format!(
                "may have mixed case, but should otherwise match: {}",
                messages.join(",")
            )));
        }
    }
    let meta = node.at("metadata");
    if !meta.set() {
        return;
    }
    let rules = Rules {
        name: names::path_segment,
        namespaced: !meta.text("namespace").is_empty(),
        standard_finalizers: false,
        any_base: false,
    };
    let mut named = meta.value.clone();
    if meta.text("name").is_empty()
        && let Some(members) = named.as_object_mut()
    {
        members.insert("name".to_owned(), Value::from("fakename"));
    }
    let named = Node {
        path: meta.path.clone(),
        value: &named,
    };
    metadata::create(errors, &named, rules);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The kind is what a stock server said.
    #[test]
    fn resources_within_others_are_judged_as_such() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}}});
        let schema = Structural::compile(&schema, false).expect("a schema");
        const LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
        for (resource, want) in [
            (json!({"apiVersion": "v1", "kind": "Pod"}), vec![]),
            (
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "Any name"}}),
                vec![],
            ),
            (json!({"kind": "x"}), vec!["spec.emb.apiVersion: Required value".to_owned()]),
            (
                json!({"apiVersion": "a/b/c", "kind": 1}),
                vec![
                    "spec.emb.kind: Invalid value: 1: must be a string".to_owned(),
                    "spec.emb.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c".to_owned(),
                ],
            ),
            (
                json!({"apiVersion": "v1", "kind": "P od"}),
                vec![format!(
                    "spec.emb.kind: Invalid value: \"P od\": may have mixed case, but should otherwise match: {LABEL}"
                )],
            ),
            (
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b"}}),
                vec!["spec.emb.metadata.name: Invalid value: \"a/b\": may not contain '/'".to_owned()],
            ),
        ] {
            let found: Vec<String> = embedded(&schema, &json!({"spec": {"emb": resource}}))
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found, want, "{resource}");
        }
    }
}
