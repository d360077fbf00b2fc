//! The `Table` form of objects: columns per resource and the cells of an object.
//!
//! Invariant: `cells` gives one value per column of `columns` (IP addresses have one more, as upstream). Time comes in as
//! an argument.

mod cluster;
mod columns;
mod network;
mod pod;
mod storage;
mod view;
mod words;
mod workloads;

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;
use trireme_api::path;

use self::view::View;
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
    /// What it shows, in our words.
    pub description: &'static str,
    /// The field whose description upstream shows instead.
    pub from: Option<Source>,
    /// 0 is always shown, others on request for more.
    pub priority: i32,
}

/// A field of a struct, as the source of a column's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Go package below `k8s.io`, for example `api/core/v1`.
    pub package: &'static str,
    /// Name of the struct.
    pub name: &'static str,
    /// JSON name of the field.
    pub field: &'static str,
    /// Whether the description's last sentence is left out.
    pub all_but_last_sentence: bool,
}

/// The columns of a resource; name and creation time where it has no own ones.
#[must_use]
pub fn columns(row: &Resource) -> Vec<Column> {
    columns::of(row)
}

/// Whether a resource has columns of its own, more than name and creation time.
#[must_use]
pub fn has_columns(row: &Resource) -> bool {
    columns::of(row) != columns::COMMON
}

/// The cells of an object in the row's version.
#[must_use]
pub fn cells(row: &Resource, value: &Value, now: Timestamp) -> Vec<Value> {
    if row.plural == "pods" && row.group.is_empty() {
        return pod::cells(value, now);
    }
    let mut value = Cow::Borrowed(value);
    if !row.virtual_ && row.stored_as != (row.group, row.version) {
        crate::convert(row, row.stored(), value.to_mut());
    }
    let view = View { value: &value, now };
    let known = workloads::workloads(row, &view)
        .or_else(|| network::network(row, &view))
        .or_else(|| storage::storage(row, &view))
        .or_else(|| cluster::cluster(row, &view));
    known.unwrap_or_else(|| {
        vec![
            Value::from(path::str(&value, &["metadata", "name"])),
            Value::from(path::str(&value, &["metadata", "creationTimestamp"])),
        ]
    })
}

/// The columns of the `scale` subresource.
#[must_use]
pub fn scale_columns() -> Vec<Column> {
    columns::scale()
}

/// Time since a creation as tables show it, for callers with their own columns: `5s`, `3m20s`, `2d3h`.
#[must_use]
pub fn age(since: Timestamp, now: Timestamp) -> String {
    words::duration(now.as_second() - since.as_second())
}

#[cfg(test)]
mod tests;
