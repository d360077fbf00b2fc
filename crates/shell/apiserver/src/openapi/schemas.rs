//! The schemas of both versions, out of the field table.
//!
//! Invariant: every struct that a schema refers to is among the schemas made with it. It knows nothing of paths.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use trireme_api::schema::{self, Field, ListType, Strategy, Struct, Type};
use trireme_resources::rows;

use crate::descriptions::{self, Descriptions};

/// The name of a struct's schema.
pub(super) fn schema_name(ty: &Struct) -> String {
    descriptions::schema_name(ty.package, ty.name)
}

pub(super) fn meta_name(name: &str) -> String {
    format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")
}

/// Where version 2 keeps schemas.
pub(super) const SWAGGER: &str = "#/definitions/";
/// Where version 3 does.
pub(super) const OPENAPI: &str = "#/components/schemas/";

/// Collects the schemas of a group and version.
pub(super) struct Maker {
    prefix: &'static str,
    words: Descriptions,
    /// What was made, by name.
    pub(super) schemas: Map<String, Value>,
    seen: BTreeSet<String>,
}

impl Maker {
    pub(super) fn new(prefix: &'static str, group: &str, version: &str) -> Self {
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

    /// All kinds of a group and version, and what goes over the wire beside them.
    pub(super) fn group(&mut self, group: &str, version: &str) {
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
        for sub in rows()
            .iter()
            .filter(|row| (row.group, row.version) == (group, version))
            .flat_map(|row| row.subresources)
        {
            // Scales, tokens and evictions are of groups of their own.
            let Some(ty) = schema::kind(sub.group, sub.version, sub.kind).filter(|_| !sub.version.is_empty()) else {
                continue;
            };
            self.add(ty);
            if let Some(schema) = self.schemas.get_mut(&schema_name(ty)) {
                schema["x-kubernetes-group-version-kind"] =
                    json!([{"group": sub.group, "kind": sub.kind, "version": sub.version}]);
            }
        }
        self.shared(group, version);
    }

    /// What goes over the wire beside the kinds of a custom group and version.
    pub(super) fn common(&mut self, group: &str, version: &str) {
        self.shared(group, version);
        for (package, name) in [("api/autoscaling/v1", "Scale"), (schema::META, "ListMeta")] {
            if let Some(ty) = schema::named(package, name) {
                self.add(ty);
            }
        }
    }

    /// Whether schemas are made in the second version's form.
    pub(super) fn is_older(&self) -> bool {
        self.prefix == SWAGGER
    }

    /// A reference to a schema.
    pub(super) fn reference(&self, name: &str) -> Value {
        let reference = json!({"$ref": format!("{}{name}", self.prefix)});
        self.beside_reference(reference)
    }

    /// The schemas of `apiVersion` and `kind`, in the words that any object has for them.
    pub(super) fn type_meta(&mut self) -> [Value; 2] {
        let ty = schema::named(schema::META, "Status");
        let name = ty.map(schema_name).unwrap_or_default();
        ["apiVersion", "kind"].map(|field| {
            let mut property = json!({"type": "string"});
            if let Some(words) = self.words.of_field(&name, field) {
                property["description"] = words.into();
            }
            property
        })
    }

    fn shared(&mut self, group: &str, version: &str) {
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
        // Version 2 leaves defaults out, as upstream does for the sake of old clients.
        let default = field.default.filter(|_| self.prefix == OPENAPI);
        if let Some(default) = default.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
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
            Some(ListType::Granular) => {
                value = self.beside_reference(value);
                value["x-kubernetes-map-type"] = "granular".into();
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
                match self.prefix {
                    OPENAPI => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                    _ => json!({"type": "string"}),
                },
            ),
            Type::IntOrString => self.special(
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
                match self.prefix {
                    OPENAPI => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
                    _ => json!({"type": "string", "format": "int-or-string"}),
                },
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
