//! How Go prints values and errors, as far as patch messages show it.
//!
//! Invariant: maps print with sorted keys, as Go does.

use serde_json::Value;

/// The kind of a JSON value in Go's decoding errors.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The type that a value has after Go decoded it without a schema.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as `%v` prints it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(object) => {
            let members: Vec<_> = object
                .iter()
                .map(|(name, value)| format!("{name}:{}", plain(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
        scalar => scalar.to_string(),
    }
}

/// A syntax error in Go's words.
pub(super) fn syntax(text: &[u8], error: &serde_json::Error) -> String {
    let mut line = 1;
    let at = text.iter().position(|byte| {
        let here = line == error.line();
        line += usize::from(*byte == b'\n');
        here
    });
    let found = at.and_then(|start| text.get(start + error.column().saturating_sub(1)));
    match found {
        Some(byte) => format!("invalid character {:?} looking for beginning of value", char::from(*byte)),
        None => "unexpected end of JSON input".to_owned(),
    }
}
