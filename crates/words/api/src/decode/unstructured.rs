//! Values without a type to a typed form, as strategic patches and server-side apply get there: Go's conversion of a map to
//! a struct, which knows other mistakes, and other words for them, than decoding of JSON.
//!
//! Invariant: fields are looked at in the order of declaration and the first misfit ends it. Whole numbers wrap where
//! their type is too small, as Go's conversion wraps them. Where several members of one map misfit, upstream tells any of
//! them; this tells the first by name.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use serde_json::{Map, Value};

use super::typed::{self, Go, Tally, alone, element, unbase64};
use super::{DecodeError, Decoded, Empty, FieldValidation, canonical, canonicalize_as, enter, settled};
use crate::bulk::Path;
use crate::cost::{Ledger, values_in};
use crate::schema::{self, Struct, Type};

/// Converts a value to a type's form; unknown fields are dropped and told sorted.
///
/// # Errors
/// As [`DecodeError`] says, in the words of Go's conversion.
pub fn unstructured(value: Value, ty: &'static Struct, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    unstructured_where(value, ty, mode, &Touched::All)
}

/// Like [`unstructured`], for a value of which the rest is of its type already.
///
/// # Errors
/// As [`unstructured`].
pub fn unstructured_where(
    value: Value,
    ty: &'static Struct,
    mode: FieldValidation,
    touched: &Touched,
) -> Result<Decoded, DecodeError> {
    let mut converter = Converter {
        told: (mode != FieldValidation::Ignore).then(Vec::new),
        path: String::new(),
        empty: false,
        values: 1,
        ledger: Ledger::new(),
        in_schema: false,
    };
    let mut value = value;
    converter.structure(&mut value, ty, touched).map_err(DecodeError::Type)?;
    debug_assert!(is_canonical(&value, ty), "not in its form: {value}");
    let mut warnings = converter.told.unwrap_or_default();
    warnings.sort_unstable();
    if mode == FieldValidation::Strict && !warnings.is_empty() {
        return Err(DecodeError::Strict(warnings));
    }
    Ok(Decoded {
        value,
        warnings,
        empty: converter.empty,
        values: Some(converter.values),
    })
}

/// What of a value somebody may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// All of it.
    All,
    /// These members of an object, and what of each.
    Members(HashMap<String, Touched>),
    /// All but what stands where that path leads, which is as conversion would leave it and has so many values.
    Beside(Path, usize),
}

/// What of a member somebody may have changed.
enum Part<'t> {
    /// Nothing.
    Untouched,
    /// Nothing, and it has so many values, none of which is an empty list or map.
    Settled(usize),
    /// That.
    Touched(Cow<'t, Touched>),
}

impl Touched {
    /// How deep is told apart, and how many members of one object.
    const LEVELS: u32 = 2;
    const MEMBERS_MAX: usize = 32;

    /// What a strategic merge patch touches: the members that it has, but all where one of them is a directive.
    #[must_use]
    pub fn by(patch: &Map<String, Value>) -> Self {
        Self::within(patch, Self::LEVELS)
    }

    fn within(patch: &Map<String, Value>, levels: u32) -> Self {
        if patch.len() > Self::MEMBERS_MAX || patch.keys().any(|name| name.starts_with('$')) {
            return Self::All;
        }
        let members = patch.iter().map(|(name, sent)| {
            let inside = match sent {
                Value::Object(inside) if levels > 1 => Self::within(inside, levels - 1),
                _ => Self::All,
            };
            (name.clone(), inside)
        });
        Self::Members(members.collect())
    }

    /// Whether what stands where a path leads may have been changed.
    #[must_use]
    pub fn reaches(&self, at: &[&str]) -> bool {
        let Some((name, at)) = at.split_first() else { return true };
        match self.member(name) {
            Part::Touched(touched) => touched.reaches(at),
            Part::Untouched | Part::Settled(_) => false,
        }
    }

    /// Whether it is told for each step of a path whether it was touched, up to where the path leads.
    #[must_use]
    pub fn is_told_at(&self, at: &[&str]) -> bool {
        match (self, at) {
            (_, []) => true,
            (Self::All | Self::Beside(..), _) => false,
            (Self::Members(members), [name, at @ ..]) => members.get(*name).is_none_or(|inside| inside.is_told_at(at)),
        }
    }

    /// What of a member.
    fn member(&self, name: &str) -> Part<'_> {
        match self {
            Self::Members(members) => members
                .get(name)
                .map_or(Part::Untouched, |touched| Part::Touched(Cow::Borrowed(touched))),
            Self::Beside([first, rest @ ..], values) if *first == name => match rest {
                [] => Part::Settled(*values),
                rest => Part::Touched(Cow::Owned(Self::Beside(rest, *values))),
            },
            Self::All | Self::Beside(..) => Part::Touched(Cow::Borrowed(&Self::All)),
        }
    }
}

/// Whether bringing a value into its form as a whole changes nothing.
fn is_canonical(value: &Value, ty: &'static Struct) -> bool {
    let mut whole = value.clone();
    canonicalize_as(&mut whole, ty, Empty::Sent);
    whole == *value
}

struct Converter {
    /// Unknown fields, where they are wanted.
    told: Option<Vec<String>>,
    path: String,
    /// Whether a list or map was empty.
    empty: bool,
    /// Values so far, with those that do not stay.
    values: usize,
    ledger: Ledger,
    /// Whether this is within a schema of a definition.
    in_schema: bool,
}

/// Go's kind of a value without a type.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

impl Converter {
    /// Runs something at a place within this one; where nothing is told nobody asks for the path.
    fn inside<R>(&mut self, step: impl FnOnce() -> Cow<'static, str>, run: impl FnOnce(&mut Self) -> R) -> R {
        if self.told.is_none() {
            return run(self);
        }
        let length = enter(&mut self.path, &step());
        let result = run(self);
        self.path.truncate(length);
        result
    }

    fn tell_unknown(&mut self, name: &str) {
        let Some(told) = &mut self.told else { return };
        if self.ledger.tell(self.path.len() + name.len() + 16) || told.is_empty() {
            let dot = if self.path.is_empty() { "" } else { "." };
            told.push(format!("unknown field \"{}{dot}{name}\"", self.path));
        }
    }

    fn structure(&mut self, value: &mut Value, ty: &'static Struct, touched: &Touched) -> Result<(), String> {
        if !self.in_schema && ty == schema::json_schema_props() {
            if settled::structure(value, ty) {
                debug_assert!(typed::is_settled(value, Type::SchemaOrArray), "decoding changes {value}");
                self.values += values_in(value) - 1;
                return Ok(());
            }
            // It is looked at once, not at each of its levels.
            self.in_schema = true;
            let done = self.structure(value, ty, touched);
            self.in_schema = false;
            return done;
        }
        let Value::Object(members) = value else {
            return Err(format!("cannot restore struct from: {}", kind(value)));
        };
        let (mut known, mut unknown) = (Vec::with_capacity(members.len()), Vec::new());
        for (name, member) in members.iter_mut() {
            match ty.position(name) {
                Some(position) => known.push((position, member)),
                None => unknown.push(name.clone()),
            }
        }
        known.sort_unstable_by_key(|(position, _)| *position);
        let mut gone = Vec::new();
        for (position, member) in known {
            let field = &ty.fields[position];
            let touched = match touched.member(field.json) {
                Part::Touched(touched) => touched,
                Part::Untouched => {
                    self.pass(member, field.ty);
                    continue;
                }
                Part::Settled(values) => {
                    debug_assert_eq!((values, typed::is_settled(member, field.ty)), (values_in(member), true));
                    self.values += values;
                    continue;
                }
            };
            self.inside(
                || field.json.into(),
                |inner| match (&field.ty, &*member) {
                    (Type::Struct(reference), Value::Object(_)) => {
                        inner.values += 1;
                        inner.structure(member, reference.get(), &touched)
                    }
                    _ => inner.value(member, &field.ty, Go::Text(field.go_type)),
                },
            )?;
            if !canonical::stays(member, field) {
                gone.push(field.json);
            }
        }
        for name in gone {
            members.remove(name);
        }
        for name in &unknown {
            self.tell_unknown(name);
            members.remove(name);
        }
        self.values += canonical::complete(members, ty);
        Ok(())
    }

    /// Counts what nobody touched.
    fn pass(&mut self, value: &Value, ty: Type) {
        let met = Tally::of(value, ty);
        self.values += met.values;
        self.empty |= met.empty;
    }

    fn value(&mut self, value: &mut Value, ty: &Type, go: Go<'_>) -> Result<(), String> {
        self.values += 1;
        if value.is_null() {
            return Ok(());
        }
        match ty {
            Type::Struct(reference) => return self.structure(value, reference.get(), &Touched::All),
            Type::List(inner) => return self.list(value, inner, go),
            Type::StringItems => return self.list(value, &Type::String, go),
            Type::Map(inner) => return self.map(value, inner, go),
            Type::Bytes => *value = bytes(std::mem::take(value))?,
            Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Double => {
                *value = scalar(std::mem::take(value), ty, go)?;
            }
            // What parses itself gets the value as JSON.
            _ => {
                marshal(value);
                let (decoded, values) = alone(value, ty)?;
                *value = decoded;
                self.values += values - 1;
            }
        }
        Ok(())
    }

    fn list(&mut self, value: &mut Value, inner: &Type, go: Go<'_>) -> Result<(), String> {
        let Value::Array(items) = value else {
            return Err(format!("cannot restore slice from {}", kind(value)));
        };
        self.empty |= items.is_empty();
        let element = element(go, inner);
        for (index, item) in items.iter_mut().enumerate() {
            self.inside(
                || format!("[{index}]").into(),
                |converter| converter.value(item, inner, element),
            )?;
        }
        Ok(())
    }

    fn map(&mut self, value: &mut Value, inner: &Type, go: Go<'_>) -> Result<(), String> {
        let Value::Object(members) = value else {
            return Err(format!("cannot restore map from {}", kind(value)));
        };
        self.empty |= members.is_empty();
        let element = element(go, inner);
        // Names of a map are no part of the path that upstream tells.
        members.values_mut().try_for_each(|member| self.value(member, inner, element))
    }
}

fn bytes(value: Value) -> Result<Value, String> {
    match value {
        Value::String(text) => {
            let raw =
                unbase64(&text).map_err(|at| format!("error decoding from json: illegal base64 data at input byte {at}"))?;
            Ok(base64::engine::general_purpose::STANDARD.encode(raw).into())
        }
        Value::Array(items) => {
            // A list of numbers is a list of bytes to Go.
            let mut raw = Vec::with_capacity(items.len());
            for item in items {
                raw.push(byte(&item)?);
            }
            Ok(base64::engine::general_purpose::STANDARD.encode(raw).into())
        }
        other => Err(format!("cannot restore slice from {}", kind(&other))),
    }
}

fn byte(value: &Value) -> Result<u8, String> {
    let number = match value {
        Value::Null => return Ok(0),
        Value::Number(number) => number,
        _ => return Err("unrecognized type: uint8".to_owned()),
    };
    let whole = match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole,
        (None, Some(float)) if float.fract() == 0.0 => truncated(float),
        _ => return Err("cannot convert float64 to uint8".to_owned()),
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "Go's conversion keeps the low bits, too"
    )]
    Ok(whole as u8)
}

fn scalar(value: Value, ty: &Type, go: Go<'_>) -> Result<Value, String> {
    let wanted = match ty {
        Type::String => "string",
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        _ => "float64",
    };
    let number = match (&value, ty) {
        (Value::String(_), Type::String) | (Value::Bool(_), Type::Bool) => return Ok(value),
        (Value::Number(number), _) => number,
        _ => return Err(format!("unrecognized type: {wanted}")),
    };
    let whole = match (number.as_i64(), number.as_f64(), ty) {
        (_, Some(float), Type::Double) => return Ok(Value::from(float)),
        (Some(whole), ..) => Some(whole),
        (None, Some(float), _) if float.fract() == 0.0 => Some(truncated(float)),
        _ => None,
    };
    match (whole, ty) {
        #[allow(clippy::cast_possible_truncation, reason = "Go's conversion keeps the low bits, too")]
        (Some(whole), Type::Int32) => Ok(Value::from(whole as i32)),
        (Some(whole), Type::Int64) => Ok(Value::from(whole)),
        // To Go whole numbers convert to strings, though not here; fractions and truth values convert to nothing.
        (_, Type::Bool) => Err(format!("unrecognized type: {wanted}")),
        (_, Type::String) if number.is_f64() => Err(format!("unrecognized type: {wanted}")),
        _ => Err(format!("cannot convert {} to {go}", kind(&value))),
    }
}

/// A float as a whole number: what does not fit becomes the least one, as processors have it.
fn truncated(float: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    #[allow(clippy::cast_possible_truncation, reason = "within the range")]
    if (-LIMIT..LIMIT).contains(&float) {
        float as i64
    } else {
        i64::MIN
    }
}

/// Makes a value what it is after Go wrote and read it: floats without a fraction are written without a point.
fn marshal(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() < 9e15
            {
                *value = Value::from(truncated(float));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(marshal),
        Value::Object(members) => members.values_mut().for_each(marshal),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(group: &str, kind: &str, value: Value, mode: FieldValidation) -> Result<Decoded, DecodeError> {
        unstructured(value, schema::kind(group, "v1", kind).unwrap(), mode)
    }

    #[test]
    fn misfits_are_told_in_the_words_of_gos_conversion() {
        for (group, kind, value, message) in [
            ("", "Pod", json!({"metadata": 7}), "cannot restore struct from: int64"),
            (
                "",
                "Pod",
                json!({"metadata": {"labels": []}}),
                "cannot restore map from slice",
            ),
            (
                "",
                "Pod",
                json!({"spec": {"volumes": 1.5}}),
                "cannot restore slice from float64",
            ),
            (
                "",
                "Pod",
                json!({"spec": {"restartPolicy": 7}}),
                "cannot convert int64 to v1.RestartPolicy",
            ),
            ("", "Pod", json!({"spec": {"nodeName": 1.5}}), "unrecognized type: string"),
            ("", "Pod", json!({"spec": {"hostNetwork": "true"}}), "unrecognized type: bool"),
            ("", "Pod", json!({"spec": {"hostNetwork": 1}}), "unrecognized type: bool"),
            (
                "apps",
                "Deployment",
                json!({"spec": {"replicas": 1.5}}),
                "cannot convert float64 to int32",
            ),
            (
                "apps",
                "Deployment",
                json!({"spec": {"replicas": {}}}),
                "unrecognized type: int32",
            ),
            (
                "",
                "ConfigMap",
                json!({"binaryData": {"a": "!!"}}),
                "error decoding from json: illegal base64 data at input byte 0",
            ),
            (
                "",
                "Pod",
                json!({"metadata": {"creationTimestamp": 7}}),
                "json: cannot unmarshal number into Go value of type string",
            ),
            (
                "",
                "Pod",
                json!({"spec": {"tolerations": [{"key": 7}], "nodeName": []}}),
                "unrecognized type: string",
            ),
        ] {
            let error = check(group, kind, value.clone(), FieldValidation::Warn).unwrap_err();
            assert_eq!(error, DecodeError::Type(message.into()), "{value}");
        }
    }

    #[test]
    fn whole_numbers_wrap_and_unknown_fields_are_told_sorted() {
        let value = json!({"spec": {"replicas": 2_147_483_648_i64, "zeta": 1, "minReadySeconds": 3.0}, "alpha": 1});
        let decoded = check("apps", "Deployment", value.clone(), FieldValidation::Warn).unwrap();
        assert_eq!(decoded.value["spec"]["replicas"], -2_147_483_648_i64);
        assert_eq!(decoded.value["spec"]["minReadySeconds"], 3);
        assert_eq!(decoded.warnings, ["unknown field \"alpha\"", "unknown field \"spec.zeta\""]);
        let strict = check("apps", "Deployment", value, FieldValidation::Strict).unwrap_err();
        assert_eq!(
            strict.to_string(),
            "strict decoding error: unknown field \"alpha\", unknown field \"spec.zeta\""
        );
    }
}
