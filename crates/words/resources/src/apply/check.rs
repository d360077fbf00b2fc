//! Whether an applied configuration fits the field table, or the schema of its definition: unknown fields, wrong types, elements that repeat a key.
//!
//! Invariant: null fits everything. All problems are told, but for those behind a bad list element or an unknown field
//! of the same object.

use std::collections::HashSet;
use std::fmt;

use serde_json::Value;
use trireme_api::cost::Ledger;
use trireme_api::go::{plain, source, type_name};
use trireme_api::schema::{self, Type};
use trireme_structural::{ListType as SchemaListType, Type as NodeType};

use super::set::show;
use super::shape::{Described, Member, Shape, element_of};

/// The problems of a configuration, as one text; none when it fits. What stands at `settled` in it is known to fit.
#[must_use]
pub fn problems(value: &Value, root: Shape<'_>, settled: Option<&Value>) -> Option<String> {
    let found = Problems {
        settled,
        ..Problems::default()
    };
    told(value, root, found)
}

/// The problems of an object as it is stored, whose lists may hold elements twice.
#[must_use]
pub fn problems_of_stored(value: &Value, root: Shape<'_>) -> Option<String> {
    let found = Problems {
        twice: true,
        ..Problems::default()
    };
    told(value, root, found)
}

fn told(value: &Value, root: Shape<'_>, mut found: Problems<'_>) -> Option<String> {
    by_shape(value, root, &Path::Root, &mut found);
    match found.texts.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("errors:\n  {}", several.join("\n  "))),
    }
}

/// Where a value is. It becomes text only where there is something to tell, so that long names cost nothing else.
enum Path<'a> {
    Root,
    Name(&'a Path<'a>, &'a str),
    Number(&'a Path<'a>, usize),
    /// A serialised element of a set or keyed list.
    Element(&'a Path<'a>, &'a str),
}

impl Path<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Root => 0,
            Self::Name(before, step) | Self::Element(before, step) => before.len() + step.len() + 1,
            Self::Number(before, _) => before.len() + 8,
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Name(before, name) => write!(f, "{before}.{name}"),
            Self::Number(before, number) => write!(f, "{before}[{number}]"),
            Self::Element(before, element) => write!(f, "{before}{}", show(element)),
        }
    }
}

#[derive(Default)]
struct Problems<'s> {
    texts: Vec<String>,
    /// Whether elements may stand twice.
    twice: bool,
    /// What need not be looked at.
    settled: Option<&'s Value>,
    ledger: Ledger,
}

impl Problems<'_> {
    /// Tells a problem, unless the ledger has no more for it; the first is always told.
    fn tell(&mut self, path: &Path<'_>, what: &str) {
        if !self.ledger.tell(path.len() + what.len()) && !self.texts.is_empty() {
            return;
        }
        self.texts.push(match path {
            Path::Root => what.to_owned(),
            path => format!("{path}: {what}"),
        });
    }
}

fn by_shape(value: &Value, shape: Shape<'_>, path: &Path<'_>, found: &mut Problems<'_>) {
    match shape {
        Shape::Struct(ty) => {
            let Some(object) = object(value, path, found) else { return };
            for (name, value) in object {
                let path = Path::Name(path, name);
                match ty.field(name) {
                    None => {
                        found.tell(&path, "field not declared in schema");
                        return;
                    }
                    Some(field) => match Shape::of_field(field) {
                        Shape::Leaf => by_type(value, &field.ty, &path, found),
                        shape => by_shape(value, shape, &path, found),
                    },
                }
            }
        }
        Shape::Map(ty) => {
            let Some(object) = object(value, path, found) else { return };
            for (name, value) in object {
                by_type(value, ty, &Path::Name(path, name), found);
            }
        }
        Shape::Set(_) | Shape::Keyed(..) => {
            let mut seen: HashSet<String> = HashSet::new();
            for (number, item) in list(value, path, found).iter().enumerate() {
                let Some(element) = own_element((number, item), shape, &mut seen, (path, found)) else {
                    return;
                };
                let inside = Path::Element(path, &element);
                match shape {
                    Shape::Keyed(_, ty) => by_shape(item, Shape::Struct(ty), &inside, found),
                    Shape::Set(ty) => by_type(item, ty, &inside, found),
                    _ => {}
                }
            }
        }
        Shape::Schema(described) => by_schema(value, described, path, found),
        Shape::SchemaSet(_) | Shape::SchemaKeyed(..) => elements_by_schema(value, shape, path, found),
        Shape::Leaf | Shape::Deduced | Shape::Custom => {}
    }
}

/// Likewise, by the schema of a definition, which looks into what is owned as a whole, too.
fn by_schema(value: &Value, described: Described<'_>, path: &Path<'_>, found: &mut Problems<'_>) {
    let node = described.node;
    match (node.type_(), value) {
        (_, Value::Null) => {}
        (NodeType::Any, Value::Object(_)) | (NodeType::Object, _) => {
            let Some(object) = object(value, path, found) else { return };
            for (name, value) in object {
                let path = Path::Name(path, name);
                match described.member(name) {
                    Member::Text => by_type(value, &Type::String, &path, found),
                    Member::Metadata => by_shape(value, Shape::Struct(schema::object_meta()), &path, found),
                    Member::Described(inner) => by_schema(value, inner, &path, found),
                    Member::Free => {}
                    Member::Undeclared => {
                        found.tell(&path, "field not declared in schema");
                        return;
                    }
                }
            }
        }
        (NodeType::Any, Value::Array(_)) | (NodeType::Array, _) => {
            let Some(items) = described.items() else { return };
            match node.list_type() {
                SchemaListType::Set => elements_by_schema(value, Shape::SchemaSet(items), path, found),
                SchemaListType::Map(keys) => elements_by_schema(value, Shape::SchemaKeyed(keys, items), path, found),
                SchemaListType::Atomic => {
                    for (number, item) in list(value, path, found).iter().enumerate() {
                        by_schema(item, items, &Path::Number(path, number), found);
                    }
                }
            }
        }
        (NodeType::Any, _) => {}
        (NodeType::String, _) if node.is_formatted() => by_type(value, &Type::Quantity, path, found),
        (NodeType::String, _) => by_type(value, &Type::String, path, found),
        (NodeType::Boolean, _) => by_type(value, &Type::Bool, path, found),
        (NodeType::Integer | NodeType::Number, _) => by_type(value, &Type::Double, path, found),
    }
}

fn elements_by_schema(value: &Value, shape: Shape<'_>, path: &Path<'_>, found: &mut Problems<'_>) {
    let (Shape::SchemaSet(items) | Shape::SchemaKeyed(_, items)) = shape else {
        return;
    };
    let mut seen: HashSet<String> = HashSet::new();
    for (number, item) in list(value, path, found).iter().enumerate() {
        let Some(element) = own_element((number, item), shape, &mut seen, (path, found)) else {
            return;
        };
        by_schema(item, items, &Path::Element(path, &element), found);
    }
}

/// The path element of a list's element; none, and told, where it has no place there. That it stands there twice is told, too.
fn own_element(
    (number, item): (usize, &Value),
    shape: Shape<'_>,
    seen: &mut HashSet<String>,
    (path, found): (&Path<'_>, &mut Problems<'_>),
) -> Option<String> {
    let element = match element_of(shape, item) {
        Ok(element) => element,
        Err(error) => {
            found.tell(path, &format!("element {number}: {error}"));
            return None;
        }
    };
    if !found.twice && seen.contains(&element) {
        found.tell(path, &format!("duplicate entries for key {}", show(&element)));
    }
    seen.insert(element.clone());
    Some(element)
}

fn by_type(value: &Value, ty: &'static Type, path: &Path<'_>, found: &mut Problems<'_>) {
    if value.is_null() || found.settled.is_some_and(|settled| std::ptr::eq(settled, value)) {
        return;
    }
    match ty {
        Type::String | Type::Bytes | Type::Duration if !value.is_string() => {
            let shown = source(value);
            found.tell(
                path,
                &format!("expected string, got &value.valueUnstructured{{Value:{shown}}}"),
            );
        }
        Type::Bool if !value.is_boolean() => {
            found.tell(path, &format!("expected boolean, got &{{{}}}", plain(value)));
        }
        Type::Int32 | Type::Int64 | Type::Double if !value.is_number() => {
            found.tell(path, &format!("expected numeric (int or float), got {}", type_name(value)));
        }
        Type::Quantity | Type::Time | Type::MicroTime if value.is_object() || value.is_array() => {
            found.tell(path, &format!("expected any scalar, got &{{{}}}", plain(value)));
        }
        Type::StringItems => {
            for (number, item) in list(value, path, found).iter().enumerate() {
                by_type(item, &Type::String, &Path::Number(path, number), found);
            }
        }
        Type::List(element) => {
            for (number, item) in list(value, path, found).iter().enumerate() {
                by_type(item, element, &Path::Number(path, number), found);
            }
        }
        Type::Map(element) => {
            let Some(object) = object(value, path, found) else { return };
            for (name, value) in object {
                by_type(value, element, &Path::Name(path, name), found);
            }
        }
        Type::Struct(reference) => by_shape(value, Shape::Struct(reference.get()), path, found),
        _ => {}
    }
}

fn object<'v>(value: &'v Value, path: &Path<'_>, found: &mut Problems<'_>) -> Option<&'v serde_json::Map<String, Value>> {
    match value {
        Value::Object(object) => return Some(object),
        Value::Null => {}
        other => found.tell(path, &format!("expected map, got &{{{}}}", plain(other))),
    }
    None
}

fn list<'v>(value: &'v Value, path: &Path<'_>, found: &mut Problems<'_>) -> &'v [Value] {
    match value {
        Value::Array(items) => return items,
        Value::Null => {}
        other => found.tell(path, &format!("expected list, got &{{{}}}", plain(other))),
    }
    &[]
}
