//! Schemas and paths of custom resources, out of their definitions' schemas.
//!
//! Invariant: a schema says what the definition's does, with the type and metadata that every object has; in the older form only
//! what that has words for, since kubectl refuses what it does not know there.

use serde_json::{Map, Value, json};
use trireme_resources::Resource;
use trireme_resources::custom::{Registry, Served};

use super::schemas::{Maker, OPENAPI, meta_name};
use super::{bare_document, paths};

/// The name of a custom kind's schema: the group's parts the other way round, then version and kind.
pub(super) fn schema_name(row: &Resource) -> String {
    let mut group: Vec<&str> = row.group.split('.').collect();
    group.reverse();
    format!("{}.{}.{}", group.join("."), row.version, row.kind)
}

/// The document of a group and version in the third version's form.
pub(super) fn document(registry: &Registry, group: &str, version: &str) -> Value {
    let mut maker = Maker::new(OPENAPI, group, version);
    maker.common(group, version);
    let mut all = Map::new();
    for found in registry.shown(group, version) {
        schemas(&mut maker, &found.served);
        paths::add(&mut all, found.served.row);
    }
    let mut document = bare_document();
    document["paths"] = all.into();
    document["components"] = json!({"schemas": maker.schemas});
    document
}

/// Adds the schemas of a kind and of its list.
pub(super) fn schemas(maker: &mut Maker, served: &Served) {
    let row = served.row;
    let older = maker.is_older();
    let name = schema_name(row);
    let kinds = |kind: &str| json!([{"group": row.group, "version": row.version, "kind": kind}]);
    let of_metadata = |name: &str| maker.reference(&meta_name(name));
    let (object_meta, list_meta) = (of_metadata("ObjectMeta"), of_metadata("ListMeta"));
    let [api_version, kind] = maker.type_meta();
    let keeps = served.schema["x-kubernetes-preserve-unknown-fields"] == true
        || served.structural().is_some_and(|schema| !schema.prunes());
    let mut schema = if served.structural().is_none() || (older && keeps) {
        json!({"type": "object"})
    } else {
        let mut schema = served.schema.clone();
        shape(&mut schema, older, &[&api_version, &kind, &object_meta]);
        if !schema["properties"].is_object() {
            schema["properties"] = json!({});
        }
        schema["properties"]["apiVersion"] = api_version.clone();
        schema["properties"]["kind"] = kind.clone();
        schema["properties"]["metadata"] = object_meta.clone();
        schema
    };
    schema["x-kubernetes-group-version-kind"] = kinds(row.kind);
    if !row.selectable.is_empty() {
        let fields: Vec<Value> = row.selectable.iter().map(|path| json!({"fieldPath": path})).collect();
        schema["x-kubernetes-selectable-fields"] = fields.into();
    }
    let list_kind = row.list_kind();
    let list = json!({
        "type": "object",
        "description": format!("{list_kind} is a list of {}", row.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": list_meta,
            "items": {
                "type": "array", "items": maker.reference(&name),
                "description": format!("List of {}", row.plural),
            },
        },
        "x-kubernetes-group-version-kind": kinds(&list_kind),
    });
    maker.schemas.insert(name.clone(), schema);
    maker.schemas.insert(format!("{name}List"), list);
}

/// Brings a schema, and those within, into the form that is published.
fn shape(schema: &mut Value, older: bool, typed: &[&Value; 3]) {
    let Some(members) = schema.as_object_mut() else { return };
    members.retain(|name, value| !(name.starts_with("x-kubernetes-") && *value == false));
    let keeps = members
        .get("x-kubernetes-preserve-unknown-fields")
        .is_some_and(|keeps| *keeps == true);
    if older {
        older_form(members, keeps);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = members.get_mut(name) {
            shape(inner, older, typed);
        }
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(|property| shape(property, older, typed));
    }
    let embedded = members.get("x-kubernetes-embedded-resource").is_some_and(|own| *own == true);
    if embedded && !(older && keeps) {
        let [api_version, kind, metadata] = *typed;
        let properties = members.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = api_version.clone();
        properties["kind"] = kind.clone();
        properties["metadata"] = metadata.clone();
        let required = members.entry("required").or_insert_with(|| json!([]));
        for name in ["kind", "apiVersion"] {
            if let Some(list) = required.as_array_mut().filter(|list| !list.iter().any(|own| own == name)) {
                list.push(name.into());
            }
        }
    }
}

/// Takes out what the older form has no words for, and what kubectl would misread.
fn older_form(members: &mut Map<String, Value>, keeps: bool) {
    for name in ["allOf", "oneOf", "anyOf", "not"] {
        members.remove(name);
    }
    let nullable = members.remove("nullable").is_some_and(|nullable| nullable == true);
    if nullable {
        members.remove("type");
    }
    if nullable || keeps {
        members.remove("items");
        members.remove("properties");
    }
    let is = |members: &Map<String, Value>, kind: &str| members.get("type").is_some_and(|own| own == kind);
    if (is(members, "array") && !members.contains_key("items")) || (keeps && is(members, "object")) {
        members.remove("type");
    }
    let nullables: Vec<String> = members
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| property["nullable"] == true)
        .map(|(name, _)| name.clone())
        .collect();
    let any = members
        .get("additionalProperties")
        .is_some_and(|inner| inner["nullable"] == true);
    if let Some(Value::Array(required)) = members.get_mut("required") {
        required.retain(|name| !any && !nullables.iter().any(|own| name == own));
        if required.is_empty() {
            members.remove("required");
        }
    }
}
