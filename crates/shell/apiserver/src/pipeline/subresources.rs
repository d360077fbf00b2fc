//! Subresources that are not the object itself: scale, binding, eviction, token.
//!
//! Invariant: each is a change of the object through [`ApiServer::change`], so that versions, managed fields and
//! admission hold for it too.

use bytes::Bytes;
use serde_json::{Value, json};
use trireme_api::bulk::Present;
use trireme_api::field::{FieldError, FieldErrorType};
use trireme_api::path;
use trireme_api::selector::LabelSelector;
use trireme_api::{Status, StatusCause, StatusDetails};
use trireme_resources::custom::{self, ScalePaths};
use trireme_resources::{Resource, apply};

use super::delete::Asking;
use super::options::{self, DeleteOptions, error, quoted};
use super::patch::{PatchKind, configs, made_by_apply, patched};
use super::update::{Behaviour, Made, Make, check_name};
use super::{Target, WriteOptions, Written, meta_text, metadata, rules};
use crate::admission::Operation;
use crate::http::query::Query;
use crate::keys;
use crate::server::{ApiServer, now};

/// The row-like description of `autoscaling/v1 Scale`.
#[must_use]
pub fn scale_row() -> &'static Resource {
    static ROW: std::sync::LazyLock<Resource> = std::sync::LazyLock::new(|| {
        let hpa = trireme_resources::find("autoscaling", "v1", "horizontalpodautoscalers").expect("a built-in row");
        Resource {
            plural: "scales",
            singular: "scale",
            kind: "Scale",
            short_names: &[],
            categories: &[],
            subresources: &[],
            selectable: &[],
            storage: "autoscaling/scales",
            stored_as: ("autoscaling", "v1"),
            hash: "",
            virtual_: true,
            ..*hpa
        }
    });
    &ROW
}

/// The row-like description of `authentication.k8s.io/v1 TokenRequest`.
fn token_row() -> &'static Resource {
    static ROW: std::sync::LazyLock<Resource> = std::sync::LazyLock::new(|| {
        let review = trireme_resources::find("authentication.k8s.io", "v1", "tokenreviews").expect("a built-in row");
        Resource {
            plural: "tokenrequests",
            singular: "tokenrequest",
            kind: "TokenRequest",
            storage: "authentication.k8s.io/tokenrequests",
            ..*review
        }
    });
    &ROW
}

/// How long a token lives that asks for nothing else.
const TOKEN_SECONDS: i64 = 3600;

/// How long a token may live.
fn check_expiration(request: &Value) -> Result<(), Status> {
    let Some(seconds) = request["spec"]["expirationSeconds"].as_i64() else {
        return Ok(());
    };
    let why = match seconds {
        ..600 => "may not specify a duration less than 10 minutes",
        4_294_967_297.. => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let problem = error(FieldErrorType::Invalid, "spec.expirationSeconds", seconds.to_string(), why);
    Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &[problem]))
}

/// The `Scale` of an object.
///
/// # Errors
/// 500 for a selector that is none.
pub fn scale_of(target: &Target, object: &Value) -> Result<Value, Status> {
    let paths = target.custom.as_ref().and_then(|served| served.scale.as_ref());
    let mut metadata = serde_json::Map::new();
    for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !object["metadata"][name].is_null() {
            metadata.insert(name.to_owned(), object["metadata"][name].clone());
        }
    }
    let selector = if let Some(paths) = paths {
        let text = paths.selector.as_ref().and_then(|path| custom::at(object, path));
        text.and_then(Value::as_str).unwrap_or_default().to_owned()
    } else if target.row.kind == "ReplicationController" {
        let labels = object["spec"]["selector"].as_object().cloned().unwrap_or_default();
        let terms: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        terms.join(",")
    } else {
        rules::selector_text(&object["spec"]["selector"])?
    };
    let number = |own: fn(&ScalePaths) -> &[String], at: &Value| match paths {
        Some(paths) => custom::at(object, own(paths)).and_then(Value::as_i64),
        None => at.as_i64(),
    };
    let wanted = number(|paths| &paths.spec_replicas, &object["spec"]["replicas"]);
    if let (Some(paths), None) = (paths, wanted) {
        let path = paths.spec_replicas.join(".");
        return Err(Status::internal(&format!(
            "the spec replicas field \".{path}\" does not exist"
        )));
    }
    let present = number(|paths| &paths.status_replicas, &object["status"]["replicas"]).unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {},
        "status": {"replicas": present},
    });
    if let Some(replicas) = wanted.filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    Ok(scale)
}

/// The same request as one for an object of kind `Scale`.
fn scale_target(target: &Target) -> Target {
    Target {
        row: scale_row(),
        custom: None,
        ..target.clone()
    }
}

fn put_owners(value: &mut Value, owners: Option<Value>) {
    let metadata = metadata(value);
    match owners {
        Some(owners) => metadata.insert("managedFields".to_owned(), owners),
        None => metadata.remove("managedFields"),
    };
}

fn success_created() -> Status {
    Status {
        status: "Success".into(),
        code: 201,
        ..Status::default()
    }
}

fn plain(code: u16, message: impl Into<String>) -> Status {
    Status::failure(code, "", message)
}

/// What is refused of an eviction's options before its pod is looked for.
fn check_eviction(target: &Target, given: &Value, dry_run: bool) -> Result<(), Status> {
    const UNSAFE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if given[UNSAFE] == true {
        let problem = error(
            FieldErrorType::Invalid,
            &format!("deleteOptions.{UNSAFE}"),
            "true",
            "can not be set for pod eviction, try after removing the option",
        );
        return Err(Status::invalid("policy", "Eviction", &target.name, &[problem]));
    }
    let sent: Vec<&str> = given["dryRun"]
        .as_array()
        .map(|values| values.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    if dry_run && !sent.is_empty() && sent != ["All"] {
        let why = format!(
            "Non-matching dry-run options in request and content: [All] and [{}]",
            sent.join(" ")
        );
        return Err(plain(500, why));
    }
    Ok(())
}

/// The namespace and the name of a scale must be the URL's.
fn check_place(target: &Target, scale: &mut Value) -> Result<(), Status> {
    super::create::match_namespace(target, scale)?;
    check_name(target, scale)
}

impl ApiServer {
    /// PUT of a scale.
    ///
    /// # Errors
    /// As upstream.
    pub async fn update_scale(&self, target: &Target, mut scale: Value, options: &WriteOptions) -> Result<Written, Status> {
        check_place(target, &mut scale)?;
        let scale_target = scale_target(target);
        let mut make = |old: &Present| {
            let mut value = scale.clone();
            rules::update_managers(&scale_target, Some(old.whole()), &mut value, options, "scale");
            Ok(Made::plain(value))
        };
        self.change_scale(target, options, false, &mut make).await
    }

    /// PATCH of a scale, apply included: the scale is an object with owners of its own, which are those of the replicas.
    ///
    /// # Errors
    /// As upstream.
    pub async fn patch_scale(
        &self,
        target: &Target,
        kind: PatchKind,
        body: &Bytes,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let scale_target = scale_target(target);
        if kind == PatchKind::Apply {
            let mut configs = configs(scale_target.row, body, options.validation)?;
            let mut make = |old: &Present| {
                let mut made = made_by_apply(&scale_target, Some(old), configs()?, options)?;
                check_place(target, &mut made.value).map_err(|status| status.warning(made.warnings.clone()))?;
                Ok(made)
            };
            return self.change_scale(target, options, true, &mut make).await;
        }
        let mut make = |old: &Present| {
            let mut made = patched(&scale_target, kind, old, body, options)?;
            check_place(target, &mut made.value).map_err(|status| status.warning(made.warnings.clone()))?;
            let options = &WriteOptions {
                empty: made.empty,
                ..options.clone()
            };
            rules::update_managers(&scale_target, Some(old.whole()), &mut made.value, options, "scale");
            Ok(made)
        };
        self.change_scale(target, options, true, &mut make).await
    }

    async fn change_scale(
        &self,
        target: &Target,
        options: &WriteOptions,
        patch: bool,
        make: &mut Make<'_>,
    ) -> Result<Written, Status> {
        let malformed = |why: String| Status::failure(500, "", format!("failed to decode managed fields: {why}"));
        let own_path = target.custom.as_ref().and_then(|served| served.scale.as_ref());
        let path: Vec<&str> = match own_path {
            Some(paths) => paths.spec_replicas.iter().map(String::as_str).collect(),
            None => apply::scale::REPLICAS.to_vec(),
        };
        let mut make_object = |present: &Present| {
            let current = present.whole();
            let owners = current.pointer("/metadata/managedFields");
            let mut old = match own_path {
                // What is not there yet may be set.
                Some(_) if path::get(current, &path).is_none() => {
                    let mut with = current.clone();
                    path::set(&mut with, &path, 0);
                    scale_of(target, &with)?
                }
                _ => scale_of(target, current)?,
            };
            put_owners(&mut old, apply::scale::to_scale(owners, &path).map_err(malformed)?);
            let Made {
                value: scale, warnings, ..
            } = make(&Present::of(old))?;
            let problems = rules::validate_create(&scale_target(target), &scale).errors;
            if !problems.is_empty() {
                return Err(Status::invalid("autoscaling", "Scale", &target.name, &problems).warning(warnings));
            }
            // A whole scale's is held against the object where the object is changed.
            let (wanted, own) = (meta_text(&scale, "uid"), meta_text(current, "uid"));
            if patch && !wanted.is_empty() && wanted != own {
                let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {own}");
                let resource = format!("{}/scale", target.row.plural);
                return Err(Status::conflict(target.row.group, &resource, &target.name, &why).warning(warnings));
            }
            let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            let of_scale = scale.pointer("/metadata/managedFields");
            let owners = apply::scale::to_object(owners, of_scale, &target.api_version(), &path).map_err(malformed)?;
            let mut object = current.clone();
            put_owners(&mut object, owners);
            path::set(&mut object, &path, replicas);
            for name in ["resourceVersion", "uid"] {
                let given = &scale["metadata"][name];
                let metadata = metadata(&mut object);
                if given.is_string() {
                    metadata.insert(name.to_owned(), given.clone());
                } else {
                    metadata.remove(name);
                }
            }
            Ok(Made {
                warnings,
                ..Made::managed(object)
            })
        };
        let behaviour = Behaviour {
            whole: !patch,
            patch,
            raw: false,
        };
        let written = self.change(target, options, behaviour, &mut make_object).await?;
        let scale = scale_of(target, &written.object.value())?;
        Ok(Written {
            object: rules::object_of(&scale)?,
            ..written
        })
    }

    /// POST of a binding: the scheduler's decision.
    ///
    /// # Errors
    /// As upstream.
    pub async fn bind(&self, target: &Target, mut binding: Value, options: &WriteOptions) -> Result<Status, Status> {
        super::create::match_namespace(target, &mut binding)?;
        if meta_text(&binding, "name") != target.name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let mut warnings = Vec::new();
        self.admit_new(target, &mut binding, options, &mut warnings).await?;
        let problems = check_binding(&binding);
        if !problems.is_empty() {
            return Err(plain(500, trireme_api::field::aggregate(&problems)));
        }
        self.validate(target, Operation::Create, &mut binding, None, options, &mut warnings)?;
        self.validate_new_by_webhooks(target, &binding, options, &mut warnings)
            .await?;
        let uid = meta_text(&binding, "uid").to_owned();
        let version = meta_text(&binding, "resourceVersion").to_owned();
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        let refuse = |why: String| Status::conflict("", "pods/binding", &target.name, &why);
        let mut make = |present: &Present| {
            let pod = present.whole();
            let own = meta_text(pod, "uid");
            if !uid.is_empty() && uid != own {
                return Err(target.conflict(&super::update::uid_differs(target, &uid, own, options.dry_run)));
            }
            let present = meta_text(pod, "resourceVersion");
            if !version.is_empty() && version != present {
                return Err(target.conflict(&super::update::version_differs(target, &version, present, options.dry_run)));
            }
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                return Err(refuse(format!(
                    "pod {} is being deleted, cannot be assigned to a host",
                    target.name
                )));
            }
            let present = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if !present.is_empty() {
                return Err(refuse(format!("pod {} is already assigned to node {present:?}", target.name)));
            }
            if pod["spec"]["schedulingGates"]
                .as_array()
                .is_some_and(|gates| !gates.is_empty())
            {
                return Err(refuse(format!("pod {} has non-empty .spec.schedulingGates", target.name)));
            }
            let mut pod = pod.clone();
            pod["spec"]["nodeName"] = node.as_str().into();
            // The node that was hoped for says nothing any more.
            if let Some(status) = pod["status"].as_object_mut() {
                status.remove("nominatedNodeName");
            }
            for kind in ["annotations", "labels"] {
                if let Some(extra) = binding["metadata"][kind].as_object().filter(|extra| !extra.is_empty()) {
                    let held = metadata(&mut pod).entry(kind).or_insert_with(|| json!({}));
                    for (key, value) in extra {
                        held[key.as_str()] = value.clone();
                    }
                }
            }
            scheduled(&mut pod);
            Ok(Made::managed(pod))
        };
        let behaviour = Behaviour {
            patch: true,
            raw: true,
            ..Behaviour::default()
        };
        self.change(target, options, behaviour, &mut make).await?;
        Ok(success_created())
    }

    /// POST of an eviction: a deletion that budgets may refuse.
    ///
    /// # Errors
    /// As upstream; 429 where a budget refuses.
    pub async fn evict(&self, target: &Target, mut eviction: Value, options: &WriteOptions) -> Result<Status, Status> {
        super::create::match_namespace(target, &mut eviction)?;
        if meta_text(&eviction, "name") != target.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let given = eviction["deleteOptions"].clone();
        check_eviction(target, &given, options.dry_run)?;
        self.barrier().await?;
        let pod = self.store.get(&target.key()).ok_or_else(|| target.not_found())?;
        let mut delete = if given.is_object() {
            options::delete(&Query::default(), Some(&given))?
        } else {
            DeleteOptions::default()
        };
        delete.dry_run |= options.dry_run;
        let options = &WriteOptions {
            dry_run: delete.dry_run,
            ..options.clone()
        };
        let mut warnings = Vec::new();
        self.mutate(target, Operation::Create, &mut eviction, None, options, &mut warnings)?;
        self.mutate_new_by_webhooks(target, &mut eviction, options, &mut warnings)
            .await?;
        self.validate(target, Operation::Create, &mut eviction, None, options, &mut warnings)?;
        self.validate_new_by_webhooks(target, &eviction, options, &mut warnings)
            .await?;
        let pod = pod.value();
        let deletion = Target {
            subresource: String::new(),
            ..target.clone()
        };
        if !may_ignore_budgets(&pod) {
            let budgets = self.budgets_of(target, &pod)?;
            if budgets.len() > 1 {
                return Err(plain(
                    500,
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
            if let Some(budget) = budgets.first()
                && !(is_unready(&pod) && evicts_unready(budget))
            {
                self.take_from_budget(target, meta_text(budget, "name"), &pod, options)
                    .await?;
                if delete.uid.is_none() {
                    delete.uid = Some(meta_text(&pod, "uid").to_owned());
                }
            }
        }
        if !delete.dry_run {
            let marked = self.mark_disrupted(target, &delete, options).await?;
            if delete.resource_version.is_some() {
                // The version that the client named is the one before this.
                delete.resource_version = Some(marked.object.header().resource_version.to_string());
            }
        }
        match self.delete_as(&deletion, &delete, Asking::Eviction).await {
            Ok(_) => Ok(success_created()),
            Err(status) if status.is_not_found() => Ok(success_created()),
            Err(status) => Err(status),
        }
    }

    fn budgets_of(&self, target: &Target, pod: &Value) -> Result<Vec<Value>, Status> {
        let labels = rules::labels_of(pod);
        let mut found = Vec::new();
        if labels.is_empty() {
            return Ok(found);
        }
        for budget in self.view().list("policy", "poddisruptionbudgets", Some(&target.namespace)) {
            let budget = budget.value();
            let selector = budget["spec"].get("selector");
            let selector = LabelSelector::from_value(selector).map_err(|error| Status::internal(&error.to_string()))?;
            if selector.matches(&labels) {
                found.push(budget);
            }
        }
        Ok(found)
    }

    async fn take_from_budget(
        &self,
        target: &Target,
        budget: &str,
        evicted: &Value,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        let row = trireme_resources::find("policy", "v1", "poddisruptionbudgets").expect("a built-in row");
        let budget_target = Target {
            custom: None,
            row,
            namespace: target.namespace.clone(),
            name: budget.to_owned(),
            subresource: "status".into(),
            user: std::sync::Arc::new(crate::user::UserInfo::apiserver()),
        };
        let pod = target.name.clone();
        let mut make = |present: &Present| {
            let current = present.whole();
            let status = &current["status"];
            if is_granted(status, evicted) {
                return Ok(Made::managed(current.clone()));
            }
            let refusal = |message: String, retry: u32| {
                Status::failure(
                    429,
                    "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                )
                .with_details(StatusDetails {
                    causes: vec![StatusCause {
                        reason: "DisruptionBudget".into(),
                        message,
                        field: String::new(),
                    }],
                    retry_after_seconds: retry,
                    ..StatusDetails::default()
                })
            };
            let observed = status["observedGeneration"].as_i64().unwrap_or(0);
            if observed < current["metadata"]["generation"].as_i64().unwrap_or(0) {
                return Err(refusal(
                    format!("The disruption budget {budget} is still being processed by the server."),
                    10,
                ));
            }
            let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
            if allowed < 0 {
                return Err(Status::forbidden(
                    "policy",
                    "poddisruptionbudget",
                    budget,
                    "pdb disruptions allowed is negative",
                ));
            }
            if allowed == 0 {
                return Err(refusal(
                    format!(
                        "The disruption budget {budget} needs {} healthy pods and has {} currently",
                        status["desiredHealthy"].as_i64().unwrap_or(0),
                        status["currentHealthy"].as_i64().unwrap_or(0)
                    ),
                    0,
                ));
            }
            let mut budget = current.clone();
            budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
            if allowed == 1 {
                set_condition(
                    &mut budget,
                    &json!({
                        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
                        "observedGeneration": observed,
                    }),
                );
            }
            if !budget["status"]["disruptedPods"].is_object() {
                budget["status"]["disruptedPods"] = json!({});
            }
            budget["status"]["disruptedPods"][pod.as_str()] = now().into();
            Ok(Made::managed(budget))
        };
        let behaviour = Behaviour {
            patch: true,
            raw: true,
            ..Behaviour::default()
        };
        self.change(&budget_target, options, behaviour, &mut make).await.map(drop)
    }

    /// Says on the pod why it goes.
    async fn mark_disrupted(&self, target: &Target, delete: &DeleteOptions, options: &WriteOptions) -> Result<Written, Status> {
        let status_target = Target {
            subresource: "status".into(),
            ..target.clone()
        };
        // What is empty is no precondition here, though it is one of the deletion that follows.
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let said = DeleteOptions {
            uid: filled(&delete.uid),
            resource_version: filled(&delete.resource_version),
            ..delete.clone()
        };
        let mut make = |present: &Present| {
            let pod = present.whole();
            super::delete::check_preconditions(target, &said, pod)?;
            let mut pod = pod.clone();
            set_condition(
                &mut pod,
                &json!({
                    "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting", "lastProbeTime": null,
                }),
            );
            Ok(Made::managed(pod))
        };
        let behaviour = Behaviour {
            patch: true,
            raw: true,
            ..Behaviour::default()
        };
        self.change(&status_target, options, behaviour, &mut make).await
    }

    /// POST of a token request.
    ///
    /// # Errors
    /// As the issuer answers; 404 without one.
    pub async fn issue_token(&self, target: &Target, mut request: Value, options: &WriteOptions) -> Result<Value, Status> {
        let Some(tokens) = &self.plugins.tokens else {
            return Err(crate::http::resources::no_such_resource());
        };
        self.barrier().await?;
        let account = self.store.get(&target.key()).ok_or_else(|| target.not_found())?;
        let name = meta_text(&request, "name").to_owned();
        if !name.is_empty() && name != target.name {
            return Err(Status::bad_request("name in URL does not match name in TokenRequest object"));
        }
        super::create::match_namespace(target, &mut request)?;
        rules::defaults(token_row(), &mut request);
        if !request["spec"]["expirationSeconds"].is_number() {
            request["spec"]["expirationSeconds"] = TOKEN_SECONDS.into();
        }
        metadata(&mut request);
        let tracked = Target {
            row: token_row(),
            ..target.clone()
        };
        rules::update_managers(&tracked, None, &mut request, options, &target.subresource);
        let mut warnings = Vec::new();
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["kind"] = "TokenRequest".into();
        self.mutate(target, Operation::Create, &mut request, None, options, &mut warnings)?;
        self.mutate_new_by_webhooks(target, &mut request, options, &mut warnings)
            .await?;
        self.validate(target, Operation::Create, &mut request, None, options, &mut warnings)?;
        self.validate_new_by_webhooks(target, &request, options, &mut warnings)
            .await?;
        check_expiration(&request)?;
        let metadata = metadata(&mut request);
        metadata.insert("name".into(), target.name.as_str().into());
        metadata.insert("namespace".into(), target.namespace.as_str().into());
        metadata.insert("creationTimestamp".into(), now().into());
        metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        let mut token = tokens.issue(&account, request, &target.user).await?;
        rules::canonicalize_answer(token_row().schema(), &mut token, options.empty);
        Ok(token)
    }

    /// The node that a pod runs on, as stored.
    pub(crate) fn node(&self, name: &str) -> Option<trireme_api::Object> {
        self.store.get(&keys::object("", "nodes", "", name))
    }
}

fn check_binding(binding: &Value) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        problems.push(error(
            FieldErrorType::NotSupported,
            "target.kind",
            quoted(kind),
            "supported values: \"Node\", \"<empty>\"",
        ));
    }
    if binding["target"]["name"].as_str().unwrap_or_default().is_empty() {
        problems.push(error(FieldErrorType::Required, "target.name", "", ""));
    }
    problems
}

fn scheduled(pod: &mut Value) {
    set_condition(pod, &json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null}));
}

/// Sets a condition of `status.conditions`; its transition time changes with its status only.
fn set_condition(object: &mut Value, condition: &Value) {
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let conditions = &mut object["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let list = conditions.as_array_mut().expect("made an array above");
    let mut condition = condition.clone();
    let known = list.iter_mut().find(|own| own["type"] == condition["type"]);
    condition["lastTransitionTime"] = match &known {
        Some(own) if own["status"] == condition["status"] && own["lastTransitionTime"].is_string() => {
            own["lastTransitionTime"].clone()
        }
        _ => now().into(),
    };
    match known {
        Some(own) => *own = condition,
        None => list.push(condition),
    }
}

fn may_ignore_budgets(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || !pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a budget already lets this very pod go: the answer, or the deletion behind it, was lost, and it is asked for again.
/// Otherwise nobody could evict it, nor another pod in its place, until its entry is forgotten.
fn is_granted(status: &Value, pod: &Value) -> bool {
    let granted = status["disruptedPods"][meta_text(pod, "name")].as_str();
    // A pod of that name that came later was not meant. Times of the API are in order as text.
    granted.is_some_and(|at| at >= meta_text(pod, "creationTimestamp"))
}

fn is_unready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    !conditions.iter().any(|own| own["type"] == "Ready" && own["status"] == "True")
}

/// Whether a budget lets unready pods go.
fn evicts_unready(budget: &Value) -> bool {
    let status = &budget["status"];
    let healthy = status["currentHealthy"].as_i64().unwrap_or(0);
    let enough = healthy >= status["desiredHealthy"].as_i64().unwrap_or(0) && status["desiredHealthy"].as_i64().unwrap_or(0) > 0;
    match budget["spec"]["unhealthyPodEvictionPolicy"].as_str() {
        Some("AlwaysAllow") => true,
        _ => enough,
    }
}
