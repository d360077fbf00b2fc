//! The form of a stored object that decoders other than Go's take: no nulls, and what they require is there.
//!
//! Go writes the zero value of a required time as null and takes an absent one for it; k8s-openapi takes neither. Go does
//! not look at the kind of a nested object (a claim template of a StatefulSet); k8s-openapi does. It will not mend a value
//! of a wrong type: what a field of another type means is anybody's guess.

use serde_json::{Map, Value};

use super::canonical::zero;
use crate::schema::{self, Field, Struct, Type};

/// The zero time, as Go would write it if it did not write null.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Removes nulls and the kinds of nested objects, gives null elements of lists and maps their type's zero value, and adds
/// the required times that are missing, all along the field table.
pub fn complete(value: &mut Value, ty: &'static Struct) {
    let Value::Object(object) = value else { return };
    object.retain(|name, member| match ty.field(name) {
        Some(field) => {
            complete_member(member, &field.ty);
            !member.is_null()
        }
        None => true,
    });
    for field in ty.fields.iter().filter(|field| is_required_time(field)) {
        object.entry(field.json).or_insert_with(|| Value::from(ZERO_TIME));
    }
}

fn is_required_time(field: &Field) -> bool {
    let is_time = matches!(field.ty, Type::Time | Type::MicroTime);
    is_time && !(field.pointer || field.omitempty || field.omitzero || field.optional)
}

fn complete_member(member: &mut Value, ty: &Type) {
    match ty {
        Type::Struct(reference) => {
            // What a nested object calls itself is nobody's concern in Go; elsewhere it has to be right or absent.
            if let Some(object) = member.as_object_mut().filter(|_| reference.get().is_kind()) {
                object.remove("apiVersion");
                object.remove("kind");
            }
            complete(member, reference.get());
        }
        Type::List(inner) => {
            for item in member.as_array_mut().into_iter().flatten() {
                complete_element(item, inner);
            }
        }
        Type::StringItems => {
            for item in member.as_array_mut().into_iter().flatten() {
                complete_element(item, &Type::String);
            }
        }
        Type::Map(inner) => {
            for item in member.as_object_mut().into_iter().flat_map(Map::values_mut) {
                complete_element(item, inner);
            }
        }
        Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => match member {
            Value::Array(items) => items.iter_mut().for_each(complete_schema),
            other => complete_schema(other),
        },
        _ => {}
    }
}

fn complete_schema(schema: &mut Value) {
    complete(schema, schema::json_schema_props());
}

/// An element cannot be left out, so that a null one becomes what Go reads in it.
fn complete_element(item: &mut Value, ty: &Type) {
    if item.is_null() {
        *item = match ty {
            Type::Time | Type::MicroTime => Value::from(ZERO_TIME),
            Type::Bytes => Value::from(""),
            Type::List(_) | Type::StringItems | Type::SchemaOrStrings => Value::Array(Vec::new()),
            Type::Map(_) => Value::Object(Map::new()),
            _ => zero(ty),
        };
    }
    complete_member(item, ty);
}
