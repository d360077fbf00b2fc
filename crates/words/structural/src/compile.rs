//! Makes nodes of a schema as it is stored.
//!
//! Invariant: a definition's validation has judged the schema already; what could not be worked with is refused here all the
//! same, and nothing descends deeper than [`DEPTH_MAX`].

use serde_json::{Map, Value};

use crate::format::Format;
use crate::node::{Additional, Below, Checks, ListType, Node, Type};
use crate::pattern::Pattern;
use crate::rules::Rules;

/// How deep schemas may stand in one another. JSON itself is read to 125 levels.
const DEPTH_MAX: usize = 130;

/// Parts that structural schemas do not have, and what upstream calls them.
pub const UNSUPPORTED: &[(&str, &str)] = &[
    ("id", "id"),
    ("$schema", "schema"),
    ("$ref", "$ref"),
    ("patternProperties", "patternProperties"),
    ("dependencies", "dependencies"),
    ("additionalItems", "additionalItems"),
    ("definitions", "definitions"),
];

/// Whether a part of a schema is as if it were not there.
#[must_use]
pub fn zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn flag(schema: &Map<String, Value>, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

fn text<'a>(schema: &'a Map<String, Value>, name: &str) -> &'a str {
    schema.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(schema: &Map<String, Value>, name: &str) -> Option<f64> {
    schema.get(name).and_then(Value::as_f64)
}

fn count(schema: &Map<String, Value>, name: &str) -> Option<i64> {
    schema.get(name).and_then(Value::as_i64)
}

fn texts(schema: &Map<String, Value>, name: &str) -> Vec<Box<str>> {
    let all = schema.get(name).and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_str).map(Into::into).collect()
}

/// Compiles one schema and those in it. `nested` ones, under junctors, only narrow what stands outside.
pub(crate) fn node(schema: &Value, depth: usize) -> Result<Node, Vec<String>> {
    let Some(schema) = schema.as_object() else {
        return Err(vec!["a schema must be an object".to_owned()]);
    };
    if depth > DEPTH_MAX {
        return Err(vec![format!("schemas may stand at most {DEPTH_MAX} deep in one another")]);
    }
    for (name, told) in UNSUPPORTED {
        if schema.get(*name).is_some_and(|value| !zero(value)) {
            return Err(vec![format!("OpenAPIV3Schema '{told}' is not supported")]);
        }
    }
    let Some(is) = Type::read(text(schema, "type")) else {
        return Err(vec![format!("type {:?} is not known", text(schema, "type"))]);
    };
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    let list_type = text(schema, "x-kubernetes-list-type");
    let mut made = Node {
        is,
        int_or_string,
        nullable: flag(schema, "nullable"),
        preserve: flag(schema, "x-kubernetes-preserve-unknown-fields"),
        embedded: flag(schema, "x-kubernetes-embedded-resource"),
        atomic_map: text(schema, "x-kubernetes-map-type") == "atomic",
        list: match list_type {
            "set" => ListType::Set,
            "map" => ListType::Map(texts(schema, "x-kubernetes-list-map-keys")),
            _ => ListType::Atomic,
        },
        default: schema
            .get("default")
            .filter(|value| !value.is_null())
            .map(|value| Box::new(value.clone())),
        formatted: !matches!(text(schema, "format"), "" | "byte"),
        ..Node::default()
    };
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            made.properties.insert(name.as_str().into(), node(property, depth + 1)?);
        }
    }
    made.additional = match schema.get("additionalProperties") {
        None | Some(Value::Null) => Additional::None,
        Some(Value::Bool(allowed)) => Additional::Bool(*allowed),
        Some(inner) => Additional::Schema(Box::new(node(inner, depth + 1)?)),
    };
    made.items = match schema.get("items") {
        None | Some(Value::Null) => None,
        Some(Value::Array(items)) if items.is_empty() => None,
        Some(Value::Array(_)) => return Err(vec!["OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned()]),
        Some(inner) => Some(Box::new(node(inner, depth + 1)?)),
    };
    made.checks = checks(schema, is, int_or_string, depth)?;
    made.rules = Rules::read(schema.get("x-kubernetes-validations")).map(Box::new);
    made.below = below(&made);
    Ok(made)
}

fn below(node: &Node) -> Below {
    let own = Below {
        rules: node.rules.is_some(),
        keyed_lists: node.list != ListType::Atomic,
        embedded: node.embedded,
        defaults: node.default.is_some(),
    };
    let inner = node.properties.values().chain(node.additional()).chain(node.items());
    inner.fold(own, |all, one| all.and(one.below))
}

fn checks(schema: &Map<String, Value>, is: Type, int_or_string: bool, depth: usize) -> Result<Option<Box<Checks>>, Vec<String>> {
    const NAMES: &[&str] = &[
        "format",
        "pattern",
        "maximum",
        "minimum",
        "multipleOf",
        "maxLength",
        "minLength",
        "maxItems",
        "minItems",
        "uniqueItems",
        "maxProperties",
        "minProperties",
        "required",
        "enum",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
    ];
    if !NAMES
        .iter()
        .any(|name| schema.get(*name).is_some_and(|value| !value.is_null()))
    {
        return Ok(None);
    }
    let list = |name: &str| -> Result<Vec<Node>, Vec<String>> {
        let all = schema.get(name).and_then(Value::as_array);
        all.into_iter().flatten().map(|one| node(one, depth + 1)).collect()
    };
    let pattern = text(schema, "pattern");
    // One that is a number or a text has two types, so that none decides which formats there are.
    let of_type = if int_or_string { Type::Any } else { is };
    Ok(Some(Box::new(Checks {
        format: Format::of(text(schema, "format"), of_type),
        pattern: (!pattern.is_empty()).then(|| Pattern::new(pattern)),
        maximum: number(schema, "maximum"),
        minimum: number(schema, "minimum"),
        exclusive_maximum: flag(schema, "exclusiveMaximum"),
        exclusive_minimum: flag(schema, "exclusiveMinimum"),
        multiple_of: number(schema, "multipleOf"),
        max_length: count(schema, "maxLength"),
        min_length: count(schema, "minLength"),
        max_items: count(schema, "maxItems"),
        min_items: count(schema, "minItems"),
        unique_items: flag(schema, "uniqueItems"),
        max_properties: count(schema, "maxProperties"),
        min_properties: count(schema, "minProperties"),
        required: texts(schema, "required"),
        choices: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        all: list("allOf")?,
        any: list("anyOf")?,
        one: list("oneOf")?,
        not: match schema.get("not") {
            None | Some(Value::Null) => None,
            Some(inner) => Some(Box::new(node(inner, depth + 1)?)),
        },
    })))
}
