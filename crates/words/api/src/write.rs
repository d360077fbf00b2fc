//! Values as compact JSON, each part of a value freed once it is written.
//!
//! Invariant: the text is serde_json's own. A large value lies in many places, so that going through it once more only to free
//! it would cost as much as writing it.

use serde_json::Value;

use crate::bulk::Spliced;
use crate::splice;

/// Room that is there from the beginning: most objects take less.
const ROOM_BYTES: usize = 1024;
/// Room for a few escapes and the quotes.
const ESCAPES_ROOM: usize = 16;

/// The JSON text of a value.
///
/// # Panics
/// Never: a value has a text, and a vector takes it.
#[must_use]
pub fn into_bytes(value: Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(ROOM_BYTES);
    write(value, &mut out);
    out
}

/// Whether a text is the JSON text of a value.
pub(crate) fn is_text_of(text: &[u8], value: &Value) -> bool {
    behind(value, text).is_some_and(<[u8]>::is_empty)
}

/// What stands behind the text of a value, where a text begins with that.
fn behind<'t>(value: &Value, text: &'t [u8]) -> Option<&'t [u8]> {
    match value {
        Value::Array(items) => {
            let mut rest = text.strip_prefix(b"[")?;
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    rest = rest.strip_prefix(b",")?;
                }
                rest = behind(item, rest)?;
            }
            rest.strip_prefix(b"]")
        }
        Value::Object(members) => {
            let mut rest = text.strip_prefix(b"{")?;
            for (index, (name, member)) in members.iter().enumerate() {
                if index > 0 {
                    rest = rest.strip_prefix(b",")?;
                }
                rest = behind(member, behind_text(name, rest)?.strip_prefix(b":")?)?;
            }
            rest.strip_prefix(b"}")
        }
        Value::String(scalar) => behind_text(scalar, text),
        Value::Bool(true) => text.strip_prefix(b"true"),
        Value::Bool(false) => text.strip_prefix(b"false"),
        scalar => text.strip_prefix(scalar.to_string().as_bytes()),
    }
}

fn behind_text<'t>(scalar: &str, text: &'t [u8]) -> Option<&'t [u8]> {
    if !scalar.bytes().any(is_escaped) {
        return text.strip_prefix(b"\"")?.strip_prefix(scalar.as_bytes())?.strip_prefix(b"\"");
    }
    let mut written = Vec::with_capacity(scalar.len() + ESCAPES_ROOM);
    self::text(scalar, &mut written);
    text.strip_prefix(written.as_slice())
}

fn is_escaped(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// The JSON text of a value, with another text in the place of one of its members.
///
/// # Panics
/// Never, as [`into_bytes`].
#[must_use]
pub fn spliced(value: Value, with: Option<Spliced<'_>>) -> Vec<u8> {
    let small = into_bytes(value);
    match with.and_then(|with| Some((splice::range_at(&small, with.at)?, with.text))) {
        Some((member, text)) => [&small[..member.start], &text, &small[member.end..]].concat(),
        None => small,
    }
}

fn write(value: Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                text(&name, out);
                out.push(b':');
                write(member, out);
            }
            out.push(b'}');
        }
        Value::String(scalar) => text(&scalar, out),
        scalar => serde_json::to_writer(out, &scalar).expect("a vector takes a scalar"),
    }
}

/// Most texts are as they are in JSON.
fn text(text: &str, out: &mut Vec<u8>) {
    if text.bytes().any(is_escaped) {
        serde_json::to_writer(out, text).expect("a vector takes a text");
        return;
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_is_serde_jsons() {
        for value in [
            json!(null),
            json!([]),
            json!({}),
            json!([1, -2.5, 1e300, u64::MAX, true, "a\"\u{1}\nü\u{2028}"]),
            json!({"b\\": [[], {}, {"x": [null, {"y": ""}]}], "": 0}),
        ] {
            let wanted = serde_json::to_vec(&value).unwrap();
            assert!(is_text_of(&wanted, &value), "{value}");
            for at in 0..wanted.len() {
                let mut other = wanted.clone();
                other[at] ^= 1;
                assert!(!is_text_of(&other, &value), "{value}: {at}");
                assert!(!is_text_of(&wanted[..at], &value), "{value}: {at}");
            }
            assert!(!is_text_of(&[&wanted[..], b" "].concat(), &value), "{value}");
            assert_eq!(into_bytes(value), wanted);
        }
    }
}
