//! JSON text to a tree that keeps the order of members and duplicates, with Go's words for syntax errors.
//!
//! Invariant: accepts exactly RFC 8259 as Go does (invalid UTF-8 and lone surrogates become U+FFFD), nested no deeper
//! than [`DEPTH_MAX`] and with no more values than the ledger grants. It will not interpret numbers.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::DecodeError;
use crate::bulk;
use crate::cost::{CostError, Ledger, values_in};
use crate::go;
use crate::schema::Type;

/// Members up to this many are put into an object one by one.
const FEW: usize = 8;
/// What serde_json itself reads back; upstream's own limit is 10,000.
pub(crate) const DEPTH_MAX: usize = 125;

/// A JSON value as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Node<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// The literal as written.
    Number(Cow<'a, str>),
    /// A string without its escapes.
    String(Cow<'a, str>),
    /// Elements in order.
    Array(Vec<Node<'a>>),
    /// Members in the order of the text, duplicates included.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
    /// A list or object of that type as it is stored: decoding it as that type gives it as it is. Written in the order of
    /// declaration.
    Stored(&'a Value, Type),
}

impl Node<'_> {
    /// Go's name of the kind of value.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
            Self::Stored(value, _) => go::kind(value),
        }
    }

    /// The value as Go's encoder writes it, in the order of the tree: compact, and safe inside HTML.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(text) => out.push_str(text),
            Self::String(text) => write_text(out, text),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, member)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_text(out, name);
                    out.push(':');
                    member.write(out);
                }
                out.push('}');
            }
            Self::Stored(value, ty) => write_stored(value, Some(*ty), out),
        }
    }

    /// Whether what stands where a path leads is this very value as it is stored.
    #[must_use]
    pub fn holds(&self, at: &[&str], stored: &Value) -> bool {
        match (self, at) {
            (Self::Stored(value, _), at) => bulk::at(value, at).is_some_and(|value| std::ptr::eq(value, stored)),
            (Self::Object(members), [name, at @ ..]) => members
                .iter()
                .rfind(|(member, _)| member == name)
                .is_some_and(|(_, member)| member.holds(at, stored)),
            _ => false,
        }
    }

    /// How many values the tree has, duplicates included.
    pub(super) fn values(&self) -> usize {
        match self {
            Self::Array(items) => 1 + items.iter().map(Node::values).sum::<usize>(),
            Self::Object(members) => 1 + members.iter().map(|(_, member)| member.values()).sum::<usize>(),
            Self::Stored(value, _) => values_in(value),
            _ => 1,
        }
    }

    /// The tree without duplicates: the last of equal names wins.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(text) => number(text),
            Self::String(text) => Value::from(text.as_ref()),
            Self::Array(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Self::Object(members) => {
                let mut object = Map::new();
                for (name, member) in members {
                    object.insert(name.as_ref().to_owned(), member.to_value());
                }
                Value::Object(object)
            }
            Self::Stored(value, _) => (*value).clone(),
        }
    }

    /// Like [`Self::to_value`], keeping the texts that are its own.
    #[must_use]
    pub fn into_value(self) -> Value {
        match self {
            Self::String(text) => Value::String(text.into_owned()),
            Self::Array(items) => Value::Array(items.into_iter().map(Node::into_value).collect()),
            Self::Object(members) => {
                let few = members.len() <= FEW;
                let members = members
                    .into_iter()
                    .map(|(name, member)| (name.into_owned(), member.into_value()));
                if few {
                    let mut object = Map::new();
                    object.extend(members);
                    return Value::Object(object);
                }
                // Built at once, a map is made of full nodes.
                Value::Object(members.collect())
            }
            scalar => scalar.to_value(),
        }
    }
}

impl<'a> Node<'a> {
    /// A tree over a value, whose texts stay where they are.
    ///
    /// # Errors
    /// For its number of values.
    pub fn of(value: &'a Value, ledger: &mut Ledger) -> Result<Self, CostError> {
        ledger.value()?;
        Ok(match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(*value),
            Value::Number(number) => Node::Number(number.to_string().into()),
            Value::String(text) => Node::String(text.into()),
            Value::Array(items) => {
                let items: Result<_, _> = items.iter().map(|item| Node::of(item, ledger)).collect();
                Node::Array(items?)
            }
            Value::Object(members) => {
                let members: Result<_, CostError> = members
                    .iter()
                    .map(|(name, member)| Ok((name.into(), Node::of(member, ledger)?)))
                    .collect();
                Node::Object(members?)
            }
        })
    }

    /// A tree over a value of that type, members in the order of declaration.
    ///
    /// # Errors
    /// For its number of values.
    pub fn declared(value: &'a Value, ty: Option<Type>, ledger: &mut Ledger) -> Result<Self, CostError> {
        match value {
            Value::Array(items) => {
                ledger.value()?;
                let ty = ty.and_then(Type::element);
                let items: Result<_, _> = items.iter().map(|item| Node::declared(item, ty, ledger)).collect();
                Ok(Node::Array(items?))
            }
            Value::Object(members) => {
                ledger.value()?;
                let members: Result<_, CostError> = in_order(members, ty)
                    .into_iter()
                    .map(|(name, member, ty)| Ok((name.into(), Node::declared(member, ty, ledger)?)))
                    .collect();
                Ok(Node::Object(members?))
            }
            scalar => Node::of(scalar, ledger),
        }
    }
}

/// The members of an object of that type, each with its own, in the order of declaration; those of a map by name.
fn in_order(members: &Map<String, Value>, ty: Option<Type>) -> Vec<(&str, &Value, Option<Type>)> {
    let Some(structure) = ty.and_then(Type::structure) else {
        let element = ty.and_then(Type::element);
        return members
            .iter()
            .map(|(name, member)| (name.as_str(), member, element))
            .collect();
    };
    let known = members
        .iter()
        .filter_map(|(name, member)| Some((structure.position(name)?, member)));
    let mut known: Vec<(usize, &Value)> = known.collect();
    known.sort_unstable_by_key(|(position, _)| *position);
    let fields = known.into_iter().map(|(position, member)| {
        let field = &structure.fields[position];
        (field.json, member, Some(field.ty))
    });
    fields.collect()
}

/// Like [`Node::write`].
fn write_stored(value: &Value, ty: Option<Type>, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_stored(item, ty.and_then(Type::element), out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (name, member, ty)) in in_order(members, ty).into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(out, name);
                out.push(':');
                write_stored(member, ty, out);
            }
            out.push('}');
        }
        Value::String(text) => write_text(out, text),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Null => out.push_str("null"),
    }
}

/// A string as Go writes it in JSON.
fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..'\u{20}' => {
                out.push_str("\\u");
                for shift in [12, 8, 4, 0] {
                    out.extend(char::from_digit(u32::from(letter) >> shift & 15, 16));
                }
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// A whole number that fits 64 bits stays whole; everything else is a float.
pub(super) fn number(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::from(whole);
    }
    text.parse::<f64>()
        .ok()
        .and_then(Number::from_f64)
        .map_or(Value::Null, Value::Number)
}

/// Parses one JSON text.
///
/// # Errors
/// With Go's message, or for its number of values.
pub(super) fn parse<'a>(bytes: &'a [u8], ledger: &mut Ledger) -> Result<Node<'a>, DecodeError> {
    let mut scanner = Scanner {
        bytes,
        text: std::str::from_utf8(bytes).ok(),
        at: 0,
        ledger,
    };
    scanner.space();
    let node = scanner.value(0)?;
    scanner.space();
    match scanner.peek() {
        None => Ok(node),
        Some(byte) => Err(invalid(byte, "after top-level value")),
    }
}

struct Scanner<'a, 'l> {
    bytes: &'a [u8],
    /// The bytes, where all of them are text.
    text: Option<&'a str>,
    at: usize,
    ledger: &'l mut Ledger,
}

fn end() -> DecodeError {
    DecodeError::Syntax("unexpected end of JSON input".into())
}

fn invalid(byte: u8, context: &str) -> DecodeError {
    let shown = match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        7 => r"'\a'".to_owned(),
        8 => r"'\b'".to_owned(),
        9 => r"'\t'".to_owned(),
        10 => r"'\n'".to_owned(),
        11 => r"'\v'".to_owned(),
        12 => r"'\f'".to_owned(),
        13 => r"'\r'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    };
    DecodeError::Syntax(format!("invalid character {shown} {context}"))
}

impl<'a> Scanner<'a, '_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// The bytes from `begin` up to here as text.
    fn since(&self, begin: usize) -> Cow<'a, str> {
        match self.text.and_then(|text| text.get(begin..self.at)) {
            Some(text) => Cow::Borrowed(text),
            None => String::from_utf8_lossy(&self.bytes[begin..self.at]),
        }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>, DecodeError> {
        self.ledger.value()?;
        match self.peek().ok_or_else(end)? {
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            b'"' => self.string().map(Node::String),
            b't' => self.literal("true", Node::Bool(true)),
            b'f' => self.literal("false", Node::Bool(false)),
            b'n' => self.literal("null", Node::Null),
            b'-' | b'0'..=b'9' => self.number(),
            other => Err(invalid(other, "looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &'static str, node: Node<'a>) -> Result<Node<'a>, DecodeError> {
        for expected in word.bytes() {
            let found = self.peek().ok_or_else(end)?;
            if found != expected {
                let context = format!("in literal {word} (expecting '{}')", char::from(expected));
                return Err(invalid(found, &context));
            }
            self.at += 1;
        }
        Ok(node)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Node<'a>, DecodeError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek().ok_or_else(end)? {
            b'0' => self.at += 1,
            b'1'..=b'9' => {
                self.digits();
            }
            other => return Err(invalid(other, "in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                let found = self.peek().ok_or_else(end)?;
                return Err(invalid(found, "after decimal point in numeric literal"));
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                let found = self.peek().ok_or_else(end)?;
                return Err(invalid(found, "in exponent of numeric literal"));
            }
        }
        Ok(Node::Number(self.since(start)))
    }

    fn hex(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for _ in 0..4 {
            let byte = self.peek().ok_or_else(end)?;
            let digit = char::from(byte)
                .to_digit(16)
                .ok_or_else(|| invalid(byte, "in \\u hexadecimal character escape"))?;
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }

    fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        self.at += 1;
        let start = self.at;
        let mut out: Option<String> = None;
        let mut plain = start;
        loop {
            let rest = &self.bytes[self.at..];
            let plain_bytes = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            self.at += plain_bytes.ok_or_else(end)?;
            let byte = self.peek().ok_or_else(end)?;
            match byte {
                b'"' => {
                    let tail = self.since(plain);
                    self.at += 1;
                    return Ok(match out {
                        None => tail,
                        Some(mut text) => {
                            text.push_str(&tail);
                            Cow::Owned(text)
                        }
                    });
                }
                b'\\' => {
                    let before = self.since(plain);
                    out.get_or_insert_default().push_str(&before);
                    self.at += 1;
                    let c = self.escape()?;
                    out.get_or_insert_default().push(c);
                    plain = self.at;
                }
                _ => return Err(invalid(byte, "in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let byte = self.peek().ok_or_else(end)?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                if (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    let second = self.hex()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    self.at = back;
                }
                char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => return Err(invalid(other, "in string escape code")),
        })
    }

    fn deeper(depth: usize) -> Result<(), DecodeError> {
        if depth > DEPTH_MAX {
            Err(DecodeError::Syntax("exceeded max depth".into()))
        } else {
            Ok(())
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node<'a>, DecodeError> {
        Self::deeper(depth)?;
        self.at += 1;
        self.space();
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            self.space();
            items.push(self.value(depth)?);
            self.space();
            match self.peek().ok_or_else(end)? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(Node::Array(items));
                }
                other => return Err(invalid(other, "after array element")),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node<'a>, DecodeError> {
        Self::deeper(depth)?;
        self.at += 1;
        self.space();
        let mut members = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Object(members));
        }
        loop {
            self.space();
            match self.peek().ok_or_else(end)? {
                b'"' => {}
                other => return Err(invalid(other, "looking for beginning of object key string")),
            }
            let name = self.string()?;
            self.space();
            match self.peek().ok_or_else(end)? {
                b':' => self.at += 1,
                other => return Err(invalid(other, "after object key")),
            }
            self.space();
            members.push((name, self.value(depth)?));
            self.space();
            match self.peek().ok_or_else(end)? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(Node::Object(members));
                }
                other => return Err(invalid(other, "after object key:value pair")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn syntax_errors_speak_as_go_does() {
        for (text, message) in [
            (&b""[..], "unexpected end of JSON input"),
            (br#"{"apiVersion":"v1","#, "unexpected end of JSON input"),
            (br#"{"a":1}x"#, "invalid character 'x' after top-level value"),
            (
                b"{'a':1}",
                r"invalid character '\'' looking for beginning of object key string",
            ),
            (b"{\"a\":\"\x01\"}", r"invalid character '\x01' in string literal"),
            (b"\xc2\x81", "invalid character '\u{c2}' looking for beginning of value"),
            (br#"{"a" 1}"#, "invalid character '1' after object key"),
            (br#"{"a":1 2}"#, "invalid character '2' after object key:value pair"),
            (b"[1 2]", "invalid character '2' after array element"),
            (b"[01]", "invalid character '1' after array element"),
            (b"nul", "unexpected end of JSON input"),
            (b"nope", "invalid character 'o' in literal null (expecting 'u')"),
            (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
            (br#""\q""#, "invalid character 'q' in string escape code"),
            (br#""\u00g0""#, "invalid character 'g' in \\u hexadecimal character escape"),
            (b"\x81", r"invalid character '\u0081' looking for beginning of value"),
        ] {
            assert_eq!(
                parse(text, &mut Ledger::new()).unwrap_err().to_string(),
                message,
                "{}",
                String::from_utf8_lossy(text)
            );
        }
        assert_eq!(
            parse(&[b'['; 20_000], &mut Ledger::new()).unwrap_err().to_string(),
            "exceeded max depth"
        );
    }

    #[test]
    fn values_are_read() {
        let node = parse(
            br#" {"a":[1,-2.5e3,"x\n\u00e9\ud83d\ude00\ud800"],"b":{"c":null,"d":true},"a2":9223372036854775808} "#,
            &mut Ledger::new(),
        )
        .unwrap();
        assert_eq!(
            node.to_value(),
            json!({"a": [1, -2500.0, "x\né😀\u{fffd}"], "b": {"c": null, "d": true}, "a2": 9_223_372_036_854_775_808.0})
        );
        assert_eq!(
            Node::of(&json!({"a": 1.0}), &mut Ledger::new()).unwrap(),
            parse(br#"{"a":1.0}"#, &mut Ledger::new()).unwrap()
        );
    }
}
