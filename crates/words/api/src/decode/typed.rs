//! Typed decoding: a JSON tree against a struct of the field table, with Go's words for what does not fit.
//!
//! Invariant: like Go's decoder it goes on after a wrong type and tells the first such error, but a type that parses
//! itself (quantity, time) ends decoding at once. A duplicate field's value is laid over the first one's.

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use base64::Engine as _;
use serde_json::{Map, Value};

use super::syntax::{Node, number, parse};
use super::{DecodeError, Decoded, Empty, FieldValidation, canonical, canonicalize_as};
use crate::cost::{CostError, Ledger, VALUES_MAX};
use crate::quantity::Quantity;
use crate::schema::{self, FIELDS_MAX, Field, Struct, Type};
use crate::time;

/// How many unknown or duplicate fields are told.
const STRICT_ERRORS_MAX: usize = 100;
/// Names up to this many are compared one by one.
const FEW: usize = 8;
/// How much is shown of a single one that is too long to be told.
const CUT_BYTES: usize = 256;

/// Decodes a JSON body of a built-in type.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn json(bytes: &[u8], ty: &'static Struct, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    decode(&parse(bytes, &mut Ledger::new())?, ty, mode, "")
}

/// Decodes an already parsed value of a built-in type, for example out of YAML or a patch.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn value(value: Value, ty: &'static Struct, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    value_at(value, ty, mode, "")
}

/// Like [`value`] for a part of an object: unknown fields are told with `path` before them, for example `metadata` of a
/// custom resource.
///
/// # Errors
/// As [`DecodeError`] says.
#[allow(clippy::needless_pass_by_value, reason = "what is decoded is replaced by what comes out")]
pub fn value_at(value: Value, ty: &'static Struct, mode: FieldValidation, path: &str) -> Result<Decoded, DecodeError> {
    decode(&Node::of(&value, &mut Ledger::new())?, ty, mode, path)
}

/// Decodes a JSON body of a custom resource: any object; only duplicate fields are told.
///
/// # Errors
/// As [`DecodeError`] says.
pub fn untyped(bytes: &[u8], mode: FieldValidation) -> Result<Decoded, DecodeError> {
    untyped_node(&parse(bytes, &mut Ledger::new())?, mode)
}

pub(super) fn untyped_node(node: &Node<'_>, mode: FieldValidation) -> Result<Decoded, DecodeError> {
    let Node::Object(_) = node else {
        return Err(DecodeError::Type(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            node.kind()
        )));
    };
    let mut decoder = Decoder::new(mode);
    decoder.duplicates(node);
    decoder.finish(node.to_value())
}

/// The names that stand twice in an object, in upstream's words.
pub(super) fn duplicates(node: &Node<'_>) -> Vec<String> {
    let mut decoder = Decoder::new(FieldValidation::Warn);
    decoder.duplicates(node);
    decoder.strict
}

pub(super) fn decode(node: &Node<'_>, ty: &'static Struct, mode: FieldValidation, path: &str) -> Result<Decoded, DecodeError> {
    let mut decoder = Decoder::new(mode);
    if !path.is_empty() {
        decoder.path.push(Step::Name(path));
    }
    let mut target = Value::Null;
    if !matches!(node, Node::Null) {
        decoder
            .structure(node, ty, Go::Of(ty), &mut target)
            .map_err(DecodeError::from)?;
    }
    if let Some(error) = decoder.saved.take() {
        return Err(DecodeError::Type(error));
    }
    // Each struct came into its form when it was decoded, but for those that were laid over one another.
    if decoder.laid_over || !target.is_object() {
        canonicalize_as(&mut target, ty, Empty::Sent);
        decoder.counted = false;
    }
    decoder.finish(target)
}

/// A value of a type that parses itself, as a text of its own, and how many values it has: errors know no place.
pub(super) fn alone(value: &Value, ty: &Type) -> Result<(Value, usize), String> {
    let node = Node::of(value, &mut Ledger::new()).map_err(|error| error.to_string())?;
    let mut decoder = Decoder::new(FieldValidation::Ignore);
    let decoded = decoder.scalar(&node, ty, Go::Text("")).map_err(|abort| match abort {
        Abort::Misfit(why) => why,
        Abort::Cost(error) => error.to_string(),
    })?;
    match decoder.saved {
        Some(error) => Err(error),
        None => Ok((decoded.unwrap_or_default(), decoder.values)),
    }
}

/// An error that ends decoding at once.
enum Abort {
    /// A value that does not fit, in Go's words.
    Misfit(String),
    /// Too many values.
    Cost(CostError),
}

impl From<String> for Abort {
    fn from(why: String) -> Self {
        Self::Misfit(why)
    }
}

impl From<Abort> for DecodeError {
    fn from(abort: Abort) -> Self {
        match abort {
            Abort::Misfit(why) => Self::Type(why),
            Abort::Cost(error) => Self::Cost(error),
        }
    }
}

/// A step of a path: most paths are never written.
#[derive(Clone, Copy)]
enum Step<'n> {
    Name(&'n str),
    Index(usize),
}

/// The path of some steps: names behind dots, `[3]` as it is.
fn written(path: &[Step<'_>]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Name(name) => {
                if !out.is_empty() && !name.starts_with('[') {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index(index) => write!(out, "[{index}]").expect("a string takes all"),
        }
    }
    out
}

/// Bytes of that path, or a few more.
fn written_bytes(path: &[Step<'_>]) -> usize {
    let bytes = path.iter().map(|step| match step {
        Step::Name(name) => name.len() + 1,
        Step::Index(index) => index.checked_ilog10().unwrap_or_default() as usize + 3,
    });
    bytes.sum()
}

/// Which fields of a struct were met.
#[derive(Default)]
struct Met(u128);

const _: () = assert!(FIELDS_MAX <= u128::BITS as usize);

impl Met {
    /// Adds one; whether it is new.
    fn insert(&mut self, field: usize) -> bool {
        let before = self.0;
        self.0 |= 1 << field;
        before != self.0
    }
}

/// What decoding would meet in a value that is of its type.
#[derive(Default)]
pub(super) struct Tally {
    /// How many values it has.
    pub values: usize,
    /// Whether a list or map is empty.
    pub empty: bool,
}

impl Tally {
    /// Looks at a value of that type.
    pub fn of(value: &Value, ty: Type) -> Self {
        let mut met = Self::default();
        met.look(value, Some(ty));
        met
    }

    fn look(&mut self, value: &Value, ty: Option<Type>) {
        self.values += 1;
        match value {
            Value::Array(items) => {
                self.empty |= items.is_empty() && matches!(ty, Some(Type::List(_) | Type::StringItems | Type::SchemaOrStrings));
                let ty = ty.and_then(Type::element);
                items.iter().for_each(|item| self.look(item, ty));
            }
            Value::Object(members) => {
                self.empty |= members.is_empty() && matches!(ty, Some(Type::Map(_)));
                for (name, member) in members {
                    match member {
                        Value::Array(_) | Value::Object(_) => self.look(member, ty.and_then(|ty| ty.member(name))),
                        _ => self.values += 1,
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether decoding gives the value as it is.
pub(super) fn is_settled(value: &Value, ty: Type) -> bool {
    let mut decoded = Value::Null;
    Node::of(value, &mut Ledger::new()).is_ok_and(|node| {
        let mut decoder = Decoder::new(FieldValidation::Strict);
        let done = decoder.member(&node, &ty, Go::Text(""), false, &mut decoded);
        done.is_ok() && decoder.saved.is_none() && decoder.strict.is_empty()
    }) && decoded == *value
}

struct Decoder<'n> {
    mode: FieldValidation,
    strict: Vec<String>,
    seen: HashSet<String>,
    /// Pays for what is told.
    ledger: Ledger,
    /// Inside schemas of `items` and the like upstream decodes without validation.
    silent: u32,
    /// First error that did not end decoding.
    saved: Option<String>,
    /// The fields from the root, each with the struct that it is of.
    stack: Vec<(&'static Struct, &'static Field)>,
    /// Path with indices and keys.
    path: Vec<Step<'n>>,
    /// Whether a list or map was empty.
    empty: bool,
    /// Whether a field stood twice.
    laid_over: bool,
    /// Values made so far; of what was laid over another, both.
    values: usize,
    /// Whether those are all.
    counted: bool,
}

impl<'n> Decoder<'n> {
    fn new(mode: FieldValidation) -> Self {
        Self {
            mode,
            strict: Vec::new(),
            seen: HashSet::new(),
            ledger: Ledger::new(),
            silent: 0,
            saved: None,
            stack: Vec::new(),
            path: Vec::new(),
            empty: false,
            laid_over: false,
            values: 1,
            counted: true,
        }
    }

    fn finish(self, value: Value) -> Result<Decoded, DecodeError> {
        if self.mode == FieldValidation::Strict && !self.strict.is_empty() {
            return Err(DecodeError::Strict(self.strict));
        }
        Ok(Decoded {
            value,
            warnings: self.strict,
            empty: self.empty,
            values: self.counted.then_some(self.values),
        })
    }

    fn tell(&mut self, what: &str, name: &str) {
        if self.mode == FieldValidation::Ignore || self.silent > 0 || self.strict.len() >= STRICT_ERRORS_MAX {
            return;
        }
        let dot = if self.path.is_empty() { "" } else { "." };
        if !self.ledger.tell(what.len() + written_bytes(&self.path) + name.len()) {
            // One must be told, or strict decoding would pass.
            if self.strict.is_empty() {
                let start = |text: &str| text[..text.floor_char_boundary(CUT_BYTES)].to_owned();
                let path = start(&written(&self.path));
                self.strict.push(format!("{what} field \"{path}{dot}{}\"", start(name)));
            }
            return;
        }
        let text = format!("{what} field \"{}{dot}{name}\"", written(&self.path));
        if self.seen.insert(text.clone()) {
            self.strict.push(text);
        }
    }

    fn wrong(&self, found: &str, go_type: Go<'_>) -> String {
        match self.stack.last() {
            Some((owner, _)) => {
                let mut place = owner.name.to_owned();
                for (owner, field) in &self.stack {
                    for step in owner.embeds_of(field) {
                        place.push('.');
                        place.push_str(step);
                    }
                    place.push('.');
                    place.push_str(field.json);
                }
                format!("json: cannot unmarshal {found} into Go struct field {place} of type {go_type}")
            }
            None => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
        }
    }

    fn save(&mut self, error: String) {
        self.saved.get_or_insert(error);
    }

    fn inside<R>(&mut self, step: Step<'n>, run: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(step);
        let result = run(self);
        self.path.pop();
        result
    }

    /// What is of its type already; told are neither unknown nor repeated fields, which it has not.
    fn stored(&mut self, value: &Value, ty: Type, slot: &mut Value) -> Result<(), Abort> {
        let met = Tally::of(value, ty);
        self.empty |= met.empty;
        self.values += met.values - 1;
        if self.values > VALUES_MAX {
            return Err(Abort::Cost(CostError::Values));
        }
        *slot = value.clone();
        debug_assert!(is_settled(value, ty), "of {ty:?} is not stored: {value}");
        Ok(())
    }

    fn structure(&mut self, node: &'n Node<'_>, ty: &'static Struct, go: Go<'_>, target: &mut Value) -> Result<(), Abort> {
        if let Node::Stored(value, ty) = node {
            return self.stored(value, *ty, target);
        }
        let Node::Object(members) = node else {
            if !matches!(node, Node::Null) {
                let error = self.wrong(node.kind(), go);
                self.save(error);
            }
            return Ok(());
        };
        let mut object = match std::mem::take(target) {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        let fresh = object.is_empty();
        let mut met = Met::default();
        for (name, member) in members {
            let Some(position) = ty.position(name) else {
                self.tell("unknown", name);
                continue;
            };
            let field = &ty.fields[position];
            let first = met.insert(position);
            if !first {
                self.laid_over = true;
                self.tell("duplicate", name);
            }
            self.stack.push((ty, field));
            let mut slot = if fresh && first {
                Value::Null
            } else {
                object.remove(field.json).unwrap_or(Value::Null)
            };
            let result = self.inside(Step::Name(name), |decoder| {
                decoder.member(member, &field.ty, Go::Text(field.go_type), field.pointer, &mut slot)
            });
            self.stack.pop();
            result?;
            // A form is no mistake's: what did not fit is told, not stored.
            if self.saved.is_some() || canonical::stays(&mut slot, field) {
                object.insert(field.json.to_owned(), slot);
            }
        }
        if self.saved.is_none() {
            self.values += canonical::complete(&mut object, ty);
        }
        *target = Value::Object(object);
        Ok(())
    }

    fn member(&mut self, node: &'n Node<'_>, ty: &Type, go: Go<'_>, pointer: bool, slot: &mut Value) -> Result<(), Abort> {
        self.values += 1;
        if matches!(node, Node::Null) {
            let clears = pointer
                || matches!(
                    ty,
                    Type::List(_)
                        | Type::Map(_)
                        | Type::Bytes
                        | Type::StringItems
                        | Type::Time
                        | Type::MicroTime
                        | Type::Quantity
                );
            if clears {
                *slot = Value::Null;
            }
            return Ok(());
        }
        if let Node::Stored(value, known) = node {
            debug_assert_eq!(known, ty, "what is stored under another type is no node of its own");
            return self.stored(value, *known, slot);
        }
        match ty {
            Type::Struct(reference) => self.structure(node, reference.get(), go, slot),
            Type::List(inner) => self.list(node, inner, go, slot),
            Type::StringItems => self.list(node, &Type::String, go, slot),
            Type::Map(inner) => self.map(node, inner, go, slot),
            _ => {
                if let Some(value) = self.scalar(node, ty, go)? {
                    *slot = value;
                }
                Ok(())
            }
        }
    }

    fn list(&mut self, node: &'n Node<'_>, inner: &Type, go: Go<'_>, slot: &mut Value) -> Result<(), Abort> {
        let Node::Array(items) = node else {
            let error = self.wrong(node.kind(), go);
            self.save(error);
            return Ok(());
        };
        self.empty |= items.is_empty();
        let element = element(go, inner);
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let mut value = Value::Null;
            self.inside(Step::Index(index), |decoder| {
                decoder.member(item, inner, element, false, &mut value)
            })?;
            out.push(value);
        }
        *slot = Value::Array(out);
        Ok(())
    }

    fn map(&mut self, node: &'n Node<'_>, inner: &Type, go: Go<'_>, slot: &mut Value) -> Result<(), Abort> {
        let Node::Object(members) = node else {
            let error = self.wrong(node.kind(), go);
            self.save(error);
            return Ok(());
        };
        self.empty |= members.is_empty();
        let element = element(go, inner);
        let mut known: HashSet<&str> = HashSet::with_capacity(members.len());
        let mut found = Vec::with_capacity(members.len());
        for (name, member) in members {
            if !known.insert(name) {
                self.tell("duplicate", name);
            }
            let mut value = Value::Null;
            self.inside(Step::Name(name), |decoder| {
                decoder.member(member, inner, element, false, &mut value)
            })?;
            found.push((name.as_ref().to_owned(), value));
        }
        match slot {
            Value::Object(object) => object.extend(found),
            // Built at once, a map is made of full nodes.
            _ if known.len() == found.len() => *slot = Value::Object(found.into_iter().collect()),
            _ => {
                let mut object = Map::new();
                object.extend(found);
                *slot = Value::Object(object);
            }
        }
        Ok(())
    }

    /// A value that is not null; none where the error was saved and decoding goes on.
    fn scalar(&mut self, node: &'n Node<'_>, ty: &Type, go: Go<'_>) -> Result<Option<Value>, Abort> {
        let found = match (ty, node) {
            (Type::String, Node::String(text)) => return Ok(Some(Value::from(text.as_ref()))),
            (Type::Bool, Node::Bool(value)) => return Ok(Some(Value::from(*value))),
            (Type::Int32 | Type::Int64, Node::Number(text)) => {
                let whole = if *ty == Type::Int32 {
                    text.parse::<i32>().ok().map(i64::from)
                } else {
                    text.parse::<i64>().ok()
                };
                match whole {
                    Some(whole) => return Ok(Some(Value::from(whole))),
                    None => format!("number {text}"),
                }
            }
            (Type::Double, Node::Number(text)) => return Ok(Some(number(text))),
            (Type::Bytes, _) => return self.bytes(node, go),
            (Type::Quantity, _) => return self.quantity(node),
            (Type::IntOrString, Node::String(text)) => return Ok(Some(Value::from(text.as_ref()))),
            (Type::IntOrString, _) => {
                let found = match node {
                    Node::Number(text) => match text.parse::<i32>() {
                        Ok(whole) => return Ok(Some(Value::from(whole))),
                        Err(_) => format!("number {text}"),
                    },
                    other => other.kind().to_owned(),
                };
                return Err(self.wrong(&found, Go::Text("int32")).into());
            }
            (Type::Time | Type::MicroTime | Type::Duration, _) => return self.instant(node, ty),
            (Type::RawExtension | Type::Json | Type::FieldsV1, _) => {
                self.values += node.values() - 1;
                return Ok(Some(node.to_value()));
            }
            (Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings, _) => return self.schema(node, ty),
            _ => node.kind().to_owned(),
        };
        let error = self.wrong(&found, go);
        self.save(error);
        Ok(None)
    }

    fn bytes(&mut self, node: &Node<'_>, go: Go<'_>) -> Result<Option<Value>, Abort> {
        match node {
            Node::String(text) => match unbase64(text) {
                Ok(raw) => Ok(Some(Value::from(base64::engine::general_purpose::STANDARD.encode(raw)))),
                Err(at) => {
                    self.save(format!("illegal base64 data at input byte {at}"));
                    Ok(None)
                }
            },
            Node::Array(items) => {
                // A list of numbers is a list of bytes to Go.
                let mut raw = Vec::with_capacity(items.len());
                for item in items {
                    let (byte, found) = match item {
                        Node::Null => (Some(0), String::new()),
                        Node::Number(text) => (text.parse::<u8>().ok(), format!("number {text}")),
                        other => (None, other.kind().to_owned()),
                    };
                    if byte.is_none() {
                        let error = self.wrong(&found, Go::Text("uint8"));
                        self.save(error);
                    }
                    raw.push(byte.unwrap_or_default());
                }
                Ok(Some(Value::from(base64::engine::general_purpose::STANDARD.encode(raw))))
            }
            other => {
                let error = self.wrong(other.kind(), go);
                self.save(error);
                Ok(None)
            }
        }
    }

    fn quantity(&mut self, node: &Node<'_>) -> Result<Option<Value>, Abort> {
        let text = match node {
            Node::String(text) | Node::Number(text) => text.trim(),
            Node::Bool(true) => "true",
            _ => "false",
        };
        match Quantity::parse(text) {
            Ok(quantity) => Ok(Some(Value::from(quantity.to_string()))),
            Err(error) => Err(error.to_string().into()),
        }
    }

    fn instant(&mut self, node: &Node<'_>, ty: &Type) -> Result<Option<Value>, Abort> {
        let Node::String(text) = node else {
            return Err(self.wrong(node.kind(), Go::Text("string")).into());
        };
        let problem = match ty {
            Type::Time => time::parse(text).err().map(|error| error.to_string()),
            Type::MicroTime => time::parse_micro(text).err().map(|error| error.to_string()),
            _ => time::parse_duration(text).err().map(|error| error.to_string()),
        };
        match problem {
            None => Ok(Some(Value::from(text.as_ref()))),
            Some(error) => Err(error.into()),
        }
    }

    fn schema(&mut self, node: &'n Node<'_>, ty: &Type) -> Result<Option<Value>, Abort> {
        self.silent += 1;
        let result = self.schema_silently(node, ty);
        self.silent -= 1;
        result
    }

    fn schema_silently(&mut self, node: &'n Node<'_>, ty: &Type) -> Result<Option<Value>, Abort> {
        let props = schema::json_schema_props();
        match (node, ty) {
            (Node::Object(_), _) => {
                let mut value = Value::Null;
                // Upstream decodes apart and tells the error with the place outside.
                let depth = self.stack.len();
                self.structure(node, props, Go::Of(props), &mut value)?;
                self.stack.truncate(depth);
                Ok(Some(value))
            }
            (Node::Array(items), Type::SchemaOrArray) => {
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    let mut value = Value::Null;
                    self.values += 1;
                    self.structure(item, props, Go::Of(props), &mut value)?;
                    out.push(value);
                }
                Ok(Some(Value::Array(out)))
            }
            (Node::Array(_), Type::SchemaOrStrings) => {
                let mut value = Value::Null;
                self.list(node, &Type::String, Go::Text("[]string"), &mut value)?;
                Ok(Some(value))
            }
            (Node::Bool(value), Type::SchemaOrBool) => Ok(Some(Value::from(*value))),
            (_, Type::SchemaOrBool) => Err("boolean or JSON schema expected".to_owned().into()),
            _ => Ok(Some(Value::Null)),
        }
    }

    /// Tells duplicates anywhere in a tree without types.
    fn duplicates(&mut self, node: &'n Node<'_>) {
        self.values += 1;
        match node {
            Node::Object(members) => {
                let few = members.len() <= FEW;
                let mut known: HashSet<&str> = HashSet::with_capacity(if few { 0 } else { members.len() });
                for (index, (name, member)) in members.iter().enumerate() {
                    let again = if few {
                        members[..index].iter().any(|(before, _)| before == name)
                    } else {
                        !known.insert(name)
                    };
                    if again {
                        self.tell("duplicate", name);
                    }
                    self.inside(Step::Name(name), |decoder| decoder.duplicates(member));
                }
            }
            Node::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.inside(Step::Index(index), |decoder| decoder.duplicates(item));
                }
            }
            _ => {}
        }
    }
}

/// A type as Go's reflection prints it; it is written where something is wrong only.
#[derive(Clone, Copy)]
pub(super) enum Go<'a> {
    Text(&'a str),
    Of(&'static Struct),
}

impl fmt::Display for Go<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Of(ty) => write!(f, "{}.{}", ty.version(), ty.name),
        }
    }
}

/// Go's name of an element's type out of the list's or map's.
pub(super) fn element<'a>(go: Go<'a>, inner: &Type) -> Go<'a> {
    if let Go::Text(go) = go {
        if let Some(rest) = go.strip_prefix("[]") {
            return Go::Text(rest);
        }
        if go.starts_with("map[")
            && let Some(end) = go.find(']')
        {
            return Go::Text(&go[end + 1..]);
        }
    }
    match inner {
        Type::Struct(reference) => Go::Of(reference.get()),
        _ => Go::Text("string"),
    }
}

/// Standard base64 with line breaks ignored; the position of the first bad byte as Go counts it.
pub(super) fn unbase64(text: &str) -> Result<Vec<u8>, usize> {
    let engine = base64::engine::general_purpose::STANDARD;
    let stripped: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    engine.decode(&stripped).map_err(|_| bad_byte(text.as_bytes()))
}

fn bad_byte(text: &[u8]) -> usize {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let places: Vec<usize> = (0..text.len()).filter(|at| !matches!(text[*at], b'\n' | b'\r')).collect();
    for (index, at) in places.iter().enumerate() {
        let byte = text[*at];
        if is_digit(byte) {
            continue;
        }
        if byte != b'=' || index % 4 < 2 {
            return *at;
        }
        if index % 4 == 2 {
            return match places.get(index + 1) {
                None => text.len(),
                Some(next) if text[*next] != b'=' => *next,
                Some(_) => places.get(index + 2).copied().unwrap_or(*at),
            };
        }
        return places.get(index + 1).copied().unwrap_or(*at);
    }
    // Digits only, but not in fours: Go points at the start of the last, short group.
    let whole = places.len() / 4 * 4;
    text.len() - (places.len() - whole)
}
