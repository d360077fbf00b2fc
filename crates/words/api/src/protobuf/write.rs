//! Encoding.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::MAGIC;
use crate::schema::{self, Part, Struct, Type};
use crate::time;

pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, tag: u32, wire: u8) {
    varint(out, u64::from(tag) << 3 | u64::from(wire));
}

fn integer(out: &mut Vec<u8>, tag: u32, value: i64) {
    key(out, tag, 0);
    varint(out, value.cast_unsigned());
}

fn bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    key(out, tag, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes a nested message in place. Most are short: one byte is kept for the length, a longer length moves the message.
fn nested(out: &mut Vec<u8>, tag: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, tag, 2);
    let start = out.len();
    out.push(0);
    write(out);
    let mut length = Vec::with_capacity(5);
    varint(&mut length, (out.len() - start - 1) as u64);
    if let [short] = length[..] {
        out[start] = short;
    } else {
        out.splice(start..=start, length);
    }
}

/// The bare message of a value; `kind` and `apiVersion` are not in it ([`wrap`] has them).
#[must_use]
pub fn encode(value: &Value, ty: &'static Struct) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    message(&mut out, value.as_object(), ty);
    out
}

fn message(out: &mut Vec<u8>, object: Option<&Map<String, Value>>, ty: &'static Struct) {
    for part in ty.wire {
        match part {
            Part::Embed(index) => {
                let embed = &ty.embeds[usize::from(*index)];
                nested(out, embed.tag, |out| message(out, object, embed.ty.get()));
            }
            Part::Field(index) => {
                let field = &ty.fields[usize::from(*index)];
                let value = object.and_then(|object| object.get(field.json)).unwrap_or(&Value::Null);
                if !(field.pointer && value.is_null()) {
                    value_of(out, field.tag, value, &field.ty);
                }
            }
        }
    }
}

fn value_of(out: &mut Vec<u8>, tag: u32, value: &Value, ty: &Type) {
    match ty {
        Type::String => bytes(out, tag, value.as_str().unwrap_or_default().as_bytes()),
        Type::Bool => integer(out, tag, value.as_bool().unwrap_or_default().into()),
        Type::Int32 | Type::Int64 => integer(out, tag, number(value)),
        Type::Double => {
            key(out, tag, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Type::Bytes => {
            if let Some(text) = value.as_str() {
                bytes(out, tag, &unbase64(text));
            }
        }
        Type::List(inner) => {
            for item in value.as_array().into_iter().flatten() {
                value_of(out, tag, item, inner);
            }
        }
        Type::Map(inner) => {
            for (name, member) in value.as_object().into_iter().flatten() {
                nested(out, tag, |out| {
                    bytes(out, 1, name.as_bytes());
                    value_of(out, 2, member, inner);
                });
            }
        }
        // The wrapper tells an empty list from none.
        Type::StringItems if value.is_null() => {}
        _ => nested(out, tag, |out| body(out, value, ty)),
    }
}

fn number(value: &Value) -> i64 {
    #[allow(clippy::cast_possible_truncation)] // decoding has bounded it
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|float| float as i64))
        .unwrap_or_default()
}

fn unbase64(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
}

fn json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a Value serialises")
}

/// What a nested message of a special type holds.
fn body(out: &mut Vec<u8>, value: &Value, ty: &Type) {
    match ty {
        Type::Struct(reference) => message(out, value.as_object(), reference.get()),
        Type::Quantity => {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => "0".into(),
            };
            bytes(out, 1, text.as_bytes());
        }
        Type::IntOrString => {
            let text = value.as_str();
            integer(out, 1, text.is_some().into());
            integer(out, 2, number(value));
            bytes(out, 3, text.unwrap_or_default().as_bytes());
        }
        Type::Time | Type::MicroTime => {
            let micro = *ty == Type::MicroTime;
            let parsed = value.as_str().and_then(|text| time::parse(text).ok());
            if let Some(at) = parsed.filter(|at| !time::is_go_zero(*at)) {
                let nanos = at.as_nanosecond();
                let fraction = nanos.rem_euclid(1_000_000_000);
                integer(out, 1, i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or_default());
                let micros = i64::try_from(fraction / 1000 * 1000).unwrap_or_default();
                integer(out, 2, if micro { micros } else { 0 });
            }
        }
        Type::Duration => {
            let nanos = value.as_str().and_then(|text| time::parse_duration(text).ok());
            integer(out, 1, nanos.unwrap_or_default());
        }
        Type::RawExtension | Type::Json | Type::FieldsV1 if !value.is_null() => bytes(out, 1, &json(value)),
        Type::StringItems => {
            for item in value.as_array().into_iter().flatten() {
                bytes(out, 1, item.as_str().unwrap_or_default().as_bytes());
            }
        }
        Type::SchemaOrBool => {
            integer(out, 1, (value.is_object() || *value == Value::Bool(true)).into());
            schema(out, 2, value);
        }
        Type::SchemaOrArray => {
            schema(out, 1, value);
            for item in value.as_array().into_iter().flatten() {
                nested(out, 2, |out| message(out, item.as_object(), schema::json_schema_props()));
            }
        }
        Type::SchemaOrStrings => {
            schema(out, 1, value);
            for item in value.as_array().into_iter().flatten() {
                bytes(out, 2, item.as_str().unwrap_or_default().as_bytes());
            }
        }
        _ => {}
    }
}

fn schema(out: &mut Vec<u8>, tag: u32, value: &Value) {
    if let Some(object) = value.as_object() {
        nested(out, tag, |out| message(out, Some(object), schema::json_schema_props()));
    }
}

/// A top-level object: magic and `runtime.Unknown` around the bare message.
#[must_use]
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    out.extend_from_slice(MAGIC);
    nested(&mut out, 1, |out| {
        bytes(out, 1, api_version.as_bytes());
        bytes(out, 2, kind.as_bytes());
    });
    bytes(&mut out, 2, raw);
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    out
}

/// A whole list, wrapped; items are bare messages.
#[must_use]
pub fn encode_list(
    api_version: &str,
    kind_list: &str,
    resource_version: &str,
    continue_: &str,
    remaining: Option<i64>,
    items: &[Vec<u8>],
) -> Vec<u8> {
    let mut raw = Vec::with_capacity(items.iter().map(|item| item.len() + 6).sum::<usize>() + 64);
    nested(&mut raw, 1, |out| {
        bytes(out, 1, b"");
        bytes(out, 2, resource_version.as_bytes());
        bytes(out, 3, continue_.as_bytes());
        if let Some(remaining) = remaining {
            integer(out, 4, remaining);
        }
    });
    for item in items {
        bytes(&mut raw, 2, item);
    }
    wrap(api_version, kind_list, &raw)
}

/// One `metav1.WatchEvent` around a wrapped object. The stream puts a four-byte big-endian length before it.
#[must_use]
pub fn encode_watch_event(type_: &str, raw_wrapped_object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw_wrapped_object.len() + type_.len() + 24);
    bytes(&mut out, 1, type_.as_bytes());
    nested(&mut out, 2, |out| bytes(out, 1, raw_wrapped_object));
    out
}
