//! What makes a schema structural (pkg/apiserver/schema): every value that it speaks of has a type, and what stands under
//! `allOf`, `anyOf`, `oneOf` and `not` only narrows what is described outside of them.
//!
//! Invariant: problems come sorted by their text, as upstream tells them.

use std::sync::LazyLock;

use serde_json::{Value, json};
use trireme_structural::{UNSUPPORTED, zero};

use super::super::errors::Errors;
use super::super::node::Node;
use super::members::{Members, Oddity, Survey};

/// A part of OpenAPI that structural schemas do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsupported {
    #[error("OpenAPIV3Schema '{0}' is not supported")]
    Field(&'static str),
    #[error("OpenAPIV3Schema 'items' must be a schema, but is an array")]
    ItemsList,
    #[error("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined")]
    PreserveFalse,
}

/// The first part that a structural schema cannot have.
pub(super) fn unsupported(schema: &Node<'_>) -> Option<Unsupported> {
    unsupported_in(schema.value)
}

fn unsupported_in(schema: &Value) -> Option<Unsupported> {
    let filled = |name: &str| schema.get(name).is_some_and(|value| !zero(value));
    for (name, told) in UNSUPPORTED {
        let there = filled(name) || (*name == "additionalItems" && schema.get(*name).is_some_and(|value| !value.is_null()));
        if there {
            return Some(Unsupported::Field(told));
        }
    }
    let one = |name: &str| schema.get(name).filter(|value| value.is_object()).and_then(unsupported_in);
    let list = |name: &str| {
        let all = schema.get(name).and_then(Value::as_array);
        all.into_iter().flatten().find_map(unsupported_in)
    };
    if let Some(found) = one("not")
        .or_else(|| list("allOf"))
        .or_else(|| list("anyOf"))
        .or_else(|| list("oneOf"))
    {
        return Some(found);
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        return Some(Unsupported::PreserveFalse);
    }
    if schema
        .get("items")
        .and_then(Value::as_array)
        .is_some_and(|items| !items.is_empty())
    {
        return Some(Unsupported::ItemsList);
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    one("items")
        .or_else(|| properties.into_iter().flatten().find_map(|(_, value)| unsupported_in(value)))
        .or_else(|| one("additionalProperties"))
}

/// Whether a schema is not structural.
pub(super) fn problem(schema: &Node<'_>, used: Members, survey: &Survey) -> bool {
    let mut errors = Errors::new();
    (used.any(Members::UNSUPPORTED) && unsupported(schema).is_some()) || {
        check(&mut errors, schema, survey);
        !errors.is_empty()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps a schema from being structural; only asked where nothing of it is [`unsupported`].
pub(super) fn check(errors: &mut Errors, schema: &Node<'_>, survey: &Survey) {
    let mut found = Errors::new();
    invariants(&mut found, schema, Members::of(schema.value), Level::Root, survey);
    complete_value(&mut found, schema, schema, schema);
    let mut texts: Vec<(String, _)> = found.into_iter().map(|error| (error.to_string(), error)).collect();
    texts.sort_by(|(one, _), (other, _)| one.cmp(other));
    errors.extend(texts.into_iter().map(|(_, error)| error));
}

fn properties<'a>(schema: &Node<'a>) -> Vec<(&'a str, Node<'a>)> {
    schema.at("properties").entries()
}

/// The schema of a member, where it is a schema and not just `true`.
fn inner<'a>(schema: &Node<'a>, name: &'static str) -> Option<Node<'a>> {
    Some(schema.at(name)).filter(|node| node.value.is_object())
}

fn invariants(errors: &mut Errors, schema: &Node<'_>, has: Members, level: Level, survey: &Survey) {
    let kind = schema.text("type");
    let items = if has.any(Members::ITEMS) {
        inner(schema, "items")
    } else {
        None
    };
    if kind == "array" && items.is_none() {
        errors.push(schema.child("items").required("must be specified"));
    }
    if let Some(items) = items {
        invariants(errors, &items, Members::of(items.value), Level::Item, survey);
    }
    if has.any(Members::PROPERTIES) {
        let properties = schema.at("properties");
        for odd in survey.odd(properties.value).filter(|odd| odd.oddity == Oddity::Other) {
            let property = properties.entry(odd.name, odd.schema);
            invariants(errors, &property, odd.members, Level::Field, survey);
        }
    }
    if has.any(Members::ADDITIONAL) {
        if level == Level::Root {
            let additional = schema.at("additionalProperties");
            errors.push(additional.forbidden("must not be used at the root"));
        }
        if let Some(additional) = inner(schema, "additionalProperties") {
            invariants(errors, &additional, Members::of(additional.value), Level::Field, survey);
        }
    }
    if has.any(Members::JUNCTORS) {
        let first_all = schema.at("allOf").index(0);
        junctors(errors, schema, either(&schema.at("anyOf")), either(&first_all.at("anyOf")));
    }
    if has.any(Members::PATTERN) {
        of_pattern(errors, schema);
    }
    let preserved = has.any(Members::PRESERVE) && schema.is("x-kubernetes-preserve-unknown-fields");
    let embedded = has.any(Members::EMBEDDED) && schema.is("x-kubernetes-embedded-resource");
    if has.any(Members::INT_OR_STRING.and(Members::EMBEDDED)) {
        combined(errors, schema, embedded);
    }
    if kind.is_empty() && !embedded && !preserved && !schema.is("x-kubernetes-int-or-string") {
        errors.push(schema.child("type").required(match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        }));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(schema.at("type").bad("must be object at the root"));
    }
    if level == Level::Root || embedded {
        resource(errors, schema, level);
    }
}

/// How the extensions for resources and for what is a number or a text go together with the others.
fn combined(errors: &mut Errors, schema: &Node<'_>, embedded: bool) {
    let kind = schema.at("type");
    for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if schema.is("x-kubernetes-int-or-string") && schema.is(name) {
            errors.push(schema.at(name).invalid("must be false if x-kubernetes-int-or-string is true"));
        }
    }
    if !embedded {
        return;
    }
    if kind.str() != "object" {
        const OBJECT: &str = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if kind.is_empty() {
            kind.required(OBJECT)
        } else {
            kind.bad(OBJECT)
        });
    }
    let additional = schema.at("additionalProperties");
    if additional.set() {
        errors.push(additional.forbidden("must not be used if x-kubernetes-embedded-resource is set"));
    }
    let all = schema.at("properties");
    if !schema.is("x-kubernetes-preserve-unknown-fields") && all.is_empty() {
        errors.push(all.required(
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ));
    }
}

/// What a resource says of its type and its metadata.
fn resource(errors: &mut Errors, schema: &Node<'_>, level: Level) {
    let all = schema.at("properties");
    for name in ["kind", "apiVersion"] {
        let property = all.key(name);
        if property.set() && property.text("type") != "string" {
            errors.push(property.at("type").bad("must be string"));
        }
    }
    let metadata = all.key("metadata");
    if !metadata.set() {
        return;
    }
    if metadata.text("type") != "object" {
        errors.push(metadata.at("type").bad("must be object"));
    }
    if level == Level::Root && says_more(metadata.value) {
        errors.push(
            metadata
                .forbidden("must not specify anything other than name and generateName, but metadata is implicitly specified"),
        );
    }
}

/// Whether a schema of metadata speaks of more than the two names.
fn says_more(metadata: &Value) -> bool {
    metadata
        .as_object()
        .into_iter()
        .flatten()
        .any(|(name, value)| match name.as_str() {
            "type" | "default" => false,
            "properties" => value
                .as_object()
                .into_iter()
                .flatten()
                .any(|(name, _)| !matches!(name.as_str(), "name" | "generateName")),
            _ => !zero(value),
        })
}

/// Whether alternatives are the two that a number or a text needs.
fn either(any: &Node<'_>) -> bool {
    static BOTH: LazyLock<Value> = LazyLock::new(|| json!([{"type": "integer"}, {"type": "string"}]));
    *any.value == *BOTH
}

fn junctors(errors: &mut Errors, schema: &Node<'_>, skip_any: bool, skip_first_any: bool) {
    if !skip_any {
        for one in schema.at("anyOf").items() {
            nested(errors, &one, false);
        }
    }
    for (index, one) in schema.at("allOf").items().iter().enumerate() {
        nested(errors, one, skip_first_any && index == 0);
    }
    for one in schema.at("oneOf").items() {
        nested(errors, &one, false);
    }
    if let Some(not) = inner(schema, "not") {
        nested(errors, &not, false);
    }
}

fn of_pattern(errors: &mut Errors, schema: &Node<'_>) {
    let pattern = schema.at("pattern");
    if let Some(why) = trireme_cel::regex_fault(pattern.str()) {
        errors.push(pattern.bad(format!(
            "must be a valid regular expression, but isn't: error parsing regexp: {why}"
        )));
    }
}

/// What stands under a junctor.
fn nested(errors: &mut Errors, schema: &Node<'_>, skip_any: bool) {
    let has = Members::of(schema.value);
    if has.any(Members::JUNCTORS) {
        junctors(errors, schema, skip_any, false);
    }
    if has.any(Members::PATTERN) {
        of_pattern(errors, schema);
    }
    if !has.any(Members::OUTSIDE.and(Members::ITEMS).and(Members::PROPERTIES)) {
        return;
    }
    if let Some(items) = inner(schema, "items") {
        nested(errors, &items, false);
    }
    for (_, property) in properties(schema) {
        nested(errors, &property, false);
    }
    let text = |errors: &mut Errors, name: &'static str, must: &str| {
        if !zero(schema.at(name).value) {
            errors.push(schema.child(name).forbidden(format!("must be {must} to be structural")));
        }
    };
    text(errors, "type", "empty");
    let additional = schema.at("additionalProperties");
    if additional.set() && additional.value != false {
        errors.push(additional.forbidden("must be undefined to be structural"));
    }
    if schema.has("default") {
        errors.push(schema.child("default").forbidden("must be undefined to be structural"));
    }
    for (name, must) in [
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
    ] {
        text(errors, name, must);
    }
    for name in ["x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if schema.has(name) {
            errors.push(schema.child(name).forbidden("must be undefined to be structural"));
        }
    }
    text(errors, "x-kubernetes-validations", "empty");
    let metadata = schema.at("properties").key("metadata");
    if metadata.set() {
        errors.push(metadata.forbidden("must not be specified in a nested context"));
    }
}

/// That what junctors speak of is described outside of them. `outside` is the place there, `inside` the one under junctors.
fn complete_value(errors: &mut Errors, value: &Node<'_>, outside: &Node<'_>, inside: &Node<'_>) {
    let at = |name: &'static str| inside.child(name);
    if let Some(not) = inner(value, "not") {
        complete(errors, &not, outside, &at("not"));
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        for (index, one) in value.at(name).items().iter().enumerate() {
            complete(errors, one, outside, &at(name).index(index));
        }
    }
}

fn complete(errors: &mut Errors, value: &Node<'_>, outside: &Node<'_>, inside: &Node<'_>) {
    if !outside.value.is_object() {
        errors.push(outside.required(format!("because it is defined in {}", inside.path)));
        return;
    }
    complete_value(errors, value, outside, inside);
    if let Some(items) = inner(value, "items") {
        complete(errors, &items, &outside.at("items"), &inside.child("items"));
    }
    for (name, property) in properties(value) {
        let (outside, inside) = (outside.at("properties").key(name), inside.child("properties").key(name));
        complete(errors, &property, &outside, &inside);
    }
}
