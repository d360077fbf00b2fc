//! Paths by which rules say of which field they speak: `.spec.replicas`, `['a b'].c`.

use crate::node::{Additional, Node};

/// Why a text is no path of a schema; upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It ends too early.
    #[error("unexpected end of JSON path")]
    End,
    /// No such field.
    #[error("does not refer to a valid field")]
    NoField,
    /// Something else than a text in brackets.
    #[error("expected single quoted string but got {0}")]
    NoText(String),
    /// A text with a wrong escape.
    #[error("invalid string literal: invalid escape char {0}")]
    Escape(String),
    /// A bracket that is not closed.
    #[error("expected ] but got {0}")]
    NoBracket(String),
    /// Neither a dot nor a bracket.
    #[error("expected [ or . but got: {0}")]
    NoStep(String),
}

/// The next part of a path, and the rest.
fn token(rest: &str) -> Option<(&str, &str)> {
    let bytes = rest.as_bytes();
    let end = match *bytes.first()? {
        b'\'' => (1..bytes.len())
            .find(|at| bytes[*at] == b'\'' && bytes[at - 1] != b'\\')
            .map_or(bytes.len(), |at| at + 1),
        b'.' | b'[' | b']' => 1,
        _ => rest.find(['.', '[', ']']).unwrap_or(rest.len()),
    };
    Some(rest.split_at(end))
}

fn unescaped(text: &str) -> Result<String, Unread> {
    let mut made = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            made.push(letter);
            continue;
        }
        match letters.next() {
            Some('a') => made.push('\u{7}'),
            Some('b') => made.push('\u{8}'),
            Some('f') => made.push('\u{c}'),
            Some('n') => made.push('\n'),
            Some('r') => made.push('\r'),
            Some('t') => made.push('\t'),
            Some('v') => made.push('\u{b}'),
            Some(plain @ ('\'' | '\\')) => made.push(plain),
            Some(other) => return Err(Unread::Escape(format!("\\{other}"))),
            None => made.push('\\'),
        }
    }
    Ok(made)
}

/// A path as field errors write it, if the schema has such a field.
///
/// # Errors
/// As [`Unread`] says.
pub(crate) fn normalized(path: &str, node: &Node) -> Result<String, Unread> {
    let (mut made, mut rest, mut node) = (String::new(), path, Some(node));
    let next = |rest: &mut &str| -> Option<String> {
        let (found, after) = token(rest)?;
        *rest = after;
        Some(found.to_owned())
    };
    while let Some(step) = next(&mut rest) {
        let name = match step.as_str() {
            "[" => {
                let quoted = next(&mut rest).ok_or(Unread::End)?;
                let inner = quoted.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
                let Some(inner) = inner else {
                    return Err(Unread::NoText(quoted));
                };
                unescaped(inner)?
            }
            "." => next(&mut rest).ok_or(Unread::End)?,
            _ => return Err(Unread::NoStep(step)),
        };
        let here = node.ok_or(Unread::NoField)?;
        if !here.properties.is_empty() {
            node = Some(here.properties.get(name.as_str()).ok_or(Unread::NoField)?);
            if !made.is_empty() {
                made.push('.');
            }
            made.push_str(&name);
        } else if matches!(here.additional, Additional::None) {
            return Err(Unread::NoField);
        } else {
            node = here.additional();
            made.push_str(&format!("[{name}]"));
        }
        if step == "[" {
            let close = next(&mut rest).ok_or(Unread::End)?;
            if close != "]" {
                return Err(Unread::NoBracket(close));
            }
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_fields() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "object", "properties": {"b.c": {"type": "string"}}},
            "m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
        }});
        let node = crate::compile::node(&schema, 0).expect("a schema");
        for (path, want) in [
            (".a", Ok("a")),
            (".a['b.c']", Ok("a.b.c")),
            (".m['it\\'s'].x", Ok("m[it's].x")),
            (".m.k.x", Ok("m[k].x")),
            (".b", Err("does not refer to a valid field")),
            ("a", Err("expected [ or . but got: a")),
            (".a[b]", Err("expected single quoted string but got b")),
            (".a['b.c'", Err("unexpected end of JSON path")),
            (".", Err("unexpected end of JSON path")),
        ] {
            let found = normalized(path, &node).map_err(|why| why.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), want, "{path}");
        }
    }
}
