//! Whether a schema of a definition is as decoding would leave it: a look that costs a fraction of decoding it.
//!
//! Invariant: what is found to be settled, decoding gives as it is. The other way round it need not be: what is rare is not
//! looked at closely.

use serde_json::Value;

use crate::schema::{Field, Struct, Type, json_schema_props};

/// Whether a value of a struct is as decoding would leave it, with nothing empty in it.
pub(super) fn structure(value: &Value, ty: &'static Struct) -> bool {
    let Value::Object(members) = value else { return false };
    let known = members
        .iter()
        .all(|(name, value)| ty.field(name).is_some_and(|field| member(value, field)));
    known && ty.always_written().all(|field| members.contains_key(field.json))
}

fn member(value: &Value, field: &'static Field) -> bool {
    let zero = match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    (field.pointer || !field.omitempty || !zero) && of_type(value, &field.ty)
}

fn of_type(value: &Value, ty: &Type) -> bool {
    match (ty, value) {
        (Type::String, Value::String(_)) | (Type::Bool | Type::SchemaOrBool, Value::Bool(_)) => true,
        (Type::Int64, Value::Number(number)) => number.is_i64(),
        (Type::Double, Value::Number(number)) => number.is_i64(),
        (Type::Struct(reference), value) => structure(value, reference.get()),
        (Type::List(inner), Value::Array(items)) => !items.is_empty() && items.iter().all(|item| of_type(item, inner)),
        (Type::Map(inner), Value::Object(members)) => {
            !members.is_empty() && members.values().all(|member| of_type(member, inner))
        }
        (Type::Json, value) => is_plain(value),
        (Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings, Value::Object(_)) => {
            structure(value, json_schema_props())
        }
        (Type::SchemaOrArray, Value::Array(items)) => {
            !items.is_empty() && items.iter().all(|item| structure(item, json_schema_props()))
        }
        (Type::SchemaOrStrings, Value::Array(items)) => !items.is_empty() && items.iter().all(Value::is_string),
        _ => false,
    }
}

/// Whether any JSON is what Go writes for it: without null, fractions, empty lists and maps.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.is_i64(),
        Value::Array(items) => !items.is_empty() && items.iter().all(is_plain),
        Value::Object(members) => !members.is_empty() && members.values().all(is_plain),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
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
            if is_settled(&schema) {
                prop_assert!(typed::is_settled(&schema, Type::SchemaOrArray), "{schema}");
            }
        }
    }
}
