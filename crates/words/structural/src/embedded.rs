//! Resources within resources: what type and metadata of theirs must be (pkg/apiserver/schema/objectmeta).
//!
//! Invariant: metadata comes out as `ObjectMeta` writes it: without fields that it does not have.

use serde_json::{Map, Value};
use trireme_api::decode::{self, FieldValidation, canonicalize};
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_api::schema;

use crate::node::Node;
use crate::path::Path;
use crate::show;

/// What becomes of what is malformed, and what is told.
pub(crate) struct Coercion<'t> {
    /// Whether it is dropped; it is an error otherwise.
    pub drop_invalid: bool,
    /// Where unknown fields are told, as `unknown field "spec.a.metadata.b"`.
    pub told: Option<&'t mut Vec<String>>,
}

impl Coercion<'_> {
    /// Goes through a value; the first error ends it.
    pub fn go(&mut self, value: &mut Value, node: &Node, at: &Path<'_>) -> Result<(), FieldError> {
        if !node.below.embedded {
            return Ok(());
        }
        match value {
            Value::Object(members) => {
                if node.embedded {
                    self.resource(members, at)?;
                }
                for (name, member) in members {
                    if let Some(inner) = node.properties.get(name.as_str()) {
                        self.go(member, inner, &at.child(name))?;
                    } else if let Some(inner) = node.additional() {
                        self.go(member, inner, &at.key(name))?;
                    }
                }
            }
            Value::Array(items) => {
                if let Some(inner) = node.items() {
                    for (index, item) in items.iter_mut().enumerate() {
                        self.go(item, inner, &at.index(index))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn resource(&mut self, members: &mut Map<String, Value>, at: &Path<'_>) -> Result<(), FieldError> {
        for name in ["apiVersion", "kind"] {
            let Some(member) = members.get(name).filter(|member| !member.is_string()) else {
                continue;
            };
            if !self.drop_invalid {
                return Err(invalid(&at.child(name), member, "must be a string".to_owned()));
            }
            members.remove(name);
        }
        let Some(metadata) = members.get_mut("metadata") else {
            return Ok(());
        };
        let place = at.child("metadata");
        match self.metadata(metadata, &place) {
            Ok(decoded) => *metadata = decoded,
            Err(why) if !self.drop_invalid => return Err(invalid(&place, metadata, why)),
            Err(_) => {
                // Field by field, without those that are malformed.
                let Value::Object(fields) = &*metadata else {
                    return Ok(());
                };
                let mut kept = Map::new();
                for (name, field) in fields {
                    let alone = Value::Object(Map::from_iter([(name.clone(), field.clone())]));
                    if let Ok(Value::Object(decoded)) = self.metadata(&alone, &place) {
                        kept.extend(decoded);
                    }
                }
                *metadata = Value::Object(kept);
            }
        }
        Ok(())
    }

    /// Metadata as it is written, or what Go says of it.
    fn metadata(&mut self, value: &Value, at: &Path<'_>) -> Result<Value, String> {
        if value.is_null() {
            return Ok(Value::Object(Map::new()));
        }
        let mode = if self.told.is_some() {
            FieldValidation::Warn
        } else {
            FieldValidation::Ignore
        };
        let decoded = decode::value_at(value.clone(), schema::object_meta(), mode, &at.field());
        let mut decoded = decoded.map_err(|why| why.to_string())?;
        if let Some(told) = self.told.as_deref_mut() {
            told.append(&mut decoded.warnings);
        }
        canonicalize(&mut decoded.value, schema::object_meta());
        if let Some(members) = decoded.value.as_object_mut()
            && members.get("creationTimestamp").is_some_and(Value::is_null)
        {
            members.remove("creationTimestamp");
        }
        Ok(decoded.value)
    }
}

fn invalid(at: &Path<'_>, value: &Value, detail: String) -> FieldError {
    FieldError {
        kind: FieldErrorType::Invalid,
        path: at.field(),
        value: show::value(value),
        detail,
    }
}

/// Goes through the resources within a value, as its schema says where they are, with their paths.
pub(crate) fn each(value: &Value, node: &Node, at: &Path<'_>, look: &mut dyn FnMut(&str, &Value)) {
    if !node.below.embedded {
        return;
    }
    match value {
        Value::Object(members) => {
            if node.embedded {
                look(&at.field(), value);
            }
            for (name, member) in members {
                if let Some(inner) = node.properties.get(name.as_str()) {
                    each(member, inner, &at.child(name), look);
                } else if let Some(inner) = node.additional() {
                    each(member, inner, &at.key(name), look);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = node.items() {
                for (index, item) in items.iter().enumerate() {
                    each(item, inner, &at.index(index), look);
                }
            }
        }
        _ => {}
    }
}
