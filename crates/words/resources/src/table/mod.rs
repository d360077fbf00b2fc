//! The `Table` form of objects: columns per resource and the cells of an object.
//!
//! Invariant: `cells` gives one value per column of `columns`. Time comes in as an argument.

use jiff::Timestamp;
use serde_json::Value;
use trireme_api::path;

use crate::rows::Resource;

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub type_: &'static str,
    /// OpenAPI format; `name` marks the object's name.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0 is always shown, others on request for more.
    pub priority: i32,
}

/// The columns of a resource.
#[must_use]
pub fn columns(_row: &Resource) -> Vec<Column> {
    let column = |name, type_, format, description| Column { name, type_, format, description, priority: 0 };
    vec![
        column("Name", "string", "name", "Name of the object."),
        column("Created At", "date", "", "When the object was created."),
    ]
}

/// The cells of an object.
#[must_use]
pub fn cells(_row: &Resource, value: &Value, _now: Timestamp) -> Vec<Value> {
    vec![
        Value::from(path::str(value, &["metadata", "name"])),
        Value::from(path::str(value, &["metadata", "creationTimestamp"])),
    ]
}
