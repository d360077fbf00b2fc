//! The tables of custom resources: the name, and what the definition's columns find in an object.
//!
//! Invariant: a cell that finds nothing, or something of another type, is null. Time comes in as an argument.

use jiff::Timestamp;
use serde_json::{Value, json};
use trireme_api::{path, time};

use super::JsonPath;
use crate::table;

/// Columns beside the name.
#[derive(Debug)]
pub struct Columns(Vec<Column>);

#[derive(Debug)]
struct Column {
    name: String,
    kind: String,
    format: String,
    /// None for the age that nobody named, which is described as the time of creation is.
    description: Option<String>,
    priority: i64,
    path: JsonPath,
}

impl Columns {
    /// The columns of a definition's version; its age where it names none.
    #[must_use]
    pub fn of(version: &Value) -> Self {
        let given = version["additionalPrinterColumns"]
            .as_array()
            .filter(|columns| !columns.is_empty());
        let age = [json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        })];
        let columns = given.map_or(&age[..], Vec::as_slice);
        let parsed = columns.iter().map(|column| {
            let text = |name: &str| column[name].as_str().unwrap_or_default().to_owned();
            let at = text("jsonPath");
            let own = text("description");
            Some(Column {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description: match (given, own.is_empty()) {
                    (None, _) => None,
                    (_, true) => Some(format!("Custom resource definition column (in JSONPath format): {at}")),
                    (_, false) => Some(own),
                },
                priority: column["priority"].as_i64().unwrap_or(0),
                path: JsonPath::parse(&at)?,
            })
        });
        // Where one is no path, upstream shows those before it.
        Self(parsed.map_while(|column| column).collect())
    }

    /// The definitions of the columns, the name's first; descriptions of the name and of the time of creation come in.
    #[must_use]
    pub fn definitions(&self, name: &str, created: &str) -> Value {
        let first = json!({"name": "Name", "type": "string", "format": "name", "description": name, "priority": 0});
        let others = self.0.iter().map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format, "description": column.description.as_deref().unwrap_or(created),
                "priority": column.priority,
            })
        });
        std::iter::once(first).chain(others).collect()
    }

    /// The cells of an object.
    #[must_use]
    pub fn cells(&self, object: &Value, now: Timestamp) -> Value {
        let name = Value::from(path::str(object, &["metadata", "name"]));
        let others = self.0.iter().map(|column| column.cell(object, now));
        std::iter::once(name).chain(others).collect()
    }
}

impl Column {
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let Some(found) = self.path.first(object) else {
            return Value::Null;
        };
        match (self.kind.as_str(), found) {
            ("string", Value::Null) => Value::from("<nil>"),
            ("string", found) => shown(found).into(),
            (_, Value::Null) => Value::Null,
            ("integer", found) => match (found.as_i64(), found.as_f64()) {
                (Some(whole), _) => whole.into(),
                #[expect(clippy::cast_possible_truncation, reason = "upstream cuts it so")]
                (None, Some(float)) => Value::from(float as i64),
                _ => Value::Null,
            },
            ("number", found) if found.is_number() => found.clone(),
            ("boolean", Value::Bool(_)) => found.clone(),
            ("date", Value::String(text)) => match time::parse(text) {
                Ok(since) => table::age(since, now).into(),
                Err(_) => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

/// A value as upstream prints it: text bare, lists and objects as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
