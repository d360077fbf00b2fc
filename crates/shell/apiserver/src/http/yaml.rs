//! JSON values as YAML in the dress that upstream's answers wear: two spaces, lists not indented below their key, quotes
//! only where a plain scalar would read as something else, long plain and single-quoted scalars folded at 80 columns.
//!
//! Invariant: what is written reads back as the same value.

use std::fmt::Write as _;

use serde_json::{Map, Value};

const WIDTH: usize = 80;

/// A value as one YAML document.
#[must_use]
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0, false),
        Value::Array(list) if !list.is_empty() => sequence(&mut out, list, 0),
        other => {
            scalar(&mut out, other, 0, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn mapping(out: &mut String, map: &Map<String, Value>, depth: usize, inline_first: bool) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 || !inline_first {
            indent(out, depth);
        }
        let start = out.len();
        text(out, key, depth, 0);
        out.push(':');
        let used = depth * 2 + out.len() - start + 1;
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                mapping(out, inner, depth + 1, false);
            }
            Value::Array(inner) if !inner.is_empty() => {
                out.push('\n');
                sequence(out, inner, depth);
            }
            other => {
                out.push(' ');
                scalar(out, other, depth + 1, used);
                out.push('\n');
            }
        }
    }
}

fn sequence(out: &mut String, list: &[Value], depth: usize) {
    for value in list {
        indent(out, depth);
        out.push_str("- ");
        match value {
            Value::Object(inner) if !inner.is_empty() => mapping(out, inner, depth + 1, true),
            Value::Array(inner) if !inner.is_empty() => {
                let mut nested = String::new();
                sequence(&mut nested, inner, depth + 1);
                out.push_str(nested.trim_start_matches(' '));
            }
            other => {
                scalar(out, other, depth + 1, depth * 2 + 2);
                out.push('\n');
            }
        }
    }
}

fn scalar(out: &mut String, value: &Value, depth: usize, used: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(string) => text(out, string, depth, used),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn text(out: &mut String, string: &str, depth: usize, used: usize) {
    let printable = string
        .chars()
        .all(|character| character == '\n' || !character.is_control() && character != '\u{feff}');
    if !printable || reads_as_other(string) {
        double_quoted(out, string);
    } else if string.contains('\n') {
        if string.trim_start_matches('\n').starts_with(' ') || string.chars().all(|character| character == '\n') {
            double_quoted(out, string);
        } else {
            literal(out, string, depth);
        }
    } else if is_plain(string) {
        folded(out, string, depth, used);
    } else {
        out.push('\'');
        folded(out, &string.replace('\'', "''"), depth, used + 1);
        out.push('\'');
    }
}

/// Whether a plain scalar of this text would not read back as a string.
fn reads_as_other(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "y", "Y", "yes", "Yes", "YES", "n",
        "N", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf",
        "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", "<<",
    ];
    if WORDS.contains(&text) {
        return true;
    }
    let first = text.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return false;
    }
    let digits = text.replace('_', "");
    let unsigned = digits.trim_start_matches(['+', '-']);
    let number = digits.parse::<f64>().is_ok() && unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    let radix = [("0x", 16), ("0o", 8), ("0b", 2)].iter().any(|(prefix, radix)| {
        unsigned
            .strip_prefix(prefix)
            .is_some_and(|rest| u64::from_str_radix(rest, *radix).is_ok())
    });
    let sexagesimal = unsigned.contains(':')
        && unsigned
            .split(':')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    number || radix || sexagesimal || is_time(text)
}

/// Whether it begins like a date, which YAML 1.1 knows as a type of its own.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 8
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && (text.parse::<jiff::Timestamp>().is_ok() || text.parse::<jiff::civil::Date>().is_ok())
}

fn is_plain(text: &str) -> bool {
    const LEADING: &[char] = &[
        '-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`',
    ];
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return false };
    let second = characters.next();
    if first.is_whitespace() || text.ends_with(' ') || text == "---" || text == "..." {
        return false;
    }
    if LEADING.contains(&first) {
        let dash = matches!(first, '-' | '?' | ':') && second.is_some_and(|second| !second.is_whitespace());
        if !dash {
            return false;
        }
    }
    !text.contains(": ") && !text.contains(" #") && !text.ends_with(':') && !text.contains('\t')
}

fn double_quoted(out: &mut String, string: &str) {
    out.push('"');
    for character in string.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            control if control.is_control() || control == '\u{feff}' => {
                let code = u32::from(control);
                let written = if code < 0x100 {
                    write!(out, "\\x{code:02x}")
                } else {
                    write!(out, "\\u{code:04x}")
                };
                written.expect("writing to a string succeeds");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

fn literal(out: &mut String, string: &str, depth: usize) {
    let body = string.trim_end_matches('\n');
    out.push('|');
    match string.len() - body.len() {
        0 => out.push('-'),
        1 => {}
        _ => out.push('+'),
    }
    let lines = string.strip_suffix('\n').unwrap_or(string);
    for line in lines.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
    }
}

/// Breaks at single spaces once a line is longer than the width.
fn folded(out: &mut String, text: &str, depth: usize, used: usize) {
    let mut column = used;
    let characters: Vec<char> = text.chars().collect();
    for (index, character) in characters.iter().enumerate() {
        let between = index > 0 && index + 1 < characters.len() && characters[index - 1] != ' ' && characters[index + 1] != ' ';
        if *character == ' ' && between && column > WIDTH {
            out.push('\n');
            indent(out, depth);
            column = depth * 2;
        } else {
            out.push(*character);
            column += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_looks_like_upstreams() {
        let value = json!({
            "apiVersion": "v1", "empty": {}, "none": [], "list": [{"a": 1, "b": {"c": "x"}}, "2"],
            "fieldsV1": {"f:data": {".": {}}}, "time": "2026-01-01T00:00:00Z", "text": "a: b", "yes": "yes", "rv": "12",
            "lines": "one\ntwo\n", "colon": "a:b",
        });
        let expected = "apiVersion: v1\ncolon: a:b\nempty: {}\nfieldsV1:\n  f:data:\n    .: {}\nlines: |\n  one\n  two\nlist:\n- a: 1\n  b:\n    c: x\n- \"2\"\nnone: []\nrv: \"12\"\ntext: 'a: b'\ntime: \"2026-01-01T00:00:00Z\"\n\"yes\": \"yes\"\n";
        assert_eq!(write(&value), expected);
    }

    #[test]
    fn it_reads_back() {
        let value = json!({
            "a": ["", "~", "-", "- x", "#", "a #b", "it's", "\"q\"", "0x1f", "1e3", "1_000", "12:30", "null", "\t", "x\u{1}", " lead",
                "trail ", "\n", "a\n\nb", "a\n\n", "&x", "*x", "!x", "%", "@", "`", "{", "[", "?", ":", "2026-01-01", "<<", "=", "日本"],
            "long": "word ".repeat(60).trim_end(), "true": true, "n": 1.5, "deep": [[1, [2]], []],
        });
        let text = write(&value);
        let mut ledger = trireme_api::cost::Ledger::new();
        let (back, _) = trireme_api::decode::yaml(text.as_bytes(), &mut ledger).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(back.into_value(), value, "{text}");
    }
}
