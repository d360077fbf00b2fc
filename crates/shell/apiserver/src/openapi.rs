//! OpenAPI documents, generated from the field table and the rows.
//!
//! Invariant: a document describes one group and version and every struct that it reaches, in upstream's words where there
//! are some. Documents are made on demand and kept only as their hash: they are large and seldom asked for.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use trireme_api::schema::{self, Field, ListType, Strategy, Struct, Type};
use trireme_resources::{Resource, groups, rows};

use crate::descriptions::{self, Descriptions};
use crate::http::body::Body;
use crate::http::query::Query;
use crate::http::respond::{page_not_found, response};
use crate::server::ApiServer;

/// A strong validator of a document.
#[must_use]
pub fn etag(document: &[u8]) -> String {
    format!("\"{}\"", hash(document))
}

fn hash(document: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(document))
}

/// The digest of the document of each place, in the order of `places`; made at the first request for the index.
static DIGESTS: OnceLock<Vec<[u8; 32]>> = OnceLock::new();

/// Nothing that stays is allocated beside a document, so as not to pin its memory; the allocator may still keep it for reuse.
fn digests() -> Vec<[u8; 32]> {
    let places = places();
    let mut digests = Vec::with_capacity(places.len());
    for (_, group, version) in &places {
        let mut digest = Sha256::new();
        serde_json::to_writer(&mut digest, &group_document(group, version)).expect("a JSON value serialises");
        digests.push(digest.finalize().into());
    }
    digests
}

fn places() -> Vec<(String, &'static str, &'static str)> {
    let mut places = vec![("api/v1".to_owned(), "", "v1")];
    for group in groups() {
        for version in group.versions {
            places.push((format!("apis/{}/{version}", group.name), group.name, version));
        }
    }
    places
}

/// `/openapi/v3`: where the documents are.
#[must_use]
pub(crate) fn index(_server: &ApiServer, _parts: &Parts) -> Response<Body> {
    let digests = DIGESTS.get_or_init(digests);
    let mut paths: Map<String, Value> = places()
        .into_iter()
        .zip(digests)
        .map(|((place, ..), digest)| {
            let url = format!("/openapi/v3/{place}?hash={}", hex::encode_upper(digest));
            (place, json!({"serverRelativeURL": url}))
        })
        .collect();
    let mut bare: Vec<String> = ["api", "apis", "version", "openid/v1/jwks", ".well-known/openid-configuration"]
        .map(str::to_owned)
        .to_vec();
    bare.extend(groups().iter().map(|group| format!("apis/{}", group.name)));
    let empty = hash(&serde_json::to_vec(&bare_document()).expect("a JSON value serialises"));
    for place in bare {
        let url = format!("/openapi/v3/{place}?hash={empty}");
        paths.insert(place, json!({"serverRelativeURL": url}));
    }
    let body = serde_json::to_vec(&json!({"paths": paths})).expect("a JSON value serialises");
    // Upstream's index has this type too, though it is JSON.
    response(200, "text/plain; charset=utf-8", Body::whole(body))
}

/// `/openapi/v3/{place}`.
#[must_use]
pub(crate) fn v3(_server: &ApiServer, parts: &Parts, query: &Query, place: &str) -> Response<Body> {
    let place = place.trim_end_matches('/');
    let known = places().into_iter().find(|(own, ..)| own == place);
    let document = match known {
        Some((_, group, version)) => group_document(group, version),
        None if ["api", "apis", "version", "openid/v1/jwks", ".well-known/openid-configuration"].contains(&place)
            || place
                .strip_prefix("apis/")
                .is_some_and(|name| groups().iter().any(|group| group.name == name)) =>
        {
            bare_document()
        }
        None => {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            return answer;
        }
    };
    let body = serde_json::to_vec(&document).expect("a JSON value serialises");
    let mut answer = cached(parts, body.into());
    if query.get("hash").is_some() {
        let forever = HeaderValue::from_static("public, immutable");
        answer.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    answer
}

/// The only form of the second version that kubectl asks for (with `@` for the dot before `v1.0`), and only for kinds
/// that the third does not know.
const SWAGGER_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `swagger`, `info` and empty `paths` of such a document: with it kubectl goes on and says that there is no such kind.
const NOTHING_KNOWN: &[u8] = b"\x0a\x032.0\x12\x15\x0a\x0aKubernetes\x12\x07v1.36.0\x42\x00";

/// `/openapi/v2`, whole as JSON only.
#[must_use]
pub(crate) fn v2(_server: &ApiServer, parts: &Parts) -> Response<Body> {
    let accept = parts
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if accept.contains("com.github.proto-openapi.spec.v2") && !accept.contains("json") {
        return response(200, SWAGGER_PROTOBUF, Body::whole(Bytes::from_static(NOTHING_KNOWN)));
    }
    if !accept.is_empty() && !["json", "*/*"].iter().any(|known| accept.contains(known)) {
        let mut answer = page_not_found();
        *answer.status_mut() = StatusCode::NOT_ACCEPTABLE;
        return answer;
    }
    let mut definitions = Map::new();
    let mut paths = Map::new();
    for (_, group, version) in places() {
        let mut maker = Maker::new(SWAGGER, group, version);
        maker.group(group, version);
        definitions.extend(maker.schemas);
        for row in rows().iter().filter(|row| row.group == group && row.version == version) {
            paths.insert(object_path(row), json!({}));
        }
    }
    let document = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "definitions": definitions,
    });
    cached(parts, serde_json::to_vec(&document).expect("a JSON value serialises").into())
}

fn cached(parts: &Parts, body: Bytes) -> Response<Body> {
    let etag = etag(&body);
    let known = parts.headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()) == Some(etag.as_str());
    let mut answer = if known {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        response(200, "application/json", Body::whole(body))
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        answer.headers_mut().insert(header::ETAG, value);
    }
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    answer
}

fn bare_document() -> Value {
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"}, "paths": {}, "components": {}})
}

fn group_document(group: &str, version: &str) -> Value {
    let mut maker = Maker::new(OPENAPI, group, version);
    maker.group(group, version);
    let mut paths = Map::new();
    for row in rows().iter().filter(|row| row.group == group && row.version == version) {
        add_paths(&mut paths, row);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths,
        "components": {"schemas": maker.schemas},
    })
}

fn base_path(row: &Resource) -> String {
    if row.group.is_empty() {
        "/api/v1".to_owned()
    } else {
        format!("/apis/{}/{}", row.group, row.version)
    }
}

fn collection_path(row: &Resource) -> String {
    let scope = if row.namespaced { "/namespaces/{namespace}" } else { "" };
    format!("{}{scope}/{}", base_path(row), row.plural)
}

fn object_path(row: &Resource) -> String {
    format!("{}/{{name}}", collection_path(row))
}

fn parameter(name: &str, place: &str, kind: &str) -> Value {
    let mut value = json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}});
    if place == "path" {
        value["required"] = true.into();
    }
    value
}

fn content(media_types: &[&str], reference: &str) -> Value {
    let schema = json!({"schema": {"$ref": reference}});
    Value::Object(
        media_types
            .iter()
            .map(|media| ((*media).to_owned(), schema.clone()))
            .collect(),
    )
}

const ANSWERS: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

fn add_paths(paths: &mut Map<String, Value>, row: &Resource) {
    let ty = row.schema();
    let own = format!("#/components/schemas/{}", schema_name(ty));
    let list = format!("{own}List");
    let status = format!("#/components/schemas/{}", meta_name("Status"));
    let kind = json!({"group": row.group, "version": row.version, "kind": row.kind});
    let operation = |action: &str, id: &str, answer: &str, queries: &[&str], body: Option<Value>| {
        let parameters: Vec<Value> = queries
            .iter()
            .map(|name| {
                let flag = matches!(
                    *name,
                    "force" | "watch" | "allowWatchBookmarks" | "sendInitialEvents" | "orphanDependents"
                );
                let number = matches!(*name, "limit" | "timeoutSeconds" | "gracePeriodSeconds");
                parameter(
                    name,
                    "query",
                    if flag {
                        "boolean"
                    } else if number {
                        "integer"
                    } else {
                        "string"
                    },
                )
            })
            .collect();
        let mut value = json!({
            "operationId": format!("{id}{}", row.kind),
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content(ANSWERS, answer)}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
        });
        if let Some(body) = body {
            value["requestBody"] = json!({"content": body, "required": true});
        }
        value
    };
    const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
    const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
    const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
    const LIST: &[&str] = &[
        "allowWatchBookmarks",
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "timeoutSeconds",
        "watch",
    ];
    let scope = |extra: Option<Value>| {
        let mut parameters: Vec<Value> = extra.into_iter().collect();
        if row.namespaced {
            parameters.push(parameter("namespace", "path", "string"));
        }
        parameters.push(parameter("pretty", "query", "string"));
        parameters
    };
    let any = |reference: &str| content(&["*/*"], reference);
    let patch = || content(PATCHES, &format!("#/components/schemas/{}", meta_name("Patch")));
    let mut collection = json!({"parameters": scope(None)});
    let mut object = json!({"parameters": scope(Some(parameter("name", "path", "string")))});
    if row.has_verb("list") {
        collection["get"] = operation("list", "list", &list, LIST, None);
    }
    if row.has_verb("create") {
        collection["post"] = operation("post", "create", &own, WRITE, Some(any(&own)));
    }
    if row.has_verb("deletecollection") {
        collection["delete"] = operation("deletecollection", "deleteCollection", &status, DELETE, None);
    }
    if row.has_verb("get") {
        object["get"] = operation("get", "read", &own, &[], None);
    }
    if row.has_verb("update") {
        object["put"] = operation("put", "replace", &own, WRITE, Some(any(&own)));
    }
    if row.has_verb("patch") {
        object["patch"] = operation("patch", "patch", &own, PATCH, Some(patch()));
    }
    if row.has_verb("delete") {
        object["delete"] = operation("delete", "delete", &status, DELETE, None);
    }
    paths.insert(collection_path(row), collection);
    paths.insert(object_path(row), object);
    if row.namespaced && row.has_verb("list") {
        let mut everywhere = json!({"parameters": [parameter("pretty", "query", "string")]});
        everywhere["get"] = operation("list", "listAll", &list, LIST, None);
        paths.insert(format!("{}/{}", base_path(row), row.plural), everywhere);
    }
    if row.has_status() {
        let mut sub = json!({"parameters": scope(Some(parameter("name", "path", "string")))});
        sub["get"] = operation("get", "readStatus", &own, &[], None);
        sub["put"] = operation("put", "replaceStatus", &own, WRITE, Some(any(&own)));
        sub["patch"] = operation("patch", "patchStatus", &own, PATCH, Some(patch()));
        paths.insert(format!("{}/status", object_path(row)), sub);
    }
}

/// The name of a struct's schema.
fn schema_name(ty: &Struct) -> String {
    descriptions::schema_name(ty.package, ty.name)
}

fn meta_name(name: &str) -> String {
    format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")
}

/// Where version 2 keeps schemas.
const SWAGGER: &str = "#/definitions/";
/// Where version 3 does.
const OPENAPI: &str = "#/components/schemas/";

/// Collects the schemas of a group and version.
struct Maker {
    prefix: &'static str,
    words: Descriptions,
    schemas: Map<String, Value>,
    seen: BTreeSet<String>,
}

impl Maker {
    fn new(prefix: &'static str, group: &str, version: &str) -> Self {
        let packages: BTreeSet<&str> = schema::kinds()
            .filter(|(own_group, own_version, ..)| *own_group == group && *own_version == version)
            .map(|(.., ty)| ty.package)
            .chain([schema::META])
            .collect();
        Self {
            prefix,
            words: Descriptions::of(|package| packages.contains(package)),
            schemas: Map::new(),
            seen: BTreeSet::new(),
        }
    }

    fn group(&mut self, group: &str, version: &str) {
        let mut kinds: Vec<_> = schema::kinds()
            .filter(|(own_group, own_version, ..)| *own_group == group && *own_version == version)
            .collect();
        kinds.sort_by_key(|(_, _, kind, _)| *kind);
        for (_, _, kind, ty) in kinds {
            self.add(ty);
            let gvk = json!([{"group": group, "kind": kind, "version": version}]);
            if let Some(schema) = self.schemas.get_mut(&schema_name(ty)) {
                schema["x-kubernetes-group-version-kind"] = gvk;
            }
        }
        for name in ["DeleteOptions", "Status", "ObjectMeta"] {
            if let Some(ty) = schema::named(schema::META, name) {
                self.add(ty);
            }
        }
        if let Some(options) = self.schemas.get_mut(&meta_name("DeleteOptions")) {
            options["x-kubernetes-group-version-kind"] = json!([{"group": group, "kind": "DeleteOptions", "version": version}]);
        }
        self.schemas.insert(meta_name("Patch"), json!({"type": "object"}));
    }

    fn add(&mut self, ty: &'static Struct) {
        let name = schema_name(ty);
        if !self.seen.insert(name.clone()) {
            return;
        }
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in ty.fields {
            let mut property = self.property(field);
            if let Some(words) = self.words.of_field(&name, field.json) {
                property = self.beside_reference(property);
                property["description"] = words.into();
            }
            properties.insert(field.json.to_owned(), property);
            let plain = field.tag != 0 || field.embedded;
            if plain && !field.optional && !field.omitempty && !field.omitzero {
                required.push(Value::from(field.json));
            }
        }
        let mut schema = json!({"type": "object"});
        if let Some(words) = self.words.of_struct(&name) {
            schema["description"] = words.into();
        }
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if ty.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        self.schemas.insert(name, schema);
    }

    fn property(&mut self, field: &Field) -> Value {
        let mut value = self.ty(field.ty);
        if let Some(default) = field.default.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
            value = self.beside_reference(value);
            value["default"] = default;
        }
        match field.list_type {
            Some(ListType::Atomic) => {
                let name = if matches!(field.ty, Type::List(_)) {
                    "x-kubernetes-list-type"
                } else {
                    "x-kubernetes-map-type"
                };
                value = self.beside_reference(value);
                value[name] = "atomic".into();
            }
            Some(ListType::Set) => value["x-kubernetes-list-type"] = "set".into(),
            Some(ListType::Map) => {
                value["x-kubernetes-list-type"] = "map".into();
                value["x-kubernetes-list-map-keys"] = field.map_keys.into();
            }
            None => {}
        }
        if let Some(key) = field.merge_key {
            value["x-kubernetes-patch-merge-key"] = key.into();
        }
        if let Some(strategy) = field.strategy {
            value = self.beside_reference(value);
            value["x-kubernetes-patch-strategy"] = match strategy {
                Strategy::Merge => "merge",
                Strategy::RetainKeys => "retainKeys",
                Strategy::MergeRetainKeys => "merge,retainKeys",
                Strategy::Replace => "replace",
            }
            .into();
        }
        value
    }

    /// The schema in a form that may say more: in version 3 nothing stands beside a reference.
    fn beside_reference(&self, schema: Value) -> Value {
        match schema.get("$ref") {
            Some(reference) if self.prefix == OPENAPI => json!({"allOf": [{"$ref": reference}]}),
            _ => schema,
        }
    }

    fn ty(&mut self, ty: Type) -> Value {
        match ty {
            Type::String => json!({"type": "string"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::List(inner) => json!({"type": "array", "items": self.ty(*inner)}),
            Type::Map(inner) => json!({"type": "object", "additionalProperties": self.ty(*inner)}),
            Type::Struct(reference) => {
                let ty = reference.get();
                self.add(ty);
                json!({"$ref": format!("{}{}", self.prefix, schema_name(ty))})
            }
            Type::Quantity => self.special(
                "io.k8s.apimachinery.pkg.api.resource.Quantity",
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            Type::IntOrString => self.special(
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            Type::Time => self.special(&meta_name("Time"), json!({"type": "string", "format": "date-time"})),
            Type::MicroTime => self.special(&meta_name("MicroTime"), json!({"type": "string", "format": "date-time"})),
            Type::Duration => self.special(&meta_name("Duration"), json!({"type": "string"})),
            Type::RawExtension => self.special("io.k8s.apimachinery.pkg.runtime.RawExtension", json!({"type": "object"})),
            Type::FieldsV1 => self.special(&meta_name("FieldsV1"), json!({"type": "object"})),
            Type::StringItems => json!({"type": "array", "items": {"type": "string"}}),
            Type::Json | Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => {
                self.special("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", json!({}))
            }
        }
    }

    fn special(&mut self, name: &str, mut schema: Value) -> Value {
        if let Some(words) = self.words.of_struct(name) {
            schema["description"] = words.into();
        }
        self.schemas.entry(name).or_insert(schema);
        json!({"$ref": format!("{}{name}", self.prefix)})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_resolve_their_references_and_carry_merge_keys() {
        let document = group_document("apps", "v1");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
        assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
        assert!(ports["description"].as_str().is_some_and(|text| text.contains("port")));
        let spec = &deployment["properties"]["spec"];
        assert_eq!(
            spec["allOf"][0]["$ref"],
            "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
        );
        assert!(spec["description"].is_string());
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|own| own["name"] == "fieldValidation")
        );
    }
}
