//! Strategic merge patch: maps merge, lists merge by key where the field table says so, directives say otherwise.
//!
//! Invariant: directives (`$patch`, `$retainKeys`, `$setElementOrder/…`, `$deleteFromPrimitiveList/…`) never get into the
//! result. Order is that of `$setElementOrder`, then of the patch, then of the live list. Elements are found by an
//! [`Index`], so that a merge costs what its lists are long.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use trireme_api::Status;
use trireme_api::go::plain;
use trireme_api::schema::{Field, Strategy, Struct, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList";

type Object = Map<String, Value>;

/// What can be wrong with a patch.
#[derive(Debug, thiserror::Error)]
enum PatchError {
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("{0}")]
    Other(String),
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Other(text) => Status::failure(500, "", text),
            PatchError::ListOfLists => super::unprocessable(),
            malformed => Status::bad_request(malformed.to_string()),
        }
    }
}

/// The type of a value, as upstream's messages show it: it prints a missing type as a string.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        value => trireme_api::go::type_name(value),
    }
}

type Result<T> = std::result::Result<T, PatchError>;

fn other<T>(text: impl Into<String>) -> Result<T> {
    Err(PatchError::Other(text.into()))
}

fn no_merge_key<T>(object: &Object, key: &str) -> Result<T> {
    other(format!(
        "map: {} does not contain declared merge key: {key}",
        plain(&Value::Object(object.clone()))
    ))
}

fn bad_patch_type<T>(directive: &Value, object: &Object) -> Result<T> {
    let shown = match directive {
        Value::String(text) => text.clone(),
        other => format!("%!s({}={})", type_name(other), plain(other)),
    };
    other(format!(
        "unknown patch type: {shown} in map: {}",
        plain(&Value::Object(object.clone()))
    ))
}

fn bad_type<T>(expected: &str, found: &Value) -> Result<T> {
    other(format!("expected a {expected}, but received a {}", type_name(found)))
}

/// Where the patch is in the field table.
#[derive(Clone, Copy)]
enum Place {
    Struct(&'static Struct),
    /// A map with values of that type.
    Map(&'static Type),
    /// Anything: no field has a strategy.
    Unknown,
}

/// The patch as upstream has it once it is merged, which is what its errors show: what is new in the document lost its nulls, and the first
/// of a list's new elements with one key took in the others.
pub(super) fn as_shown<'a>(ty: &'static Struct, doc: &Value, patch: &'a Value) -> Cow<'a, Value> {
    if !may_change(patch) {
        return Cow::Borrowed(patch);
    }
    let mut patch = patch.clone();
    if let (Some(doc), Some(patch)) = (doc.as_object(), patch.as_object_mut()) {
        as_merged(Place::Struct(ty), doc, patch);
    }
    Cow::Owned(patch)
}

/// Whether a merge may change the patch: it holds a null or a list of several objects.
fn may_change(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.values().any(may_change),
        Value::Array(items) => items.iter().filter(|item| item.is_object()).nth(1).is_some() || items.iter().any(may_change),
        _ => false,
    }
}

fn as_merged(place: Place, doc: &Object, patch: &mut Object) {
    for (name, sent) in patch.iter_mut().filter(|(_, sent)| !sent.is_null()) {
        let meta = || place.member(name).ok();
        match (doc.get(name), sent) {
            (Some(Value::Object(present)), Value::Object(sent)) => {
                let inside = meta().map_or(Place::Unknown, |meta| meta.inside);
                as_merged(inside, present, sent);
            }
            (Some(Value::Array(present)), Value::Array(sent)) => {
                let Some((key, inside)) = meta().and_then(|meta| Some((meta.key?, meta.inside))) else {
                    continue;
                };
                let held: HashMap<&Value, &Object> = present
                    .iter()
                    .filter_map(|item| Some((item.get(key)?, item.as_object()?)))
                    .collect();
                let mut new: HashMap<String, usize> = HashMap::new();
                for at in 0..sent.len() {
                    let Some(own) = sent[at].get(key) else { continue };
                    if let Some(present) = held.get(own) {
                        if let Value::Object(sent) = &mut sent[at] {
                            as_merged(inside, present, sent);
                        }
                    } else if let Some(first) = new.get(&own.to_string()).copied() {
                        let (Value::Object(before), Value::Object(again)) = (&sent[first], &sent[at]) else {
                            continue;
                        };
                        if let Ok(merged) = merge_map(before.clone(), again.clone(), inside) {
                            sent[first] = Value::Object(merged);
                        }
                    } else {
                        new.insert(own.to_string(), at);
                    }
                }
            }
            (Some(present), sent) if type_name(present) == type_name(sent) => {}
            (_, sent) => strip_nulls(sent),
        }
    }
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

struct Meta {
    inside: Place,
    merges: bool,
    replaces: bool,
    key: Option<&'static str>,
}

impl Place {
    fn of(ty: &'static Type) -> Self {
        match ty {
            Type::Struct(reference) => Self::Struct(reference.get()),
            Type::Map(value) => Self::Map(value),
            Type::List(element) => Self::of(element),
            _ => Self::Unknown,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Struct(ty) => ty.name,
            Self::Map(_) | Self::Unknown => "",
        }
    }

    fn member(self, name: &str) -> Result<Meta> {
        let plain = |inside| Meta {
            inside,
            merges: false,
            replaces: false,
            key: None,
        };
        match self {
            Self::Struct(ty) => match ty.field(name) {
                Some(field) => Ok(Meta {
                    inside: Self::of(&field.ty),
                    merges: field.strategy.is_some_and(Strategy::merges),
                    replaces: replaces(field),
                    key: field.merge_key,
                }),
                None => other(format!(
                    "unable to find api field in struct {} for the json field {name:?}",
                    ty.name
                )),
            },
            Self::Map(ty) => Ok(plain(Self::of(ty))),
            Self::Unknown => Ok(plain(Self::Unknown)),
        }
    }
}

fn replaces(field: &Field) -> bool {
    field.strategy == Some(Strategy::Replace)
}

pub(super) fn merge(ty: &'static Struct, doc: &Value, patch: Object) -> std::result::Result<Value, Status> {
    let original = doc.as_object().cloned().unwrap_or_default();
    Ok(Value::Object(merge_map(original, patch, Place::Struct(ty))?))
}

fn merge_map(mut original: Object, mut patch: Object, place: Place) -> Result<Object> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => bad_patch_type(&directive.clone(), &patch),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, place)?;
    for (name, value) in patch {
        let (name, deletes) = match name.strip_prefix(DELETE) {
            Some(rest) => match rest.strip_prefix('/') {
                Some(rest) => (rest.to_owned(), true),
                None => return Err(PatchError::PrimitiveList),
            },
            None => (name, false),
        };
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let Some(slot) = original.get_mut(&name) else {
            if !deletes && let Some(value) = without_directives(without_nulls(value)) {
                original.insert(name, value);
            }
            continue;
        };
        match (std::mem::take(slot), value) {
            (Value::Object(before), Value::Object(value)) => {
                let meta = place.member(&name)?;
                let merged = if meta.replaces {
                    value
                } else {
                    merge_map(before, value, meta.inside)?
                };
                *slot = Value::Object(merged);
            }
            (Value::Array(before), Value::Array(value)) => {
                let meta = place.member(&name)?;
                *slot = Value::Array(merge_list(before, value, &meta, deletes)?);
            }
            (before, value) => {
                if deletes {
                    *slot = before;
                } else {
                    match without_directives(without_nulls(value)) {
                        Some(value) => *slot = value,
                        None => drop(original.remove(&name)),
                    }
                }
            }
        }
    }
    Ok(original)
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(PatchError::RetainKeys);
    };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let keeps = |name: &str| keys.contains(name);
    let directive = |name: &str| name.starts_with(DELETE) || name.starts_with("$setElementOrder");
    if patch
        .iter()
        .any(|(name, value)| !value.is_null() && !directive(name) && !keeps(name))
    {
        return Err(PatchError::RetainKeys);
    }
    original.retain(|name, _| keeps(name));
    Ok(())
}

/// Lists that come with their order.
fn merge_ordered_lists(original: &mut Object, patch: &mut Object, place: Place) -> Result<()> {
    let ordered: Vec<String> = patch
        .keys()
        .filter(|name| name.starts_with("$setElementOrder"))
        .cloned()
        .collect();
    for directive in ordered {
        let order = patch.remove(&directive).unwrap_or_default();
        let Value::Array(order) = order else {
            return bad_type("[]interface {}", &order);
        };
        let Some(name) = directive.strip_prefix(ORDER) else {
            return Err(PatchError::SetElementOrder);
        };
        let take = |object: &Object| match object.get(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(found) => bad_type("[]interface {}", found),
        };
        let (live, sent) = (take(original)?, take(patch)?);
        let meta = place.member(name)?;
        check_order(sent.as_deref(), &order, meta.key)?;
        let merged = match (&live, &sent) {
            (None, None) => continue,
            (Some(live), None) => live.clone(),
            (None, Some(sent)) => sent.iter().cloned().filter_map(without_directives).collect(),
            (Some(live), Some(sent)) => merge_list(live.clone(), sent.clone(), &meta, false)?,
        };
        let (listed, server_only) = partition(merged, &order, meta.key)?;
        let sorted = order_elements(listed, server_only, &order, live.as_deref().unwrap_or_default(), meta.key);
        original.insert(name.to_owned(), Value::Array(sorted));
        patch.remove(name);
    }
    Ok(())
}

fn is_marked(item: &Value) -> bool {
    item.get(DIRECTIVE).is_some()
}

fn same_key(a: &Value, b: &Value, key: Option<&str>) -> Result<bool> {
    let Some(key) = key else { return Ok(a == b) };
    let of = |value: &Value| match value {
        Value::Object(object) => match object.get(key) {
            Some(found) => Ok(found.clone()),
            None => no_merge_key(object, key),
        },
        found => bad_type("map[string]interface {}", found),
    };
    Ok(of(a)? == of(b)?)
}

/// The sent elements must be in the order list, in its order; deletions do not count.
fn check_order(sent: Option<&[Value]>, order: &[Value], key: Option<&str>) -> Result<()> {
    let sent = sent.unwrap_or_default();
    if sent.is_empty() || order.is_empty() {
        return Ok(());
    }
    let kept: Vec<&Value> = sent.iter().filter(|item| key.is_none() || !is_marked(item)).collect();
    let mut next = 0;
    for wanted in order {
        let Some(item) = kept.get(next) else { break };
        if same_key(item, wanted, key)? {
            next += 1;
        }
    }
    if next < kept.len() {
        let shown = |items: &[Value]| plain(&Value::Array(items.to_vec()));
        return other(format!(
            "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
            shown(sent),
            shown(order)
        ));
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, meta: &Meta, deletes: bool) -> Result<Vec<Value>> {
    if !meta.merges && !deletes {
        return Ok(patch);
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let mixed = || {
        let shown = [&original, &patch].map(|items| plain(&Value::Array(items.clone())));
        other(format!("list element types are not identical: [{}]", shown.join(" ")))
    };
    let of_maps = match element_kind(original.iter().chain(&patch), mixed)? {
        Some(kind) => kind == "map",
        None => false,
    };
    if !of_maps {
        if deletes {
            let gone: HashSet<String> = patch.iter().map(Value::to_string).collect();
            return Ok(original
                .into_iter()
                .filter(|item| !gone.contains(&item.to_string()))
                .collect());
        }
        let mut seen = HashSet::new();
        let both: Vec<Value> = original
            .iter()
            .chain(&patch)
            .filter(|item| seen.insert(item.to_string()))
            .cloned()
            .collect();
        let (listed, server_only) = partition(both, &patch, None)?;
        return Ok(order_elements(listed, server_only, &patch, &original, None));
    }
    let Some(key) = meta.key else {
        return other(format!("cannot merge lists without merge key for {}", meta.inside.name()));
    };
    let (original, patch) = special_elements(original, patch, key)?;
    let mut merged = original.clone();
    let mut index = Index::of(&merged, Some(key));
    for item in &patch {
        let Value::Object(sent) = item else { continue };
        if !sent.contains_key(key) {
            return no_merge_key(sent, key);
        }
        match index.find(item)? {
            Some(at) => {
                let Value::Object(before) = std::mem::take(&mut merged[at]) else {
                    continue;
                };
                merged[at] = Value::Object(merge_map(before, sent.clone(), meta.inside)?);
            }
            None => {
                index.note(merged.len(), item);
                merged.push(item.clone());
            }
        }
    }
    let (listed, server_only) = partition(merged, &patch, Some(key))?;
    Ok(order_elements(listed, server_only, &patch, &original, Some(key)))
}

/// Where the elements of a list are, by their merge key or by themselves; of equal ones the first.
struct Index<'k> {
    key: Option<&'k str>,
    places: HashMap<String, usize>,
    /// The first element that is no map where maps are merged by key.
    odd: Option<usize>,
}

impl<'k> Index<'k> {
    fn of(items: &[Value], key: Option<&'k str>) -> Self {
        let mut index = Self {
            key,
            places: HashMap::with_capacity(items.len()),
            odd: None,
        };
        for (at, item) in items.iter().enumerate() {
            index.note(at, item);
        }
        index
    }

    fn note(&mut self, at: usize, item: &Value) {
        if self.key.is_some() && !item.is_object() {
            self.odd.get_or_insert(at);
        }
        if let Some(identity) = identity(item, self.key) {
            self.places.entry(identity).or_insert(at);
        }
    }

    fn place(&self, item: &Value) -> Option<usize> {
        self.places.get(&identity(item, self.key)?).copied()
    }

    /// Like [`Self::place`], but looking past what is no map is upstream's error.
    fn find(&self, item: &Value) -> Result<Option<usize>> {
        let found = self.place(item);
        match self.odd {
            Some(odd) if found.is_none_or(|found| found > odd) => other(format!("value for key {odd} is not a map")),
            _ => Ok(found),
        }
    }
}

/// What tells an element from others: the value under the merge key, or all of it.
fn identity(item: &Value, key: Option<&str>) -> Option<String> {
    match key {
        None => Some(item.to_string()),
        Some(key) => item.get(key).map(Value::to_string),
    }
}

/// Elements with a directive: deletions happen, `replace` drops the live list.
fn special_elements(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain_elements = Vec::with_capacity(patch.len());
    let mut gone: HashSet<String> = HashSet::new();
    let mut replace = false;
    for item in patch {
        let directive = item.get(DIRECTIVE).cloned();
        let Value::Object(object) = &item else { continue };
        match directive.as_ref().map(Value::as_str) {
            None => plain_elements.push(item),
            Some(Some("delete")) => {
                let Some(value) = object.get(key) else {
                    return no_merge_key(object, key);
                };
                gone.insert(value.to_string());
            }
            Some(Some("replace")) => replace = true,
            Some(Some("merge")) => return other("merging lists cannot yet be specified in the patch"),
            Some(_) => return bad_patch_type(&directive.unwrap_or_default(), object),
        }
    }
    if !gone.is_empty() {
        original.retain(|item| identity(item, Some(key)).is_none_or(|identity| !gone.contains(&identity)));
    }
    Ok(if replace {
        (plain_elements, Vec::new())
    } else {
        (original, plain_elements)
    })
}

/// Elements that the list names, and those that only the server has.
fn partition(items: Vec<Value>, by: &[Value], key: Option<&str>) -> Result<(Vec<Value>, Vec<Value>)> {
    let index = Index::of(by, key);
    let (mut listed, mut server_only) = (Vec::with_capacity(items.len()), Vec::new());
    for item in items {
        let named = match (key, &item) {
            (Some(key), Value::Object(object)) if !object.contains_key(key) => return no_merge_key(object, key),
            (None, _) | (Some(_), Value::Object(_)) => index.find(&item)?.is_some(),
            (Some(_), found) => return bad_type("map[string]interface {}", found),
        };
        if named {
            listed.push(item);
        } else {
            server_only.push(item);
        }
    }
    Ok((listed, server_only))
}

/// Sorts the listed by the order, the server's own by the live list, and merges the two by the live list.
fn order_elements(
    mut listed: Vec<Value>,
    mut server_only: Vec<Value>,
    order: &[Value],
    live: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (order, live) = (Index::of(order, key), Index::of(live, key));
    listed.sort_by_cached_key(|item| order.place(item).unwrap_or(usize::MAX));
    server_only.sort_by_cached_key(|item| live.place(item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(listed.len() + server_only.len());
    let (mut left, mut right) = (listed.into_iter().peekable(), server_only.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        // An element that the live list does not know comes before what only the server has.
        let a_first = match (live.place(a), live.place(b)) {
            (Some(a), Some(b)) => a < b,
            _ => true,
        };
        out.extend(if a_first { left.next() } else { right.next() });
    }
    out.extend(left);
    out.extend(right);
    out
}

/// The kind of all elements; lists are refused, kinds must not mix.
fn element_kind<'a>(
    items: impl Iterator<Item = &'a Value>,
    mixed: impl FnOnce() -> Result<Option<&'static str>>,
) -> Result<Option<&'static str>> {
    let mut kind = None;
    for item in items {
        let this = match item {
            Value::Array(_) if kind.is_none() => return Err(PatchError::ListOfLists),
            Value::Array(_) => "list",
            Value::Object(_) => "map",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            Value::Null => "nil",
        };
        match kind {
            None => kind = Some(this),
            Some(before) if before != this => {
                return mixed();
            }
            Some(_) => {}
        }
    }
    Ok(kind)
}

/// Takes nulls out of what is new.
fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            let members = std::mem::take(object);
            object.extend(
                members
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, value)| (name, without_nulls(value))),
            );
        }
        Value::Array(items) => {
            for item in items {
                *item = without_nulls(std::mem::take(item));
            }
        }
        _ => {}
    }
    value
}

/// Takes directives out of what is new; none for an object that is a directive itself.
fn without_directives(value: Value) -> Option<Value> {
    Some(match value {
        Value::Object(object) if object.contains_key(DIRECTIVE) => return None,
        Value::Object(object) => Value::Object(
            object
                .into_iter()
                .filter_map(|(name, value)| without_directives(value).map(|value| (name, value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().filter_map(without_directives).collect()),
        scalar => scalar,
    })
}
