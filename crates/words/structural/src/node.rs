//! What a compiled schema is made of.
//!
//! Invariant: a node says only what its schema says; nothing here walks an object. Rare parts are boxed, since a large schema
//! has many nodes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::format::Format;
use crate::pattern::Pattern;
use crate::rules::Rules;

/// The type that a schema gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    /// None: anything, or a number or text where the schema says so.
    #[default]
    Any,
    /// `array`.
    Array,
    /// `boolean`.
    Boolean,
    /// `integer`.
    Integer,
    /// `number`.
    Number,
    /// `object`.
    Object,
    /// `string`.
    String,
}

impl Type {
    /// Its name in OpenAPI, empty for [`Type::Any`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Array => "array",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Object => "object",
            Self::String => "string",
        }
    }

    pub(crate) fn read(name: &str) -> Option<Self> {
        [
            Self::Any,
            Self::Array,
            Self::Boolean,
            Self::Integer,
            Self::Number,
            Self::Object,
            Self::String,
        ]
        .into_iter()
        .find(|known| known.name() == name)
    }
}

/// What the elements of a list are to those who own parts of it (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is owned as a whole; also where nothing is said.
    #[default]
    Atomic,
    /// Each element is owned by itself, known by its value.
    Set,
    /// Each element is owned in parts, known by these members.
    Map(Vec<Box<str>>),
}

/// What stands for members of an object that have no schema of their own.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    /// Nothing is said of them.
    #[default]
    None,
    /// They may be there or not, as the flag says; what is in them has no schema.
    Bool(bool),
    /// They have this schema.
    Schema(Box<Node>),
}

/// One schema, compiled.
#[derive(Debug, Default)]
pub struct Node {
    pub(crate) is: Type,
    pub(crate) nullable: bool,
    pub(crate) preserve: bool,
    pub(crate) embedded: bool,
    pub(crate) int_or_string: bool,
    pub(crate) atomic_map: bool,
    /// Whether its texts have a format that owners of fields take for another scalar.
    pub(crate) formatted: bool,
    /// What is in the schema or below it, so that walks leave out what has none of what they look for.
    pub(crate) below: Below,
    pub(crate) list: ListType,
    pub(crate) properties: BTreeMap<Box<str>, Node>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Node>>,
    pub(crate) default: Option<Box<Value>>,
    pub(crate) checks: Option<Box<Checks>>,
    pub(crate) rules: Option<Box<Rules>>,
}

/// What a schema has, itself included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Below {
    pub rules: bool,
    pub keyed_lists: bool,
    pub embedded: bool,
    pub defaults: bool,
}

impl Below {
    pub fn and(self, other: Self) -> Self {
        Self {
            rules: self.rules || other.rules,
            keyed_lists: self.keyed_lists || other.keyed_lists,
            embedded: self.embedded || other.embedded,
            defaults: self.defaults || other.defaults,
        }
    }
}

/// What values of a type must be like.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub format: Option<Format>,
    pub pattern: Option<Pattern>,
    pub maximum: Option<f64>,
    pub minimum: Option<f64>,
    pub exclusive_maximum: bool,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<Box<str>>,
    pub choices: Vec<Value>,
    pub all: Vec<Node>,
    pub any: Vec<Node>,
    pub one: Vec<Node>,
    pub not: Option<Box<Node>>,
}

impl Node {
    /// The type of its values.
    #[must_use]
    pub fn type_(&self) -> Type {
        self.is
    }

    /// Whether its values are numbers or texts, either.
    #[must_use]
    pub fn is_int_or_string(&self) -> bool {
        self.int_or_string
    }

    /// Whether null is one of its values.
    #[must_use]
    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    /// Whether it keeps members that it does not know.
    #[must_use]
    pub fn preserves_unknown(&self) -> bool {
        self.preserve
    }

    /// Whether its values are resources with type and metadata of their own.
    #[must_use]
    pub fn is_embedded_resource(&self) -> bool {
        self.embedded
    }

    /// What its elements are, where it is a list.
    #[must_use]
    pub fn list_type(&self) -> &ListType {
        &self.list
    }

    /// Whether it is owned as a whole, where it is an object.
    #[must_use]
    pub fn is_atomic_map(&self) -> bool {
        self.atomic_map
    }

    /// The schema of its elements, where it is a list.
    #[must_use]
    pub fn items(&self) -> Option<&Self> {
        self.items.as_deref()
    }

    /// The schema of a member: its own, or the one of those that have none.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or_else(|| self.additional())
    }

    /// The schema of a member that the schema names.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Self> {
        self.properties.get(name)
    }

    /// The members that the schema names.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.properties.iter().map(|(name, node)| (&**name, node))
    }

    /// The schema of members that have none of their own.
    #[must_use]
    pub fn additional(&self) -> Option<&Self> {
        match &self.additional {
            Additional::Schema(node) => Some(node),
            _ => None,
        }
    }

    /// Whether its texts have a format, other than that of bytes: those who own fields do not ask that they be texts.
    #[must_use]
    pub fn is_formatted(&self) -> bool {
        self.formatted
    }

    /// Whether members that have no schema of their own may be there; none where nothing is said of them.
    #[must_use]
    pub fn admits_more(&self) -> Option<bool> {
        match self.additional {
            Additional::None => None,
            Additional::Bool(allowed) => Some(allowed),
            Additional::Schema(_) => Some(true),
        }
    }

    /// Whether the schema names members at all.
    #[must_use]
    pub fn names_members(&self) -> bool {
        !self.properties.is_empty()
    }

    /// What stands where nothing is given.
    #[must_use]
    pub fn default_value(&self) -> Option<&Value> {
        self.default.as_deref()
    }

    /// Whether objects are pruned and given defaults by it as by another one.
    pub(crate) fn reads_like(&self, other: &Self) -> bool {
        let flags = |node: &Self| (node.nullable, node.preserve, node.embedded);
        let additional = match (&self.additional, &other.additional) {
            (Additional::None, Additional::None) | (Additional::Bool(_), Additional::Bool(_)) => true,
            (Additional::Schema(own), Additional::Schema(other)) => own.reads_like(other),
            _ => false,
        };
        let items = match (&self.items, &other.items) {
            (None, None) => true,
            (Some(own), Some(other)) => own.reads_like(other),
            _ => false,
        };
        let properties = || {
            let pairs = self.properties.iter().zip(&other.properties);
            let mut same = pairs.map(|((name, own), (others, other))| name == others && own.reads_like(other));
            self.properties.len() == other.properties.len() && same.all(|same| same)
        };
        flags(self) == flags(other) && self.default == other.default && additional && items && properties()
    }

    pub(crate) fn says_more_members(&self) -> bool {
        !matches!(self.additional, Additional::None)
    }
}
