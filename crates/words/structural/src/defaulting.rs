//! Fills in the defaults of a schema (pkg/apiserver/schema/defaulting/algorithm.go).
//!
//! Invariant: defaults are copied only as far as the ledger grants.

use serde_json::Value;
use trireme_api::cost::{CostError, Ledger, Size};

use crate::node::Node;

fn copied(value: &Value, ledger: &mut Ledger) -> Result<Value, CostError> {
    if value.is_array() || value.is_object() || value.is_string() {
        ledger.copy(Size::of(value))?;
    } else {
        ledger.value()?;
    }
    Ok(value.clone())
}

/// Fills in what a value lacks.
pub(crate) fn fill(value: &mut Value, node: &Node, ledger: &mut Ledger) -> Result<(), CostError> {
    if !node.below.defaults {
        return Ok(());
    }
    match value {
        Value::Object(members) => {
            for (name, property) in &node.properties {
                let Some(default) = property.default_value() else {
                    continue;
                };
                let lacks = match members.get(&**name) {
                    None => true,
                    Some(member) => member.is_null() && !property.nullable,
                };
                if lacks {
                    members.insert((**name).to_owned(), copied(default, ledger)?);
                }
            }
            for (name, member) in members {
                let known = node.properties.get(name.as_str());
                let Some(inner) = known.or_else(|| node.additional()) else {
                    continue;
                };
                if known.is_none() {
                    replace_null(member, inner, ledger)?;
                }
                fill(member, inner, ledger)?;
            }
        }
        Value::Array(items) => {
            let Some(inner) = node.items() else {
                return Ok(());
            };
            for item in items {
                replace_null(item, inner, ledger)?;
                fill(item, inner, ledger)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn replace_null(value: &mut Value, node: &Node, ledger: &mut Ledger) -> Result<(), CostError> {
    if value.is_null()
        && !node.nullable
        && let Some(default) = node.default_value()
    {
        *value = copied(default, ledger)?;
    }
    Ok(())
}
