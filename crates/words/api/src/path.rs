//! Reading and writing inside a JSON value by a path of names. It knows nothing of types.

use serde_json::{Map, Value};

/// The value at `path`, or none where any step is missing.
#[must_use]
pub fn get<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |at, name| at.get(name))
}

/// Likewise, to change.
#[must_use]
pub fn get_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |at, name| at.get_mut(name))
}

/// The string at `path`, or `""`.
#[must_use]
pub fn str<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    get(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at `path`.
#[must_use]
pub fn i64(value: &Value, path: &[&str]) -> Option<i64> {
    get(value, path).and_then(Value::as_i64)
}

/// The boolean at `path`, or false.
#[must_use]
pub fn bool(value: &Value, path: &[&str]) -> bool {
    get(value, path).and_then(Value::as_bool).unwrap_or_default()
}

/// The list at `path`, or an empty one.
#[must_use]
pub fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    get(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object at `path`.
#[must_use]
pub fn object<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    get(value, path).and_then(Value::as_object)
}

/// The object at `path`, made where it is missing or something else.
pub fn object_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut at = value;
    for name in path {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[*name];
    }
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    at.as_object_mut().expect("made an object just now")
}

/// Sets the value at `path`; objects on the way are made where they are missing or something else. An empty path
/// replaces the whole.
pub fn set(value: &mut Value, path: &[&str], new: impl Into<Value>) {
    match path.split_last() {
        Some((last, before)) => {
            object_mut(value, before).insert((*last).to_owned(), new.into());
        }
        None => *value = new.into(),
    }
}

/// Takes the value at `path` out.
pub fn remove(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, before) = path.split_last()?;
    get_mut(value, before)?.as_object_mut()?.remove(*last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_writes_and_removes() {
        let mut value = json!({"a": {"b": "c", "n": 3}, "l": [1]});
        assert_eq!(str(&value, &["a", "b"]), "c");
        assert_eq!(i64(&value, &["a", "n"]), Some(3));
        assert_eq!(list(&value, &["l"]).len(), 1);
        assert!(list(&value, &["x", "y"]).is_empty() && !bool(&value, &["a"]));
        set(&mut value, &["x", "y"], 5);
        set(&mut value, &["a", "b", "c"], true);
        assert_eq!(value, json!({"a": {"b": {"c": true}, "n": 3}, "l": [1], "x": {"y": 5}}));
        assert_eq!(remove(&mut value, &["a", "n"]), Some(json!(3)));
        assert_eq!(remove(&mut value, &["a", "zz"]), None);
    }
}
