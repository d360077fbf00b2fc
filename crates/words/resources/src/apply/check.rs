//! Whether an applied configuration fits the field table: unknown fields, wrong types, elements that repeat a key.
//!
//! Invariant: null fits everything. All problems are told, but for those behind a bad list element or an unknown field
//! of the same object.

use std::collections::HashSet;
use std::fmt;

use serde_json::Value;
use trireme_api::cost::Ledger;
use trireme_api::go::{plain, source, type_name};
use trireme_api::schema::Type;

use super::set::show;
use super::shape::{Shape, element_of};

/// The problems of a configuration, as one text; none when it fits. What stands at `settled` in it is known to fit.
#[must_use]
pub fn problems(value: &Value, root: Shape, settled: Option<&Value>) -> Option<String> {
    let found = Problems {
        settled,
        ..Problems::default()
    };
    told(value, root, found)
}

/// The problems of an object as it is stored, whose lists may hold elements twice.
#[must_use]
pub fn problems_of_stored(value: &Value, root: Shape) -> Option<String> {
    let found = Problems {
        twice: true,
        ..Problems::default()
    };
    told(value, root, found)
}

fn told(value: &Value, root: Shape, mut found: Problems<'_>) -> Option<String> {
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

fn by_shape(value: &Value, shape: Shape, path: &Path<'_>, found: &mut Problems<'_>) {
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
                let element = match element_of(shape, item) {
                    Ok(element) => element,
                    Err(error) => {
                        found.tell(path, &format!("element {number}: {error}"));
                        return;
                    }
                };
                if !found.twice && seen.contains(&element) {
                    found.tell(path, &format!("duplicate entries for key {}", show(&element)));
                }
                let inside = Path::Element(path, &element);
                match shape {
                    Shape::Keyed(_, ty) => by_shape(item, Shape::Struct(ty), &inside, found),
                    Shape::Set(ty) => by_type(item, ty, &inside, found),
                    _ => {}
                }
                seen.insert(element);
            }
        }
        Shape::Leaf | Shape::Deduced | Shape::Custom => {}
    }
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
