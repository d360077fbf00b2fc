//! Rows of custom resources.
//!
//! Invariant: rows are values for life, as those of built-in resources are, so that whoever serves a request or a watch holds
//! one without counting. Equal ones are made once: a changed schema makes none, nor does a definition that comes again. There
//! are [`ROWS_MAX`] at most; beyond, a new resource is not served until the next start.

use std::collections::HashMap;

use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::compare_versions;
use crate::rows::{BASE, Defined, GET_PATCH_UPDATE, Resource, Subresource};

/// Most rows. Each is below a kilobyte, longest names aside.
pub const ROWS_MAX: usize = 20_000;

/// The rows that were made so far, by what they say.
#[derive(Debug, Default)]
pub struct Rows(HashMap<String, &'static Resource>);

/// In the order of discovery, which is not that of built-in resources.
const VERBS: &[&str] = &[
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];

impl Rows {
    /// The row of a version of a definition, by the names that were accepted; none where there are too many.
    pub fn row(&mut self, definition: &Value, version: &Value) -> Option<&'static Resource> {
        let versions = definition["spec"]["versions"].as_array()?;
        let storage = versions.iter().find(|version| version["storage"] == true)?;
        let stored = self.one(definition, storage, None)?;
        if version["name"] == storage["name"] {
            return Some(stored);
        }
        self.one(definition, version, Some(stored))
    }

    fn one(&mut self, definition: &Value, version: &Value, stored: Option<&'static Resource>) -> Option<&'static Resource> {
        let spec = &definition["spec"];
        let all: Vec<&Value> = spec["versions"].as_array()?.iter().map(|version| &version["name"]).collect();
        let subresources = ["status", "scale"].map(|name| version["subresources"].get(name).is_some_and(Value::is_object));
        let said = json!([
            spec["group"],
            spec["scope"],
            spec["names"]["plural"],
            definition["status"]["acceptedNames"],
            version["name"],
            all,
            subresources,
            version["selectableFields"],
            deprecation(spec, version),
            // Of equal text the row of the stored version may be another one by its own fields.
            stored.map(|stored| (stored.version, std::ptr::from_ref(stored) as usize)),
        ]);
        let said = said.to_string();
        if let Some(known) = self.0.get(&said) {
            return Some(known);
        }
        if self.0.len() >= ROWS_MAX {
            return None;
        }
        let made = make(definition, version, subresources, stored);
        self.0.insert(said, made);
        Some(made)
    }
}

fn make(definition: &Value, version: &Value, [status, scale]: [bool; 2], stored: Option<&'static Resource>) -> &'static Resource {
    let spec = &definition["spec"];
    let names = &definition["status"]["acceptedNames"];
    let (group, name, kind) = (kept(&spec["group"]), kept(&version["name"]), kept(&names["kind"]));
    let plural = kept(&spec["names"]["plural"]);
    let storage = stored.map_or(name, |stored| stored.version);
    let paths = version["selectableFields"].as_array().into_iter().flatten();
    let paths = paths.map(|field| field["jsonPath"].as_str().unwrap_or_default().trim_start_matches('.').into());
    let versions = spec["versions"].as_array().into_iter().flatten();
    let defined = Defined {
        list_kind: kept(&names["listKind"]),
        versions: versions.map(|version| kept(&version["name"])).collect::<Vec<_>>().leak(),
        storage,
        stored,
    };
    let mut subresources = Vec::new();
    if status {
        subresources.push(Subresource {
            name: "status",
            kind,
            group: "",
            version: "",
            verbs: GET_PATCH_UPDATE,
        });
    }
    if scale {
        subresources.push(Subresource {
            name: "scale",
            kind: "Scale",
            group: "autoscaling",
            version: "v1",
            verbs: GET_PATCH_UPDATE,
        });
    }
    Box::leak(Box::new(Resource {
        group,
        version: name,
        plural,
        singular: kept(&names["singular"]),
        kind,
        namespaced: spec["scope"] == "Namespaced",
        short_names: list(&names["shortNames"]),
        categories: list(&names["categories"]),
        verbs: VERBS,
        subresources: subresources.leak(),
        selectable: paths.map(|path: Value| kept(&path)).collect::<Vec<_>>().leak(),
        storage: format!("{group}/{plural}").leak(),
        stored_as: (group, name),
        hash: storage_hash(group, storage, kind).leak(),
        deprecated: deprecation(spec, version).map(|text| &*text.leak()),
        custom: Some(Box::leak(Box::new(defined))),
        ..BASE
    }))
}

fn kept(text: &Value) -> &'static str {
    text.as_str().unwrap_or_default().to_owned().leak()
}

fn list(texts: &Value) -> &'static [&'static str] {
    let texts = texts.as_array().into_iter().flatten();
    texts.map(kept).collect::<Vec<_>>().leak()
}

/// `storageVersionHash` of discovery.
fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// What a deprecated version warns of.
fn deprecation(spec: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(own) = version["deprecationWarning"].as_str() {
        return Some(own.to_owned());
    }
    let name = |version: &Value| version["name"].as_str().unwrap_or_default().to_owned();
    let (group, kind) = (spec["group"].as_str()?, spec["names"]["kind"].as_str()?);
    let own = name(version);
    let versions = spec["versions"].as_array().into_iter().flatten();
    let better = versions
        .filter(|other| other["served"] == true && other["deprecated"] != true)
        .map(name)
        .filter(|other| compare_versions(other, &own).is_gt())
        .max_by(|a, b| compare_versions(a, b));
    let hint = better.map_or_else(String::new, |better| format!("; use {group}/{better} {kind}"));
    Some(format!("{group}/{own} {kind} is deprecated{hint}"))
}
