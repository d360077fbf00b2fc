//! Version 2: one document of all groups, in the older form.
//!
//! Invariant: it says what version 3 says, as far as the older form has words for it.

use serde_json::{Map, Value, json};
use trireme_resources::custom::Registry;
use trireme_resources::rows;

use super::schemas::{Maker, OPENAPI, SWAGGER};
use super::{custom, paths, places};

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];
/// The member in which a kind's definition tells whose it is.
const OF_KINDS: &str = "x-kubernetes-group-version-kind";

/// The document.
#[must_use]
pub(super) fn document(registry: &Registry) -> Value {
    let mut definitions = Map::new();
    for (_, group, version) in places() {
        let mut maker = Maker::new(SWAGGER, group, version);
        maker.group(group, version);
        for (name, definition) in maker.schemas {
            define(&mut definitions, name, definition);
        }
    }
    let mut all = Map::new();
    for row in rows() {
        paths::add(&mut all, row);
    }
    for (group, versions) in registry.groups() {
        for version in versions {
            let mut maker = Maker::new(SWAGGER, group, version);
            maker.common(group, version);
            for found in registry.shown(group, version) {
                custom::schemas(&mut maker, &found.served);
                paths::add(&mut all, found.served.row);
            }
            for (name, definition) in maker.schemas {
                define(&mut definitions, name, definition);
            }
        }
    }
    let paths: Map<String, Value> = all.into_iter().map(|(path, item)| (path, path_item(item))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
        }},
        "security": [{"BearerToken": []}],
    })
}

/// Adds a definition; what several groups share is of all their kinds.
fn define(definitions: &mut Map<String, Value>, name: String, mut definition: Value) {
    if let Some(known) = definitions.get_mut(&name) {
        let mut kinds = known[OF_KINDS].as_array().cloned().unwrap_or_default();
        for kind in definition[OF_KINDS].as_array().into_iter().flatten() {
            if !kinds.contains(kind) {
                kinds.push(kind.clone());
            }
        }
        if !kinds.is_empty() {
            definition[OF_KINDS] = kinds.into();
        } else if let Some(members) = definition.as_object_mut() {
            members.remove(OF_KINDS);
        }
    }
    definitions.insert(name, definition);
}

fn path_item(mut item: Value) -> Value {
    for parameter in item["parameters"].as_array_mut().into_iter().flatten() {
        flatten(parameter);
    }
    for method in METHODS {
        if let Some(operation) = item.get_mut(method) {
            *operation = of_operation(operation.take());
        }
    }
    item
}

fn of_operation(mut operation: Value) -> Value {
    let mut parameters = Vec::new();
    let mut consumes = vec![Value::from("*/*")];
    if let Some(mut body) = operation.as_object_mut().and_then(|members| members.remove("requestBody")) {
        let content = body["content"].as_object().cloned().unwrap_or_default();
        consumes = content.keys().cloned().map(Value::from).collect();
        let schema = content.values().next().map(|content| content["schema"].clone());
        let mut parameter = json!({"in": "body", "name": "body", "schema": refer(schema.unwrap_or_default())});
        if body["required"].take() == true {
            parameter["required"] = true.into();
        }
        parameters.push(parameter);
    }
    if let Some(Value::Array(mut others)) = operation.get_mut("parameters").map(Value::take) {
        others.iter_mut().for_each(flatten);
        parameters.append(&mut others);
    }
    let mut produces: Vec<Value> = Vec::new();
    for response in operation["responses"]
        .as_object_mut()
        .into_iter()
        .flat_map(|all| all.values_mut())
    {
        let content = response.as_object_mut().and_then(|members| members.remove("content"));
        let Some(Value::Object(content)) = content else { continue };
        for media in content.keys() {
            if !produces.iter().any(|known| known == media) {
                produces.push(media.clone().into());
            }
        }
        if let Some(content) = content.values().next() {
            response["schema"] = refer(content["schema"].clone());
        }
    }
    operation["consumes"] = consumes.into();
    operation["produces"] = produces.into();
    operation["schemes"] = json!(["https"]);
    operation["parameters"] = parameters.into();
    operation
}

/// The type of a parameter stands beside its name.
fn flatten(parameter: &mut Value) {
    if let Some(members) = parameter.as_object_mut()
        && let Some(Value::Object(schema)) = members.remove("schema")
    {
        members.extend(schema);
    }
}

/// Schemas are kept elsewhere.
fn refer(mut schema: Value) -> Value {
    let name = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix(OPENAPI));
    if let Some(name) = name.map(str::to_owned) {
        schema["$ref"] = format!("{SWAGGER}{name}").into();
    } else if let Some(members) = schema.as_object_mut() {
        members.remove("$ref");
    }
    schema
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// That a schema and those within have only words of this version.
    fn check(name: &str, schema: &Value) {
        const WORDS: [&str; 8] = [
            "$ref",
            "type",
            "format",
            "description",
            "properties",
            "required",
            "items",
            "additionalProperties",
        ];
        for (word, value) in schema.as_object().unwrap() {
            assert!(WORDS.contains(&word.as_str()) || word.starts_with("x-"), "{name}: {word}");
            match word.as_str() {
                "properties" => value.as_object().unwrap().values().for_each(|own| check(name, own)),
                "items" | "additionalProperties" => check(name, value),
                _ => {}
            }
        }
    }

    #[test]
    fn the_document_is_whole_and_in_the_older_form() {
        let document = document(&Registry::default());
        let definitions = document["definitions"].as_object().unwrap();
        let text = document.to_string();
        for reference in text.split("\"#/").skip(1) {
            let name = reference.split('"').next().unwrap().strip_prefix("definitions/").unwrap();
            assert!(definitions.contains_key(name), "{name}");
        }
        for (name, definition) in definitions {
            check(name, definition);
        }
        let options = &definitions["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"][OF_KINDS];
        assert_eq!(options.as_array().unwrap().len(), places().len());

        let item = &document["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"];
        let patch = &item["patch"];
        assert_eq!(patch["operationId"], "patchCoreV1NamespacedConfigMap");
        assert_eq!(patch["parameters"][0]["in"], "body");
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|own| own["name"] == "dryRun" && own["type"] == "string")
        );
        assert_eq!(
            patch["responses"]["200"]["schema"]["$ref"],
            "#/definitions/io.k8s.api.core.v1.ConfigMap"
        );
        let mut ids = BTreeSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for method in METHODS.iter().filter_map(|method| item.get(method)) {
                let id = method["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{id} twice");
            }
        }
        for id in [
            "createCoreV1NamespacedPodEviction",
            "replaceAppsV1NamespacedDeploymentScale",
            "connectCoreV1GetNamespacedPodExec",
            "deleteRbacAuthorizationV1CollectionClusterRole",
            "listEventsV1EventForAllNamespaces",
        ] {
            assert!(ids.contains(id), "{id}");
        }
    }
}
