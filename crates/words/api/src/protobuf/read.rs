//! Decoding.
//!
//! Invariant: each value is charged before it is made, and nested messages are read where they lie: a message costs what
//! its values cost, not its depth times its length.

use base64::Engine as _;
use serde_json::{Map, Number, Value};

use super::{MAGIC, ProtobufError, Unknown};
use crate::cost::Ledger;
use crate::decode::{self, DecodeError, canonicalize};
use crate::quantity::Quantity;
use crate::schema::{self, Field, Struct, Type};
use crate::time;

/// No built-in type nests deeper but JSONSchemaProps, which may as deep as JSON may.
const DEPTH_MAX: u32 = 250;

/// One field on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32,
}

impl Wire<'_> {
    fn number(&self) -> u8 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32 => 5,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            if shift >= 64 {
                return Err(ProtobufError::Overflow);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Overflow)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], ProtobufError> {
        let count = usize::try_from(count).map_err(|_| ProtobufError::Overflow)?;
        let (head, rest) = self.0.split_at_checked(count).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| ProtobufError::Overflow)?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let head = self.take(8)?;
                Wire::Fixed64(head.try_into().map_err(|_| ProtobufError::Truncated)?)
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => {
                return Err(ProtobufError::WireType {
                    field: tag.to_string(),
                    wire: u8::try_from(other).unwrap_or_default(),
                });
            }
        };
        Ok(Some((tag, wire)))
    }
}

/// A bare message to its canonical JSON value, without `kind` and `apiVersion`.
///
/// # Errors
/// As [`ProtobufError`] says.
pub fn decode(bytes: &[u8], ty: &'static Struct) -> Result<Value, ProtobufError> {
    let mut object = Map::new();
    message(bytes, ty, &mut object, DEPTH_MAX, &mut Ledger::new())?;
    let mut value = Value::Object(object);
    canonicalize(&mut value, ty);
    Ok(value)
}

/// The object inside an envelope, `kind` and `apiVersion` set from it where it names them.
///
/// # Errors
/// As [`ProtobufError`] says.
pub fn decode_unknown(unknown: &Unknown, ty: &'static Struct) -> Result<Value, ProtobufError> {
    let mut value = decode(&unknown.raw, ty)?;
    if !unknown.api_version.is_empty() {
        value["apiVersion"] = Value::from(unknown.api_version.as_str());
    }
    if !unknown.kind.is_empty() {
        value["kind"] = Value::from(unknown.kind.as_str());
    }
    Ok(value)
}

/// The envelope of a top-level object.
///
/// # Errors
/// As [`ProtobufError`] says.
pub fn unwrap(bytes: &[u8]) -> Result<Unknown, ProtobufError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let mut unknown = Unknown::default();
    let mut reader = Reader(rest);
    while let Some((tag, wire)) = reader.next()? {
        let Wire::Bytes(body) = wire else {
            return Err(mismatch("Unknown", &wire));
        };
        match tag {
            1 => {
                let mut inner = Reader(body);
                while let Some((tag, wire)) = inner.next()? {
                    match (tag, wire) {
                        (1, Wire::Bytes(body)) => unknown.api_version = text(body, "apiVersion")?,
                        (2, Wire::Bytes(body)) => unknown.kind = text(body, "kind")?,
                        _ => {}
                    }
                }
            }
            2 => unknown.raw = body.to_vec(),
            3 => unknown.content_encoding = text(body, "contentEncoding")?,
            4 => unknown.content_type = text(body, "contentType")?,
            _ => {}
        }
    }
    Ok(unknown)
}

fn mismatch(field: &str, wire: &Wire<'_>) -> ProtobufError {
    ProtobufError::WireType {
        field: field.to_owned(),
        wire: wire.number(),
    }
}

fn text(bytes: &[u8], field: &str) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Content { field: field.to_owned() })
}

fn message(
    bytes: &[u8],
    ty: &'static Struct,
    object: &mut Map<String, Value>,
    depth: u32,
    ledger: &mut Ledger,
) -> Result<(), ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.next()? {
        if let Some(field) = ty.fields.iter().find(|field| field.tag == tag && !field.embedded) {
            one(field, &wire, object, depth, ledger)?;
        } else if let Some(embed) = ty.embeds.iter().find(|embed| embed.tag == tag) {
            let Wire::Bytes(body) = wire else {
                return Err(mismatch(embed.ty.name, &wire));
            };
            message(body, embed.ty.get(), object, depth, ledger)?;
        }
    }
    Ok(())
}

fn one(
    field: &Field,
    wire: &Wire<'_>,
    object: &mut Map<String, Value>,
    depth: u32,
    ledger: &mut Ledger,
) -> Result<(), ProtobufError> {
    match field.ty {
        Type::List(inner) => {
            let item = single(field.json, wire, inner, depth, ledger)?;
            if let Value::Array(items) = object
                .entry(field.json.to_owned())
                .or_insert_with(|| Value::Array(Vec::new()))
            {
                items.push(item);
            }
        }
        Type::Map(inner) => {
            let Wire::Bytes(body) = wire else {
                return Err(mismatch(field.json, wire));
            };
            let (mut name, mut member) = (String::new(), None);
            let mut reader = Reader(body);
            while let Some((tag, wire)) = reader.next()? {
                match (tag, &wire) {
                    (1, Wire::Bytes(body)) => name = text(body, field.json)?,
                    (2, _) => member = Some(single(field.json, &wire, inner, depth, ledger)?),
                    _ => {}
                }
            }
            let member = member.unwrap_or(Value::Null);
            if let Value::Object(members) = object
                .entry(field.json.to_owned())
                .or_insert_with(|| Value::Object(Map::new()))
            {
                members.insert(name, member);
            }
        }
        ref ty => {
            let value = single(field.json, wire, ty, depth, ledger)?;
            object.insert(field.json.to_owned(), value);
        }
    }
    Ok(())
}

fn single(name: &str, wire: &Wire<'_>, ty: &Type, depth: u32, ledger: &mut Ledger) -> Result<Value, ProtobufError> {
    ledger.value()?;
    Ok(match (ty, wire) {
        (Type::Bool, Wire::Varint(number)) => Value::from(*number != 0),
        #[allow(clippy::cast_possible_truncation)] // the wire sign-extends a 32-bit number
        (Type::Int32, Wire::Varint(number)) => Value::from(number.cast_signed() as i32),
        (Type::Int64, Wire::Varint(number)) => Value::from(number.cast_signed()),
        (Type::Double, Wire::Fixed64(raw)) => Number::from_f64(f64::from_le_bytes(*raw)).map_or(Value::from(0), Value::Number),
        (Type::String, Wire::Bytes(body)) => Value::from(text(body, name)?),
        (Type::Bytes, Wire::Bytes(body)) => Value::from(base64::engine::general_purpose::STANDARD.encode(body)),
        (Type::Struct(reference), Wire::Bytes(body)) => {
            let mut object = Map::new();
            message(body, reference.get(), &mut object, depth, ledger)?;
            Value::Object(object)
        }
        (Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::String | Type::Bytes, _) => {
            return Err(mismatch(name, wire));
        }
        (_, Wire::Bytes(body)) => special(name, body, ty, depth, ledger)?,
        _ => return Err(mismatch(name, wire)),
    })
}

/// All fields of a small message, the last of each tag winning but for repeated ones, which `each` sees one by one.
fn fields<'a>(body: &'a [u8], mut each: impl FnMut(u32, Wire<'a>) -> Result<(), ProtobufError>) -> Result<(), ProtobufError> {
    let mut reader = Reader(body);
    while let Some((tag, wire)) = reader.next()? {
        each(tag, wire)?;
    }
    Ok(())
}

fn special(name: &str, body: &[u8], ty: &Type, depth: u32, ledger: &mut Ledger) -> Result<Value, ProtobufError> {
    let mut numbers = [0i64; 3];
    let mut last: Option<&[u8]> = None;
    let mut all: Vec<(u32, &[u8])> = Vec::new();
    fields(body, |tag, wire| {
        match wire {
            Wire::Varint(number) => {
                if let Some(slot) = numbers.get_mut(tag as usize) {
                    *slot = number.cast_signed();
                }
            }
            Wire::Bytes(inner) => {
                ledger.value()?;
                all.push((tag, inner));
                last = Some(inner);
            }
            _ => {}
        }
        Ok(())
    })?;
    let content = || ProtobufError::Content { field: name.to_owned() };
    let instant = |nanos: i64| -> Result<Value, ProtobufError> {
        if body.is_empty() {
            return Ok(Value::Null);
        }
        let nanos = i32::try_from(nanos).map_err(|_| content())?;
        let at = jiff::Timestamp::new(numbers[1], nanos).map_err(|_| content())?;
        Ok(if *ty == Type::MicroTime {
            Value::from(time::format_micro(at))
        } else {
            Value::from(time::format(at))
        })
    };
    Ok(match ty {
        Type::Quantity => {
            let parsed = Quantity::parse(&text(last.unwrap_or_default(), name)?).map_err(|_| content())?;
            Value::from(parsed.to_string())
        }
        Type::IntOrString if numbers[1] == 1 => Value::from(text(last.unwrap_or_default(), name)?),
        #[allow(clippy::cast_possible_truncation)] // the wire sign-extends a 32-bit number
        Type::IntOrString => Value::from(numbers[2] as i32),
        Type::Time => instant(0)?,
        Type::MicroTime => instant(numbers[2])?,
        Type::Duration => Value::from(time::format_duration(numbers[1])),
        Type::RawExtension | Type::Json | Type::FieldsV1 => match last {
            Some(raw) if !raw.is_empty() => match decode::any(raw, false, ledger) {
                Ok(decoded) => decoded.value,
                Err(DecodeError::Cost(error)) => return Err(error.into()),
                Err(_) => return Err(content()),
            },
            _ => Value::Null,
        },
        Type::StringItems => {
            let items: Result<Vec<Value>, _> = all.iter().map(|(_, item)| text(item, name).map(Value::from)).collect();
            Value::Array(items?)
        }
        Type::SchemaOrBool => match all.iter().find(|(tag, _)| *tag == 2) {
            Some((_, body)) => schema(body, depth, ledger)?,
            None => Value::from(numbers[1] != 0),
        },
        Type::SchemaOrArray => {
            let items: Result<Vec<Value>, _> = all
                .iter()
                .filter(|(tag, _)| *tag == 2)
                .map(|(_, body)| schema(body, depth, ledger))
                .collect();
            let items = items?;
            match all.iter().find(|(tag, _)| *tag == 1) {
                Some((_, body)) if items.is_empty() => schema(body, depth, ledger)?,
                None if items.is_empty() => Value::Null,
                _ => Value::Array(items),
            }
        }
        Type::SchemaOrStrings => {
            let items: Result<Vec<Value>, _> = all
                .iter()
                .filter(|(tag, _)| *tag == 2)
                .map(|(_, item)| text(item, name).map(Value::from))
                .collect();
            let items = items?;
            match all.iter().find(|(tag, _)| *tag == 1) {
                Some((_, body)) if items.is_empty() => schema(body, depth, ledger)?,
                None if items.is_empty() => Value::Null,
                _ => Value::Array(items),
            }
        }
        _ => return Err(content()),
    })
}

fn schema(body: &[u8], depth: u32, ledger: &mut Ledger) -> Result<Value, ProtobufError> {
    let mut object = Map::new();
    message(body, schema::json_schema_props(), &mut object, depth, ledger)?;
    Ok(Value::Object(object))
}
