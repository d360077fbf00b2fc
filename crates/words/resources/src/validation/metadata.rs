//! Metadata, labels and selectors, the same for every kind
//! (staging/src/k8s.io/apimachinery/pkg/api/validation/objectmeta.go).
//!
//! Invariant: rules that differ between kinds come in as arguments.

use serde_json::Value;

use super::errors::Errors;
use super::names::{self, NameRule};
use super::node::Node;
use super::seen::Seen;
use super::show;

/// All annotations together may have this many bytes.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
/// What is told of a finalizer without a domain that is not one of the standard ones.
const PLAIN_FINALIZER: &str = "name is neither a standard finalizer name nor is it fully qualified";

/// How a kind's metadata is checked.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// What a name may be.
    pub name: NameRule,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether finalizers without a domain must be standard ones.
    pub standard_finalizers: bool,
    /// Whether the base of a generated name is not looked at: a name that was given despite it counts alone.
    pub any_base: bool,
}

fn masked(name: &str) -> String {
    if name.len() > 1 && name.ends_with('-') && name.is_char_boundary(name.len() - 2) {
        format!("{}a", &name[..name.len() - 2])
    } else {
        name.to_owned()
    }
}

/// Metadata of an object to create.
pub(super) fn create(errors: &mut Errors, meta: &Node<'_>, rules: Rules) {
    create_with(errors, meta, rules, &|_| None);
}

/// Likewise, of a kind whose name follows from the rest of the object: `also` says what is wrong with a name besides.
pub(super) fn create_with(errors: &mut Errors, meta: &Node<'_>, rules: Rules, also: &dyn Fn(&str) -> Option<String>) {
    let messages = |name: &str| {
        let mut messages = (rules.name)(name);
        messages.extend(also(name));
        messages
    };
    let generate = meta.at("generateName");
    if !generate.is_empty() && !rules.any_base {
        generate.each(errors, messages(&masked(generate.str())));
    }
    let name = meta.at("name");
    if name.is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        name.each(errors, messages(name.str()));
    }
    common(errors, meta, rules.namespaced);
    if rules.standard_finalizers {
        finalizer_names(errors, meta);
    }
}

fn common(errors: &mut Errors, meta: &Node<'_>, namespaced: bool) {
    let namespace = meta.at("namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(namespace.required(""));
        } else {
            namespace.each(errors, names::label(namespace.str()));
        }
    } else if !namespace.is_empty() {
        errors.push(namespace.forbidden("not allowed on this type"));
    }
    meta.at("generation").non_negative(errors);
    labels(errors, &meta.at("labels"));
    annotations(errors, &meta.at("annotations"));
    owners(errors, &meta.at("ownerReferences"));
    finalizers(errors, &meta.at("finalizers"));
    managed_fields(errors, &meta.at("managedFields"));
}

fn finalizer_names(errors: &mut Errors, meta: &Node<'_>) {
    for finalizer in meta.at("finalizers").items() {
        standard_finalizer(errors, &finalizer);
    }
}

/// A finalizer has a domain or is a standard one.
pub(super) fn standard_finalizer(errors: &mut Errors, node: &Node<'_>) {
    if !node.str().contains('/') && !matches!(node.str(), "kubernetes" | "orphan" | "foregroundDeletion") {
        errors.push(node.bad(PLAIN_FINALIZER));
    }
}

/// What every update is checked for, before the kind's own rules.
pub(super) fn update_common(errors: &mut Errors, meta: &Node<'_>, old: &Node<'_>, namespaced: bool) {
    let base = meta.at("generateName");
    if !base.is_empty() {
        base.each(errors, names::path_segment(&masked(base.str())));
    }
    let name = meta.at("name");
    if name.is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        name.each(errors, names::path_segment(name.str()));
    }
    common(errors, meta, namespaced);
    unchanged(errors, meta, old);
}

/// What a kind's own rules check of an update's metadata.
pub(super) fn update(errors: &mut Errors, meta: &Node<'_>, old: &Node<'_>, rules: Rules) {
    unchanged(errors, meta, old);
    if rules.standard_finalizers {
        finalizer_names(errors, meta);
    }
}

fn unchanged(errors: &mut Errors, meta: &Node<'_>, old: &Node<'_>) {
    if old.has("deletionTimestamp") {
        let before: Seen<&str> = old.at("finalizers").strings().into_iter().collect();
        let mut added: Vec<&str> = meta.at("finalizers").strings();
        added.retain(|finalizer| !before.contains(finalizer));
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|text| show::quoted(text)).collect();
            errors.push(meta.child("finalizers").forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            )));
        }
    }
    let version = meta.at("resourceVersion");
    if version.is_empty() {
        errors.push(version.bad("must be specified for an update"));
    }
    let generation = meta.at("generation");
    if generation.int() < old.at("generation").int() {
        errors.push(generation.bad_int("must not be decremented"));
    }
    for name in ["name", "namespace", "uid"] {
        if meta.text(name) != old.text(name) {
            errors.push(meta.at(name).bad(super::node::IMMUTABLE));
        }
    }
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        meta.at(name).immutable(errors, &old.at(name));
    }
    labels(errors, &meta.at("labels"));
    annotations(errors, &meta.at("annotations"));
    owners(errors, &meta.at("ownerReferences"));
    managed_fields(errors, &meta.at("managedFields"));
}

/// Labels, and maps that are used like them.
pub(super) fn labels(errors: &mut Errors, node: &Node<'_>) {
    for (key, value) in node.entries() {
        label_name(errors, node, key);
        for message in names::label_value(value.str()) {
            errors.push(node.bad_text(value.str(), message));
        }
    }
}

/// A label's key, told at this path.
pub(super) fn label_name(errors: &mut Errors, node: &Node<'_>, key: &str) {
    errors.extend(names::qualified(key).into_iter().map(|message| node.bad_text(key, message)));
}

/// Annotations.
pub(super) fn annotations(errors: &mut Errors, node: &Node<'_>) {
    let mut bytes = 0;
    for (key, value) in node.entries() {
        errors.extend(
            names::qualified(&key.to_lowercase())
                .into_iter()
                .map(|message| node.bad_text(key, message)),
        );
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(node.too_long(ANNOTATIONS_BYTES_MAX));
    }
}

fn owners(errors: &mut Errors, node: &Node<'_>) {
    let mut controller = String::new();
    for owner in node.items() {
        // Upstream tells all owners at the list's own path.
        let at = |name: &'static str| node.child(name).path;
        let version = owner.text("apiVersion");
        let short = version.rsplit('/').next().unwrap_or_default();
        if short.is_empty() || version.matches('/').count() > 1 {
            errors.push(
                owner
                    .at("apiVersion")
                    .moved(at("apiVersion"))
                    .bad("version must not be empty"),
            );
        }
        for name in ["kind", "name", "uid"] {
            if owner.text(name).is_empty() {
                errors.push(owner.at(name).moved(at(name)).bad("must not be empty"));
            }
        }
        if version == "v1" && owner.text("kind") == "Event" {
            let shown = owner_json(owner.value);
            errors.push(node.invalid_as(shown, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.is("controller") {
            let this = format!("{}/{}", owner.text("kind"), owner.text("name"));
            if controller.is_empty() {
                controller = this;
            } else if !errors.full() {
                let all: Vec<String> = node.items().iter().map(|owner| owner_json(owner.value)).collect();
                errors.push(node.invalid_as(
                    format!("[{}]", all.join(",")),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {controller} and {this}"),
                ));
            }
        }
    }
}

fn owner_json(owner: &Value) -> String {
    let names = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let members: Vec<String> = names
        .iter()
        .filter_map(|name| owner.get(name).map(|value| format!("\"{name}\":{}", show::json(value))))
        .collect();
    format!("{{{}}}", members.join(","))
}

fn finalizers(errors: &mut Errors, node: &Node<'_>) {
    let all = node.strings();
    for finalizer in &all {
        errors.extend(
            names::qualified(finalizer)
                .into_iter()
                .map(|message| node.bad_text(finalizer, message)),
        );
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        errors.push(node.invalid("finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

fn managed_fields(errors: &mut Errors, node: &Node<'_>) {
    for entry in node.items() {
        if !matches!(entry.text("operation"), "Apply" | "Update") {
            errors.push(entry.at("operation").bad("must be `Apply` or `Update`"));
        }
        if !matches!(entry.text("fieldsType"), "" | "FieldsV1") {
            errors.push(entry.at("fieldsType").bad("must be `FieldsV1`"));
        }
        field_manager(errors, &entry.at("manager"));
        let subresource = entry.at("subresource");
        if subresource.len() > 256 {
            errors.push(subresource.too_long(256));
        }
    }
}

fn field_manager(errors: &mut Errors, node: &Node<'_>) {
    if node.len() > 128 {
        errors.push(node.too_long(128));
    }
    for (position, letter) in node.str().char_indices() {
        if letter.is_control() {
            errors.push(node.bad(format!(
                "invalid character U+{:04X} (at position {position})",
                u32::from(letter)
            )));
        }
    }
}

/// A label selector; an absent one is fine.
pub(super) fn selector(errors: &mut Errors, node: &Node<'_>) {
    labels(errors, &node.at("matchLabels"));
    for requirement in node.at("matchExpressions").items() {
        let values = requirement.at("values");
        match requirement.text("operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
                }
            }
            _ => errors.push(requirement.at("operator").bad("not a valid selector operator")),
        }
        let key = requirement.at("key");
        label_name(errors, &key, key.str());
        for value in values.items() {
            value.each(errors, names::label_value(value.str()));
        }
    }
}

/// Conditions of the common form.
pub(super) fn conditions(errors: &mut Errors, node: &Node<'_>) {
    let mut seen: Seen<&str> = Seen::default();
    for condition in node.items() {
        let kind = condition.at("type");
        if seen.contains(&kind.str()) {
            errors.push(kind.duplicate());
        } else {
            seen.push(kind.str());
        }
        label_name(errors, &kind, kind.str());
        condition.at("status").one_of(errors, &["False", "True", "Unknown"]);
        if condition.at("observedGeneration").int() < 0 {
            errors.push(
                condition
                    .at("observedGeneration")
                    .bad_int("must be greater than or equal to zero"),
            );
        }
        if !condition.has("lastTransitionTime") {
            errors.push(condition.at("lastTransitionTime").required(""));
        }
        let reason = condition.at("reason");
        if reason.is_empty() {
            errors.push(reason.required(""));
        } else {
            reason.each(errors, condition_reason(reason.str()));
            if reason.len() > 1024 {
                errors.push(reason.too_long(1024));
            }
        }
        if condition.at("message").len() > 32 * 1024 {
            errors.push(condition.at("message").too_long(32 * 1024));
        }
    }
}

fn condition_reason(text: &str) -> names::Messages {
    let bytes = text.as_bytes();
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|byte| word(byte) || b",:".contains(byte))
    {
        return Vec::new();
    }
    vec![names::regex_message(
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
        "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    )]
}
