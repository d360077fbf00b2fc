//! Custom resources: what is served by the definitions that are stored.
//!
//! Invariant: a registry is a function of the definitions alone, so every server makes the same one of the same revision.
//! What a definition does not change is the same value in the next registry ([`Builder`]): who serves one compares pointers.
//! It will not hold built-in resources.

mod columns;
pub mod conversion;
mod forms;
mod jsonpath;
mod rows;
pub mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;
use trireme_api::Object;
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_api::path;
use trireme_structural::Structural;

use crate::Resource;

pub use columns::Columns;
pub use forms::Form;
pub use jsonpath::JsonPath;
pub use rows::Rows;

/// A version of a definition that is served.
#[derive(Debug)]
pub struct Served {
    /// Its row.
    pub row: &'static Resource,
    /// Name of its definition.
    pub definition: Arc<str>,
    /// What its tables show.
    pub columns: Columns,
    /// Where its objects have their scale, if they have one.
    pub scale: Option<ScalePaths>,
    /// The schema, as the definition has it; null without one.
    pub schema: Value,
    structural: Option<Arc<Structural>>,
    /// Who converts its objects to other versions; none where they differ in nothing but what schemas prune.
    pub webhook: Option<Arc<Webhook>>,
    /// The versions in which objects may be stored, this one among them; one list for all versions of a definition.
    pub forms: Arc<[Form]>,
}

/// A webhook that converts.
#[derive(Debug)]
pub struct Webhook {
    /// Its `clientConfig`.
    pub client: Value,
    /// Versions of reviews that it knows, the most wanted one first.
    pub versions: Vec<Box<str>>,
}

impl Webhook {
    fn of(definition: &Value) -> Option<Arc<Self>> {
        let conversion = &definition["spec"]["conversion"];
        let webhook = &conversion["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        (conversion["strategy"] == "Webhook").then(|| {
            Arc::new(Self {
                client: webhook["clientConfig"].clone(),
                versions: versions.filter_map(|version| version.as_str().map(Into::into)).collect(),
            })
        })
    }
}

/// Where an object has its scale: names from its root on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Of the wanted replicas, below `spec`.
    pub spec_replicas: Vec<String>,
    /// Of those that there are, below `status`.
    pub status_replicas: Vec<String>,
    /// Of the selector's text, if there is one.
    pub selector: Option<Vec<String>>,
}

/// A resource that is found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The version that is asked for.
    pub served: Arc<Served>,
    /// Whether its definition is being deleted: nothing new is taken.
    pub terminating: bool,
}

#[derive(Clone, Debug)]
struct Definition {
    versions: Arc<[Arc<Served>]>,
    stored: Option<&'static Resource>,
    established: bool,
    terminating: bool,
}

/// A group and what of it is in discovery.
#[derive(Clone, Debug, Default)]
struct Group {
    /// Versions, the preferred one first.
    versions: Vec<String>,
    /// By plural name.
    resources: BTreeMap<String, Definition>,
}

/// All custom resources that are served.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    groups: BTreeMap<String, Group>,
}

impl Registry {
    /// The resource of that group, version and plural name, if it is served.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Found> {
        let definition = self.groups.get(group)?.resources.get(plural)?;
        let served = definition.versions.iter().find(|served| served.row.version == version)?;
        Some(Found {
            served: Arc::clone(served),
            terminating: definition.terminating,
        })
    }

    /// The row in which objects of a group's resource are stored, also where no version is served.
    #[must_use]
    pub fn stored(&self, group: &str, plural: &str) -> Option<&'static Resource> {
        self.groups.get(group)?.resources.get(plural)?.stored
    }

    /// Whether that very version is still what is served.
    #[must_use]
    pub fn serves(&self, served: &Arc<Served>) -> bool {
        let row = served.row;
        let found = self.find(row.group, row.version, row.plural);
        found.is_some_and(|found| Arc::ptr_eq(&found.served, served))
    }

    /// The versions of a group that discovery shows, the preferred one first; none where it shows none.
    #[must_use]
    pub fn versions(&self, group: &str) -> Option<&[String]> {
        let group = self.groups.get(group)?;
        (!group.versions.is_empty()).then_some(&group.versions)
    }

    /// The groups that discovery shows, by name.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &[String])> {
        let shown = self.groups.iter().filter(|(_, group)| !group.versions.is_empty());
        shown.map(|(name, group)| (name.as_str(), group.versions.as_slice()))
    }

    /// What discovery shows of a group and version, by plural name.
    pub fn shown(&self, group: &str, version: &str) -> impl Iterator<Item = Found> {
        let definitions = self.groups.get(group).into_iter().flat_map(|group| group.resources.values());
        let of_version = definitions
            .filter(|definition| definition.established)
            .filter_map(move |definition| {
                let served = definition.versions.iter().find(|served| served.row.version == version)?;
                Some(Found {
                    served: Arc::clone(served),
                    terminating: definition.terminating,
                })
            });
        of_version.collect::<Vec<_>>().into_iter()
    }

    /// How the objects of each definition are read, with the row in which they are stored.
    pub fn forms(&self) -> impl Iterator<Item = (&'static Resource, &Arc<[Form]>)> {
        let definitions = self.groups.values().flat_map(|group| group.resources.values());
        definitions.filter_map(|definition| Some((definition.stored?, &definition.versions.first()?.forms)))
    }

    /// One version of each definition that discovery shows: who cares for all objects takes these.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Served>> {
        let definitions = self.groups.values().flat_map(|group| group.resources.values());
        definitions
            .filter(|definition| definition.established)
            .filter_map(|definition| definition.versions.first())
    }
}

/// What of a definition says what is served.
#[derive(Debug, PartialEq)]
struct Source {
    /// What was changed and changed back is known by it: objects may be of what was in between.
    generation: Vec<u8>,
    spec: Vec<u8>,
    names: Vec<u8>,
}

/// What is known of a definition.
#[derive(Debug)]
struct Known {
    /// Its revision and uid.
    at: (u64, String),
    source: Source,
    group: String,
    plural: String,
    definition: Definition,
}

/// Makes registries one after the other, of all definitions each time.
#[derive(Debug, Default)]
pub struct Builder {
    rows: Rows,
    known: HashMap<String, Known>,
}

impl Builder {
    /// The registry of these definitions.
    pub fn build<'a>(&mut self, definitions: impl IntoIterator<Item = &'a Object>) -> Registry {
        let mut registry = Registry::default();
        let mut known = HashMap::new();
        for object in definitions {
            let header = object.header();
            let known_one = match self.known.remove(&header.name) {
                Some(known) if known.at == (header.resource_version, header.uid.clone()) => Some(known),
                before => self.look(object, before),
            };
            let Some(one) = known_one else { continue };
            let group = registry.groups.entry(one.group.clone()).or_default();
            if one.definition.established {
                for served in one.definition.versions.iter() {
                    if !group.versions.iter().any(|own| own == served.row.version) {
                        group.versions.push(served.row.version.to_owned());
                    }
                }
            }
            group.resources.insert(one.plural.clone(), one.definition.clone());
            known.insert(header.name.clone(), one);
        }
        for group in registry.groups.values_mut() {
            group.versions.sort_by(|a, b| compare_versions(b, a));
        }
        self.known = known;
        registry
    }

    /// Looks at a definition that changed; nothing where it is not accepted.
    fn look(&mut self, object: &Object, before: Option<Known>) -> Option<Known> {
        let header = object.header();
        let conditions = object.raw_at(&["status", "conditions"]);
        let conditions = conditions
            .and_then(|raw| serde_json::from_slice::<Value>(raw).ok())
            .unwrap_or_default();
        let is = |kind: &str| status::is_true(&conditions, kind);
        let established = is(status::ESTABLISHED);
        if !established && !is(status::NAMES_ACCEPTED) {
            return None;
        }
        let raw = |at: &[&str]| object.raw_at(at).unwrap_or_default().to_vec();
        let source = Source {
            generation: raw(&["metadata", "generation"]),
            spec: raw(&["spec"]),
            names: raw(&["status", "acceptedNames"]),
        };
        let (stored, versions) = match before {
            Some(before) if before.source == source => (before.definition.stored, before.definition.versions),
            before => {
                let value = object.value();
                let mut all = value["spec"]["versions"].as_array().into_iter().flatten();
                let storage = all.find(|version| version["storage"] == true);
                let stored = storage.and_then(|version| self.rows.row(&value, version));
                let first = before.and_then(|before| before.definition.versions.first().cloned());
                let before = first.as_ref().map_or(&[][..], |served| &served.forms);
                (stored, self.versions(&value, before, header.resource_version))
            }
        };
        let text = |at: &[&str]| object.text_at(at).unwrap_or_default().into_owned();
        Some(Known {
            at: (header.resource_version, header.uid.clone()),
            source,
            group: text(&["spec", "group"]),
            plural: text(&["spec", "names", "plural"]),
            definition: Definition {
                versions,
                stored,
                established,
                terminating: is(status::TERMINATING),
            },
        })
    }

    /// The served versions of a definition, the most wanted one first.
    ///
    /// `before` is how its objects were read until that revision.
    fn versions(&mut self, definition: &Value, before: &[Form], revision: u64) -> Arc<[Arc<Served>]> {
        let definition_name: Arc<str> = definition["metadata"]["name"].as_str().unwrap_or_default().into();
        let versions = definition["spec"]["versions"].as_array();
        let forms = versions.into_iter().flatten().map(|version| {
            let name = version["name"].as_str().unwrap_or_default();
            let known = before.iter().find(|form| form.version() == name);
            Form::after(known, name, structural(definition, version).map(Arc::new), revision)
        });
        let forms: Arc<[Form]> = forms.collect();
        let webhook = Webhook::of(definition);
        let served = versions.into_iter().flatten().filter(|version| version["served"] == true);
        let mut served: Vec<Arc<Served>> = served
            .filter_map(|version| {
                let row = self.rows.row(definition, version)?;
                Some(Arc::new(Served {
                    row,
                    definition: Arc::clone(&definition_name),
                    columns: Columns::of(version),
                    scale: ScalePaths::of(&version["subresources"]["scale"]),
                    schema: version["schema"]["openAPIV3Schema"].clone(),
                    structural: forms.iter().find(|form| form.version() == row.version)?.structural().cloned(),
                    webhook: webhook.clone(),
                    forms: Arc::clone(&forms),
                }))
            })
            .collect();
        served.sort_by(|a, b| compare_versions(b.row.version, a.row.version));
        served.into()
    }
}

fn structural(definition: &Value, version: &Value) -> Option<Structural> {
    let schema = &version["schema"]["openAPIV3Schema"];
    let preserves = definition["spec"]["preserveUnknownFields"] == true;
    (!schema.is_null())
        .then(|| Structural::compile(schema, preserves).ok())
        .flatten()
}

impl ScalePaths {
    fn of(scale: &Value) -> Option<Self> {
        let names = |member: &str| {
            let text = scale[member].as_str().filter(|text| !text.is_empty())?;
            Some(
                text.trim_start_matches('.')
                    .split('.')
                    .map(str::to_owned)
                    .collect::<Vec<String>>(),
            )
        };
        Some(Self {
            spec_replicas: names("specReplicasPath")?,
            status_replicas: names("statusReplicasPath")?,
            selector: names("labelSelectorPath"),
        })
    }
}

/// The value at a path of owned names.
#[must_use]
pub fn at<'a>(value: &'a Value, names: &[String]) -> Option<&'a Value> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    path::get(value, &names)
}

/// The order in which Kubernetes prefers versions: general availability, then beta, then alpha, the higher number first;
/// what has another form comes last.
#[must_use]
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    match (parsed(a), parsed(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => std::cmp::Ordering::Greater,
        (None, Some(_)) => std::cmp::Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// Stage (alpha 0, beta 1, general 2), major and minor number of a version such as `v1beta2`.
fn parsed(version: &str) -> Option<(u8, u64, u64)> {
    let number = |text: &str| -> Option<u64> {
        let fits = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| text.parse().ok()).flatten()
    };
    let rest = version.strip_prefix('v')?;
    for (word, stage) in [("alpha", 0), ("beta", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stage, number(major)?, number(minor)?));
        }
    }
    Some((2, number(rest)?, 0))
}

/// What is wrong with the replicas of an object that has a scale.
#[must_use]
pub fn scale_problems(served: &Served, value: &Value) -> Vec<FieldError> {
    let Some(paths) = &served.scale else { return Vec::new() };
    let mut errors = Vec::new();
    for path in [&paths.spec_replicas, &paths.status_replicas] {
        let Some(replicas) = at(value, path) else { continue };
        let detail = match replicas.as_i64() {
            Some(number) if number < 0 => "should be a non-negative integer".to_owned(),
            Some(number) if number > i64::from(i32::MAX) => format!("should be less than or equal to {}", i32::MAX),
            Some(_) => continue,
            None => "should be an integer".to_owned(),
        };
        errors.push(FieldError {
            kind: FieldErrorType::Invalid,
            path: format!(".{}", path.join(".")),
            value: replicas.to_string(),
            detail,
        });
    }
    errors
}
