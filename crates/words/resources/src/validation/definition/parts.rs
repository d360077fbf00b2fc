//! The smaller parts of a definition: names, columns, subresources, selectable fields.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::errors::Errors;
use super::super::names as rules;
use super::super::node::Node;

/// Most fields that a version makes selectable.
pub(super) const SELECTABLE_MAX: usize = 8;
/// Most bytes of a warning of deprecation.
const WARNING_BYTES_MAX: usize = 256;

/// Names of a kind; which of them must be there is not asked here.
pub(super) fn names(errors: &mut Errors, node: &Node<'_>) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for name in ["plural", "singular"] {
        label(errors, &node.at(name), "");
    }
    for name in ["kind", "listKind"] {
        let at = node.at(name);
        let messages = rules::label_1035(&at.str().to_lowercase());
        if !at.is_empty() && !messages.is_empty() {
            errors.push(at.bad(format!("{MIXED}{}", messages.join(","))));
        }
    }
    let each = |errors: &mut Errors, list: &Node<'_>| {
        for item in list.items() {
            let messages = rules::label_1035(item.str());
            if !messages.is_empty() {
                errors.push(item.bad(messages.join(",")));
            }
        }
    };
    each(errors, &node.at("shortNames"));
    let list = node.at("listKind");
    if !node.text("kind").is_empty() && node.text("kind") == list.str() {
        errors.push(list.bad("kind and listKind may not be the same"));
    }
    each(errors, &node.at("categories"));
}

fn label(errors: &mut Errors, node: &Node<'_>, before: &str) {
    let messages = rules::label_1035(node.str());
    if !node.is_empty() && !messages.is_empty() {
        errors.push(node.bad(format!("{before}{}", messages.join(","))));
    }
}

/// A version's warning of deprecation.
pub(super) fn deprecation(errors: &mut Errors, version: &Node<'_>) {
    let warning = version.at("deprecationWarning");
    if !warning.set() {
        return;
    }
    if !version.is("deprecated") {
        errors.push(warning.bad("can only be set for deprecated versions"));
        return;
    }
    if warning.len() > WARNING_BYTES_MAX {
        errors.push(warning.bad(format!("must be <= {WARNING_BYTES_MAX} characters long")));
    }
    if warning.is_empty() {
        errors.push(warning.bad("must not be an empty string"));
    }
    if let Some((index, _)) = warning.str().char_indices().find(|(_, letter)| !printable(*letter)) {
        errors.push(warning.bad(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        )));
    }
}

fn printable(letter: char) -> bool {
    letter == ' '
        || !(letter.is_control()
            || letter.is_whitespace()
            || matches!(u32::from(letter), 0xad | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff))
}

/// A column of tables.
pub(super) fn column(errors: &mut Errors, node: &Node<'_>) {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    node.need(errors, "name");
    let (kind, format, path) = (node.at("type"), node.at("format"), node.at_as("jsonPath", "JSONPath"));
    let one_of = |known: &[&str]| format!("must be one of {}", known.join(","));
    if kind.is_empty() {
        errors.push(kind.required(one_of(TYPES)));
    } else if !TYPES.contains(&kind.str()) {
        errors.push(kind.bad(one_of(TYPES)));
    }
    if !format.is_empty() && !FORMATS.contains(&format.str()) {
        errors.push(format.bad(one_of(FORMATS)));
    }
    if path.is_empty() {
        errors.push(path.required(""));
    } else {
        simple_path(errors, &path);
    }
}

/// A path of names and dots; whether it is one.
fn simple_path(errors: &mut Errors, node: &Node<'_>) -> bool {
    let fits = node.str().starts_with('.');
    if !fits {
        errors.push(node.bad("must be a simple json path starting with ."));
    }
    fits
}

/// Where a resource has its scale.
pub(super) fn subresources(errors: &mut Errors, node: &Node<'_>) {
    let scale = node.at("scale");
    if !scale.set() {
        return;
    }
    for (name, under) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let at = scale.at(name);
        if at.is_empty() {
            errors.push(at.required(""));
        } else if simple_path(errors, &at) && !at.str().starts_with(&format!("{under}.")) {
            errors.push(at.bad(format!("should be a json path under {under}")));
        }
    }
    let selector = scale.at("labelSelectorPath");
    if !selector.is_empty()
        && simple_path(errors, &selector)
        && ![".spec.", ".status."].iter().any(|under| selector.str().starts_with(under))
    {
        errors.push(selector.bad("should be a json path under either .spec or .status"));
    }
}

/// Fields that selectors may name.
pub(super) fn selectable(errors: &mut Errors, fields: &Node<'_>, schema: &Node<'_>, many: bool) {
    let mut seen = HashSet::new();
    for field in fields.items() {
        let path = field.at("jsonPath");
        if path.is_empty() {
            errors.push(path.required(""));
            continue;
        }
        let (found, names) = match field_path(path.str(), schema, false) {
            Ok(found) => found,
            Err(why) => {
                errors.push(path.bad(format!("is an invalid path: {why}")));
                continue;
            }
        };
        if names.first().is_some_and(|name| name == "metadata") {
            errors.push(path.bad("must not point to fields in metadata"));
        }
        if !matches!(found.text("type"), "string" | "boolean" | "integer") {
            errors.push(path.bad(
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            ));
        }
        if !seen.insert(names.join(".")) {
            errors.push(path.duplicate());
        }
    }
    if seen.len() > SELECTABLE_MAX && !many {
        errors.push(fields.too_many(seen.len(), SELECTABLE_MAX));
    }
}

/// Why a path leads nowhere in a schema.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoField {
    #[error("array notation is not allowed")]
    Brackets,
    #[error("unexpected end of JSON path")]
    End,
    #[error("expected single quoted string but got {0}")]
    Unquoted(String),
    #[error("invalid string literal: invalid escape sequence {0}")]
    Escape(String),
    #[error("expected ] but got {0}")]
    Unclosed(String),
    #[error("expected [ or . but got: {0}")]
    Start(String),
    #[error("does not refer to a valid field")]
    Unknown,
}

/// The schema that a path leads to, and the names on the way.
pub(super) fn field_path<'a>(path: &str, schema: &Node<'a>, brackets: bool) -> Result<(Node<'a>, Vec<String>), NoField> {
    let mut at = schema.clone();
    let mut names = Vec::new();
    let mut tokens = Tokens(path);
    while let Some(token) = tokens.next() {
        let name = match token {
            "[" if !brackets => return Err(NoField::Brackets),
            "[" => {
                let token = tokens.next().ok_or(NoField::End)?;
                let inside = token
                    .strip_prefix('\'')
                    .and_then(|rest| rest.strip_suffix('\''))
                    .ok_or_else(|| NoField::Unquoted(token.to_owned()))?;
                unescape(inside)?
            }
            "." => tokens.next().ok_or(NoField::End)?.to_owned(),
            other => return Err(NoField::Start(other.to_owned())),
        };
        at = if !at.at("properties").is_empty() {
            at.at("properties").held(&name).filter(Node::set).ok_or(NoField::Unknown)?
        } else if at.at("additionalProperties").value.is_object() {
            at.at("additionalProperties")
        } else {
            return Err(NoField::Unknown);
        };
        names.push(name);
        if token == "[" {
            match tokens.next() {
                None => return Err(NoField::End),
                Some("]") => {}
                Some(other) => return Err(NoField::Unclosed(other.to_owned())),
            }
        }
    }
    Ok((at, names))
}

fn unescape(text: &str) -> Result<String, NoField> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some(escaped @ ('\'' | '\\')) => out.push(escaped),
            other => {
                return Err(NoField::Escape(
                    other.map_or_else(|| "\\".to_owned(), |other| format!("\\{other}")),
                ));
            }
        }
    }
    Ok(out)
}

/// A path in parts: dots, brackets, quoted and plain names.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0;
        let first = text.chars().next()?;
        let end = if first == '\'' {
            let bytes = text.as_bytes();
            (1..bytes.len())
                .find(|index| bytes[*index] == b'\'' && bytes[index - 1] != b'\\')
                .map_or(text.len(), |index| index + 1)
        } else if matches!(first, '.' | '[' | ']') {
            1
        } else {
            text.find(['.', '[', ']']).unwrap_or(text.len())
        };
        let (token, rest) = text.split_at(end);
        self.0 = rest;
        Some(token)
    }
}

/// What is wrong with a bundle of authorities.
pub(super) fn authorities(node: &Node<'_>) -> Option<&'static str> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let bytes = STANDARD.decode(node.str()).unwrap_or_default();
    let some = bytes.windows(BEGIN.len()).any(|window| window == BEGIN);
    (!some).then_some("unable to load root certificates: unable to parse bytes as PEM block")
}
