//! Whether the defaults of a structural schema fit it (pkg/apiserver/schema/defaulting, pruning, objectmeta).
//!
//! Invariant: a default inside metadata is judged with the object around it that it would make. All defaults of one schema
//! together cost a bounded number of steps.

use serde_json::{Map, Value, json};

use super::super::embedded;
use super::super::errors::Errors;
use super::super::node::Node;
use super::members::{Members, Oddity, Survey};
use super::value::{self, Budget};
use trireme_api::field::aggregate;

/// Most schemas that are held against the defaults of one schema.
const STEPS_MAX: usize = 200_000;

const META: &[&str] = &["apiVersion", "kind", "metadata"];

/// The object around a default inside metadata.
#[derive(Clone, Copy)]
struct Around<'a> {
    /// The schema of the nearest resource.
    resource: &'a Value,
    /// How long the way to it is.
    start: usize,
    inside_metadata: bool,
}

/// What of the defaults does not fit; only asked where the schema is structural.
pub(super) fn check(errors: &mut Errors, schema: &Node<'_>, pruned: bool, survey: &Survey) {
    let mut walk = Walk {
        survey,
        pruned,
        budget: Budget::new(STEPS_MAX),
        way: Vec::new(),
    };
    let around = Around {
        resource: schema.value,
        start: 0,
        inside_metadata: false,
    };
    walk.schema(errors, schema, Members::of(schema.value), true, around);
    if walk.budget.spent() {
        errors.push(schema.forbidden(format!("defaults may take at most {STEPS_MAX} steps to validate")));
    }
}

/// Whether a default of a schema has fields that the schema does not know.
pub(super) fn unpruned(schema: &Node<'_>, members: Members) -> bool {
    let default = schema.at("default");
    members.any(Members::DEFAULT) && prune(default.value, schema.value, is_embedded(schema)) != *default.value
}

fn is_embedded(schema: &Node<'_>) -> bool {
    schema.is("x-kubernetes-embedded-resource")
}

struct Walk<'a> {
    survey: &'a Survey,
    pruned: bool,
    budget: Budget,
    /// The way from the root to the schema at hand: the names of members, none for elements of lists.
    way: Vec<Option<&'a str>>,
}

impl<'a> Walk<'a> {
    fn schema(&mut self, errors: &mut Errors, schema: &Node<'a>, members: Members, root: bool, mut around: Around<'a>) {
        let resource = root || members.any(Members::EMBEDDED) && is_embedded(schema);
        if resource {
            around = Around {
                resource: schema.value,
                start: self.way.len(),
                inside_metadata: false,
            };
        }
        if members.any(Members::DEFAULT) {
            let default = schema.at("default");
            if around.inside_metadata {
                self.of_metadata(errors, &default, schema, around);
            } else {
                self.plain(errors, &default, schema, members, resource);
            }
        }
        if members.any(Members::ITEMS) {
            self.way.push(None);
            let items = schema.at("items");
            self.schema(errors, &items, Members::of(items.value), false, around);
            self.way.pop();
        }
        if !members.any(Members::PROPERTIES) {
            return;
        }
        let properties = schema.at("properties");
        let survey = self.survey;
        for odd in survey.odd(properties.value) {
            let below = Around {
                inside_metadata: around.inside_metadata || (resource && META.contains(&odd.name)),
                ..around
            };
            match odd.oddity {
                Oddity::Rules => continue,
                Oddity::Default if !below.inside_metadata => {
                    self.budget.take(1);
                    continue;
                }
                Oddity::Default | Oddity::Other => {}
            }
            self.way.push(Some(odd.name));
            self.schema(errors, &properties.entry(odd.name, odd.schema), odd.members, false, below);
            self.way.pop();
        }
    }

    fn plain(&mut self, errors: &mut Errors, default: &Node<'_>, schema: &Node<'_>, members: Members, resource: bool) {
        // What only has to be of its type, and is.
        if !members.any(Members::NARROW) && value::kind(default.value) == schema.text("type") {
            self.budget.take(1);
            return;
        }
        let has_members = default.value.is_object() || default.value.is_array();
        if has_members && self.pruned && prune(default.value, schema.value, resource) != *default.value {
            errors.push(default.invalid("must not have unknown fields"));
        }
        let start = errors.len();
        if has_members && coerced(errors, default, schema.value, resource) {
            resources(errors, default, schema.value, resource);
        }
        if errors.len() == start {
            value::check(errors, default, schema.value, &mut self.budget);
        }
    }

    fn of_metadata(&mut self, errors: &mut Errors, default: &Node<'_>, schema: &Node<'_>, around: Around<'_>) {
        let mut object = default.value.clone();
        for step in self.way.iter().skip(around.start).rev() {
            object = match step {
                Some(name) => Value::Object(Map::from_iter([((*name).to_owned(), object)])),
                None => json!([object]),
            };
        }
        if let Value::Object(members) = &mut object {
            members.entry("kind").or_insert_with(|| Value::from("Validation"));
            members.entry("apiVersion").or_insert_with(|| Value::from("validation/v1"));
        }
        let mut inner = Errors::new();
        let root = Node::root(&object);
        if coerced(&mut inner, &root, around.resource, true) {
            resources(&mut inner, &root, around.resource, true);
        }
        if inner.is_empty() {
            value::check(errors, default, schema.value, &mut self.budget);
        } else {
            errors.push(default.invalid(format!("must result in valid metadata: {}", aggregate(&Vec::from(inner)))));
        }
    }
}

/// A value without the fields that its schema does not know.
fn prune(value: &Value, schema: &Value, resource: bool) -> Value {
    let flag = |schema: &Value, name: &str| schema.get(name) == Some(&Value::Bool(true));
    let resource = resource || flag(schema, "x-kubernetes-embedded-resource");
    let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter_map(|(name, member)| {
                let property = schema.get("properties").and_then(|properties| properties.get(name));
                let kept = if resource && META.contains(&name.as_str()) {
                    member.clone()
                } else if let Some(property) = property {
                    prune(member, property, false)
                } else {
                    match schema.get("additionalProperties").filter(|additional| !additional.is_null()) {
                        Some(additional @ Value::Object(_)) => prune(member, additional, false),
                        Some(_) => prune(member, &Value::Null, false),
                        None if preserve => member.clone(),
                        None => return None,
                    }
                };
                Some((name.clone(), kept))
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => {
            let inner = schema.get("items").unwrap_or(&Value::Null);
            if preserve && inner.is_null() {
                return value.clone();
            }
            Value::Array(items.iter().map(|item| prune(item, inner, false)).collect())
        }
        scalar => scalar.clone(),
    }
}

/// Goes through the resources in a value, as its schema says where they are.
fn each_resource<'a>(value: &Node<'a>, schema: &Value, resource: bool, look: &mut dyn FnMut(&Node<'a>)) {
    let resource = resource || schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
    match value.value {
        Value::Object(members) => {
            if resource {
                look(value);
            }
            for name in members.keys() {
                if let Some(property) = schema.get("properties").and_then(|properties| properties.get(name)) {
                    each_resource(&value.at(name), property, false, look);
                } else if let Some(additional) = schema.get("additionalProperties") {
                    each_resource(&value.key(name), additional, false, look);
                }
            }
        }
        Value::Array(_) => {
            let inner = schema.get("items").unwrap_or(&Value::Null);
            for item in value.items() {
                each_resource(&item, inner, false, look);
            }
        }
        _ => {}
    }
}

/// Whether the resources in a value can be read; the first that cannot is told.
fn coerced(errors: &mut Errors, value: &Node<'_>, schema: &Value, resource: bool) -> bool {
    let mut found = None;
    each_resource(value, schema, resource, &mut |node| {
        for name in ["apiVersion", "kind"] {
            let at = node.at(name);
            if node.value.get(name).is_some_and(|value| !value.is_string()) {
                found.get_or_insert_with(|| at.invalid("must be a string"));
            }
        }
        let at = node.at("metadata");
        if at.set() && !at.value.is_object() {
            found.get_or_insert_with(|| {
                at.invalid(format!(
                    "json: cannot unmarshal {} into Go value of type v1.ObjectMeta",
                    trireme_api::go::kind(at.value)
                ))
            });
        }
    });
    let fits = found.is_none();
    errors.extend(found);
    fits
}

/// What is wrong with the resources in a value.
fn resources(errors: &mut Errors, value: &Node<'_>, schema: &Value, resource: bool) {
    each_resource(value, schema, resource, &mut |node| embedded::resource(errors, node));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(schema: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        let node = Node {
            path: "s".into(),
            value: schema,
        };
        check(&mut errors, &node, true, &Survey::default());
        errors.into_iter().map(|error| error.to_string()).collect()
    }

    #[test]
    fn regular_expressions_of_defaults_cost_what_making_them_does() {
        let schema = |pattern: &dyn Fn(usize) -> String| {
            let property = |n| {
                (
                    format!("p{n}"),
                    json!({"type": "string", "default": "x", "pattern": pattern(n)}),
                )
            };
            let all: Map<String, Value> = (0..5_000).map(property).collect();
            json!({"type": "object", "properties": all})
        };
        assert_eq!(told(&schema(&|_| "^x$".into())), Vec::<String>::new(), "one is made once");
        for pattern in [&|n| format!("^(x{{1,9}}|y*)*({n})?$"), &|n| {
            format!("^\\pL{{1,{}}}$", n % 900 + 99)
        }] as [&dyn Fn(usize) -> String; 2]
        {
            let found = told(&schema(pattern));
            let last = found.last().map(String::as_str);
            assert_eq!(last, Some("s: Forbidden: defaults may take at most 200000 steps to validate"));
        }
    }

    #[test]
    fn defaults_fit_their_schema_and_know_all_their_fields() {
        let property = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
        for (schema, words) in [
            (json!({"type": "integer", "default": 3, "maximum": 4}), None),
            (
                json!({"type": "integer", "default": "x"}),
                Some("s.properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\""),
            ),
            (
                json!({"type": "integer", "default": 5, "maximum": 4}),
                Some("s.properties[a].default: Invalid value: 5:  in body should be less than or equal to 4"),
            ),
            (
                json!({"type": "object", "default": {"b": 1}}),
                Some("s.properties[a].default: Invalid value: {\"b\":1}: must not have unknown fields"),
            ),
            (
                json!({"type": "string", "enum": ["a", "b"], "default": "c"}),
                Some("s.properties[a].default: Unsupported value: \"c\": supported values: \"a\", \"b\""),
            ),
            (
                json!({"type": "object", "required": ["b"], "properties": {"b": {"type": "string"}}, "default": {}}),
                Some("s.properties[a].default.b: Required value"),
            ),
        ] {
            let found = told(&property(schema));
            assert_eq!(found.first().map(String::as_str), words, "{found:?}");
        }
    }
}
