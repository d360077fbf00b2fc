//! Whether a value fits its schema, in the words of upstream's validator (vendor/k8s.io/kube-openapi/pkg/validation/validate), with
//! what did not change let pass (pkg/apiserver/validation/ratcheting.go).
//!
//! Invariant: every schema that is held against a value costs a step, texts and patterns cost more; a walk that takes more than
//! [`STEPS_MAX`] ends with an error, and no more is told than [`ERRORS_BYTES_MAX`] allows. Members are looked at in their
//! order, where upstream's order is that of a hash map.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Map, Value};
use trireme_api::cost::ERRORS_BYTES_MAX;
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_api::go;

use crate::correlate::Correlated;
use crate::node::{Additional, Checks, Node, Type};
use crate::number::{self, Num, Wrong};
use crate::path::Path;
use crate::show;

/// The most steps of judging one object.
pub(crate) const STEPS_MAX: u64 = 10_000_000;
/// Bytes of text that cost as much as a step.
const BYTES_PER_STEP: u64 = 64;

/// One fault. Its message stands for it where the same fault is found twice.
#[derive(Clone, Debug)]
struct Fault {
    kind: FieldErrorType,
    /// Where it is, as the validator writes it; none where it belongs to no field.
    name: String,
    value: String,
    message: String,
    /// What is told instead of the message.
    detail: Option<String>,
}

/// What was found, and how much of a schema fitted: the measure for which of several alternatives came closest.
#[derive(Default)]
struct Found {
    faults: Vec<Fault>,
    /// Hashes of their messages.
    messages: HashSet<u64>,
    matched: usize,
}

impl Found {
    fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }

    fn push(&mut self, fault: Fault) {
        let mut hasher = DefaultHasher::new();
        fault.message.hash(&mut hasher);
        if self.messages.insert(hasher.finish()) {
            self.faults.push(fault);
        }
    }

    fn merge(&mut self, other: Self) {
        self.matched += other.matched;
        if self.faults.is_empty() {
            self.faults = other.faults;
            self.messages = other.messages;
        } else {
            other.faults.into_iter().for_each(|fault| self.push(fault));
        }
    }

    fn invalid(&mut self, name: String, value: String, message: String) {
        self.special(FieldErrorType::Invalid, name, value, message, None);
    }

    fn special(&mut self, kind: FieldErrorType, name: String, value: String, message: String, detail: Option<String>) {
        self.push(Fault {
            kind,
            name,
            value,
            message,
            detail,
        });
    }

    /// One that belongs to no field.
    fn unplaced(&mut self, message: String) {
        self.invalid(String::new(), "\"\"".to_owned(), message);
    }

    fn of_type(&mut self, at: &Path<'_>, wanted: &str, found: &str) {
        let name = at.dotted();
        let found = show::quoted(found);
        let message = format!("{name} in body must be of type {wanted}: {found}");
        self.special(FieldErrorType::TypeInvalid, name, found, message, None);
    }
}

/// Judges one object.
struct Walk {
    steps_left: u64,
    bytes: usize,
}

/// What of a value does not fit a schema.
pub(crate) fn check(node: &Node, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut walk = Walk {
        steps_left: STEPS_MAX,
        bytes: 0,
    };
    let was = old.map(|old| Correlated::new(new, old, node));
    let found = walk.ratcheted(new, node, Path::ROOT, was.as_ref());
    let mut errors: Vec<FieldError> = found.faults.into_iter().map(told).collect();
    if walk.steps_left == 0 {
        errors.push(FieldError {
            kind: FieldErrorType::Forbidden,
            path: "<nil>".to_owned(),
            value: String::new(),
            detail: format!("may take at most {STEPS_MAX} steps to validate"),
        });
    }
    errors
}

fn told(fault: Fault) -> FieldError {
    let name = match fault.name.as_str() {
        "." => "",
        name => name.strip_prefix('.').unwrap_or(name),
    };
    FieldError {
        kind: fault.kind,
        path: if name.is_empty() {
            "<nil>".to_owned()
        } else {
            name.to_owned()
        },
        value: fault.value,
        detail: fault.detail.unwrap_or(fault.message),
    }
}

/// The name of a value's type in OpenAPI, and of its format.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(number) => match Num::of(number) {
            Num::Float(_) => ("number", "float64"),
            Num::Int(_) => ("integer", "int64"),
        },
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

impl Walk {
    /// Takes steps; whether any are left.
    fn take(&mut self, steps: u64) -> bool {
        self.steps_left = self.steps_left.saturating_sub(steps);
        self.steps_left > 0 && self.bytes < ERRORS_BYTES_MAX
    }

    /// Judges a value; faults of one that is what it was do not count.
    fn ratcheted(&mut self, value: &Value, node: &Node, at: Path<'_>, was: Option<&Correlated<'_>>) -> Found {
        let bytes = self.bytes;
        let mut found = self.judge(value, node, &at, was);
        if !found.is_valid() && was.is_some_and(Correlated::is_same) {
            found.faults.clear();
            found.messages.clear();
            self.bytes = bytes;
        }
        found
    }

    fn judge(&mut self, value: &Value, node: &Node, at: &Path<'_>, was: Option<&Correlated<'_>>) -> Found {
        let length = value.as_str().map_or(0, str::len) as u64;
        let mut found = Found::default();
        if !self.take(1 + length / BYTES_PER_STEP) {
            return found;
        }
        let checks = node.checks.as_deref();
        of_type(&mut found, value, node, at);
        if value.is_null() {
            if let Some(checks) = checks {
                of_choices(&mut found, value, checks, at);
            }
            return found;
        }
        if let Some(checks) = checks {
            self.of_junctors(&mut found, value, checks, at);
        }
        // What holds of all that has no junctors.
        found.matched += 2;
        match value {
            Value::String(text) => {
                if let Some(checks) = checks {
                    self.of_text(&mut found, text, checks, at);
                }
                found.matched += 1 + usize::from(checks.is_some_and(|checks| checks.format.is_some()));
            }
            Value::Number(number) => {
                of_number(&mut found, Num::of(number), node, at);
                found.matched += 2;
            }
            Value::Array(items) => {
                self.of_list(&mut found, items, node, at, was);
                found.matched += 2;
            }
            _ => {}
        }
        if let Some(checks) = checks
            && !checks.choices.is_empty()
            && self.take(checks.choices.len() as u64)
        {
            of_choices(&mut found, value, checks, at);
        }
        found.matched += 1;
        if let Value::Object(members) = value {
            self.of_object(&mut found, members, node, at, was);
            found.matched += 1;
        }
        found.matched += 1;
        if !found.is_valid() {
            self.bytes += found
                .faults
                .iter()
                .map(|fault| fault.message.len() + fault.value.len())
                .sum::<usize>();
        }
        found
    }

    fn of_junctors(&mut self, found: &mut Found, value: &Value, checks: &Checks, at: &Path<'_>) {
        if !checks.any.is_empty() {
            let (passed, best) = self.closest(value, &checks.any, at);
            if !passed {
                found.unplaced(format!(
                    "{} must validate at least one schema (anyOf)",
                    show::quoted(&at.dotted())
                ));
            }
            found.merge(best);
        }
        if !checks.one.is_empty() {
            self.of_one(found, value, &checks.one, at);
        }
        if !checks.all.is_empty() {
            let mut passed = 0;
            for node in &checks.all {
                let one = self.judge(value, node, at, None);
                passed += usize::from(one.is_valid());
                found.merge(one);
            }
            if passed < checks.all.len() {
                let none = if passed == 0 { ". None validated" } else { "" };
                found.unplaced(format!(
                    "{} must validate all the schemas (allOf){none}",
                    show::quoted(&at.dotted())
                ));
            }
        }
        if let Some(not) = &checks.not
            && self.judge(value, not, at, None).is_valid()
        {
            found.unplaced(format!("{} must not validate the schema (not)", show::quoted(&at.dotted())));
        }
    }

    /// Whether a value fits one of several schemas, and what was found: of the first that it fits, or of the one that came closest.
    fn closest(&mut self, value: &Value, nodes: &[Node], at: &Path<'_>) -> (bool, Found) {
        let mut best: Option<Found> = None;
        for node in nodes {
            let found = self.judge(value, node, at, None);
            if found.is_valid() {
                return (true, found);
            }
            if best.as_ref().is_none_or(|best| found.matched > best.matched) {
                best = Some(found);
            }
        }
        (false, best.unwrap_or_default())
    }

    fn of_one(&mut self, found: &mut Found, value: &Value, nodes: &[Node], at: &Path<'_>) {
        let mut passed = 0_usize;
        let (mut first, mut best) = (None, None::<Found>);
        for node in nodes {
            let one = self.judge(value, node, at, None);
            if one.is_valid() {
                passed += 1;
                first = first.or(Some(one));
            } else if passed == 0 && best.as_ref().is_none_or(|best| one.matched > best.matched) {
                best = Some(one);
            }
        }
        if passed == 1 {
            found.merge(first.unwrap_or_default());
            return;
        }
        let why = match passed {
            0 => "Found none valid".to_owned(),
            _ => format!("Found {passed} valid alternatives"),
        };
        let place = show::quoted(&at.dotted());
        found.unplaced(format!("{place} must validate one and only one schema (oneOf). {why}"));
        if passed == 0 {
            found.merge(best.unwrap_or_default());
        }
    }

    fn of_text(&mut self, found: &mut Found, text: &str, checks: &Checks, at: &Path<'_>) {
        let letters = if checks.max_length.is_some() || checks.min_length.is_some() {
            i64::try_from(text.chars().count()).unwrap_or(i64::MAX)
        } else {
            0
        };
        if let Some(most) = checks.max_length.filter(|most| letters > *most) {
            let name = at.dotted();
            let message = format!("{name} in body should be at most {most} chars long");
            let detail = if most >= 0 {
                format!("may not be more than {most} bytes")
            } else {
                "value is too long".to_owned()
            };
            found.special(FieldErrorType::TooLong, name, String::new(), message, Some(detail));
        } else if let Some(least) = checks.min_length.filter(|least| letters < *least) {
            let name = at.dotted();
            let message = format!("{name} in body should be at least {least} chars long");
            found.invalid(name, show::quoted(text), message);
        } else if let Some(pattern) = &checks.pattern {
            let (fits, cost) = pattern.judge(text);
            self.take(cost);
            let told = match &fits {
                Ok(true) => None,
                Ok(false) => Some(&*pattern.text),
                Err(why) => Some(why.as_str()),
            };
            if let Some(told) = told {
                let name = at.dotted();
                let message = format!("{name} in body should match '{told}'");
                found.invalid(name, show::quoted(text), message);
            }
        }
        if let Some(format) = checks.format.as_ref().filter(|format| !format.fits(text)) {
            found.of_type(at, &format.name, text);
        }
    }

    fn of_list(&mut self, found: &mut Found, items: &[Value], node: &Node, at: &Path<'_>, was: Option<&Correlated<'_>>) {
        if let Some(inner) = node.items() {
            for (index, item) in items.iter().enumerate() {
                let was = was.and_then(|was| was.index(index));
                let one = self.ratcheted(item, inner, at.index(index), was.as_ref());
                found.merge(one);
                if self.bytes >= ERRORS_BYTES_MAX {
                    return;
                }
            }
        }
        let Some(checks) = node.checks.as_deref() else {
            return;
        };
        let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(least) = checks.min_items.filter(|least| size < *least) {
            let name = at.dotted();
            let message = format!("{name} in body should have at least {least} items");
            found.invalid(name, size.to_string(), message);
        }
        if let Some(most) = checks.max_items.filter(|most| size > *most) {
            let name = at.dotted();
            let message = format!("{name} in body should have at most {most} items");
            found.special(FieldErrorType::TooMany, name, size.to_string(), message, Some(too_many(most)));
        }
        if checks.unique_items && has_twins(items) {
            let name = at.dotted();
            let message = format!("{name} in body shouldn't contain duplicates");
            found.invalid(name, "\"\"".to_owned(), message);
        }
    }

    fn of_object(
        &mut self,
        found: &mut Found,
        members: &Map<String, Value>,
        node: &Node,
        at: &Path<'_>,
        was: Option<&Correlated<'_>>,
    ) {
        let checks = node.checks.as_deref();
        let size = i64::try_from(members.len()).unwrap_or(i64::MAX);
        if let Some(least) = checks.and_then(|checks| checks.min_properties).filter(|least| size < *least) {
            let name = at.dotted();
            let message = format!("{name} in body should have at least {least} properties");
            found.invalid(name, size.to_string(), message);
        }
        if let Some(most) = checks.and_then(|checks| checks.max_properties).filter(|most| size > *most) {
            let name = at.dotted();
            let message = format!("{name} in body should have at most {most} properties");
            found.special(FieldErrorType::TooMany, name, size.to_string(), message, Some(too_many(most)));
        }
        match &node.additional {
            Additional::None | Additional::Bool(true) => {}
            Additional::Bool(false) => {
                for name in members.keys().filter(|name| !node.properties.contains_key(name.as_str())) {
                    let place = at.dotted();
                    let message = format!("{place}.{name} in body is a forbidden property");
                    found.invalid(place, show::quoted(name), message);
                }
            }
            Additional::Schema(inner) => {
                for (name, member) in members
                    .iter()
                    .filter(|(name, _)| !node.properties.contains_key(name.as_str()))
                {
                    let was = was_member(was, name, at);
                    let one = self.ratcheted(member, inner, at.key(name), was.as_ref());
                    found.merge(one);
                    if self.bytes >= ERRORS_BYTES_MAX {
                        return;
                    }
                }
            }
        }
        if !node.properties.is_empty() {
            for (name, member) in members {
                if let Some(inner) = node.properties.get(name.as_str()) {
                    let was = was_member(was, name, at);
                    let one = self.ratcheted(member, inner, at.child(name), was.as_ref());
                    found.merge(one);
                }
            }
        }
        for name in checks.map_or(&[][..], |checks| &checks.required) {
            if !members.contains_key(&**name) {
                let path = format!("{}.{name}", at.dotted());
                let message = format!("{path} in body is required");
                found.special(FieldErrorType::Required, path, String::new(), message, Some(String::new()));
            }
        }
        self.take(checks.map_or(0, |checks| checks.required.len() as u64 / 8));
    }
}

/// What a member was. The type of a resource cannot be changed, so that nothing excuses it.
fn was_member<'a>(was: Option<&Correlated<'a>>, name: &str, at: &Path<'_>) -> Option<Correlated<'a>> {
    if at.is_root() && matches!(name, "kind" | "apiVersion") {
        return None;
    }
    was?.key(name)
}

fn too_many(most: i64) -> String {
    match most {
        1 => "must have at most 1 item".to_owned(),
        0.. => format!("must have at most {most} items"),
        _ => "has too many items".to_owned(),
    }
}

fn has_twins(items: &[Value]) -> bool {
    let mut seen = HashSet::new();
    items.iter().any(|item| !seen.insert(item.to_string()))
}

fn of_type(found: &mut Found, value: &Value, node: &Node, at: &Path<'_>) {
    let format = node.checks.as_deref().and_then(|checks| checks.format.as_ref());
    let both = node.int_or_string;
    let untyped = node.is == Type::Any && !both;
    let names = || if both { "integer,string" } else { node.is.name() };
    if value.is_null() {
        if !untyped && !node.nullable {
            found.of_type(at, names(), "null");
        } else {
            found.matched += 1;
        }
        return;
    }
    if untyped && format.is_none() {
        return;
    }
    let (kind, own) = type_of(value);
    let has = |name: &str| {
        if both {
            matches!(name, "integer" | "string")
        } else {
            node.is.name() == name && !untyped
        }
    };
    let whole = || value.as_f64().is_some_and(number::is_whole);
    let fits = has(kind) || (kind == "number" && has("integer") && whole()) || (kind == "integer" && has("number"));
    let loose = matches!(value, Value::String(_) | Value::Array(_));
    match format {
        Some(format) if !loose && !fits && own != &*format.name => {
            found.of_type(at, &format.name, own);
            found.matched += 1;
            return;
        }
        // A text with a format is judged by its format alone.
        Some(_) if loose && !has("number") && !has("integer") => {}
        _ if !fits => {
            found.of_type(at, names(), kind);
            found.matched += 1;
            return;
        }
        _ => {}
    }
    found.matched += 2;
}

fn of_choices(found: &mut Found, value: &Value, checks: &Checks, at: &Path<'_>) {
    let known = &checks.choices;
    if known.is_empty() || known.iter().any(|choice| number::is_choice(value, choice)) {
        return;
    }
    let name = at.dotted();
    let plain: Vec<String> = known.iter().map(go::plain).collect();
    let shown: Vec<String> = known
        .iter()
        .map(|choice| show::quoted(&choice.as_str().map_or_else(|| show::json(choice), str::to_owned)))
        .collect();
    let message = format!("{name} in body should be one of [{}]", plain.join(" "));
    let detail = format!("supported values: {}", shown.join(", "));
    found.special(FieldErrorType::NotSupported, name, show::value(value), message, Some(detail));
}

fn of_number(found: &mut Found, number: Num, node: &Node, at: &Path<'_>) {
    let checks = node.checks.as_deref();
    let plain = checks.is_none_or(|checks| {
        checks.format.is_none() && checks.maximum.is_none() && checks.minimum.is_none() && checks.multiple_of.is_none()
    });
    if plain && (node.is != Type::Integer || node.int_or_string || matches!(number, Num::Int(_))) {
        return;
    }
    let name = at.dotted();
    // A number or a text has two types, so that neither is asked for what it holds.
    let is = if node.int_or_string { Type::Any } else { node.is };
    for wrong in number::judge(number, checks, is, &name) {
        match wrong {
            Wrong::Unplaced(message) => found.unplaced(message),
            Wrong::Placed { value, message } => found.invalid(name.clone(), value, message),
        }
    }
}
