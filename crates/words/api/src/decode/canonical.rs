//! The form that a Go struct has in JSON after a decode and encode round trip through storage.
//!
//! Invariant: idempotent. A value of the wrong type is left as it is: telling of it is decoding's matter.

use serde_json::{Map, Value};

use crate::cost::values_in;
use crate::quantity::Quantity;
use crate::schema::{self, Field, ListShape, Struct, Type};
use crate::time;

/// Which empty lists and maps a value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// All that were sent, as Go's struct holds them once it is decoded: what defaults, strategy and validation judge.
    Sent,
    /// Lists of fields that are always written, as Go's JSON of that struct shows them: what ownership of fields sees, and an
    /// answer that was never stored.
    Written,
    /// As [`Self::Written`], and all that were sent within lists that are replaced as a whole: ownership compares those by
    /// Go's structs, to which an empty list is not none.
    Compared,
    /// None: protobuf storage does not tell them from nothing. What is stored.
    Stored,
}

/// Brings a value into the form that Go's typed round trip through storage gives: unknown fields and nulls dropped, empty
/// `omitempty` fields dropped, zero values added where Go writes them, quantities and times in canonical form.
pub fn canonicalize(value: &mut Value, ty: &'static Struct) {
    structure(value, ty, Form::whole(Empty::Stored));
}

/// Like [`canonicalize`], with the empty lists and maps that a value has before storage or on another way.
pub fn canonicalize_as(value: &mut Value, ty: &'static Struct, empty: Empty) {
    structure(value, ty, Form::whole(empty));
}

/// Like [`canonicalize`], for a value that decoding brought into its form, in which nothing was sent empty, and in which nobody
/// changed a schema of a definition since: those are passed by.
pub fn canonicalize_settled(value: &mut Value, ty: &'static Struct) {
    let form = Form {
        schemas: false,
        ..Form::whole(Empty::Stored)
    };
    structure(value, ty, form);
}

/// Brings a member that is being decoded into the form with what was sent empty, and says whether it stays; where it is a
/// struct, that is in its form already.
pub(super) fn stays(value: &mut Value, field: &'static Field) -> bool {
    let form = Form {
        inner: false,
        ..Form::whole(Empty::Sent)
    };
    member(value, field, form)
}

/// Puts the zero values that Go writes into a struct that was decoded; how many values those are.
pub(super) fn complete(object: &mut Map<String, Value>, ty: &'static Struct) -> usize {
    let list = is_list(ty) && !object.contains_key("items");
    let added = zeros(object, ty);
    if list
        && let Some(items) = object.get_mut("items")
        && items.is_null()
    {
        *items = Value::Array(Vec::new());
    }
    added
}

/// The form to bring a value into.
#[derive(Clone, Copy)]
struct Form {
    empty: Empty,
    /// Whether structs within structs are to be brought into it, too.
    inner: bool,
    /// Whether schemas of definitions are to be brought into it, too.
    schemas: bool,
}

impl Form {
    fn whole(empty: Empty) -> Self {
        Self {
            empty,
            inner: true,
            schemas: true,
        }
    }
}

/// Gives an old object the empty lists and maps of the new one where it has nothing: upstream compares them semantically, an
/// empty list is none, and what is compared here by value then comes out alike.
pub fn align_empty(old: &mut Value, new: &Value, ty: &'static Struct) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return;
    };
    for (name, new) in new {
        let Some(field) = ty.field(name) else { continue };
        match old.get_mut(name).filter(|old| !old.is_null()) {
            Some(old) => align(old, new, &field.ty),
            None if is_empty(new) && stays_empty(field, Empty::Sent) => drop(old.insert(name.clone(), new.clone())),
            None => {}
        }
    }
}

fn align(old: &mut Value, new: &Value, ty: &Type) {
    match (ty, old, new) {
        (Type::Struct(reference), old, new) => align_empty(old, new, reference.get()),
        (Type::List(inner), Value::Array(old), Value::Array(new)) => {
            old.iter_mut().zip(new).for_each(|(old, new)| align(old, new, inner));
        }
        (Type::Map(inner), Value::Object(old), Value::Object(new)) => {
            for (name, old) in old {
                if let Some(new) = new.get(name) {
                    align(old, new, inner);
                }
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

fn structure(value: &mut Value, ty: &'static Struct, form: Form) {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    if let Value::Object(object) = value {
        object_of(object, ty, form);
    }
}

fn object_of(object: &mut Map<String, Value>, ty: &'static Struct, form: Form) {
    // A list's items are no part of storage: both forms of "none" are sent, and kept.
    let list = is_list(ty) && !object.get("items").is_some_and(Value::is_null);
    members(object, ty, form);
    if list
        && let Some(items) = object.get_mut("items")
        && items.is_null()
    {
        *items = Value::Array(Vec::new());
    }
}

fn is_list(ty: &Struct) -> bool {
    ty.name.ends_with("List") && ty.is_kind()
}

fn members(object: &mut Map<String, Value>, ty: &'static Struct, form: Form) {
    // Most stay: only where some go the map is walked again.
    let mut gone = Vec::new();
    for (index, (name, value)) in object.iter_mut().enumerate() {
        if !ty.field(name).is_some_and(|field| member(value, field, form)) {
            gone.push(index);
        }
    }
    if !gone.is_empty() {
        let (mut gone, mut at) = (gone.into_iter().peekable(), 0..);
        object.retain(|_, _| gone.next_if_eq(&at.next().unwrap_or_default()).is_none());
    }
    zeros(object, ty);
}

/// Puts in the zero values that Go writes; how many values those are.
fn zeros(object: &mut Map<String, Value>, ty: &'static Struct) -> usize {
    let mut added = 0;
    for field in ty.always_written() {
        if !object.contains_key(field.json) {
            let zero = if field.pointer { Value::Null } else { zero(&field.ty) };
            added += values_in(&zero);
            object.insert(field.json.to_owned(), zero);
        }
    }
    added
}

/// Brings a member that is there into its form; whether it stays.
fn member(value: &mut Value, field: &'static Field, form: Form) -> bool {
    if value.is_null() && (field.pointer || field.omitempty) {
        return false;
    }
    if form.empty != Empty::Stored && is_empty(value) && stays_empty(field, form.empty) {
        return true;
    }
    let whole = form.empty == Empty::Compared && field.list_shape() == Some(ListShape::Whole);
    let inside = if whole {
        Form {
            empty: Empty::Sent,
            ..form
        }
    } else {
        form
    };
    canonical(value, &field.ty, inside);
    if field.pointer {
        !(value.is_null() && field.omitempty)
    } else {
        !((field.omitempty && go_empty(value, &field.ty)) || (field.omitzero && value.is_null()))
    }
}

/// Whether an empty list or map of a field is more than nothing before storage.
fn stays_empty(field: &Field, kept: Empty) -> bool {
    let list = matches!(field.ty, Type::List(_) | Type::StringItems);
    match kept {
        Empty::Sent => list || matches!(field.ty, Type::Map(_)),
        Empty::Written | Empty::Compared => list && !field.pointer && !field.omitempty,
        Empty::Stored => false,
    }
}

fn go_empty(value: &Value, ty: &Type) -> bool {
    match value {
        Value::Null => !ty.is_struct(),
        Value::Bool(value) => *value == (ty != &Type::Bool) && ty == &Type::Bool,
        Value::Number(number) => matches!(ty, Type::Int32 | Type::Int64 | Type::Double) && number.as_f64() == Some(0.0),
        Value::String(text) => matches!(ty, Type::String | Type::Bytes) && text.is_empty(),
        Value::Array(items) => matches!(ty, Type::List(_) | Type::StringItems) && items.is_empty(),
        Value::Object(members) => matches!(ty, Type::Map(_)) && members.is_empty(),
    }
}

/// What Go writes for the zero value of a type.
pub(crate) fn zero(ty: &Type) -> Value {
    match ty {
        Type::String => Value::from(""),
        Type::Bool => Value::from(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::from("0"),
        Type::Duration => Value::from("0s"),
        Type::SchemaOrBool => Value::from(false),
        Type::Struct(reference) => {
            let mut object = Map::new();
            object_of(&mut object, reference.get(), Form::whole(Empty::Stored));
            Value::Object(object)
        }
        _ => Value::Null,
    }
}

fn canonical(value: &mut Value, ty: &Type, form: Form) {
    match ty {
        Type::Struct(reference) if !form.schemas && reference.get() == schema::json_schema_props() => {}
        Type::Struct(reference) if form.inner || value.is_null() => structure(value, reference.get(), form),
        Type::Struct(_) => {}
        Type::List(inner) => {
            if let Value::Array(items) = value {
                if items.is_empty() {
                    if form.empty == Empty::Stored {
                        *value = Value::Null;
                    }
                    return;
                }
                for item in items {
                    canonical(item, inner, form);
                }
            }
        }
        Type::StringItems => {
            if let Value::Array(items) = value {
                for item in items {
                    canonical(item, &Type::String, form);
                }
            }
        }
        Type::Map(inner) => {
            if let Value::Object(members) = value {
                if members.is_empty() {
                    if form.empty == Empty::Stored {
                        *value = Value::Null;
                    }
                    return;
                }
                for member in members.values_mut() {
                    if **inner == Type::Bytes && member.is_null() {
                        *member = Value::from(""); // nothing and no bytes are one to storage
                    }
                    canonical(member, inner, form);
                }
            }
        }
        Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString if value.is_null() => {
            *value = zero(ty);
        }
        Type::Double => whole(value),
        Type::Bytes => bytes(value),
        Type::Quantity => quantity(value),
        Type::Time => timestamp(value, false),
        Type::MicroTime => timestamp(value, true),
        Type::Duration => {
            if value.is_null() {
                *value = zero(ty);
            } else if let Some(nanos) = value.as_str().and_then(|text| time::parse_duration(text).ok()) {
                *value = Value::from(time::format_duration(nanos));
            }
        }
        Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => schema_or(value, form),
        _ => {}
    }
}

fn schema_or(value: &mut Value, form: Form) {
    if !form.inner {
        return;
    }
    match value {
        Value::Object(_) => structure(value, schema::json_schema_props(), form),
        Value::Array(items) => {
            for item in items.iter_mut().filter(|item| item.is_object()) {
                structure(item, schema::json_schema_props(), form);
            }
        }
        _ => {}
    }
}

/// Go writes a float without fraction as a whole number.
fn whole(value: &mut Value) {
    if let Some(float) = value.as_f64()
        && value.is_f64()
        && float.fract() == 0.0
        && float.abs() < 9e15
    {
        #[allow(clippy::cast_possible_truncation)] // whole and below 2^53
        let number = float as i64;
        *value = Value::from(number);
    }
}

fn bytes(value: &mut Value) {
    use base64::Engine as _;
    if let Some(text) = value.as_str()
        && text.contains(['\n', '\r'])
        && let Ok(raw) = base64::engine::general_purpose::STANDARD.decode(text.replace(['\n', '\r'], ""))
    {
        *value = Value::from(base64::engine::general_purpose::STANDARD.encode(raw));
    }
}

fn quantity(value: &mut Value) {
    let text = match value {
        Value::Null => {
            *value = Value::from("0");
            return;
        }
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Ok(parsed) = Quantity::parse(&text) {
        *value = Value::from(parsed.to_string());
    }
}

fn timestamp(value: &mut Value, micro: bool) {
    let Some(text) = value.as_str() else { return };
    let parsed = if micro { time::parse_micro(text) } else { time::parse(text) };
    if let Ok(parsed) = parsed {
        *value = if time::is_go_zero(parsed) {
            Value::Null
        } else if micro {
            Value::from(time::format_micro(parsed))
        } else {
            Value::from(time::format(parsed))
        };
    }
}
