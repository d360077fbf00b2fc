//! How server-side apply sees a value: as one leaf, as fields, as entries, as a set or as keyed elements.
//!
//! Invariant: shapes are read off the field table; nothing is kept beside it. A list that is neither a set nor keyed is
//! one leaf, a map is owned entry by entry unless marked atomic.

use serde_json::Value;
use trireme_api::schema::{self, Field, ListShape, ListType, Struct, Type};

use crate::rows::Resource;

/// The shape of a value.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Replaced as a whole: scalars, atomic lists and atomic maps.
    Leaf,
    /// A struct, owned field by field.
    Struct(&'static Struct),
    /// A map, owned entry by entry.
    Map(&'static Type),
    /// A list of scalars of that type, owned one by one.
    Set(&'static Type),
    /// A list of structs told apart by keys.
    Keyed(&'static [&'static str], &'static Struct),
    /// Nothing is known: objects are owned entry by entry, all else is a leaf.
    Deduced,
    /// An object of a kind that is not in the field table: its metadata is known, all else deduced.
    Custom,
}

impl Shape {
    /// The shape of a row's kind.
    #[must_use]
    pub fn of_row(row: &Resource) -> Self {
        if row.is_custom() {
            return Self::Custom;
        }
        schema::kind(row.group, row.version, row.kind).map_or(Self::Custom, Self::Struct)
    }

    /// The shape of a field's value.
    #[must_use]
    pub fn of_field(field: &'static Field) -> Self {
        match field.ty {
            Type::List(element) => match (field.list_shape(), element) {
                (Some(ListShape::Set), _) => Self::Set(element),
                (Some(ListShape::Keyed(keys)), Type::Struct(reference)) => Self::Keyed(keys, reference.get()),
                _ => Self::Leaf,
            },
            Type::Map(_) | Type::Struct(_) if field.list_type == Some(ListType::Atomic) => Self::Leaf,
            // The field says so, whatever its struct says elsewhere.
            Type::Struct(reference) if field.list_type == Some(ListType::Granular) => Self::Struct(reference.get()),
            ref ty => Self::of_type(ty),
        }
    }

    /// The shape of a map's value or of a field without marks.
    #[must_use]
    pub fn of_type(ty: &'static Type) -> Self {
        match ty {
            Type::Struct(reference) if !reference.get().atomic => Self::Struct(reference.get()),
            Type::Map(value) => Self::Map(value),
            Type::Json => Self::Deduced,
            _ => Self::Leaf,
        }
    }

    /// The shape of the value under a name; none where the struct has no such field.
    #[must_use]
    pub fn member(self, name: &str) -> Option<Self> {
        match self {
            Self::Struct(ty) => ty.field(name).map(Self::of_field),
            Self::Map(ty) => Some(Self::of_type(ty)),
            Self::Custom if name == "metadata" => Some(Self::Struct(schema::object_meta())),
            Self::Deduced | Self::Custom => Some(Self::Deduced),
            _ => None,
        }
    }

    /// The shape of a list's elements.
    #[must_use]
    pub fn element(self) -> Self {
        match self {
            Self::Keyed(_, ty) if !ty.atomic => Self::Struct(ty),
            _ => Self::Leaf,
        }
    }

    /// Settles a deduced shape by the values there are: entries where all of them are objects, else a leaf.
    #[must_use]
    pub fn settle(self, values: [Option<&Value>; 2]) -> Self {
        match self {
            Self::Deduced if !values.into_iter().flatten().all(Value::is_object) => Self::Leaf,
            other => other,
        }
    }

    /// Whether objects of this shape are walked into.
    #[must_use]
    pub fn is_map(self) -> bool {
        matches!(self, Self::Struct(_) | Self::Map(_) | Self::Deduced | Self::Custom)
    }
}

/// Why a list element has no place in a keyed list or a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElementError {
    /// `null` in a keyed list.
    #[error("associative list with keys may not have a null element")]
    NullKeyed,
    /// A scalar or list in a keyed list.
    #[error("associative list with keys may not have non-map elements")]
    NotMap,
    /// All keys are missing.
    #[error(
        "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
        quoted(.0)
    )]
    NoKeys(&'static [&'static str]),
    /// An object in a set.
    #[error("associative list without keys has an element that's a map type")]
    MapInSet,
    /// A list in a set.
    #[error("not supported: associative list with lists as elements")]
    ListInSet,
    /// `null` in a set.
    #[error("associative list without keys has an element that's an explicit null")]
    NullInSet,
}

fn quoted(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(" ")
}

/// The default that upstream's schema gives a field, as JSON: scalars that are always written have their zero value.
fn default_of(field: &Field) -> Option<&'static str> {
    let zero = match field.ty {
        _ if field.pointer || field.omitempty => None,
        Type::String => Some("\"\""),
        Type::Bool => Some("false"),
        Type::Int32 | Type::Int64 | Type::Double => Some("0"),
        _ => None,
    };
    field.default.or(zero)
}

/// The serialised path element of a list's element.
///
/// # Errors
/// When the element has no place in such a list.
pub fn element_of(shape: Shape, value: &Value) -> Result<String, ElementError> {
    match shape {
        Shape::Keyed(keys, ty) => {
            let object = match value {
                Value::Object(object) => object,
                Value::Null => return Err(ElementError::NullKeyed),
                _ => return Err(ElementError::NotMap),
            };
            let mut parts: Vec<(&str, String)> = Vec::with_capacity(keys.len());
            for key in keys {
                if let Some(value) = object.get(*key) {
                    parts.push((key, value.to_string()));
                } else if let Some(default) = ty.field(key).and_then(default_of) {
                    parts.push((key, default.to_owned()));
                }
            }
            if parts.is_empty() {
                return Err(ElementError::NoKeys(keys));
            }
            parts.sort_unstable();
            let mut out = String::from("k:{");
            for (number, (key, value)) in parts.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                out.push('"');
                out.push_str(key);
                out.push_str("\":");
                out.push_str(value);
            }
            out.push('}');
            Ok(out)
        }
        _ => match value {
            Value::Object(_) => Err(ElementError::MapInSet),
            Value::Array(_) => Err(ElementError::ListInSet),
            Value::Null => Err(ElementError::NullInSet),
            scalar => Ok(format!("v:{scalar}")),
        },
    }
}
