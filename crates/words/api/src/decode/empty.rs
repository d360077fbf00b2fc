//! Lists and maps that were sent empty, which the canonical form does not tell from none: upstream's refusals show them.
//!
//! Invariant: they are put back into a copy that is only judged once more for its words, never into what is stored.

use serde_json::{Map, Value};

use crate::cost::Ledger;

/// Where a list or map was sent empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Empty {
    /// Path with indices, for example `spec.rules[0].verbs`. Names with dots in them are not told from paths, so that a
    /// value below them is not put back.
    path: String,
    /// Whether it was a list.
    list: bool,
}

/// What a decoder notes, as far as the ledger has room for it: names on the way may be long.
#[derive(Default)]
pub(super) struct Empties {
    pub(super) found: Vec<Empty>,
    ledger: Ledger,
}

impl Empties {
    pub(super) fn list(&mut self, path: &str) {
        self.note(path, true);
    }

    pub(super) fn map(&mut self, path: &str) {
        self.note(path, false);
    }

    fn note(&mut self, path: &str, list: bool) {
        if self.ledger.tell(path.len() + size_of::<Empty>()) {
            let path = path.to_owned();
            self.found.push(Empty { path, list });
        }
    }
}

impl Empty {
    /// Where it was, for example `spec.overhead`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Puts it back where nothing stands in its place; whether it did.
    fn put_back(&self, value: &mut Value) -> bool {
        let (parent, last) = match self.path.rsplit_once('.') {
            Some((parent, last)) => (parent, last),
            None => ("", self.path.as_str()),
        };
        let mut at = value;
        for step in parent.split(['.', '[']).filter(|step| !step.is_empty()) {
            let below = match step.strip_suffix(']').and_then(|index| index.parse::<usize>().ok()) {
                Some(index) => at.get_mut(index),
                None => at.get_mut(step),
            };
            let Some(below) = below else { return false };
            at = below;
        }
        let Some(members) = at.as_object_mut() else { return false };
        let slot = members.entry(last).or_insert(Value::Null);
        if !slot.is_null() {
            return false;
        }
        *slot = if self.list {
            Value::Array(Vec::new())
        } else {
            Value::Object(Map::new())
        };
        true
    }
}

/// A value with what was sent empty put back; none where it is as it was.
#[must_use]
pub fn as_sent(value: &Value, empty: &[Empty]) -> Option<Value> {
    if empty.is_empty() {
        return None;
    }
    let mut value = value.clone();
    let changed = empty.iter().filter(|empty| empty.put_back(&mut value)).count();
    (changed > 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::super::FieldValidation;
    use super::*;
    use crate::schema;
    use serde_json::json;

    #[test]
    fn what_was_sent_empty_is_put_back_where_nothing_stands() {
        let ty = schema::kind("apps", "v1", "Deployment").unwrap();
        let sent = br#"{"spec":{"template":{"metadata":{"labels":{}},"spec":{"containers":[{"name":"a","args":[],"env":[]}]}}}}"#;
        let decoded = super::super::json(sent, ty, FieldValidation::Ignore).unwrap();
        let mut value = decoded.value;
        assert!(value["spec"]["template"]["metadata"].get("labels").is_none());
        let paths: Vec<&str> = decoded.empty.iter().map(Empty::path).collect();
        assert_eq!(
            paths,
            [
                "spec.template.metadata.labels",
                "spec.template.spec.containers[0].args",
                "spec.template.spec.containers[0].env"
            ]
        );
        value["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A"}]);
        let told = as_sent(&value, &decoded.empty).unwrap();
        assert_eq!(told["spec"]["template"]["metadata"]["labels"], json!({}));
        assert_eq!(told["spec"]["template"]["spec"]["containers"][0]["args"], json!([]));
        assert_eq!(
            told["spec"]["template"]["spec"]["containers"][0]["env"],
            json!([{"name": "A"}])
        );
        assert_eq!(as_sent(&told, &decoded.empty), None, "nothing to put back");
    }
}
