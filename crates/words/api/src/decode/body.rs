//! A request body parsed once: first asked for `apiVersion` and `kind`, then decoded against the type they name.

use serde_json::Value;

use super::syntax::{Node, parse};
use super::typed;
use super::{DecodeError, Decoded, FieldValidation};
use crate::schema::Struct;

/// A parsed JSON body; members keep their order and duplicates.
#[derive(Clone, Debug)]
pub struct Body<'a>(Node<'a>);

impl<'a> Body<'a> {
    /// Parses JSON.
    ///
    /// # Errors
    /// With Go's text for the syntax error, bare.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        parse(bytes).map(Self).map_err(DecodeError::Syntax)
    }

    /// Takes a value that is already parsed, for example out of YAML or a patch.
    #[must_use]
    pub fn from_value(value: Value) -> Body<'static> {
        Body(Node::from_value(value))
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

/// `apiVersion` and `kind` of a JSON body, empty where absent: [`Body::parse`] and [`Body::type_meta`] in one.
///
/// # Errors
/// With upstream's text, which begins with `couldn't get version/kind; json parse error: `.
pub fn type_meta(bytes: &[u8]) -> Result<(String, String), DecodeError> {
    Body::parse(bytes)
        .and_then(|body| body.type_meta())
        .map_err(|error| DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {error}")))
}
