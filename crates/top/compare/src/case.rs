//! One case: an object of some kind and what is done to it, in order.
//!
//! Invariant: a case is the same for the same seed and number, and sends the same to both servers, but for what each of them
//! said itself (its uid and version in a PUT).

use anyhow::Result;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use trireme_api::schema::{self, Struct};
use trireme_resources::rows::{Resource, Subresource};

use crate::chance::Chance;
use crate::difference::{self, Difference};
use crate::edits::Edit;
use crate::examples::{Example, RULES};
use crate::server::{Answer, Request, Server};

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// What a step asks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "do")]
pub(crate) enum Action {
    Create {
        validation: &'static str,
    },
    Get {
        accept: &'static str,
    },
    Put {
        validation: &'static str,
    },
    Patch {
        form: &'static str,
    },
    Apply {
        manager: &'static str,
        force: bool,
    },
    Subresource {
        name: &'static str,
        form: Option<&'static str>,
    },
    /// Something that is only ever sent to a subresource, which has its own schema.
    Sent {
        name: &'static str,
        form: Option<&'static str>,
    },
    List {
        accept: &'static str,
        query: &'static str,
    },
    Delete {
        query: &'static str,
    },
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Step {
    #[serde(flatten)]
    pub(crate) action: Action,
    pub(crate) edits: Vec<Edit>,
    /// Whether nothing is to be kept.
    pub(crate) dry_run: bool,
}

/// A case.
#[derive(Clone, Debug)]
pub(crate) struct Case<'a> {
    pub(crate) number: u64,
    pub(crate) example: &'a Example,
    pub(crate) steps: Vec<Step>,
}

/// A difference in an answer to a step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) method: String,
    pub(crate) kind: String,
    #[serde(flatten)]
    pub(crate) difference: Difference,
    /// What was sent.
    pub(crate) request: String,
}

impl Finding {
    pub(crate) fn key(&self) -> String {
        format!("{} {} {}", self.method, self.kind, self.difference.kind())
    }
}

impl<'a> Case<'a> {
    /// The case of a seed and a number.
    pub(crate) fn random(seed: u64, number: u64, examples: &'a [Example]) -> Self {
        let mut chance = Chance::new(seed, number);
        let example = chance.pick(examples);
        let edits_of = |chance: &mut Chance, most: usize, object: &Value, schema: &'static Struct| {
            let count = chance.below(most + 1);
            let mut object = object.clone();
            (0..count)
                .map(|_| {
                    let edit = Edit::random(&object, schema, chance);
                    edit.apply(&mut object);
                    edit
                })
                .collect::<Vec<_>>()
        };
        let edits = |chance: &mut Chance, most: usize| edits_of(chance, most, &example.object, example.row.schema());
        let dry = example.is_global();
        let validation = ["Strict", "Warn", "Ignore", "Strict"];
        let first = Action::Create {
            validation: chance.word(&validation),
        };
        let mut steps = vec![Step {
            edits: edits(&mut chance, 3),
            action: first,
            dry_run: dry || chance.percent(5),
        }];
        if !example.row.virtual_ {
            for _ in 0..1 + chance.below(4) {
                let action = match chance.below(20) {
                    0..=3 => Action::Put {
                        validation: chance.word(&validation),
                    },
                    4..=9 => Action::Patch {
                        form: chance.word(&[MERGE, STRATEGIC, JSON_PATCH]),
                    },
                    10..=12 => Action::Apply {
                        manager: chance.word(&["one", "two"]),
                        force: chance.percent(40),
                    },
                    13..=14 => match pick_subresource(example.row, &mut chance) {
                        Some(sub) if sent(sub.name).is_some() => Action::Sent {
                            name: sub.name,
                            form: *chance.pick(&[None, Some(MERGE), Some(JSON_PATCH), Some(APPLY)]),
                        },
                        Some(sub) => Action::Subresource {
                            name: sub.name,
                            form: *chance.pick(&[None, Some(MERGE), Some(JSON_PATCH), Some(APPLY)]),
                        },
                        None => Action::Get { accept: JSON },
                    },
                    15..=16 => Action::Get {
                        accept: chance.word(&[JSON, TABLE, METADATA]),
                    },
                    17..=18 => Action::List {
                        accept: chance.word(&[JSON, TABLE, METADATA_LIST]),
                        query: chance.word(&["", "&limit=1", "&labelSelector=a%3Db", "&resourceVersion=0"]),
                    },
                    _ => Action::Delete {
                        query: chance.word(&["", "dryRun=All", "propagationPolicy=Orphan", "gracePeriodSeconds=-1"]),
                    },
                };
                let changes = matches!(
                    action,
                    Action::Put { .. }
                        | Action::Patch { .. }
                        | Action::Apply { .. }
                        | Action::Subresource { .. }
                        | Action::Sent { .. }
                );
                let edits = match action {
                    Action::Sent { name, .. } => {
                        let (object, schema) = sent(name).expect("picked above");
                        edits_of(&mut chance, 2, &object, schema)
                    }
                    _ if changes => edits(&mut chance, 2),
                    _ => vec![],
                };
                steps.push(Step {
                    edits,
                    action,
                    dry_run: changes && (dry || chance.percent(10)),
                });
            }
            steps.push(Step {
                action: Action::Delete { query: "" },
                edits: vec![],
                dry_run: false,
            });
        }
        Self { number, example, steps }
    }

    /// Runs it against both servers and removes what it made. `name` must be new. None where the stock server broke a request
    /// off, so that there is nothing to compare with.
    pub(crate) async fn run(
        &self,
        (stock, trireme): (&Server, &Server),
        namespace: &str,
        name: &str,
    ) -> Result<Option<Vec<Finding>>> {
        let rules = format!("{namespace}{RULES}");
        let namespace = if self.example.rules() { &rules } else { namespace };
        let place = Place {
            example: self.example,
            collection: self.example.collection(namespace),
            namespace: namespace.to_owned(),
            name: self.example.name_of(name),
        };
        let mut findings = Vec::new();
        let mut last: [Value; 2] = [Value::Null, Value::Null];
        for step in &self.steps {
            let requests = last.each_ref().map(|object| place.request(step, object));
            let (one, other) = tokio::join!(stock.send(&requests[0]), trireme.send(&requests[1]));
            let other = other?;
            let Ok(one) = one else {
                place.clean_up(stock).await?;
                place.clean_up(trireme).await?;
                return Ok(None);
            };
            let answers = [one, other];
            let sent = &requests[0];
            for difference in difference::between(&answers[0], &answers[1], [(&place.name, "NAME"), (namespace, "NS")]) {
                findings.push(Finding {
                    method: place.method(step),
                    kind: self.example.row.kind.to_owned(),
                    difference,
                    request: format!(
                        "{} {} {}",
                        sent.method,
                        sent.path,
                        sent.body.as_ref().map(Value::to_string).unwrap_or_default()
                    ),
                });
            }
            if !findings.is_empty() {
                break; // What follows from it is not news.
            }
            if matches!(step.action, Action::Sent { name: "eviction", .. }) && answers[0].code == 422 {
                break; // Upstream marks a pod before it reads the options of its deletion.
            }
            if !step.dry_run {
                for (kept, answer) in last.iter_mut().zip(answers) {
                    remember(kept, answer, self.example);
                }
            }
        }
        if !self.example.row.virtual_ {
            place.clean_up(stock).await?;
            place.clean_up(trireme).await?;
        }
        Ok(Some(findings))
    }
}

fn remember(kept: &mut Value, answer: Answer, example: &Example) {
    if answer.code < 300 && answer.body["kind"] == example.row.kind {
        *kept = answer.body;
    }
}

/// A subresource that a case may use.
fn pick_subresource(row: &'static Resource, chance: &mut Chance) -> Option<&'static Subresource> {
    let known: Vec<_> = row
        .subresources
        .iter()
        .filter(|sub| sub.name == "status" || sent(sub.name).is_some())
        .collect();
    (!known.is_empty()).then(|| *chance.pick(&known))
}

/// What is sent to a subresource that has a schema of its own.
fn sent(subresource: &str) -> Option<(Value, &'static Struct)> {
    let object = match subresource {
        "scale" => json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {}, "spec": {"replicas": 2}}),
        "binding" => json!({"apiVersion": "v1", "kind": "Binding", "metadata": {}, "target": {"kind": "Node", "name": "node-1"}}),
        "eviction" => {
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {}, "deleteOptions": {"gracePeriodSeconds": 0}})
        }
        _ => return None,
    };
    let version = object["apiVersion"].as_str()?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let schema = schema::kind(group, version, object["kind"].as_str()?)?;
    Some((object, schema))
}

/// Puts a namespace in place of its placeholder.
fn fill(value: &mut Value, namespace: &str) {
    match value {
        Value::String(text) if text == "NAMESPACE" => namespace.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, namespace)),
        Value::Object(map) => map.values_mut().for_each(|item| fill(item, namespace)),
        _ => {}
    }
}

/// Where a case's object is.
struct Place<'a> {
    example: &'a Example,
    collection: String,
    namespace: String,
    name: String,
}

impl Place<'_> {
    fn item(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }

    /// How findings call a step.
    fn method(&self, step: &Step) -> String {
        match &step.action {
            Action::Create { .. } => "create".into(),
            Action::Get { accept } => format!("get{}", as_what(accept)),
            Action::Put { .. } => "update".into(),
            Action::Patch { form } => form_name(form).into(),
            Action::Apply { .. } => "apply".into(),
            Action::Subresource { name, form } => format!("{}/{name}", form.map_or("update", form_name)),
            Action::Sent { name: "scale", form } => format!("{}/scale", form.map_or("update", form_name)),
            Action::Sent { name, .. } => format!("create/{name}"),
            Action::List { accept, .. } => format!("list{}", as_what(accept)),
            Action::Delete { .. } => "delete".into(),
        }
    }

    /// The example as changed, named.
    fn object(&self, edits: &[Edit]) -> Value {
        let mut object = self.example.object.clone();
        for edit in edits {
            edit.apply(&mut object);
        }
        fill(&mut object, &self.namespace);
        if let Some(Value::String(token)) = object.pointer_mut("/spec/token").filter(|_| self.example.row.virtual_) {
            *token = token.replace(' ', "-"); // Of a token with spaces upstream reads a part.
        }
        if !self.example.row.virtual_ && object.is_object() && (object["metadata"].is_object() || object["metadata"].is_null()) {
            object["metadata"]["name"] = json!(self.name);
        }
        object
    }

    /// The request of a step to a server that last said this of the object.
    fn request(&self, step: &Step, last: &Value) -> Request {
        let mut query = if step.dry_run { vec!["dryRun=All".to_owned()] } else { vec![] };
        let mut request = Request {
            method: Method::GET,
            path: self.item(),
            content_type: JSON,
            accept: JSON,
            body: None,
        };
        match &step.action {
            Action::Create { validation } => {
                request.method = Method::POST;
                request.path.clone_from(&self.collection);
                request.body = Some(self.object(&step.edits));
                query.push(format!("fieldValidation={validation}"));
            }
            Action::Get { accept } => request.accept = *accept,
            Action::Put { validation } => {
                request.method = Method::PUT;
                request.body = Some(self.changed(step, last));
                query.push(format!("fieldValidation={validation}"));
            }
            Action::Patch { form } => self.patch(&mut request, form, step, last),
            Action::Apply { manager, force } => {
                self.patch(&mut request, APPLY, step, last);
                query.push(format!("fieldManager={manager}&force={force}"));
            }
            Action::Subresource { name, form } => {
                request.path = format!("{}/{name}", self.item());
                match form {
                    None => {
                        request.method = Method::PUT;
                        request.body = Some(self.changed(step, last));
                    }
                    Some(form) => {
                        self.patch(&mut request, form, step, last);
                        if *form == APPLY {
                            query.push("fieldManager=one&force=true".to_owned());
                        }
                    }
                }
            }
            Action::Sent { name, form } => {
                request.path = format!("{}/{name}", self.item());
                let mut object = sent(name).map(|(object, _)| object).unwrap_or_default();
                object["metadata"] = json!({"name": self.name, "namespace": self.namespace});
                let whole = |object: &Value| {
                    let mut object = object.clone();
                    step.edits.iter().for_each(|edit| edit.apply(&mut object));
                    object
                };
                match (*name, *form) {
                    ("scale", Some(form)) => {
                        request.method = Method::PATCH;
                        request.content_type = form;
                        let changed = whole(&object);
                        request.body = Some(match form {
                            JSON_PATCH => step.edits.iter().map(|edit| edit.operation(&changed)).collect(),
                            APPLY => changed,
                            _ => {
                                let mut patch = json!({});
                                step.edits.iter().for_each(|edit| edit.patch_into(&mut patch, &changed));
                                patch
                            }
                        });
                        if form == APPLY {
                            query.push("fieldManager=one&force=true".to_owned());
                        }
                    }
                    (name, _) => {
                        request.method = if name == "scale" { Method::PUT } else { Method::POST };
                        request.body = Some(whole(&object));
                    }
                }
            }
            Action::List { accept, query: more } => {
                request.accept = *accept;
                request.path.clone_from(&self.collection);
                query.push(format!("fieldSelector=metadata.name%3D{}{more}", self.name));
            }
            Action::Delete { query: more } => {
                request.method = Method::DELETE;
                query.push((*more).to_owned());
            }
        }
        query.retain(|part| !part.is_empty());
        if !query.is_empty() {
            request.path = format!("{}?{}", request.path, query.join("&"));
        }
        request
    }

    /// What the server has, changed; what it would have where it has nothing.
    fn changed(&self, step: &Step, last: &Value) -> Value {
        if last.is_null() {
            return self.object(&step.edits);
        }
        let mut object = last.clone();
        for edit in &step.edits {
            edit.apply(&mut object);
        }
        object
    }

    fn patch(&self, request: &mut Request, form: &'static str, step: &Step, last: &Value) {
        request.method = Method::PATCH;
        request.content_type = form;
        let changed = self.changed(step, last);
        request.body = Some(match form {
            JSON_PATCH => step.edits.iter().map(|edit| edit.operation(&changed)).collect(),
            APPLY => {
                let mut object =
                    json!({"apiVersion": changed["apiVersion"], "kind": changed["kind"], "metadata": {"name": self.name}});
                if changed["apiVersion"].is_null() {
                    object = self.object(&[]);
                }
                // Applied is what the example says, as changed: what a person would have in a file.
                if step.edits.is_empty() {
                    object = self.object(&[]);
                }
                for edit in &step.edits {
                    edit.patch_into(&mut object, &self.object(&step.edits));
                }
                object
            }
            _ => {
                let mut patch = json!({});
                for edit in &step.edits {
                    edit.patch_into(&mut patch, &changed);
                }
                patch
            }
        });
    }

    /// Removes what is left, whoever holds it.
    async fn clean_up(&self, server: &Server) -> Result<()> {
        let mut request = Request {
            method: Method::PATCH,
            path: self.item(),
            content_type: MERGE,
            accept: JSON,
            body: Some(json!({"metadata": {"finalizers": null}})),
        };
        server.send(&request).await?;
        request.method = Method::DELETE;
        request.path = format!("{}?gracePeriodSeconds=0&propagationPolicy=Background", self.item());
        request.body = None;
        server.send(&request).await?;
        Ok(())
    }
}

fn form_name(form: &str) -> &'static str {
    match form {
        MERGE => "merge-patch",
        STRATEGIC => "strategic-patch",
        JSON_PATCH => "json-patch",
        _ => "apply",
    }
}

fn as_what(accept: &str) -> &'static str {
    match accept {
        TABLE => " as table",
        METADATA | METADATA_LIST => " as metadata",
        _ => "",
    }
}
