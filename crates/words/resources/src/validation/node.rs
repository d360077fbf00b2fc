//! A place inside an object: its field path and its value. Errors are made here, so that path and value agree.
//!
//! Invariant: an absent member is a null value, and a null reads as the zero value of whatever is asked for. Nothing
//! here decides what is right or wrong.

use serde_json::Value;
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_api::quantity::Quantity;

use super::errors::Errors;
use super::path::{Path, Step};
use super::show;

static NULL: Value = Value::Null;

/// A field path and the value that stands there.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub path: Path<'a>,
    pub value: &'a Value,
}

impl<'a> Node<'a> {
    /// The object itself.
    pub fn root(value: &'a Value) -> Self {
        Self {
            path: Path::default(),
            value,
        }
    }

    /// What stands a step from here. One that will be walked into keeps its path once for all below it.
    fn step(&self, step: Step<'a>, value: Option<&'a Value>) -> Self {
        let value = value.unwrap_or(&NULL);
        let path = self.path.then(step);
        let path = if value.is_object() || value.is_array() {
            path.shared()
        } else {
            path
        };
        Self { path, value }
    }

    /// The member of that name.
    pub fn at(&self, name: &'a str) -> Self {
        self.step(Step::Member(name), self.value.get(name))
    }

    /// A member of a member, and so on; the names are parted by dots.
    pub fn get(&self, names: &'a str) -> Self {
        names.split('.').fold(self.clone(), |node, name| node.at(name))
    }

    /// The same value under another path.
    pub fn moved(&self, path: impl Into<Path<'a>>) -> Self {
        Self {
            path: path.into(),
            value: self.value,
        }
    }

    /// The member `name`, called `shown` in paths.
    pub fn at_as(&self, name: &str, shown: &'a str) -> Self {
        self.step(Step::Member(shown), self.value.get(name))
    }

    /// The same path with a name after it, without a value.
    pub fn child(&self, name: &'a str) -> Self {
        self.step(Step::Member(name), None)
    }

    /// The element of that index.
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index), self.value.get(index))
    }

    /// The entry of that key.
    pub fn key(&self, key: &'a str) -> Self {
        self.step(Step::Key(key), self.value.get(key))
    }

    /// An entry that was found already.
    pub fn entry(&self, key: &'a str, value: &'a Value) -> Self {
        self.step(Step::Key(key), Some(value))
    }

    /// The entry of that key, where there is one.
    pub fn held(&self, key: &str) -> Option<Self> {
        let (key, value) = self.value.as_object()?.get_key_value(key)?;
        Some(self.step(Step::Key(key), Some(value)))
    }

    /// The elements of a list.
    pub fn items(&self) -> Vec<Self> {
        let items = self.value.as_array().map_or(&[][..], Vec::as_slice);
        let elements = items.iter().enumerate();
        elements
            .map(|(index, item)| self.step(Step::Index(index), Some(item)))
            .collect()
    }

    /// The entries of a map, by key.
    pub fn entries(&self) -> Vec<(&'a str, Self)> {
        let members = self.value.as_object().into_iter().flatten();
        members
            .map(|(key, value)| (key.as_str(), self.step(Step::Key(key), Some(value))))
            .collect()
    }

    /// The strings of a list.
    pub fn strings(&self) -> Vec<&'a str> {
        self.value.as_array().map_or_else(Vec::new, |items| {
            items.iter().map(|item| item.as_str().unwrap_or_default()).collect()
        })
    }

    /// Whether it is there.
    pub fn set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether the member is there.
    pub fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some_and(|value| !value.is_null())
    }

    /// Its text.
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// Text of a member.
    pub fn text(&self, name: &str) -> &'a str {
        self.value.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Its number.
    pub fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or_default()
    }

    /// Whether it is true.
    pub fn is(&self, name: &str) -> bool {
        self.value.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// Elements, entries or bytes.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(members) => members.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }
    }

    /// How many bytes a text in base64 stands for.
    pub fn bytes(&self) -> usize {
        let text = self.str();
        text.len() / 4 * 3 - text.bytes().rev().take(2).filter(|byte| *byte == b'=').count()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its quantity; zero where it has none.
    pub fn quantity(&self) -> Quantity {
        let text = match self.value {
            Value::Number(number) => number.to_string(),
            other => other.as_str().unwrap_or("0").to_owned(),
        };
        Quantity::parse(&text).unwrap_or_else(|_| Quantity::new(0, trireme_api::quantity::Format::DecimalSi))
    }

    fn error(&self, kind: FieldErrorType, value: String, detail: impl Into<String>) -> FieldError {
        FieldError {
            kind,
            path: self.path.to_string(),
            value,
            detail: detail.into(),
        }
    }

    /// Not valid; the value is shown as JSON, a text quoted.
    pub fn invalid(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Invalid, show::value(self.value), detail)
    }

    /// Not valid as a text: an absent one is shown as `""`.
    pub fn bad(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Invalid, show::quoted(self.str()), detail)
    }

    /// Not valid as a number: an absent one is shown as `0`.
    pub fn bad_int(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Invalid, self.int().to_string(), detail)
    }

    /// Not valid as a quantity.
    pub fn bad_quantity(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Invalid, show::quoted(&self.quantity().to_string()), detail)
    }

    /// Not valid; the value is shown as given.
    pub fn invalid_as(&self, shown: impl Into<String>, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Invalid, shown.into(), detail)
    }

    /// Not valid; the value is shown as that text, quoted.
    pub fn bad_text(&self, text: &str, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Invalid, show::quoted(text), detail)
    }

    /// Not valid; a struct as Go prints its internal form.
    pub fn bad_struct(&self, package: &str, name: &str, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Invalid, show::internal(package, name, self.value), detail)
    }

    /// Missing.
    pub fn required(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Required, String::new(), detail)
    }

    /// Not to be set.
    pub fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Forbidden, String::new(), detail)
    }

    /// The server itself failed to judge the value.
    pub fn internal(&self, detail: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Internal, String::new(), detail)
    }

    /// Names nothing that exists.
    pub fn not_found(&self) -> FieldError {
        self.error(FieldErrorType::NotFound, show::quoted(self.str()), "")
    }

    /// There is one already.
    pub fn duplicate(&self) -> FieldError {
        self.error(FieldErrorType::Duplicate, show::value(self.value), "")
    }

    /// There is one already; the value is shown as given.
    pub fn duplicate_as(&self, shown: impl Into<String>) -> FieldError {
        self.error(FieldErrorType::Duplicate, shown.into(), "")
    }

    /// More bytes than allowed.
    pub fn too_long(&self, most: usize) -> FieldError {
        self.error(
            FieldErrorType::TooLong,
            String::new(),
            format!("may not be more than {most} bytes"),
        )
    }

    /// More elements than allowed.
    pub fn too_many(&self, count: usize, most: usize) -> FieldError {
        let items = if most == 1 { "item" } else { "items" };
        self.error(
            FieldErrorType::TooMany,
            count.to_string(),
            format!("must have at most {most} {items}"),
        )
    }

    /// Not one of the known values.
    pub fn unsupported(&self, known: &[&str]) -> FieldError {
        let shown = if self.set() {
            show::value(self.value)
        } else {
            "\"\"".to_owned()
        };
        self.unsupported_as(shown, known)
    }

    /// Not one of the known values; the value is shown as given.
    pub fn unsupported_as(&self, shown: impl Into<String>, known: &[&str]) -> FieldError {
        let known: Vec<String> = known.iter().map(|text| show::quoted(text)).collect();
        let detail = if known.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", known.join(", "))
        };
        self.error(FieldErrorType::NotSupported, shown.into(), detail)
    }

    /// One error for each message about this text.
    pub fn each(&self, errors: &mut Errors, messages: Vec<String>) {
        errors.extend(messages.into_iter().map(|message| self.bad(message)));
    }

    /// Required where the text is empty.
    pub fn need(&self, errors: &mut Errors, name: &str) {
        if self.text(name).is_empty() {
            errors.push(self.at(name).required(""));
        }
    }

    /// Must not be below zero.
    pub fn non_negative(&self, errors: &mut Errors) {
        if self.int() < 0 {
            errors.push(self.bad_int(NEGATIVE));
        }
    }

    /// A text that must be one of the known ones.
    pub fn one_of(&self, errors: &mut Errors, known: &[&str]) {
        if !known.contains(&self.str()) {
            errors.push(self.unsupported(known));
        }
    }

    /// Likewise, and an empty one is missing.
    pub fn need_one_of(&self, errors: &mut Errors, known: &[&str]) {
        if self.str().is_empty() {
            errors.push(self.required(""));
        } else {
            self.one_of(errors, known);
        }
    }

    /// Likewise, of what may be absent: that is missing, and an empty text is an unknown one.
    pub fn given_one_of(&self, errors: &mut Errors, known: &[&str]) {
        if self.set() {
            self.one_of(errors, known);
        } else {
            errors.push(self.required(""));
        }
    }

    /// Must be what it was; `new` is `self`.
    pub fn immutable(&self, errors: &mut Errors, old: &Node<'_>) {
        if self.value != old.value {
            errors.push(self.invalid(IMMUTABLE));
        }
    }

    /// Likewise, where a text that is not there is an empty one.
    pub fn immutable_text(&self, errors: &mut Errors, old: &Node<'_>) {
        if self.str() != old.str() {
            errors.push(self.bad(IMMUTABLE));
        }
    }
}

pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const IMMUTABLE: &str = "field is immutable";
/// Of a value that an error does not show.
pub(super) const NOT_SHOWN: &str = "";

/// Equal as upstream's semantic comparison sees it: a list that is empty and none are one, and so is a field that is zero.
/// An object is not none: in the canonical form only pointers to structs are empty objects.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    fn empty(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            _ => false,
        }
    }
    match (a, b) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().all(|(key, value)| same(value, other.get(key).unwrap_or(&NULL)))
                && other.iter().all(|(key, value)| one.contains_key(key) || same(&NULL, value))
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(_), _) | (_, Value::Object(_)) => false,
        _ => a == b || (empty(a) && empty(b)),
    }
}
