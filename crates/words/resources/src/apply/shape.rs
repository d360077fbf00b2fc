//! How server-side apply sees a value: as one leaf, as fields, as entries, as a set or as keyed elements.
//!
//! Invariant: shapes are read off the field table, those of custom resources off their compiled schema; nothing is kept beside them. A list that is neither a set nor keyed is
//! one leaf, a map is owned entry by entry unless marked atomic.

use serde_json::Value;
use trireme_api::schema::{self, Field, ListShape, ListType, Struct, Type};

use trireme_structural::{ListType as SchemaListType, Node, Structural, Type as NodeType};

use crate::custom::Served;
use crate::rows::Resource;

/// The shape of a value.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'s> {
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
    /// What a definition's schema describes as an object, or does not say what it is.
    Schema(Described<'s>),
    /// A list by such a schema, whose elements are owned one by one.
    SchemaSet(Described<'s>),
    /// A list by such a schema, whose elements are told apart by keys.
    SchemaKeyed(&'s [Box<str>], Described<'s>),
    /// Nothing is known: objects are owned entry by entry, all else is a leaf.
    Deduced,
    /// An object of a kind that is not in the field table: its metadata is known, all else deduced.
    Custom,
}

/// A schema of a definition, as upstream's schema for owners of fields has it.
#[derive(Clone, Copy, Debug)]
pub struct Described<'s> {
    /// The schema.
    pub node: &'s Node,
    /// Whether it is that of a resource, which has type and metadata beside what the schema says.
    pub resource: bool,
    /// Whether unknown members are kept, by it or by a schema that it stands in.
    pub keeps: bool,
}

/// What every resource has beside what its schema says.
const RESOURCE: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl<'s> Described<'s> {
    /// The schema of a whole custom resource.
    #[must_use]
    pub fn root(schema: &'s Structural) -> Self {
        Self {
            resource: true,
            ..Self::within(schema.root(), !schema.prunes())
        }
    }

    fn within(node: &'s Node, keeps: bool) -> Self {
        Self {
            node,
            resource: node.is_embedded_resource(),
            keeps: keeps || node.preserves_unknown(),
        }
    }

    /// The schema of elements, where it is that of a list.
    #[must_use]
    pub fn items(self) -> Option<Self> {
        self.node.items().map(|items| Self::within(items, self.keeps))
    }

    /// Whether a name is that of a field, as opposed to the key of an entry.
    fn declares(self, name: &str) -> bool {
        self.node.property(name).is_some() || (self.resource && RESOURCE.contains(&name))
    }

    /// What stands under a name.
    #[must_use]
    pub fn member(self, name: &str) -> Member<'s> {
        if self.resource && RESOURCE.contains(&name) {
            return if name == "metadata" { Member::Metadata } else { Member::Text };
        }
        if let Some(node) = self.node.property(name).or_else(|| self.node.additional()) {
            return Member::Described(Self::within(node, self.keeps));
        }
        let free = || self.keeps || !(self.node.names_members() || self.resource);
        match self.node.admits_more().unwrap_or_else(free) {
            true => Member::Free,
            false => Member::Undeclared,
        }
    }
}

/// What stands under a name of an object that a schema describes.
#[derive(Clone, Copy, Debug)]
pub enum Member<'s> {
    /// A resource's type.
    Text,
    /// A resource's metadata.
    Metadata,
    /// What a schema describes.
    Described(Described<'s>),
    /// Anything.
    Free,
    /// Nothing: the schema does not know the name.
    Undeclared,
}

impl<'s> Shape<'s> {
    /// The shape of a row's kind, of a custom resource by its schema.
    #[must_use]
    pub fn of(row: &Resource, custom: Option<&'s Served>) -> Self {
        match custom {
            Some(served) => Self::of_custom(served.structural()),
            None => Self::of_row(row),
        }
    }

    /// The shape of a row's kind.
    #[must_use]
    pub fn of_row(row: &Resource) -> Self {
        if row.is_custom() {
            return Self::Custom;
        }
        schema::kind(row.group, row.version, row.kind).map_or(Self::Custom, Self::Struct)
    }

    /// The shape of a custom resource.
    #[must_use]
    pub fn of_custom(schema: Option<&'s Structural>) -> Self {
        schema.map_or(Self::Custom, |schema| Self::Schema(Described::root(schema)))
    }

    /// The shape of what a schema describes.
    fn of_described(described: Described<'s>) -> Self {
        let node = described.node;
        match node.type_() {
            NodeType::Array => match (node.list_type(), described.items()) {
                (SchemaListType::Set, Some(items)) => Self::SchemaSet(items),
                (SchemaListType::Map(keys), Some(items)) => Self::SchemaKeyed(keys, items),
                _ => Self::Leaf,
            },
            NodeType::Object | NodeType::Any if !node.is_atomic_map() => Self::Schema(described),
            _ => Self::Leaf,
        }
    }

    /// Whether a name is that of a field, as opposed to the key of an entry.
    #[must_use]
    pub fn declares(self, name: &str) -> bool {
        match self {
            Self::Struct(ty) => ty.field(name).is_some(),
            Self::Schema(described) => described.declares(name),
            _ => false,
        }
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
            Self::Schema(described) => match described.member(name) {
                Member::Text => Some(Self::Leaf),
                Member::Metadata => Some(Self::Struct(schema::object_meta())),
                Member::Described(inner) => Some(Self::of_described(inner)),
                Member::Free => Some(Self::Deduced),
                Member::Undeclared => None,
            },
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
            Self::SchemaKeyed(_, items) => Self::of_described(items),
            _ => Self::Leaf,
        }
    }

    /// Whether a value decides what its shape is.
    #[must_use]
    pub fn is_by_value(self) -> bool {
        match self {
            Self::Schema(described) => described.node.type_() == NodeType::Any,
            shape => matches!(shape, Self::Deduced),
        }
    }

    /// Settles a deduced shape by the values there are: entries where all of them are objects, else a leaf.
    #[must_use]
    pub fn settle(self, values: [Option<&Value>; 2]) -> Self {
        match self {
            shape if shape.is_by_value() && !values.into_iter().flatten().all(Value::is_object) => Self::Leaf,
            other => other,
        }
    }

    /// Whether objects of this shape are walked into.
    #[must_use]
    pub fn is_map(self) -> bool {
        matches!(
            self,
            Self::Struct(_) | Self::Map(_) | Self::Schema(_) | Self::Deduced | Self::Custom
        )
    }

    /// Whether elements of a list of this shape are owned by themselves.
    #[must_use]
    pub fn is_associative(self) -> bool {
        matches!(
            self,
            Self::Set(_) | Self::Keyed(..) | Self::SchemaSet(_) | Self::SchemaKeyed(..)
        )
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
    NoKeys(Vec<String>),
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

fn quoted(keys: &[String]) -> String {
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

/// The path element of an element with these keys; none where it has none.
fn keyed(mut parts: Vec<(&str, String)>) -> Option<String> {
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
    (!parts.is_empty()).then_some(out)
}

/// The serialised path element of a list's element.
///
/// # Errors
/// When the element has no place in such a list.
pub fn element_of(shape: Shape<'_>, value: &Value) -> Result<String, ElementError> {
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
            let all = || keys.iter().map(|key| (*key).to_owned()).collect();
            keyed(parts).ok_or_else(|| ElementError::NoKeys(all()))
        }
        Shape::SchemaKeyed(keys, items) => {
            let object = match value {
                Value::Object(object) => object,
                Value::Null => return Err(ElementError::NullKeyed),
                _ => return Err(ElementError::NotMap),
            };
            let parts = keys.iter().filter_map(|key| {
                let given = object.get(&**key);
                let given = given.or_else(|| items.node.property(key)?.default_value())?;
                Some((&**key, given.to_string()))
            });
            let all = || keys.iter().map(ToString::to_string).collect();
            keyed(parts.collect()).ok_or_else(|| ElementError::NoKeys(all()))
        }
        _ => match value {
            Value::Object(_) => Err(ElementError::MapInSet),
            Value::Array(_) => Err(ElementError::ListInSet),
            Value::Null => Err(ElementError::NullInSet),
            scalar => Ok(format!("v:{scalar}")),
        },
    }
}
