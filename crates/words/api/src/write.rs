//! Values as compact JSON, each part of a value freed once it is written.
//!
//! Invariant: the text is serde_json's own. A large value lies in many places, so that going through it once more only to free
//! it would cost as much as writing it.

use serde_json::Value;

use crate::bulk::Spliced;
use crate::splice;

/// Room that is there from the beginning: most objects take less.
const ROOM_BYTES: usize = 1024;

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

/// The JSON text of a value that stays.
///
/// # Panics
/// Never, as [`into_bytes`].
#[must_use]
pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(ROOM_BYTES);
    write_ref(value, &mut out);
    out
}

fn write_ref(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_ref(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (index, (name, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                text(name, out);
                out.push(b':');
                write_ref(member, out);
            }
            out.push(b'}');
        }
        scalar => write_scalar(scalar, out),
    }
}

fn write_scalar(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(scalar) => text(scalar, out),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        scalar => serde_json::to_writer(out, scalar).expect("a vector takes a scalar"),
    }
}

/// The JSON text of a value, with another text in the place of one of its members.
///
/// # Panics
/// Never, as [`into_bytes`].
#[must_use]
pub fn spliced(value: Value, with: Option<Spliced<'_>>) -> Vec<u8> {
    let small = into_bytes(value);
    match with.and_then(|with| Some((splice::range_at(&small, with.at)?, with.text))) {
        Some((member, text)) => [&small[..member.start], text, &small[member.end..]].concat(),
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
        scalar => write_scalar(&scalar, out),
    }
}

/// Most texts are as they are in JSON.
fn text(text: &str, out: &mut Vec<u8>) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
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
            assert_eq!((bytes(&value), into_bytes(value)), (wanted.clone(), wanted));
        }
    }
}
