//! A request body parsed once: first asked for `apiVersion` and `kind`, then decoded against the type they name.

use serde_json::Value;

use super::syntax::{Node, parse};
use super::typed;
use super::{DecodeError, Decoded, FieldValidation};
use crate::cost::{CostError, Ledger};
use crate::schema::Struct;

/// A parsed JSON body; members keep their order and duplicates.
#[derive(Clone, Debug)]
pub struct Body<'a>(pub(super) Node<'a>);

impl<'a> Body<'a> {
    /// Parses JSON.
    ///
    /// # Errors
    /// With Go's text for the syntax error, bare; or for its number of values.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        parse(bytes, &mut Ledger::new()).map(Self)
    }

    /// Looks at a value that is already parsed.
    ///
    /// # Errors
    /// For its number of values.
    pub fn of(value: &'a Value) -> Result<Self, CostError> {
        Node::of(value, &mut Ledger::new()).map(Body)
    }

    /// Looks at a tree that is already there, for example out of a patch.
    #[must_use]
    pub fn of_node(node: Node<'a>) -> Self {
        Self(node)
    }

    /// The tree.
    #[must_use]
    pub fn node(&self) -> &Node<'a> {
        &self.0
    }

    /// The whole as a plain value; of equal names in an object the last counts.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.0.into_value()
    }

    /// `apiVersion` and `kind`, empty where absent. Names match without regard to case, as upstream's first look at a
    /// body does.
    ///
    /// # Errors
    /// With Go's text for the wrong type, bare.
    pub fn type_meta(&self) -> Result<(String, String), DecodeError> {
        let members = match &self.0 {
            Node::Object(members) => members.as_slice(),
            Node::Null => &[],
            other => {
                return Err(DecodeError::Type(format!(
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
                Node::String(text) => text.as_ref().clone_into(slot),
                Node::Null => {}
                other => {
                    return Err(DecodeError::Type(format!(
                        "json: cannot unmarshal {} into Go struct field .{field} of type string",
                        other.kind()
                    )));
                }
            }
        }
        Ok((api_version, kind))
    }

    /// Decodes against a built-in type.
    ///
    /// # Errors
    /// As [`DecodeError`] says.
    pub fn typed(&self, ty: &'static Struct, mode: FieldValidation) -> Result<Decoded, DecodeError> {
        typed::decode(&self.0, ty, mode, "")
    }

    /// Decodes a custom resource: any object; only duplicate fields are told.
    ///
    /// # Errors
    /// As [`DecodeError`] says.
    pub fn untyped(&self, mode: FieldValidation) -> Result<Decoded, DecodeError> {
        typed::untyped_node(&self.0, mode)
    }
}

/// A JSON text of no type as a value. Where `look` says so, names that stand twice in an object are told as warnings in
/// upstream's words: `duplicate field "metadata.labels.a"`.
///
/// # Errors
/// With Go's text for the syntax error, or for its number of values.
pub fn any(bytes: &[u8], look: bool, ledger: &mut Ledger) -> Result<Decoded, DecodeError> {
    let (node, warnings) = any_node(bytes, look, ledger)?;
    Ok(Decoded {
        value: node.into_value(),
        warnings,
        empty: false,
        values: None,
    })
}

/// Like [`any`], keeping the order of the text.
///
/// # Errors
/// As [`any`].
pub fn any_node<'a>(bytes: &'a [u8], look: bool, ledger: &mut Ledger) -> Result<(Node<'a>, Vec<String>), DecodeError> {
    let node = parse(bytes, ledger)?;
    let warnings = if look { typed::duplicates(&node) } else { Vec::new() };
    Ok((node, warnings))
}

/// `apiVersion` and `kind` of a JSON body, empty where absent: [`Body::parse`] and [`Body::type_meta`] in one.
///
/// # Errors
/// With upstream's text, which begins with `couldn't get version/kind; json parse error: `.
pub fn type_meta(bytes: &[u8]) -> Result<(String, String), DecodeError> {
    Body::parse(bytes)
        .and_then(|body| body.type_meta())
        .map_err(|error| DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {error}")))
}
