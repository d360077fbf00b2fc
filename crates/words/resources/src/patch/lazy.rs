//! A document as upstream's library for patches holds it: text until somebody looks inside.
//!
//! Invariant: an object into which a patch never looked is written as it came, members in the order of declaration for the
//! stored object and as sent for the patch; one into which it looked is written sorted. Upstream shows the outcome that it
//! cannot decode, and tells its first mistake, in that order. What a patch does not touch is not copied.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use trireme_api::cost::{CostError, Ledger, Size};
use trireme_api::decode::Node;
use trireme_api::schema::{Struct, Type};

/// A part of a document.
#[derive(Clone, Debug)]
pub(super) enum Lazy<'a> {
    /// Of the stored object, with its type where that is known.
    Stored(&'a Value, Option<Type>),
    /// Of the patch.
    Sent(Node<'a>),
    /// An object that was looked into.
    Object(Members<'a>),
    /// A list that was looked into.
    Array(Vec<Lazy<'a>>),
}

/// Members of an object that was looked into.
pub(super) type Members<'a> = BTreeMap<Cow<'a, str>, Lazy<'a>>;

/// A stored object, looked into, as upstream's library begins.
pub(super) fn document<'a>(value: &'a Value, ty: &'static Struct) -> Members<'a> {
    let stored = value.as_object().into_iter().flatten();
    stored
        .map(|(name, member)| {
            let ty = ty.field(name).map(|field| field.ty);
            (Cow::Borrowed(name.as_str()), Lazy::Stored(member, ty))
        })
        .collect()
}

/// Puts a value where a path leads, if there is anything.
pub(super) fn put<'a>(document: &mut Members<'a>, at: &[&str], node: Node<'a>) {
    if let [name, inner @ ..] = at
        && let Some(member) = document.get_mut(*name)
    {
        match member.as_members().filter(|_| !inner.is_empty()) {
            Some(members) => put(members, inner, node),
            None => *member = Lazy::Sent(node),
        }
    }
}

impl<'a> Lazy<'a> {
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Stored(Value::Null, _) | Self::Sent(Node::Null))
    }

    pub(super) fn is_array(&self) -> bool {
        matches!(
            self,
            Self::Stored(Value::Array(_), _) | Self::Sent(Node::Array(_)) | Self::Array(_)
        )
    }

    /// Looks into an object.
    pub(super) fn as_members(&mut self) -> Option<&mut Members<'a>> {
        let opened = match self {
            Self::Stored(value, ty) => {
                let entries = value.as_object()?.iter();
                let entries = entries.map(|(name, member)| {
                    let ty = ty.and_then(|ty| ty.member(name));
                    (Cow::Borrowed(name.as_str()), Lazy::Stored(member, ty))
                });
                entries.collect()
            }
            Self::Sent(Node::Object(sent)) => std::mem::take(sent)
                .into_iter()
                .map(|(name, member)| (name, Self::Sent(member)))
                .collect(),
            Self::Object(members) => return Some(members),
            Self::Sent(_) | Self::Array(_) => return None,
        };
        *self = Self::Object(opened);
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// Looks into a list.
    pub(super) fn as_items(&mut self) -> Option<&mut Vec<Lazy<'a>>> {
        let opened = match self {
            Self::Stored(value, ty) => {
                let element = ty.and_then(Type::element);
                value.as_array()?.iter().map(|item| Lazy::Stored(item, element)).collect()
            }
            Self::Sent(Node::Array(sent)) => std::mem::take(sent).into_iter().map(Self::Sent).collect(),
            Self::Array(items) => return Some(items),
            Self::Sent(_) | Self::Object(_) => return None,
        };
        *self = Self::Array(opened);
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Looks into everything below.
    pub(super) fn open(&mut self) {
        if let Some(members) = self.as_members() {
            members.values_mut().for_each(Lazy::open);
        } else if let Some(items) = self.as_items() {
            items.iter_mut().for_each(Lazy::open);
        }
    }

    /// Takes nulls out of the objects, but not out of the lists; looks into everything for it.
    pub(super) fn prune(&mut self) {
        if let Some(members) = self.as_members() {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(Lazy::prune);
        } else if let Some(items) = self.as_items() {
            items.iter_mut().for_each(Lazy::prune);
        }
    }

    /// Whether it is that value; costs what that value is large.
    pub(super) fn is(&self, other: &Node<'_>) -> bool {
        match (self, other) {
            (Self::Stored(value, _), other) => value_is(value, other),
            (Self::Sent(node), other) => node_is(node, other),
            (Self::Object(members), Node::Object(_)) => {
                let others = by_name(other);
                members.len() == others.len()
                    && members
                        .iter()
                        .all(|(name, member)| others.get(name.as_ref()).is_some_and(|other| member.is(other)))
            }
            (Self::Array(items), Node::Array(others)) => {
                items.len() == others.len() && items.iter().zip(others).all(|(item, other)| item.is(other))
            }
            _ => false,
        }
    }

    /// How large it is as JSON.
    pub(super) fn size(&self) -> Size {
        let mut size = Size { bytes: 2, values: 1 };
        let mut add = |inner: Size, more: usize| {
            size.bytes += inner.bytes + more;
            size.values += inner.values;
        };
        match self {
            Self::Stored(value, _) => return Size::of(value),
            Self::Sent(node) => return Size::of(&node.to_value()),
            Self::Object(members) => {
                for (number, (name, member)) in members.iter().enumerate() {
                    add(member.size(), Size::of_text(name) + 1 + usize::from(number > 0));
                }
            }
            Self::Array(items) => {
                for (number, item) in items.iter().enumerate() {
                    add(item.size(), usize::from(number > 0));
                }
            }
        }
        size
    }

    /// The tree in the order in which it is written, of a type where that is known; what is stored under that type and was not
    /// looked into stays what it is.
    ///
    /// # Errors
    /// For its number of values.
    fn into_node(self, ty: Option<Type>, ledger: &mut Ledger) -> Result<Node<'a>, CostError> {
        match self {
            Self::Stored(value @ (Value::Array(_) | Value::Object(_)), Some(known)) if ty == Some(known) => {
                Ok(Node::Stored(value, known))
            }
            Self::Stored(value, known) => Node::declared(value, known, ledger),
            Self::Sent(node) => Ok(node),
            Self::Object(members) => written(members, |name| ty?.member(name), ledger),
            Self::Array(items) => {
                ledger.value()?;
                let ty = ty.and_then(Type::element);
                let items: Result<_, _> = items.into_iter().map(|item| item.into_node(ty, ledger)).collect();
                Ok(Node::Array(items?))
            }
        }
    }
}

/// A document of that type, as it is written.
///
/// # Errors
/// For its number of values.
pub(super) fn whole<'a>(document: Lazy<'a>, ty: &'static Struct) -> Result<Node<'a>, CostError> {
    match document {
        Lazy::Object(members) => written(members, |name| Some(ty.field(name)?.ty), &mut Ledger::new()),
        other => other.into_node(None, &mut Ledger::new()),
    }
}

/// An object that was looked into, as it is written; `ty` gives the types of its members.
fn written<'a>(members: Members<'a>, ty: impl Fn(&str) -> Option<Type>, ledger: &mut Ledger) -> Result<Node<'a>, CostError> {
    ledger.value()?;
    let members: Result<_, CostError> = members
        .into_iter()
        .map(|(name, member)| {
            let ty = ty(&name);
            Ok((name, member.into_node(ty, ledger)?))
        })
        .collect();
    Ok(Node::Object(members?))
}

/// The members of a sent object; of equal names the last counts.
fn by_name<'n, 'a>(node: &'n Node<'a>) -> BTreeMap<&'n str, &'n Node<'a>> {
    let Node::Object(members) = node else { return BTreeMap::new() };
    members.iter().map(|(name, member)| (name.as_ref(), member)).collect()
}

fn node_is(node: &Node<'_>, other: &Node<'_>) -> bool {
    match (node, other) {
        (Node::Object(_), Node::Object(_)) => {
            let (members, others) = (by_name(node), by_name(other));
            members.len() == others.len()
                && members
                    .iter()
                    .all(|(name, member)| others.get(name).is_some_and(|other| node_is(member, other)))
        }
        (Node::Array(items), Node::Array(others)) => {
            items.len() == others.len() && items.iter().zip(others).all(|(item, other)| node_is(item, other))
        }
        _ => node == other,
    }
}

fn value_is(value: &Value, other: &Node<'_>) -> bool {
    match (value, other) {
        (Value::Null, Node::Null) => true,
        (Value::Bool(value), Node::Bool(other)) => value == other,
        (Value::Number(value), Node::Number(other)) => value.to_string() == other.as_ref(),
        (Value::String(value), Node::String(other)) => value == other,
        (Value::Array(items), Node::Array(others)) => {
            items.len() == others.len() && items.iter().zip(others).all(|(item, other)| value_is(item, other))
        }
        (Value::Object(members), Node::Object(_)) => {
            let others = by_name(other);
            members.len() == others.len()
                && members
                    .iter()
                    .all(|(name, member)| others.get(name.as_str()).is_some_and(|other| value_is(member, other)))
        }
        _ => false,
    }
}
