//! Whether a schema of a definition is as decoding would leave it: a look that costs a fraction of decoding it.
//!
//! Invariant: what is found to be settled, decoding gives as it is. The other way round it need not be: what is rare is not
//! looked at closely.

use serde_json::{Map, Value};

use crate::bulk::Path;
use crate::schema::{Field, Struct, Type, json_schema_props};

/// Whether a value of a struct is as decoding would leave it, with nothing empty in it.
pub(super) fn structure(value: &Value, ty: &'static Struct) -> bool {
    Want::Struct(ty).has(value)
}

/// What is wanted somewhere in a definition.
#[derive(Clone, Copy)]
pub(crate) enum Want {
    /// A struct.
    Struct(&'static Struct),
    /// A value of that type.
    Type(&'static Type),
}

impl Want {
    /// What is wanted where a path within a struct leads.
    pub(crate) fn at(ty: &'static Struct, at: Path) -> Option<Self> {
        at.iter().try_fold(Self::Struct(ty), |want, name| Some(want.member(name)?.0))
    }

    /// Whether a value is as decoding would leave it, with nothing empty in it.
    fn has(self, value: &Value) -> bool {
        self.has_alone(value)
            && match value {
                Value::Array(items) => self.item().is_some_and(|item| items.iter().all(|value| item.has(value))),
                Value::Object(members) => {
                    let has = |(name, value): (&String, &Value)| {
                        self.member(name)
                            .is_some_and(|(want, field)| field.is_none_or(|field| keeps(field, value)) && want.has(value))
                    };
                    members.iter().all(has) && self.is_complete(members)
                }
                _ => true,
            }
    }

    /// The same of a value, whatever its items or members are worth.
    pub(crate) fn has_alone(self, value: &Value) -> bool {
        let ty = match self {
            Self::Struct(_) => return value.is_object(),
            Self::Type(ty) => ty,
        };
        match (ty, value) {
            (Type::String, Value::String(_))
            | (Type::Bool | Type::SchemaOrBool, Value::Bool(_))
            | (Type::Struct(_) | Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings, Value::Object(_))
            | (Type::Json, Value::Bool(_) | Value::String(_)) => true,
            (Type::Int64 | Type::Double | Type::Json, Value::Number(number)) => number.is_i64(),
            (Type::List(_) | Type::SchemaOrArray | Type::SchemaOrStrings | Type::Json, Value::Array(items)) => !items.is_empty(),
            (Type::Map(_) | Type::Json, Value::Object(members)) => !members.is_empty(),
            _ => false,
        }
    }

    /// What is wanted of the items of a list.
    pub(crate) fn item(self) -> Option<Self> {
        match self {
            Self::Type(Type::List(inner)) => Some(Self::Type(inner)),
            Self::Type(Type::SchemaOrArray) => Some(Self::Struct(json_schema_props())),
            Self::Type(Type::SchemaOrStrings) => Some(Self::Type(&Type::String)),
            Self::Type(Type::Json) => Some(self),
            _ => None,
        }
    }

    /// What is wanted of an object's member of that name, and its field if the object is a struct.
    pub(crate) fn member(self, name: &str) -> Option<(Self, Option<&'static Field>)> {
        match self {
            Self::Type(Type::Map(inner)) => Some((Self::Type(inner), None)),
            Self::Type(Type::Json) => Some((self, None)),
            _ => {
                let field = self.fields()?.field(name)?;
                Some((Self::Type(&field.ty), Some(field)))
            }
        }
    }

    /// Whether an object has what Go always writes.
    pub(crate) fn is_complete(self, members: &Map<String, Value>) -> bool {
        self.fields()
            .is_none_or(|ty| ty.always_written().all(|field| members.contains_key(field.json)))
    }

    fn fields(self) -> Option<&'static Struct> {
        match self {
            Self::Struct(ty) => Some(ty),
            Self::Type(ty) => ty.structure(),
        }
    }
}

/// Whether decoding keeps a member that is worth so much.
pub(crate) fn keeps(field: &Field, value: &Value) -> bool {
    let zero = match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    field.pointer || !field.omitempty || !zero
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::cost::{Ledger, values_in};
    use crate::decode::typed;

    fn is_settled(schema: &Value) -> bool {
        structure(schema, json_schema_props())
    }

    #[test]
    fn schemas_as_they_are_stored_are_settled() {
        for schema in [
            json!({}),
            json!({"type": "object", "required": ["a"], "minProperties": 0, "maximum": 5, "nullable": true, "default": {"a": [1, "b"]},
                "properties": {"a": {"items": {"type": "string"}}, "b": {"additionalProperties": true, "enum": ["x", 1]},
                "c": {"not": {}, "anyOf": [{"format": "date"}], "dependencies": {"x": ["y"], "z": {}}}},
                "x-kubernetes-list-map-keys": ["k"], "x-kubernetes-validations": [{"rule": "self == 1"}]}),
        ] {
            assert!(is_settled(&schema), "{schema}");
            assert!(typed::is_settled(&schema, Type::SchemaOrArray), "{schema}");
        }
        for schema in [
            json!({"unheard": 1}),
            json!({"type": ""}),
            json!({"type": 7}),
            json!({"type": null}),
            json!({"uniqueItems": false}),
            json!({"required": []}),
            json!({"maximum": 5.0}),
            json!({"default": null}),
            json!({"default": {"a": 1.0}}),
            json!({"properties": {"a": {"properties": {"b": 7}}}}),
            json!({"items": [{"type": ""}]}),
            json!({"x-kubernetes-validations": [{"message": "no rule"}]}),
        ] {
            assert!(!is_settled(&schema), "{schema}");
        }
    }

    /// A value that may stand in a schema, at its place or at another.
    fn any() -> impl Strategy<Value = Value> {
        let names = [
            "type",
            "properties",
            "items",
            "default",
            "enum",
            "not",
            "maximum",
            "allOf",
            "required",
            "nullable",
            "a",
        ];
        let scalars = prop_oneof![
            Just(json!(null)),
            Just(json!("")),
            Just(json!("string")),
            Just(json!(0)),
            Just(json!(7)),
            Just(json!(1.0)),
            Just(json!(true)),
            Just(json!(false)),
        ];
        scalars.prop_recursive(4, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::vec((prop::sample::select(names.to_vec()), inner), 0..4).prop_map(|members| Value::Object(
                    members
                        .into_iter()
                        .map(|(name, member)| (name.to_owned(), member))
                        .collect::<Map<_, _>>()
                )),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn what_is_settled_is_left_as_it_is(schema in any()) {
            // What is read is looked at as it comes; floats are read in another way.
            let versions = json!([{"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": schema}}]);
            let text = json!({"spec": {"scope": "", "versions": versions, "z": {"versions": 7}}, "versions": []}).to_string();
            let definition = crate::schema::kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
            let bulk: Option<(Path, &'static Struct)> = Some((&["spec", "versions"], definition));
            if let Some((_, settled)) = crate::read::plain(text.as_bytes(), &mut Ledger::new(), bulk) {
                prop_assert_eq!(settled, is_settled(&schema).then(|| values_in(&versions)), "{}", versions);
            }
            if is_settled(&schema) {
                prop_assert!(typed::is_settled(&schema, Type::SchemaOrArray), "{schema}");
            }
        }
    }
}
