//! Types of CEL, as the checker knows them.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// Parameters below this are declared ones (`A` is 0), those from it on are the checker's own variables.
pub(crate) const FIRST_VARIABLE: u32 = 32;

/// The type of an expression. Two are equal where cel-go calls them exactly the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Known at run time alone.
    Dyn,
    /// Like `Dyn`; protocol buffers' `Any`.
    Any,
    /// Of an expression with a fault, so that it causes no others.
    Error,
    /// Of a field that a type has without saying what it is.
    Unspecified,
    /// The type of `null`.
    Null,
    /// Truth.
    Bool,
    /// Bytes.
    Bytes,
    /// 64-bit float.
    Double,
    /// A span of time.
    Duration,
    /// 64-bit signed integer.
    Int,
    /// Text.
    String,
    /// A point in time.
    Timestamp,
    /// 64-bit unsigned integer.
    Uint,
    /// A parameter of a declaration, or a variable that stands for a type to be found.
    Param(u32),
    /// A list of elements of one type.
    List(Arc<Type>),
    /// A map, with the types of its keys and values.
    Map(Arc<(Type, Type)>),
    /// The type of a type.
    Of(Option<Arc<Type>>),
    /// A named type without fields, with parameters.
    Opaque(Arc<str>, Arc<[Type]>),
    /// A named type with fields, which the environment knows.
    Struct(Arc<str>),
}

/// The name of the type that holds a value or none.
const OPTIONAL: &str = "optional_type";

impl Type {
    /// The list of `element`s.
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(element))
    }

    /// The map from `key` to `value`.
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// The optional `value`.
    pub fn optional(value: Self) -> Self {
        Self::Opaque(OPTIONAL.into(), [value].into())
    }

    /// The type of the type `named`.
    pub(crate) fn of(named: Self) -> Self {
        Self::Of(Some(Arc::new(named)))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Any)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        self.is_dyn() || *self == Self::Error
    }

    /// What is in an optional type.
    pub(crate) fn in_optional(&self) -> Option<&Self> {
        match self {
            Self::Opaque(name, parameters) if **name == *OPTIONAL => parameters.first(),
            _ => None,
        }
    }

    pub(crate) fn parameters(&self) -> Parameters<'_> {
        match self {
            Self::List(element) | Self::Of(Some(element)) => Parameters::One(element),
            Self::Map(both) => Parameters::Two(&both.0, &both.1),
            Self::Opaque(_, all) => Parameters::All(all),
            _ => Parameters::All(&[]),
        }
    }

    /// Adds the number of types in this one to `count`, until `count` is above `most`.
    pub(crate) fn measure(&self, count: &mut u32, most: u32) {
        *count += 1;
        for parameter in self.parameters() {
            if *count > most {
                return;
            }
            parameter.measure(count, most);
        }
    }

    /// Whether this is `other` when names of parameters do not matter.
    pub(crate) fn is_equivalent(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Param(_), Self::Param(_)) => true,
            (Self::List(one), Self::List(other)) => one.is_equivalent(other),
            (Self::Map(one), Self::Map(other)) => one.0.is_equivalent(&other.0) && one.1.is_equivalent(&other.1),
            (Self::Of(Some(one)), Self::Of(Some(other))) => one.is_equivalent(other),
            (Self::Opaque(name, ones), Self::Opaque(other, others)) => {
                name == other
                    && ones.len() == others.len()
                    && ones.iter().zip(others.iter()).all(|(one, other)| one.is_equivalent(other))
            }
            _ => self == other,
        }
    }

    /// The name by which values of the type know it.
    pub(crate) fn runtime_name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Any => "google.protobuf.Any",
            Self::Error => "error",
            Self::Unspecified | Self::Param(_) => "",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Bytes => "bytes",
            Self::Double => "double",
            Self::Duration => "google.protobuf.Duration",
            Self::Int => "int",
            Self::String => "string",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Uint => "uint",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Of(_) => "type",
            Self::Opaque(name, _) | Self::Struct(name) => name,
        }
    }

    /// The type as its values' names tell it, which is how an unwanted result is told.
    pub fn declared(&self) -> Declared<'_> {
        Declared(self)
    }
}

/// Prints a type by [`Type::declared`].
pub struct Declared<'a>(&'a Type);

impl Display for Declared<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if let Type::Param(_) = self.0 {
            return write!(out, "<{}>", self.0);
        }
        write!(out, "{}", self.0.runtime_name())?;
        write_parameters(out, self.0, Declared)
    }
}

impl Display for Type {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Any => "any",
            Self::Duration => "duration",
            Self::Error => "!error!",
            Self::Null => "null",
            Self::Timestamp => "timestamp",
            Self::Param(number) => {
                return match number.checked_sub(FIRST_VARIABLE) {
                    Some(variable) => write!(out, "_var{variable}"),
                    None => write!(out, "{}", char::from_u32('A' as u32 + number).unwrap_or('?')),
                };
            }
            _ => self.runtime_name(),
        };
        write!(out, "{name}")?;
        write_parameters(out, self, |parameter| parameter)
    }
}

fn write_parameters<'a, Shown: Display>(out: &mut Formatter<'_>, of: &'a Type, show: impl Fn(&'a Type) -> Shown) -> fmt::Result {
    let mut before = "(";
    for parameter in of.parameters() {
        write!(out, "{before}{}", show(parameter))?;
        before = ", ";
    }
    if before == ", " { write!(out, ")") } else { Ok(()) }
}

/// Goes through the parameters of a type.
pub(crate) enum Parameters<'a> {
    One(&'a Type),
    Two(&'a Type, &'a Type),
    All(&'a [Type]),
}

impl<'a> Iterator for Parameters<'a> {
    type Item = &'a Type;

    fn next(&mut self) -> Option<&'a Type> {
        match *self {
            Self::Two(first, second) => {
                *self = Self::One(second);
                Some(first)
            }
            Self::One(last) => {
                *self = Self::All(&[]);
                Some(last)
            }
            Self::All(all) => {
                let (first, rest) = all.split_first()?;
                *self = Self::All(rest);
                Some(first)
            }
        }
    }
}
