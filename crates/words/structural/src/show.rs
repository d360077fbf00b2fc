//! Values as upstream's messages show them.

use serde_json::Value;
pub(crate) use trireme_api::go::quoted;

use crate::number::Num;

/// Any value: a text in quotes, numbers as Go prints them, the rest as JSON.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Number(number) => Num::of(number).shown(),
        other => json(other),
    }
}

/// JSON as Go writes it.
pub(crate) fn json(value: &Value) -> String {
    let text = value.to_string();
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out
}
