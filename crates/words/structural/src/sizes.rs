//! How large values can get that a schema describes, so that the cost of rules can be estimated before there are any
//! (staging/src/k8s.io/apiserver/pkg/cel/common/schemas.go, limits.go).
//!
//! Invariant: what no schema bounds is bounded by what fits into one request.

use std::collections::BTreeMap;

use trireme_cel::eval::escaped;

use crate::node::{Node, Type};
use crate::shape;

/// The largest request.
pub(crate) const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// How large values at a place can get.
#[derive(Debug)]
pub(crate) struct Sizes {
    /// The most letters of a text, elements of a list or entries of a map.
    most: u64,
    /// The fewest bytes as JSON.
    pub least_bytes: u64,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Nothing,
    Elements(Box<Sizes>),
    Entries(Box<Sizes>),
    Fields(BTreeMap<Box<str>, Sizes>),
}

impl Sizes {
    fn plain(most: u64, least_bytes: u64) -> Self {
        Self {
            most,
            least_bytes,
            inner: Inner::Nothing,
        }
    }

    /// Of a schema's values; none where no expression reads them. `resource` says that they have type and metadata.
    pub fn of(node: &Node, resource: bool) -> Option<Self> {
        let checks = node.checks.as_deref();
        let limit = |count: Option<i64>| count.map(|count| u64::try_from(count).unwrap_or(0));
        let length = limit(checks.and_then(|checks| checks.max_length));
        if node.int_or_string {
            return Some(Self::plain(
                length.map_or(REQUEST_BYTES_MAX - 2, |length| length.saturating_mul(4)),
                1,
            ));
        }
        Some(match node.is {
            Type::Any => return None,
            Type::Boolean => Self::plain(0, 4),
            Type::Number | Type::Integer => Self::plain(0, 1),
            Type::String => match shape::format(node) {
                "byte" => Self::plain(length.unwrap_or(REQUEST_BYTES_MAX - 2), 2),
                "duration" => Self::plain(32, 3),
                "date" => Self::plain(12, 12),
                "date-time" => Self::plain(32, 21),
                _ => {
                    let choices = checks.map_or(&[][..], |checks| &checks.choices);
                    let longest = || choices.iter().filter_map(|choice| choice.as_str()).map(str::len).max();
                    let most = match length {
                        // A letter may have four bytes.
                        Some(length) => length.saturating_mul(4),
                        None if !choices.is_empty() => longest().unwrap_or(0) as u64,
                        None => REQUEST_BYTES_MAX - 2,
                    };
                    Self::plain(most, 2)
                }
            },
            Type::Array => {
                let items = node.items()?;
                let inner = Self::of(items, items.embedded)?;
                let most = limit(checks.and_then(|checks| checks.max_items));
                Self {
                    most: most.unwrap_or((REQUEST_BYTES_MAX - 2) / (inner.least_bytes + 1)),
                    least_bytes: 2,
                    inner: Inner::Elements(Box::new(inner)),
                }
            }
            Type::Object => {
                if let Some(values) = node.additional() {
                    let inner = Self::of(values, values.embedded)?;
                    let most = limit(checks.and_then(|checks| checks.max_properties));
                    return Some(Self {
                        most: most.unwrap_or((REQUEST_BYTES_MAX - 2) / (inner.least_bytes + 6)),
                        least_bytes: 2,
                        inner: Inner::Entries(Box::new(inner)),
                    });
                }
                Self::object(node, resource)
            }
        })
    }

    fn object(node: &Node, resource: bool) -> Self {
        let implied = resource && !shape::says_type_and_metadata(node);
        let mut fields = BTreeMap::new();
        let mut least_bytes = 2;
        let required = node.checks.as_deref().map_or(&[][..], |checks| &checks.required);
        let mut add = |name: &str, inner: Self, filled_in: bool| {
            if !filled_in && required.iter().any(|required| **required == *name) {
                least_bytes += name.len() as u64 + inner.least_bytes + 4;
            }
            if let Some(name) = escaped(name) {
                fields.insert((*name).into(), inner);
            }
        };
        for (name, property) in &node.properties {
            if implied && crate::prune::META.contains(&&**name) {
                continue;
            }
            if let Some(inner) = Self::of(property, property.embedded) {
                add(name, inner, property.default.is_some());
            }
        }
        if implied {
            let text = || Self::plain(REQUEST_BYTES_MAX - 2, 2);
            let names = ["name", "generateName"].map(|name| (name.into(), text()));
            add("kind", text(), false);
            add("apiVersion", text(), false);
            let metadata = Self {
                most: 0,
                least_bytes: 2,
                inner: Inner::Fields(names.into()),
            };
            add("metadata", metadata, false);
        }
        Self {
            most: 0,
            least_bytes,
            inner: Inner::Fields(fields),
        }
    }

    /// What is in a value.
    pub fn elements(&self) -> Option<&Self> {
        match &self.inner {
            Inner::Elements(inner) | Inner::Entries(inner) => Some(inner),
            _ => None,
        }
    }

    /// A field by the name that expressions know it by.
    pub fn field(&self, name: &str) -> Option<&Self> {
        match &self.inner {
            Inner::Fields(fields) => fields.get(name),
            _ => None,
        }
    }

    /// The size of what stands at a path that begins with a variable's name.
    pub fn at(&self, path: &[&str]) -> Option<u64> {
        let (_, path) = path.split_first()?;
        let mut here = self;
        for (index, name) in path.iter().enumerate() {
            match *name {
                "@items" | "@values" => here = here.elements()?,
                // Keys are texts of which nothing is said.
                "@keys" => {
                    return (matches!(here.inner, Inner::Entries(_)) && index + 1 == path.len()).then_some(0);
                }
                name => here = here.field(name)?,
            }
        }
        Some(here.most)
    }
}
