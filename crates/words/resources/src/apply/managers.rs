//! `metadata.managedFields` in memory: who owns which fields, and since when.
//!
//! Invariant: one entry per manager, operation, subresource and, for updates, version; entries that own nothing do not
//! exist. Written entries are sorted by operation, time, manager, version and subresource.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::Set;

/// Update entries above this number are folded together, oldest first.
pub const UPDATE_MANAGERS_MAX: usize = 10;
/// Name of the entry that old updates are folded into.
const FOLDED: &str = "ancient-changes";

/// What tells one entry from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Name.
    pub manager: String,
    /// Whether by apply.
    pub apply: bool,
    /// Version; empty for appliers, who are the same in every version.
    pub api_version: String,
    /// Subresource, or empty.
    pub subresource: String,
}

/// What a manager owns.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Version that the paths are of.
    pub api_version: String,
    /// The paths.
    pub fields: Set,
    /// When it last changed something, RFC 3339.
    pub time: Option<String>,
}

/// All entries of an object.
pub type Managers = BTreeMap<Id, Entry>;

impl Id {
    /// The identity of an applier.
    #[must_use]
    pub fn applier(manager: &str, subresource: &str) -> Self {
        Self {
            manager: named(manager),
            apply: true,
            api_version: String::new(),
            subresource: subresource.to_owned(),
        }
    }

    /// The identity of one that updates.
    #[must_use]
    pub fn updater(manager: &str, api_version: &str, subresource: &str) -> Self {
        Self {
            manager: named(manager),
            apply: false,
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// As conflicts name it.
    #[must_use]
    pub fn show(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.apply {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
}

fn named(manager: &str) -> String {
    if manager.is_empty() {
        "unknown".to_owned()
    } else {
        manager.to_owned()
    }
}

/// Reads `metadata.managedFields`.
///
/// # Errors
/// With the cause in words when an entry is malformed.
pub fn read(value: Option<&Value>) -> Result<Managers, String> {
    let mut out = Managers::new();
    let Some(Value::Array(entries)) = value else { return Ok(out) };
    for (number, entry) in entries.iter().enumerate() {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let apply = match text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        match text("fieldsType") {
            "FieldsV1" => {}
            "" => return Err(format!("missing fieldsType in managed fields entry {number}")),
            other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {number}")),
        }
        let api_version = text("apiVersion").to_owned();
        let id = Id {
            manager: text("manager").to_owned(),
            apply,
            api_version: if apply { String::new() } else { api_version.clone() },
            subresource: text("subresource").to_owned(),
        };
        let fields = entry.get("fieldsV1").map(Set::from_value).unwrap_or_default();
        let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
        out.insert(
            id,
            Entry {
                api_version,
                fields,
                time,
            },
        );
    }
    Ok(out)
}

/// Whether a client asks to forget all ownership: an empty list, or one empty entry.
#[must_use]
pub fn is_reset(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Array(entries)) => match entries.as_slice() {
            [] => true,
            [one] => one
                .as_object()
                .is_some_and(|entry| entry.values().all(|value| value.is_null() || value.as_str() == Some(""))),
            _ => false,
        },
        _ => false,
    }
}

/// Writes `metadata.managedFields`; none when nobody owns anything.
#[must_use]
pub fn write(managers: Managers) -> Option<Value> {
    if managers.is_empty() {
        return None;
    }
    let mut entries: Vec<(Id, Entry)> = managers.into_iter().collect();
    if entries.len() > 1 {
        entries.sort_by(|(a, x), (b, y)| {
            b.apply
                .cmp(&a.apply)
                .then_with(|| x.time.cmp(&y.time))
                .then_with(|| a.manager.cmp(&b.manager))
                .then_with(|| x.api_version.cmp(&y.api_version))
                .then_with(|| a.subresource.cmp(&b.subresource))
        });
    }
    let entries = entries.into_iter().map(|(id, entry)| {
        let mut out = Map::new();
        out.insert("manager".to_owned(), Value::String(id.manager));
        out.insert("operation".to_owned(), Value::from(if id.apply { "Apply" } else { "Update" }));
        out.insert("apiVersion".to_owned(), Value::String(entry.api_version));
        if let Some(time) = entry.time {
            out.insert("time".to_owned(), Value::String(time));
        }
        out.insert("fieldsType".to_owned(), Value::from("FieldsV1"));
        out.insert("fieldsV1".to_owned(), entry.fields.into_value());
        if !id.subresource.is_empty() {
            out.insert("subresource".to_owned(), Value::String(id.subresource));
        }
        Value::Object(out)
    });
    Some(Value::Array(entries.collect()))
}

/// Folds the oldest update entries of a version together until no more than [`UPDATE_MANAGERS_MAX`] are left.
pub fn fold(managers: &mut Managers) {
    let mut updaters: Vec<Id> = managers.keys().filter(|id| !id.apply).cloned().collect();
    let mut left = updaters.len();
    if left <= UPDATE_MANAGERS_MAX {
        return;
    }
    updaters.sort_by(|a, b| managers[a].time.cmp(&managers[b].time).then_with(|| a.cmp(b)));
    let mut first_of: BTreeMap<String, Id> = BTreeMap::new();
    for id in updaters {
        if left <= UPDATE_MANAGERS_MAX {
            return;
        }
        let version = managers[&id].api_version.clone();
        let bucket = Id::updater(FOLDED, &version, "");
        let Some(first) = first_of.get(&version) else {
            first_of.insert(version, id);
            continue;
        };
        if !managers.contains_key(&bucket)
            && let Some(entry) = managers.remove(first)
        {
            managers.insert(bucket.clone(), entry);
        }
        if id != bucket
            && let Some(folded) = managers.remove(&id)
            && let Some(entry) = managers.get_mut(&bucket)
        {
            entry.fields.extend(&folded.fields);
            entry.time = folded.time;
        }
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(number: usize) -> (Id, Entry) {
        let mut fields = Set::default();
        fields.insert(&["f:data", &format!("f:k{number}")]);
        let time = Some(format!("2026-01-01T00:00:{number:02}Z"));
        (
            Id::updater(&format!("m{number}"), "v1", ""),
            Entry {
                api_version: "v1".into(),
                fields,
                time,
            },
        )
    }

    #[test]
    fn the_oldest_updates_are_folded() {
        let mut managers: Managers = (0..13).map(entry).collect();
        fold(&mut managers);
        assert_eq!(managers.len(), UPDATE_MANAGERS_MAX);
        let folded = &managers[&Id::updater(FOLDED, "v1", "")];
        assert_eq!(
            folded.fields.clone().into_value(),
            json!({"f:data": {"f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}}})
        );
        assert_eq!(folded.time.as_deref(), Some("2026-01-01T00:00:03Z"));
    }

    #[test]
    fn entries_round_trip_and_malformed_ones_are_refused() {
        let value = json!([
            {"manager": "a", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:x": {}}}},
            {"manager": "b", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}}, "subresource": "status"},
        ]);
        assert_eq!(write(read(Some(&value)).unwrap()).unwrap(), value);
        let problem = |entry: Value| read(Some(&json!([entry]))).unwrap_err();
        assert_eq!(problem(json!({})), "operation must be `Apply` or `Update`");
        assert_eq!(problem(json!({"operation": "Apply"})), "apiVersion must not be empty");
        assert_eq!(
            problem(json!({"operation": "Apply", "apiVersion": "v1"})),
            "missing fieldsType in managed fields entry 0"
        );
        assert!(is_reset(Some(&json!([]))) && is_reset(Some(&json!([{}]))) && !is_reset(None) && !is_reset(Some(&value)));
    }
}
