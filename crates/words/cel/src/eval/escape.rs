//! Names of properties as expressions can write them.

use std::borrow::Cow;

use crate::parse::RESERVED;

/// Words of the language itself, which nobody may use for a name either.
const WORDS: [&str; 4] = ["true", "false", "null", "in"];

fn is_reserved(name: &str) -> bool {
    WORDS.contains(&name) || RESERVED.contains(&name)
}

/// Escapes of what names cannot hold, the longest first.
const ESCAPES: &[(&str, &str)] = &[
    ("__underscores__", "__"),
    ("__dot__", "."),
    ("__dash__", "-"),
    ("__slash__", "/"),
];

/// The name by which an expression knows a property, if it can.
#[must_use]
pub fn escape(name: &str) -> Option<Cow<'_, str>> {
    if is_reserved(name) {
        return Some(format!("__{name}__").into());
    }
    let first = name.bytes().next()?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/');
    if first.is_ascii_digit() || !name.bytes().all(fits) {
        return None;
    }
    if !name.contains("__") && !name.contains(['.', '-', '/']) {
        return Some(name.into());
    }
    let mut made = name.replace("__", "__underscores__");
    for (escape, plain) in &ESCAPES[1..] {
        made = made.replace(plain, escape);
    }
    Some(made.into())
}

/// The property that a name in an expression stands for.
pub(crate) fn unescape(name: &str) -> Option<Cow<'_, str>> {
    if !name.contains("__") {
        return Some(name.into());
    }
    if let Some(word) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && is_reserved(word)
    {
        return Some(word.to_owned().into());
    }
    let mut made = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        made.push_str(&rest[..at]);
        let (escape, plain) = ESCAPES.iter().find(|(escape, _)| rest[at..].starts_with(escape))?;
        made.push_str(plain);
        rest = &rest[at + escape.len()..];
    }
    made.push_str(rest);
    Some(made.into())
}
