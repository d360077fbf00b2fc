//! The paths of version 3, out of the rows; version 2 has the same ones in its own form.
//!
//! Invariant: a method is listed only where the row or subresource has its verb, and operation ids are unique over all
//! groups.

use serde_json::{Map, Value, json};
use trireme_api::schema;
use trireme_resources::{Resource, Subresource};

use super::schemas::{meta_name, schema_name};

const ANSWERS: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// Custom resources have no form in protobuf, and take no strategic merge patch.
const CUSTOM_ANSWERS: usize = 2;
const CUSTOM_PATCHES: usize = 3;
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

/// Adds the paths of a row and of its subresources.
pub(super) fn add(paths: &mut Map<String, Value>, row: &Resource) {
    let maker = Maker::new(row);
    let object = format!("{}/{{name}}", collection_path(row));
    let mut put = |path: String, place: &[Value], methods: Map<String, Value>| {
        if !methods.is_empty() {
            let mut item = methods;
            item.insert("parameters".into(), place.into());
            paths.insert(path, item.into());
        }
    };
    let pretty = parameter("pretty", "query", "string");
    let mut in_collection: Vec<Value> = Vec::new();
    if row.namespaced {
        in_collection.push(parameter("namespace", "path", "string"));
    }
    in_collection.push(pretty.clone());
    let of_object = [vec![parameter("name", "path", "string")], in_collection.clone()].concat();
    put(collection_path(row), &in_collection, maker.collection());
    put(object.clone(), &of_object, maker.object());
    if row.namespaced && row.has_verb("list") {
        let list = maker.operation(
            "list",
            &format!("list{}{}ForAllNamespaces", maker.place, row.kind),
            Answer::List,
            LIST,
        );
        let everywhere = Map::from_iter([("get".to_owned(), list)]);
        put(format!("{}/{}", base_path(row), row.plural), &[pretty], everywhere);
    }
    for sub in row.subresources {
        put(format!("{object}/{}", sub.name), &of_object, maker.subresource(sub));
        if sub.kind.ends_with("ProxyOptions") {
            let mut place = of_object.clone();
            place.push(parameter("path", "path", "string"));
            let mut methods = maker.subresource(sub);
            for method in methods.values_mut() {
                let id = method["operationId"].as_str().unwrap_or_default().to_owned();
                method["operationId"] = format!("{id}WithPath").into();
            }
            put(format!("{object}/{}/{{path}}", sub.name), &place, methods);
        }
    }
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

fn parameter(name: &str, place: &str, kind: &str) -> Value {
    let mut value = json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}});
    if place == "path" {
        value["required"] = true.into();
    }
    value
}

fn query(name: &str) -> Value {
    let kind = match name {
        "force" | "watch" | "allowWatchBookmarks" | "sendInitialEvents" | "orphanDependents" => "boolean",
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    parameter(name, "query", kind)
}

fn content(media_types: &[&str], schema: &Value) -> Value {
    let schema = json!({"schema": schema});
    let media_types = media_types.iter().map(|media| ((*media).to_owned(), schema.clone()));
    media_types.collect()
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{}{name}", super::OPENAPI)})
}

/// `rbac.authorization.k8s.io` is `RbacAuthorization`.
fn group_name(group: &str) -> String {
    if group.is_empty() {
        return "Core".into();
    }
    let own = group.strip_suffix(".k8s.io").unwrap_or(group);
    own.split('.').map(capitalised).collect()
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// What an operation answers.
#[derive(Clone, Copy)]
enum Answer {
    Own,
    List,
    Status,
}

/// Makes the operations of one row.
struct Maker<'a> {
    row: &'a Resource,
    /// Group and version within operation ids.
    place: String,
    /// Scope and kind within operation ids.
    what: String,
    /// Name of the kind's schema.
    own: String,
    gvk: Value,
}

impl<'a> Maker<'a> {
    fn new(row: &'a Resource) -> Self {
        let scope = if row.namespaced { "Namespaced" } else { "" };
        Self {
            row,
            place: format!("{}{}", group_name(row.group), capitalised(row.version)),
            what: format!("{scope}{}", row.kind),
            own: if row.is_custom() {
                super::custom::schema_name(row)
            } else {
                schema_name(row.schema())
            },
            gvk: json!({"group": row.group, "version": row.version, "kind": row.kind}),
        }
    }

    fn id(&self, verb: &str) -> String {
        format!("{verb}{}{}", self.place, self.what)
    }

    fn operation(&self, action: &str, id: &str, answer: Answer, queries: &[&str]) -> Value {
        let schema = match answer {
            Answer::Own => reference(&self.own),
            Answer::List => reference(&format!("{}List", self.own)),
            Answer::Status => reference(&meta_name("Status")),
        };
        let also: &[(&str, &str)] = match action {
            "post" => &[("201", "Created"), ("202", "Accepted")],
            "put" | "patch" => &[("201", "Created")],
            "delete" => &[("202", "Accepted")],
            _ => &[],
        };
        let mut responses = json!({"401": {"description": "Unauthorized"}});
        for (code, words) in [("200", "OK")].iter().chain(also) {
            responses[*code] = json!({"description": words, "content": content(self.answers(), &schema)});
        }
        let parameters: Vec<Value> = queries.iter().map(|name| query(name)).collect();
        json!({
            "operationId": id,
            "parameters": parameters,
            "responses": responses,
            "tags": [self.tag()],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.gvk,
        })
    }

    /// `rbacAuthorization_v1`.
    fn tag(&self) -> String {
        let group = group_name(self.row.group);
        let mut letters = group.chars();
        let group: String = letters
            .next()
            .map(|first| first.to_lowercase().chain(letters).collect())
            .unwrap_or_default();
        format!("{group}_{}", self.row.version)
    }

    fn with_body(&self, mut operation: Value) -> Value {
        operation["requestBody"] = json!({"content": content(&["*/*"], &reference(&self.own)), "required": true});
        operation
    }

    fn answers(&self) -> &'static [&'static str] {
        if self.row.is_custom() {
            &ANSWERS[..CUSTOM_ANSWERS]
        } else {
            ANSWERS
        }
    }

    fn with_patch(&self, mut operation: Value) -> Value {
        let patches = if self.row.is_custom() {
            &PATCHES[..CUSTOM_PATCHES]
        } else {
            PATCHES
        };
        let patch = content(patches, &reference(&meta_name("Patch")));
        operation["requestBody"] = json!({"content": patch, "required": true});
        operation
    }

    fn with_options(mut operation: Value) -> Value {
        operation["requestBody"] = json!({"content": content(&["*/*"], &reference(&meta_name("DeleteOptions")))});
        operation
    }

    /// Most deletions answer with a `Status`, some with what was deleted.
    fn after_delete(&self) -> Answer {
        let own = matches!(
            (self.row.group, self.row.plural),
            ("resource.k8s.io", _)
                | (
                    "",
                    "persistentvolumeclaims"
                        | "persistentvolumes"
                        | "pods"
                        | "podtemplates"
                        | "resourcequotas"
                        | "serviceaccounts"
                        | "services"
                )
                | (
                    "storage.k8s.io",
                    "csidrivers" | "csinodes" | "storageclasses" | "volumeattachments" | "volumeattributesclasses"
                )
        );
        if own { Answer::Own } else { Answer::Status }
    }

    fn collection(&self) -> Map<String, Value> {
        let mut methods = Map::new();
        if self.row.has_verb("list") {
            let list = self.operation("list", &self.id("list"), Answer::List, LIST);
            methods.insert("get".into(), list);
        }
        if self.row.has_verb("create") {
            let create = self.operation("post", &self.id("create"), Answer::Own, WRITE);
            methods.insert("post".into(), self.with_body(create));
        }
        if self.row.has_verb("deletecollection") {
            let id = format!("delete{}Collection{}", self.place, self.what);
            let queries = [&LIST[1..9], DELETE].concat();
            let delete = self.operation("deletecollection", &id, Answer::Status, &queries);
            methods.insert("delete".into(), Self::with_options(delete));
        }
        methods
    }

    fn object(&self) -> Map<String, Value> {
        let verbs = self.row.verbs.iter().copied().filter(|verb| *verb != "create");
        self.methods(verbs, "")
    }

    /// The methods of an object, or of a subresource whose name the ids end with.
    fn methods(&self, verbs: impl Iterator<Item = &'a str>, ending: &str) -> Map<String, Value> {
        let id = |verb: &str| format!("{}{ending}", self.id(verb));
        let methods = verbs.filter_map(|verb| {
            let (method, operation) = match verb {
                "get" => ("get", self.operation("get", &id("read"), Answer::Own, &[])),
                "create" => (
                    "post",
                    self.with_body(self.operation("post", &id("create"), Answer::Own, WRITE)),
                ),
                "update" => (
                    "put",
                    self.with_body(self.operation("put", &id("replace"), Answer::Own, WRITE)),
                ),
                "patch" => (
                    "patch",
                    self.with_patch(self.operation("patch", &id("patch"), Answer::Own, PATCH)),
                ),
                "delete" => (
                    "delete",
                    Self::with_options(self.operation("delete", &id("delete"), self.after_delete(), DELETE)),
                ),
                _ => return None,
            };
            Some((method.to_owned(), operation))
        });
        methods.collect()
    }

    fn subresource(&self, sub: &'a Subresource) -> Map<String, Value> {
        let ending = capitalised(sub.name);
        let (group, version) = match sub.version {
            "" => (self.row.group, self.row.version),
            version => (sub.group, version),
        };
        let text = json!({"type": "string"});
        if sub.kind.ends_with("Options") {
            let methods = sub.verbs.iter().filter_map(|verb| {
                let method = match *verb {
                    "create" => "post",
                    "update" => "put",
                    verb @ ("get" | "patch" | "delete") => verb,
                    _ => return None,
                };
                let operation = json!({
                    "operationId": format!("connect{}{}{}{ending}", self.place, capitalised(method), self.what),
                    "responses": {
                        "200": {"description": "OK", "content": content(&["*/*"], &text)},
                        "401": {"description": "Unauthorized"},
                    },
                    "tags": [self.tag()],
                    "x-kubernetes-action": "connect",
                    "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": sub.kind},
                });
                Some((method.to_owned(), operation))
            });
            return methods.collect();
        }
        let of_sub = Maker {
            own: schema::kind(group, version, sub.kind).map_or_else(|| self.own.clone(), schema_name),
            gvk: json!({"group": group, "version": version, "kind": sub.kind}),
            ..Maker::new(self.row)
        };
        let mut methods = of_sub.methods(sub.verbs.iter().copied(), &ending);
        if sub.name == "log" {
            for method in methods.values_mut() {
                method["responses"]["200"]["content"] = content(&[&["text/plain"], ANSWERS].concat(), &text);
            }
        }
        methods
    }
}
