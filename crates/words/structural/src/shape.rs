//! What expressions know of values: the types that a schema declares (staging/src/k8s.io/apiserver/pkg/cel/common/schemas.go).
//!
//! Invariant: what has no type is kept apart (`Kind::Kept`), and so is every list or map of it: no expression reads it.

use std::collections::BTreeMap;

use trireme_cel::eval::{Kind, Order, Shape};

use crate::node::{ListType, Node, Type};

/// The shape of a schema's values. `resource` says that they have type and metadata, whatever the schema says.
pub(crate) fn of(node: &Node, resource: bool) -> Shape {
    Shape {
        kind: kind(node, resource),
        nullable: node.nullable,
    }
}

/// How many types a shape declares: those of its members, and of theirs.
pub(crate) fn fields(shape: &Shape) -> usize {
    match &shape.kind {
        Kind::Object(all) => all.values().map(|inner| 1 + fields(inner)).sum(),
        Kind::List(inner, _) | Kind::Map(inner) => 1 + fields(inner),
        _ => 1,
    }
}

pub(crate) fn is_kept(shape: &Shape) -> bool {
    matches!(shape.kind, Kind::Kept)
}

fn kind(node: &Node, resource: bool) -> Kind {
    if node.int_or_string {
        return Kind::IntOrString;
    }
    match node.is {
        Type::Any => Kind::Kept,
        Type::Boolean => Kind::Bool,
        Type::Integer => Kind::Int,
        Type::Number => Kind::Double,
        Type::String => match format(node) {
            "byte" => Kind::Bytes,
            "duration" => Kind::Duration,
            "date" => Kind::Date,
            "date-time" => Kind::DateTime,
            _ => Kind::String,
        },
        Type::Array => {
            let Some(inner) = node
                .items()
                .map(|items| of(items, items.embedded))
                .filter(|inner| !is_kept(inner))
            else {
                return Kind::Kept;
            };
            let order = match &node.list {
                ListType::Atomic => Order::Atomic,
                ListType::Set => Order::Set,
                ListType::Map(keys) => Order::Map(keys.clone()),
            };
            Kind::List(Box::new(inner), order)
        }
        Type::Object => {
            if let Some(inner) = node.additional() {
                let inner = of(inner, inner.embedded);
                return if is_kept(&inner) {
                    Kind::Kept
                } else {
                    Kind::Map(Box::new(inner))
                };
            }
            let given = node.properties.iter();
            let mut all: BTreeMap<Box<str>, Shape> = given
                .map(|(name, property)| (name.clone(), of(property, property.embedded)))
                .collect();
            if resource && !says_type_and_metadata(node) {
                add_type_and_metadata(&mut all);
            }
            Kind::Object(all)
        }
    }
}

pub(crate) fn format(node: &Node) -> &str {
    let format = node.checks.as_deref().and_then(|checks| checks.format.as_ref());
    format.map_or("", |format| &*format.name)
}

/// Whether a schema itself says what a resource's type and names are.
pub(crate) fn says_type_and_metadata(node: &Node) -> bool {
    let is = |node: &Node, name: &str, of_type| node.properties.get(name).is_some_and(|property| property.is == of_type);
    let names = |metadata: &Node| is(metadata, "name", Type::String) && is(metadata, "generateName", Type::String);
    is(node, "kind", Type::String)
        && is(node, "apiVersion", Type::String)
        && is(node, "metadata", Type::Object)
        && node.properties.get("metadata").is_some_and(names)
}

fn add_type_and_metadata(all: &mut BTreeMap<Box<str>, Shape>) {
    let plain = |kind| Shape { kind, nullable: false };
    let names = ["name", "generateName"].map(|name| (name.into(), plain(Kind::String)));
    all.insert("kind".into(), plain(Kind::String));
    all.insert("apiVersion".into(), plain(Kind::String));
    all.insert("metadata".into(), plain(Kind::Object(names.into())));
}
