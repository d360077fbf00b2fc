//! `apiVersion` and `kind` of a body, read before its type is known.

use super::DecodeError;
use super::syntax::{Node, parse};

/// `apiVersion` and `kind` of a JSON body, empty where absent. Names match without regard to case, as upstream's first
/// look at a body does.
///
/// # Errors
/// With upstream's text, which begins with `couldn't get version/kind; json parse error: `.
pub fn type_meta(bytes: &[u8]) -> Result<(String, String), DecodeError> {
    let wrap = |error: String| DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {error}"));
    let node = parse(bytes).map_err(wrap)?;
    let members = match node {
        Node::Object(members) => members,
        Node::Null => return Ok(Default::default()),
        other => {
            return Err(wrap(format!(
                r#"json: cannot unmarshal {} into Go value of type struct {{ APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }}"#,
                other.kind()
            )));
        }
    };
    let (mut api_version, mut kind) = (String::new(), String::new());
    for (name, member) in members {
        let (slot, field) = if name.eq_ignore_ascii_case("apiVersion") {
            (&mut api_version, "apiVersion")
        } else if name.eq_ignore_ascii_case("kind") {
            (&mut kind, "kind")
        } else {
            continue;
        };
        match member {
            Node::String(text) => *slot = text.into_owned(),
            Node::Null => {}
            other => {
                return Err(wrap(format!(
                    "json: cannot unmarshal {} into Go struct field .{field} of type string",
                    other.kind()
                )));
            }
        }
    }
    Ok((api_version, kind))
}
