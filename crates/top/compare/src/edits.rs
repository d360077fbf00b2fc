//! Small changes of an object, made by walking through it and the field table together.
//!
//! Invariant: an edit applies to any object, also to one that lacks what it was made for: it does nothing then. So edits can
//! be left out one by one when a case is made smaller.

use serde::Serialize;
use serde_json::{Value, json};
use trireme_api::schema::{Struct, Type};

use crate::chance::Chance;
use crate::values;

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// What is done there.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum What {
    Set(Value),
    Remove,
    /// A list gets its element of this index once more.
    Repeat(usize),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Edit {
    pub(crate) path: Vec<Step>,
    pub(crate) what: What,
}

/// Of the metadata, what a client has a say in.
const METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences", "generation"];

impl Edit {
    /// A random change of an object of this type.
    pub(crate) fn random(object: &Value, ty: &'static Struct, chance: &mut Chance) -> Self {
        let (mut path, mut here, mut ty) = (Vec::new(), object, ty);
        loop {
            let fields: Vec<_> = ty
                .fields
                .iter()
                .filter(|field| field.tag != 0 && (ty.name != "ObjectMeta" || METADATA.contains(&field.json)))
                .filter(|field| !path.is_empty() || field.json != "metadata" || chance.percent(25))
                .collect();
            if fields.is_empty() {
                return Self {
                    path,
                    what: What::Set(json!({})),
                };
            }
            // Most of the time through what is there, so that changes come deep.
            let present: Vec<_> = fields
                .iter()
                .copied()
                .filter(|field| here.get(field.json).is_some())
                .collect();
            if path.is_empty() && chance.percent(2) {
                return Self {
                    path: vec![Step::Key("unknownField".into())],
                    what: What::Set(json!(1)),
                };
            }
            let field = if !present.is_empty() && chance.percent(65) {
                *chance.pick(&present)
            } else {
                *chance.pick(&fields)
            };
            path.push(Step::Key(field.json.to_owned()));
            let Some(found) = here.get(field.json) else {
                let what = What::Set(values::value(field, chance));
                return Self { path, what };
            };
            match (field.ty, found) {
                (Type::Struct(inner), Value::Object(_)) if !chance.percent(8) => (here, ty) = (found, inner.get()),
                (Type::List(Type::Struct(inner)), Value::Array(items)) if !items.is_empty() && !chance.percent(12) => {
                    let index = chance.below(items.len());
                    path.push(Step::Index(index));
                    (here, ty) = (&items[index], inner.get());
                }
                (_, Value::Array(items)) if !items.is_empty() && chance.percent(30) => {
                    let what = What::Repeat(chance.below(items.len()));
                    return Self { path, what };
                }
                _ if chance.percent(25) => {
                    return Self {
                        path,
                        what: What::Remove,
                    };
                }
                _ => {
                    let what = What::Set(values::value(field, chance));
                    return Self { path, what };
                }
            }
        }
    }

    /// Changes an object.
    pub(crate) fn apply(&self, object: &mut Value) {
        let Some((last, before)) = self.path.split_last() else {
            return;
        };
        let mut here = object;
        for step in before {
            let next = match (step, here) {
                (Step::Key(key), Value::Object(map)) => map.get_mut(key),
                (Step::Index(index), Value::Array(items)) => items.get_mut(*index),
                _ => None,
            };
            let Some(next) = next else { return };
            here = next;
        }
        match (last, here, &self.what) {
            (Step::Key(key), Value::Object(map), What::Set(value)) => drop(map.insert(key.clone(), value.clone())),
            (Step::Key(key), Value::Object(map), What::Remove) => drop(map.remove(key)),
            (Step::Key(key), Value::Object(map), What::Repeat(index)) => {
                if let Some(Value::Array(items)) = map.get_mut(key)
                    && let Some(item) = items.get(*index).cloned()
                {
                    items.push(item);
                }
            }
            _ => {}
        }
    }

    /// The change as an operation of a JSON patch.
    pub(crate) fn operation(&self, object: &Value) -> Value {
        let pointer: String = self
            .path
            .iter()
            .map(|step| match step {
                Step::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => format!("/{index}"),
            })
            .collect();
        match &self.what {
            What::Set(value) => json!({"op": "add", "path": pointer, "value": value}),
            What::Remove => json!({"op": "remove", "path": pointer}),
            What::Repeat(index) => {
                let item = object.pointer(&format!("{pointer}/{index}")).cloned().unwrap_or_default();
                json!({"op": "add", "path": format!("{pointer}/-"), "value": item})
            }
        }
    }

    /// The part of a changed object that a merge or strategic patch for this change holds: lists are there as a whole, what
    /// was removed is null.
    pub(crate) fn patch_into(&self, patch: &mut Value, changed: &Value) {
        let (mut to, mut from) = (patch, changed);
        for (position, step) in self.path.iter().enumerate() {
            let Step::Key(key) = step else { return };
            let found = from.get(key).unwrap_or(&Value::Null);
            let ends = position + 1 == self.path.len() || !found.is_object();
            if !to.is_object() {
                return;
            }
            if ends {
                to[key] = found.clone();
                return;
            }
            if to.get(key).is_none() {
                to[key] = json!({});
            }
            to = &mut to[key];
            from = found;
        }
    }
}

#[cfg(test)]
mod tests {
    use trireme_resources::rows;

    use super::*;

    #[test]
    fn edits_apply_to_anything_and_say_themselves_as_patches() {
        let edit = Edit {
            path: vec![
                Step::Key("spec".into()),
                Step::Key("ports".into()),
                Step::Index(1),
                Step::Key("port".into()),
            ],
            what: What::Set(json!(7)),
        };
        let mut object = json!({"spec": {"ports": [{"port": 1}, {"port": 2}]}});
        for mut other in [json!({}), json!({"spec": 1}), json!({"spec": {"ports": []}})] {
            let before = other.clone();
            edit.apply(&mut other);
            assert_eq!(other, before);
        }
        edit.apply(&mut object);
        assert_eq!(object["spec"]["ports"][1]["port"], 7);
        assert_eq!(edit.operation(&object)["path"], "/spec/ports/1/port");
        let mut patch = json!({});
        edit.patch_into(&mut patch, &object);
        assert_eq!(patch, object);
    }

    #[test]
    fn a_seed_makes_the_same_edits_and_all_kinds_have_some() {
        for row in rows::rows() {
            let edits = |seed| -> Vec<Edit> {
                let mut chance = Chance::new(seed, 1);
                (0..20).map(|_| Edit::random(&json!({}), row.schema(), &mut chance)).collect()
            };
            assert_eq!(edits(3), edits(3), "{}", row.kind);
        }
    }
}
