//! Values that the server fills in where a client left them out (pkg/apis/*/v1/defaults.go).
//!
//! Invariant: applying defaults twice is the same as once, and never changes what a client set. Plain defaults are in the
//! field table; those that depend on other fields are functions of one struct, wherever the struct stands.

mod core;
mod image;
mod other;
mod workloads;

use std::borrow::Cow;

use serde_json::{Map, Value};
use trireme_api::quantity::Quantity;
use trireme_api::schema::{Struct, Type};

use crate::rows::Resource;

/// Members of an object.
type Fields = Map<String, Value>;

/// Structs in and below which nothing has a default: the largest objects consist of them.
const WITHOUT: &[&str] = &["JSONSchemaProps"];

/// Fills in the defaults of a row's kind.
pub fn apply(row: &Resource, value: &mut Value) {
    fill(row.schema(), value);
}

/// Outer structs before inner ones, as upstream's generated defaulters go.
fn fill(of: &'static Struct, value: &mut Value) {
    if WITHOUT.contains(&of.name) {
        return;
    }
    let Some(fields) = value.as_object_mut() else { return };
    for_struct(of, fields);
    let whole = of.is_kind();
    for field in of.defaulted().filter(|field| !(whole && field.json == "metadata")) {
        if let Some(default) = field.default
            && fields.get(field.json).is_none_or(Value::is_null)
            && let Some(value) = parse(default, field.pointer)
        {
            fields.insert(field.json.to_owned(), value);
        }
    }
    for (name, value) in fields {
        let Some(field) = of.field(name).filter(|field| !(whole && field.json == "metadata")) else {
            continue;
        };
        if value.is_object() && field.go_type.ends_with("ResourceList") && of.package != "api/node/v1" {
            round_amounts(value);
        }
        descend(&field.ty, value);
    }
}

/// Amounts of resources are no finer than thousandths.
fn round_amounts(list: &mut Value) {
    for amount in list.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let text = match &*amount {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            Value::Number(number) => Cow::Owned(number.to_string()),
            _ => continue,
        };
        // What has none of these letters is no finer: most amounts need no look beyond their text.
        let fine = text.contains(['n', 'u', '.', 'e', 'E', '-']);
        let rounded = fine.then(|| Quantity::parse(&text).ok()?.rounded_up(-3)).flatten();
        if let Some(rounded) = rounded {
            *amount = rounded.to_string().into();
        }
    }
}

fn descend(ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(inner), value) => fill(inner.get(), value),
        (Type::List(inner), Value::Array(items)) if has_structs(inner) => items.iter_mut().for_each(|item| descend(inner, item)),
        (Type::Map(inner), Value::Object(members)) if has_structs(inner) => {
            members.values_mut().for_each(|member| descend(inner, member))
        }
        _ => {}
    }
}

fn has_structs(ty: &Type) -> bool {
    match ty {
        Type::Struct(_) => true,
        Type::List(inner) | Type::Map(inner) => has_structs(inner),
        _ => false,
    }
}

/// A default of the table. A zero is only written where the field is a pointer: elsewhere absence means zero.
fn parse(text: &str, pointer: bool) -> Option<Value> {
    let value = match text {
        "ref(AzureDataDiskCachingReadWrite)" => "ReadWrite".into(),
        "ref(AzureSharedBlobDisk)" => "Shared".into(),
        text => serde_json::from_str(text).ok()?,
    };
    let zero = value == 0 || value == "" || value == false;
    (pointer || !zero).then_some(value)
}

fn for_struct(of: &Struct, fields: &mut Fields) {
    match of.package.trim_start_matches("api/") {
        "core/v1" => core::apply(of.name, fields),
        "apps/v1" | "batch/v1" | "autoscaling/v1" | "autoscaling/v2" => workloads::apply(of.package, of.name, fields),
        package => other::apply(package, of.name, fields),
    }
}

/// Sets a member that is absent.
fn set(fields: &mut Fields, name: &str, value: impl Into<Value>) {
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), value.into());
    }
}

/// Sets a member that is absent, empty or zero.
fn set_zero(fields: &mut Fields, name: &str, value: impl Into<Value>) {
    if is_zero(fields.get(name)) {
        fields.insert(name.to_owned(), value.into());
    }
}

fn is_zero(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_f64() == Some(0.0),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
        Some(Value::Bool(flag)) => !flag,
    }
}

/// The text of a member, empty where it is absent.
fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// An object member, made where it is absent.
fn object<'a>(fields: &'a mut Fields, name: &str) -> &'a mut Fields {
    let member = fields.entry(name).or_insert(Value::Null);
    if !member.is_object() {
        *member = Value::Object(Fields::new());
    }
    member.as_object_mut().expect("just made an object")
}

#[cfg(test)]
mod tests;
