//! Whether a value fits a schema, in the words of upstream's validator (k8s.io/kube-openapi/pkg/validation/validate).
//!
//! Invariant: every schema that is held against a value costs steps of the caller's budget, as do the names, texts and
//! alternatives that are looked at, the patterns that are compiled and what is told; nothing is checked once it is spent.
//! Formats that nobody knows fit every text. `crates/words/resources/tests/cost.rs` holds hostile schemas to it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use regex::Regex;
use serde_json::Value;
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_api::go;
use trireme_structural::zero;

use super::super::errors::Errors;
use super::super::node::Node;
use super::super::show;

/// Bytes of names and texts that are looked at in one step.
const BYTES_PER_STEP: usize = 64;
/// Steps that compiling a pattern costs, and the bytes that it may take; what takes more fits every text.
const PATTERN_STEPS: usize = 2_000;
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// What may still be done.
pub(super) struct Budget {
    steps_left: usize,
    /// Patterns by their text; none for those that are too large.
    patterns: HashMap<String, Option<Regex>>,
}

impl Budget {
    pub(super) fn new(steps: usize) -> Self {
        Self {
            steps_left: steps,
            patterns: HashMap::new(),
        }
    }

    pub(super) fn spent(&self) -> bool {
        self.steps_left == 0
    }

    /// Takes steps; whether any are left.
    pub(super) fn take(&mut self, steps: usize) -> bool {
        self.steps_left = self.steps_left.saturating_sub(steps);
        !self.spent()
    }

    /// Whether a text fits a pattern, as far as that can be told.
    fn matches(&mut self, pattern: &str, text: &str) -> bool {
        if !self.patterns.contains_key(pattern) {
            if !self.take(PATTERN_STEPS) {
                return true;
            }
            let compiled = trireme_cel::eval::matcher(pattern, PATTERN_BYTES_MAX);
            self.patterns.insert(pattern.to_owned(), compiled);
        }
        let compiled = self.patterns.get(pattern).and_then(Option::as_ref);
        compiled.is_none_or(|pattern| pattern.is_match(text))
    }
}

/// One fault. Its message stands for it where the same fault is found twice.
#[derive(Clone)]
struct Fault {
    kind: FieldErrorType,
    name: String,
    value: String,
    message: String,
    /// What is told instead of the message.
    detail: Option<String>,
}

/// What was found, and how much of a schema was looked at: the measure for which of several alternatives came closest.
#[derive(Clone, Default)]
struct Found {
    faults: Vec<Fault>,
    /// Hashes of their messages.
    messages: HashSet<u64>,
    matched: usize,
}

impl Found {
    fn push(&mut self, fault: Fault) {
        let mut hasher = DefaultHasher::new();
        fault.message.hash(&mut hasher);
        if self.messages.insert(hasher.finish()) || !self.faults.iter().any(|known| known.message == fault.message) {
            self.faults.push(fault);
        }
    }

    /// Bytes of what is told.
    fn bytes(&self) -> usize {
        let of = |fault: &Fault| fault.message.len() + fault.value.len() + fault.detail.as_ref().map_or(0, String::len);
        self.faults.iter().map(of).sum()
    }

    fn merge(&mut self, other: Self) {
        self.matched += other.matched;
        for fault in other.faults {
            self.push(fault);
        }
    }

    fn invalid(&mut self, name: &str, value: impl Into<String>, message: String) {
        self.push(Fault {
            kind: FieldErrorType::Invalid,
            name: name.to_owned(),
            value: value.into(),
            message,
            detail: None,
        });
    }

    fn special(&mut self, kind: FieldErrorType, name: &str, value: impl Into<String>, message: String, detail: String) {
        self.push(Fault {
            kind,
            name: name.to_owned(),
            value: value.into(),
            message,
            detail: Some(detail),
        });
    }

    fn of_type(&mut self, name: &str, wanted: &str, shown: &str) {
        self.push(Fault {
            kind: FieldErrorType::TypeInvalid,
            name: name.to_owned(),
            value: show::quoted(shown),
            message: format!("{name} in body must be of type {wanted}: {}", show::quoted(shown)),
            detail: None,
        });
    }
}

/// What of a value does not fit a schema; paths begin at `at`.
pub(super) fn check(errors: &mut Errors, at: &Node<'_>, schema: &Value, budget: &mut Budget) {
    for fault in judge(at.value, schema, "", budget).faults {
        let path = match fault.name.strip_prefix('.').unwrap_or(&fault.name) {
            "" => at.path.to_string(),
            name => format!("{}.{name}", at.path),
        };
        errors.push(FieldError {
            kind: fault.kind,
            path,
            value: fault.value,
            detail: fault.detail.unwrap_or(fault.message),
        });
    }
}

fn types(schema: &Value) -> Vec<&str> {
    text(schema, "type").into_iter().collect()
}

fn text<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    schema.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn count(schema: &Value, name: &str) -> Option<i64> {
    schema.get(name).and_then(Value::as_i64)
}

/// The name of a value's type in OpenAPI, and of its format.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(number) if number.is_f64() => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

/// The name of a scalar's type in OpenAPI; none of what has members, or is null.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null | Value::Array(_) | Value::Object(_) => "-",
        scalar => type_of(scalar).0,
    }
}

fn judge(value: &Value, schema: &Value, name: &str, budget: &mut Budget) -> Found {
    let looked_at = name.len() + value.as_str().map_or(0, str::len);
    if !budget.take(1 + looked_at / BYTES_PER_STEP) {
        return Found::default();
    }
    let found = judged(value, schema, name, budget);
    budget.take(found.bytes());
    found
}

fn judged(value: &Value, schema: &Value, name: &str, budget: &mut Budget) -> Found {
    let mut found = Found::default();
    found.merge(of_type(value, schema, name));
    if value.is_null() {
        found.merge(of_enum(value, schema, name, budget));
        return found;
    }
    found.matched += 1;
    found.merge(of_junctors(value, schema, name, budget));
    found.matched += 1;
    match value {
        Value::String(value) => {
            found.merge(of_text(value, schema, name, budget));
            found.matched += 1;
        }
        Value::Number(_) => {
            found.merge(of_number(value, schema, name));
            found.matched += 1;
        }
        Value::Array(items) => {
            found.merge(of_list(items, schema, name, budget));
            found.matched += 1;
        }
        _ => {}
    }
    found.merge(of_enum(value, schema, name, budget));
    found.matched += 1;
    if let Value::Object(members) = value {
        found.merge(of_object(members, schema, name, budget));
        found.matched += 1;
    }
    found.matched += 1;
    found
}

fn of_type(value: &Value, schema: &Value, name: &str) -> Found {
    let mut found = Found::default();
    let (types, format) = (types(schema), text(schema, "format").unwrap_or_default());
    let (kind, own_format) = type_of(value);
    let nullable = schema.get("nullable") == Some(&Value::Bool(true));
    if value.is_null() {
        if !types.is_empty() && !nullable {
            found.of_type(name, &types.join(","), "null");
        }
        found.matched += 1;
        return found;
    }
    if types.is_empty() && format.is_empty() {
        return found;
    }
    found.matched += 1;
    let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let number = (kind == "number" && whole && types.contains(&"integer")) || (kind == "integer" && types.contains(&"number"));
    let listed = types.contains(&kind) || number;
    let numeric = types.contains(&"number") || types.contains(&"integer");
    let loose = matches!(value, Value::String(_) | Value::Array(_));
    if !loose && !format.is_empty() && !listed && own_format != format {
        found.of_type(name, format, own_format);
    } else if loose && !format.is_empty() && !numeric {
        // A text with a format is judged by its format alone.
    } else if !listed {
        found.of_type(name, &types.join(","), kind);
    }
    found
}

fn of_enum(value: &Value, schema: &Value, name: &str, budget: &mut Budget) -> Found {
    let mut found = Found::default();
    let Some(known) = schema.get("enum").and_then(Value::as_array).filter(|known| !known.is_empty()) else {
        return found;
    };
    if !budget.take(known.len()) {
        return found;
    }
    let equal = |known: &Value| {
        known == value || (value.is_number() && known.is_number() && known.as_f64() == value.as_f64()) && !known.is_null()
    };
    if known.iter().any(|known| equal(known) && !value.is_null()) {
        return found;
    }
    let shown: Vec<String> = known
        .iter()
        .filter(|known| !known.is_null() || value.is_null())
        .map(|known| show::quoted(&known.as_str().map_or_else(|| show::json(known), str::to_owned)))
        .collect();
    let message = format!("{name} in body should be one of {}", shown.join(" "));
    let detail = format!("supported values: {}", shown.join(", "));
    found.special(FieldErrorType::NotSupported, name, show::value(value), message, detail);
    found
}

fn of_text(value: &str, schema: &Value, name: &str, budget: &mut Budget) -> Found {
    let mut found = Found::default();
    let letters = i64::try_from(value.chars().count()).unwrap_or(i64::MAX);
    if let Some(most) = count(schema, "maxLength").filter(|most| letters > *most) {
        let message = format!("{name} in body should be at most {most} chars long");
        let detail = format!("may not be more than {most} bytes");
        found.special(FieldErrorType::TooLong, name, "", message, detail);
    } else if let Some(least) = count(schema, "minLength").filter(|least| letters < *least) {
        let message = format!("{name} in body should be at least {least} chars long");
        found.invalid(name, show::quoted(value), message);
    } else if let Some(pattern) = text(schema, "pattern")
        && !budget.matches(pattern, value)
    {
        found.invalid(name, show::quoted(value), format!("{name} in body should match '{pattern}'"));
    }
    if let Some(format) = text(schema, "format").filter(|format| !trireme_structural::is_of_format(value, format)) {
        found.of_type(name, format, value);
    }
    found
}

fn of_number(value: &Value, schema: &Value, name: &str) -> Found {
    let mut found = Found {
        matched: 1,
        ..Found::default()
    };
    let number = value.as_f64().unwrap_or_default();
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let format = text(schema, "format").unwrap_or_default();
    let types = types(schema);
    if types == ["integer"] && format == "int32" && (number < f64::from(i32::MIN) || number > f64::from(i32::MAX)) {
        let message = format!("Checked value must be of type integer with format int32 in {name}");
        found.push(Fault {
            kind: FieldErrorType::Invalid,
            name: String::new(),
            value: "\"\"".to_owned(),
            message,
            detail: None,
        });
    }
    // A whole number is held against whole limits.
    let fitted = |limit: f64| if value.is_f64() { limit } else { limit.trunc() };
    let shown = |limit: f64| {
        let limit = fitted(limit);
        if limit.fract() == 0.0 && limit.abs() < 1e21 {
            format!("{limit:.0}")
        } else {
            go::plain(&Value::from(limit))
        }
    };
    if let Some(factor) = limit("multipleOf") {
        let factor = fitted(factor);
        let times = if factor < 1.0 {
            1.0 / factor * number
        } else {
            number / factor
        };
        if factor <= 0.0 {
            let message = format!("factor MultipleOf declared for {name} must be positive: {}", shown(factor));
            found.invalid(name, shown(factor), message);
        } else if times.fract() != 0.0 {
            let message = format!("{name} in body should be a multiple of {}", shown(factor));
            found.invalid(name, show::value(value), message);
        }
    }
    let strict = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    if let Some(least) = limit("minimum") {
        let exclusive = strict("exclusiveMinimum");
        if number < fitted(least) || (exclusive && number <= fitted(least)) {
            let or = if exclusive { "" } else { "or equal to " };
            let message = format!("{name} in body should be greater than {or}{}", shown(least));
            found.invalid(name, show::value(value), message);
        }
    }
    if let Some(most) = limit("maximum") {
        let exclusive = strict("exclusiveMaximum");
        if number > fitted(most) || (exclusive && number >= fitted(most)) {
            let or = if exclusive { "" } else { "or equal to " };
            let message = format!("{name} in body should be less than {or}{}", shown(most));
            found.invalid(name, show::value(value), message);
        }
    }
    found
}

fn of_list(items: &[Value], schema: &Value, name: &str, budget: &mut Budget) -> Found {
    let mut found = Found {
        matched: 1,
        ..Found::default()
    };
    if let Some(inner) = schema.get("items").filter(|inner| inner.is_object()) {
        for (index, item) in items.iter().enumerate() {
            if budget.spent() {
                break;
            }
            found.merge(judge(item, inner, &format!("{name}[{index}]"), budget));
        }
    }
    let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(least) = count(schema, "minItems").filter(|least| size < *least) {
        found.invalid(
            name,
            size.to_string(),
            format!("{name} in body should have at least {least} items"),
        );
    }
    if let Some(most) = count(schema, "maxItems").filter(|most| size > *most) {
        too_many(&mut found, name, size, most, "items");
    }
    if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
        let mut seen = HashSet::new();
        if !items.iter().all(|item| seen.insert(item.to_string())) {
            found.invalid(name, "\"\"", format!("{name} in body shouldn't contain duplicates"));
        }
    }
    found
}

fn too_many(found: &mut Found, name: &str, size: i64, most: i64, what: &str) {
    let noun = if most == 1 { "item" } else { "items" };
    found.special(
        FieldErrorType::TooMany,
        name,
        size.to_string(),
        format!("{name} in body should have at most {most} {what}"),
        format!("must have at most {most} {noun}"),
    );
}

fn of_object(members: &serde_json::Map<String, Value>, schema: &Value, name: &str, budget: &mut Budget) -> Found {
    let mut found = Found::default();
    let size = i64::try_from(members.len()).unwrap_or(i64::MAX);
    if let Some(least) = count(schema, "minProperties").filter(|least| size < *least) {
        found.invalid(
            name,
            size.to_string(),
            format!("{name} in body should have at least {least} properties"),
        );
    }
    if let Some(most) = count(schema, "maxProperties").filter(|most| size > *most) {
        too_many(&mut found, name, size, most, "properties");
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let known = |key: &str| properties.is_some_and(|properties| properties.contains_key(key));
    match schema.get("additionalProperties") {
        Some(Value::Bool(false)) => {
            for key in members.keys().filter(|key| !known(key)) {
                found.invalid(
                    name,
                    show::quoted(key),
                    format!("{name}.{key} in body is a forbidden property"),
                );
            }
        }
        Some(inner @ Value::Object(_)) => {
            for (key, value) in members.iter().filter(|(key, _)| !known(key)) {
                if budget.spent() {
                    break;
                }
                found.merge(judge(value, inner, &format!("{name}.{key}"), budget));
            }
        }
        _ => {}
    }
    for (key, inner) in properties.into_iter().flatten() {
        if budget.spent() {
            break;
        }
        if let Some(value) = members.get(key) {
            let path = if name.is_empty() {
                key.clone()
            } else {
                format!("{name}.{key}")
            };
            found.merge(judge(value, inner, &path, budget));
        }
    }
    let required = schema.get("required").and_then(Value::as_array).filter(|_| !budget.spent());
    for key in required.into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(key) {
            let path = format!("{name}.{key}");
            let message = format!("{path} in body is required");
            found.special(FieldErrorType::Required, &path, "", message, String::new());
        }
    }
    found
}

fn of_junctors(value: &Value, schema: &Value, name: &str, budget: &mut Budget) -> Found {
    let mut found = Found::default();
    let list = |name: &str| schema.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let shown = "\"\"";
    let any = list("anyOf");
    if !any.is_empty() {
        match closest(value, any, name, budget) {
            (passed, first) if passed > 0 => found.merge(first),
            (_, best) => {
                found.invalid(
                    "",
                    shown,
                    format!("{} must validate at least one schema (anyOf)", quoted_path(name)),
                );
                found.merge(best);
            }
        }
    }
    let one = list("oneOf");
    if !one.is_empty() {
        let passed = one
            .iter()
            .filter(|schema| judge(value, schema, name, budget).faults.is_empty())
            .count();
        if passed == 1 {
            found.merge(closest(value, one, name, budget).1);
        } else {
            let why = if passed == 0 {
                "Found none valid".to_owned()
            } else {
                format!("Found {passed} valid alternatives")
            };
            let path = quoted_path(name);
            found.invalid(
                "",
                shown,
                format!("{path} must validate one and only one schema (oneOf). {why}"),
            );
            if passed == 0 {
                found.merge(closest(value, one, name, budget).1);
            }
        }
    }
    let all = list("allOf");
    if !all.is_empty() {
        let mut passed = 0;
        for schema in all {
            let one = judge(value, schema, name, budget);
            passed += usize::from(one.faults.is_empty());
            found.merge(one);
        }
        if passed < all.len() {
            let none = if passed == 0 { ". None validated" } else { "" };
            let path = quoted_path(name);
            found.invalid("", shown, format!("{path} must validate all the schemas (allOf){none}"));
        }
    }
    if let Some(not) = schema
        .get("not")
        .filter(|not| !not.is_null() && (not.is_object() || !zero(not)))
        && judge(value, not, name, budget).faults.is_empty()
    {
        found.invalid("", shown, format!("{} must not validate the schema (not)", quoted_path(name)));
    }
    found.matched += 1;
    found
}

fn quoted_path(name: &str) -> String {
    show::quoted(name)
}

/// How many alternatives a value fits up to the first, and what was found: of the first that it fits, or of the one that
/// came closest.
fn closest(value: &Value, schemas: &[Value], name: &str, budget: &mut Budget) -> (usize, Found) {
    let mut best: Option<Found> = None;
    for schema in schemas {
        let found = judge(value, schema, name, budget);
        if found.faults.is_empty() {
            return (1, found);
        }
        if best.as_ref().is_none_or(|best| found.matched > best.matched) {
            best = Some(found);
        }
    }
    (0, best.unwrap_or_default())
}
