//! Whether an applied configuration fits the field table: unknown fields, wrong types, elements that repeat a key.
//!
//! Invariant: null fits everything. All problems are told, but for those behind a bad list element or an unknown field
//! of the same object.

use serde_json::Value;
use trireme_api::schema::Type;

use super::set::show;
use super::shape::{Shape, element_of};

/// The problems of a configuration, as one text; none when it fits.
#[must_use]
pub fn problems(value: &Value, root: Shape) -> Option<String> {
    let mut found = Vec::new();
    by_shape(value, root, "", &mut found);
    match found.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("errors:\n  {}", several.join("\n  "))),
    }
}

fn tell(path: &str, what: &str, found: &mut Vec<String>) {
    found.push(if path.is_empty() {
        what.to_owned()
    } else {
        format!("{path}: {what}")
    });
}

fn by_shape(value: &Value, shape: Shape, path: &str, found: &mut Vec<String>) {
    match shape {
        Shape::Struct(ty) => {
            let Some(object) = object(value, path, found) else { return };
            for (name, value) in object {
                let path = format!("{path}.{name}");
                match ty.field(name) {
                    None => {
                        tell(&path, "field not declared in schema", found);
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
                by_type(value, ty, &format!("{path}.{name}"), found);
            }
        }
        Shape::Set | Shape::Keyed(..) => {
            let mut seen: Vec<String> = Vec::new();
            for (number, item) in list(value, path, found).iter().enumerate() {
                let element = match element_of(shape, item) {
                    Ok(element) => element,
                    Err(error) => {
                        tell(path, &format!("element {number}: {error}"), found);
                        return;
                    }
                };
                if seen.contains(&element) {
                    tell(path, &format!("duplicate entries for key {}", show(&element)), found);
                }
                match shape {
                    Shape::Keyed(_, ty) => by_shape(item, Shape::Struct(ty), &format!("{path}{}", show(&element)), found),
                    _ => by_type(item, &Type::String, &format!("{path}{}", show(&element)), found),
                }
                seen.push(element);
            }
        }
        Shape::Leaf | Shape::Deduced | Shape::Custom => {}
    }
}

fn by_type(value: &Value, ty: &'static Type, path: &str, found: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match ty {
        Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration if !value.is_string() => {
            tell(
                path,
                &format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(value)),
                found,
            );
        }
        Type::Bool if !value.is_boolean() => {
            tell(path, &format!("expected boolean, got &{{{}}}", plain(value)), found);
        }
        Type::Int32 | Type::Int64 | Type::Double if !value.is_number() => {
            tell(
                path,
                &format!("expected numeric (int or float), got {}", go_type(value)),
                found,
            );
        }
        Type::Quantity | Type::IntOrString if value.is_object() || value.is_array() => {
            tell(path, &format!("expected any scalar, got &{{{}}}", plain(value)), found);
        }
        Type::List(element) => {
            for (number, item) in list(value, path, found).iter().enumerate() {
                by_type(item, element, &format!("{path}[{number}]"), found);
            }
        }
        Type::Map(element) => {
            let Some(object) = object(value, path, found) else { return };
            for (name, value) in object {
                by_type(value, element, &format!("{path}.{name}"), found);
            }
        }
        Type::Struct(reference) => by_shape(value, Shape::Struct(reference.get()), path, found),
        _ => {}
    }
}

fn object<'a>(value: &'a Value, path: &str, found: &mut Vec<String>) -> Option<&'a serde_json::Map<String, Value>> {
    match value {
        Value::Object(object) => return Some(object),
        Value::Null => {}
        other => tell(path, &format!("expected map, got &{{{}}}", plain(other)), found),
    }
    None
}

fn list<'a>(value: &'a Value, path: &str, found: &mut Vec<String>) -> &'a [Value] {
    match value {
        Value::Array(items) => return items,
        Value::Null => {}
        other => tell(path, &format!("expected list, got &{{{}}}", plain(other)), found),
    }
    &[]
}

/// A value as Go prints it plainly.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(object) => {
            let members: Vec<_> = object
                .iter()
                .map(|(name, value)| format!("{name}:{}", plain(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

/// A value as Go source would write it.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => {
            format!(
                "[]interface {{}}{{{}}}",
                items.iter().map(go_syntax).collect::<Vec<_>>().join(", ")
            )
        }
        Value::Object(object) => {
            let members: Vec<_> = object
                .iter()
                .map(|(name, value)| format!("{name:?}:{}", go_syntax(value)))
                .collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        scalar => scalar.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
