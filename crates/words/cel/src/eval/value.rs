//! Values: what expressions are made of when they run. Objects are read where they stand, by their declared shape; nothing is
//! converted before an expression asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use trireme_api::quantity::Quantity;
use trireme_api::time;

use super::address::{Address, Range};
use super::authorizer::Check;
use super::error::EvalError;
use super::formats::Named;
use super::semver::Semver;
use super::url::Url;

/// Text, where it stands or made.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Text of an input.
    Seen(&'a str),
    /// Text of the expression, or made by it.
    Made(Arc<str>),
}

impl Text<'_> {
    /// The letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Seen(text) => text,
            Self::Made(text) => text,
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub enum Val<'a> {
    /// Nothing.
    Null,
    /// Truth.
    Bool(bool),
    /// Signed.
    Int(i64),
    /// Unsigned.
    Uint(u64),
    /// Float.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    /// Seconds since 1970, and nanoseconds.
    Timestamp(i64, u32),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A type, by name.
    Type(Arc<str>),
    /// A value or none.
    Optional(Option<Arc<Val<'a>>>),
    /// A quantity.
    Quantity(Arc<Quantity>),
    /// An address.
    Ip(Address),
    /// A range of addresses.
    Cidr(Range),
    /// A URL.
    Url(Arc<Url>),
    /// A version.
    Semver(Arc<Semver>),
    /// A format of text.
    Format(&'static Named),
    /// What a user may do, asked so far.
    Check(Arc<Check>),
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Of an input; with the shape of the list if one is declared.
    Seen(&'a [Value], Option<&'a Shape>),
    /// Made; with the shape of the list that it was made from by adding to it.
    Made(Arc<Vec<Val<'a>>>, Option<&'a Shape>),
}

/// A map or an object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Of an input; with its shape if one is declared.
    Seen(&'a serde_json::Map<String, Value>, Option<&'a Shape>),
    /// Made.
    Made(Arc<BTreeMap<Key<'a>, Val<'a>>>),
}

/// A key of a made map, compared without regard of type only where lookups ask for it.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    /// Truth.
    Bool(bool),
    /// Signed.
    Int(i64),
    /// Unsigned.
    Uint(u64),
    /// A float's bits.
    Double(u64),
    /// Text.
    String(Text<'a>),
}

impl Key<'_> {
    fn order(&self) -> (u8, i128, &str) {
        match self {
            Self::Bool(truth) => (0, i128::from(*truth), ""),
            Self::Int(number) => (1, (*number).into(), ""),
            Self::Uint(number) => (2, (*number).into(), ""),
            Self::Double(bits) => (3, (*bits).into(), ""),
            Self::String(text) => (4, 0, text.as_str()),
        }
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl<'a> Key<'a> {
    /// The key that a value is, if it can be one.
    pub(crate) fn of(value: &Val<'a>) -> Option<Self> {
        Some(match value {
            Val::Bool(truth) => Self::Bool(*truth),
            Val::Int(number) => Self::Int(*number),
            Val::Uint(number) => Self::Uint(*number),
            Val::Double(number) => Self::Double(number.to_bits()),
            Val::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    pub(crate) fn value(&self) -> Val<'a> {
        match self {
            Self::Bool(truth) => Val::Bool(*truth),
            Self::Int(number) => Val::Int(*number),
            Self::Uint(number) => Val::Uint(*number),
            Self::Double(bits) => Val::Double(f64::from_bits(*bits)),
            Self::String(text) => Val::String(text.clone()),
        }
    }

    /// The key that a scalar of an input is.
    pub(crate) fn raw(value: &'a Value) -> Option<Self> {
        Key::of(&Val::native(value))
    }
}

/// What a schema says of values: how they are read.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What they are.
    pub kind: Kind,
    /// Whether null is one of them.
    pub nullable: bool,
}

/// The kinds of values that a schema declares.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A number or a text.
    IntOrString,
    /// Truth.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Double,
    /// Text.
    String,
    /// Text of format `date-time`.
    DateTime,
    /// Text of format `date`.
    Date,
    /// Text of format `duration`.
    Duration,
    /// Text of format `byte`.
    Bytes,
    /// A list.
    List(Box<Shape>, Order),
    /// A map from text.
    Map(Box<Shape>),
    /// An object with these properties.
    Object(BTreeMap<Box<str>, Shape>),
    /// Anything that is kept as it is, and compared alone.
    Kept,
}

/// What the order of a list's elements means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// All.
    Atomic,
    /// Nothing: elements are there or not.
    Set,
    /// Nothing: elements are known by these properties.
    Map(Vec<Box<str>>),
}

impl<'a> Val<'a> {
    /// The text `text`.
    #[must_use]
    pub fn text(text: &'a str) -> Self {
        Self::String(Text::Seen(text))
    }

    pub(crate) fn made(text: &str) -> Self {
        Self::String(Text::Made(text.into()))
    }

    pub(crate) fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(List::Made(Arc::new(items), None))
    }

    pub(crate) fn some(value: Val<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// A value of an input without a declared shape.
    #[must_use]
    pub fn native(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Bool(*truth),
            Value::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::text(text),
            Value::Array(items) => Self::List(List::Seen(items, None)),
            Value::Object(object) => Self::Map(Map::Seen(object, None)),
        }
    }

    /// A value of an input, read by its declared shape.
    ///
    /// # Errors
    /// If it is not of the shape.
    pub fn shaped(value: &'a Value, shape: &'a Shape) -> Result<Self, EvalError> {
        let wrong = |wanted| Err(EvalError::Data(wanted));
        Ok(match (&shape.kind, value) {
            (_, Value::Null) if shape.nullable => Self::Null,
            (_, Value::Null) => return wrong("got null for schema with nullable=false"),
            (Kind::IntOrString | Kind::String, Value::String(text)) => Self::text(text),
            (Kind::IntOrString | Kind::Int, Value::Number(number)) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None if matches!(shape.kind, Kind::Int) => return wrong("expected int, got float64"),
                None => return wrong("expected XIntOrString value to be either a string or integer"),
            },
            (Kind::IntOrString, _) => return wrong("expected XIntOrString value to be either a string or integer"),
            (Kind::Bool, Value::Bool(truth)) => Self::Bool(*truth),
            (Kind::Double, Value::Number(number)) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            (Kind::DateTime | Kind::Date, Value::String(text)) => {
                let whole;
                let read = if matches!(shape.kind, Kind::Date) {
                    whole = format!("{text}T00:00:00Z");
                    time::parse(&whole)
                } else {
                    time::parse(text)
                };
                match read {
                    Ok(time) => super::time::timestamp(time),
                    Err(_) => return wrong("no date-time"),
                }
            }
            (Kind::Duration, Value::String(text)) => match time::parse_duration(text) {
                Ok(nanos) => Self::Duration(nanos),
                Err(_) => return wrong("no duration"),
            },
            (Kind::Bytes, Value::String(text)) => match STANDARD.decode(text) {
                Ok(bytes) => Self::Bytes(bytes.into()),
                Err(_) => return wrong("no base64"),
            },
            (Kind::List(..), Value::Array(items)) => Self::List(List::Seen(items, Some(shape))),
            (Kind::Map(_) | Kind::Object(_), Value::Object(object)) => Self::Map(Map::Seen(object, Some(shape))),
            (Kind::Kept, value) => Self::native(value),
            (Kind::Map(_) | Kind::Object(_), _) => return wrong("expected a map for the provided schema with type=object"),
            (Kind::List(..), _) => return wrong("expected an array for the provided schema with type=array"),
            (Kind::Int, _) => return wrong("expected int"),
            (Kind::Double, _) => return wrong("expected float"),
            (Kind::Bool, _) => return wrong("expected bool"),
            (Kind::String | Kind::DateTime | Kind::Date | Kind::Duration | Kind::Bytes, _) => return wrong("expected string"),
        })
    }

    /// The name of its type.
    pub(crate) fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(..) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Check(check) => check.type_name(),
        }
    }

    /// How large cel-go says it is.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.as_str().chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Ip(address) => address.size(),
            Self::Cidr(range) => range.size(),
            Self::Optional(Some(value)) => value.size(),
            _ => 1,
        }
    }

    /// The value without its declared shape.
    pub(crate) fn plain(&self) -> Self {
        match self {
            Self::List(List::Seen(items, _)) => Self::List(List::Seen(items, None)),
            Self::Map(Map::Seen(object, _)) => Self::Map(Map::Seen(object, None)),
            other => other.clone(),
        }
    }
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Seen(items, _) => items.len(),
            Self::Made(items, _) => items.len(),
        }
    }

    pub(crate) fn shape(&self) -> Option<&'a Shape> {
        match self {
            Self::Seen(_, shape) | Self::Made(_, shape) => *shape,
        }
    }

    /// What the order of its elements means, if that is declared.
    pub(crate) fn order(&self) -> Option<&'a Order> {
        match &self.shape()?.kind {
            Kind::List(_, order) => Some(order),
            _ => None,
        }
    }

    /// An element; the index is within the list.
    pub(crate) fn get(&self, index: usize) -> Result<Val<'a>, EvalError> {
        match self {
            Self::Seen(
                items,
                Some(Shape {
                    kind: Kind::List(shape, _),
                    ..
                }),
            ) => Val::shaped(&items[index], shape),
            Self::Seen(items, _) => Ok(Val::native(&items[index])),
            Self::Made(items, _) => Ok(items[index].clone()),
        }
    }

    /// Its elements.
    ///
    /// # Errors
    /// If one is not of its shape.
    pub fn values(&self) -> Result<Vec<Val<'a>>, EvalError> {
        (0..self.len()).map(|index| self.get(index)).collect()
    }
}

impl<'a> Map<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Seen(object, _) => object.len(),
            Self::Made(map) => map.len(),
        }
    }

    /// What stands under a key.
    ///
    /// # Errors
    /// If it is not of its shape, or the key is no text where the shape wants one.
    pub fn find(&self, key: &Val<'a>) -> Result<Option<Val<'a>>, EvalError> {
        match self {
            Self::Seen(object, None) => match key {
                Val::String(name) => Ok(object.get(name.as_str()).map(Val::native)),
                _ => Ok(None),
            },
            Self::Seen(object, Some(shape)) => {
                let Val::String(name) = key else {
                    return Err(EvalError::NoSuchOverload);
                };
                match &shape.kind {
                    Kind::Object(properties) => {
                        let Some(name) = super::escape::unescape(name.as_str()) else {
                            return Ok(None);
                        };
                        match (object.get(&*name), properties.get(&*name)) {
                            (None | Some(Value::Null), _) | (_, None) => Ok(None),
                            (Some(value), Some(shape)) => Val::shaped(value, shape).map(Some),
                        }
                    }
                    Kind::Map(shape) => object.get(name.as_str()).map(|value| Val::shaped(value, shape)).transpose(),
                    _ => Ok(None),
                }
            }
            Self::Made(map) => {
                let look = |key: Option<Key<'a>>| key.and_then(|key| map.get(&key)).cloned();
                let found = look(Key::of(key)).or_else(|| match key {
                    Val::Int(number) => look(u64::try_from(*number).ok().map(Key::Uint)),
                    Val::Uint(number) => look(i64::try_from(*number).ok().map(Key::Int)),
                    Val::Double(number) => look(super::ops::lossless_int(*number).map(Key::Int))
                        .or_else(|| look(super::ops::lossless_uint(*number).map(Key::Uint))),
                    _ => None,
                });
                Ok(found)
            }
        }
    }

    /// Its keys, in their order.
    #[must_use]
    pub fn keys(&self) -> Vec<Val<'a>> {
        match self {
            Self::Seen(
                object,
                Some(Shape {
                    kind: Kind::Object(properties),
                    ..
                }),
            ) => object
                .keys()
                .filter(|name| properties.contains_key(name.as_str()))
                .map(|name| match super::escape::escape(name) {
                    Some(escaped) if escaped != *name => Val::made(&escaped),
                    _ => Val::text(name),
                })
                .collect(),
            Self::Seen(object, _) => object.keys().map(|name| Val::text(name)).collect(),
            Self::Made(map) => map.keys().map(Key::value).collect(),
        }
    }
}
