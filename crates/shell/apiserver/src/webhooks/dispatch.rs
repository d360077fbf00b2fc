//! Which webhooks a request meets, in which order, and what becomes of the object.
//!
//! Invariant: a webhook sees objects in a version that its rules name; what it patches is decoded and defaulted as a client's
//! body would be, and converted back. Mutating ones are asked one after the other, validating ones all at once.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use tokio::time::Instant;
use trireme_api::bulk::Present;
use trireme_api::decode::{Body, DecodeError, Empty, FieldValidation, canonicalize_as};
use trireme_api::schema::{self, Struct};
use trireme_api::{Status, path};
use trireme_policy::webhook::review::{Objects, User};
use trireme_policy::webhook::{Attributes, Failure, Hook, Kind, Phase, Review, Selected, is_exempt, matching};
use trireme_resources::custom::Served;
use trireme_resources::patch::{UnfitPatch, by_webhook};
use trireme_resources::{Resource, apply, rows};

use super::Registry;
use crate::admission::Operation;
use crate::custom::decode as custom;
use crate::keys;
use crate::pipeline::create::{admission_namespace, warn};
use crate::pipeline::subresources::scale_of;
use crate::pipeline::{Target, WriteOptions, metadata, rules};
use crate::server::ApiServer;

/// How long all webhooks of one request may take together, as upstream bounds a request.
const REQUEST_TIME: Duration = Duration::from_secs(34);

/// A request as webhooks see it.
pub(crate) struct Asked<'a> {
    /// What is meant, and who asks.
    pub target: &'a Target,
    /// What happens.
    pub operation: Operation,
    /// The name; empty while it is to be generated, and for a collection.
    pub name: &'a str,
    /// The request's options as an object; null for a connect.
    pub options: Value,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

impl<'a> Asked<'a> {
    /// A create or update.
    pub(crate) fn write(target: &'a Target, operation: Operation, name: &'a str, options: &WriteOptions) -> Self {
        let kind = match operation {
            Operation::Create => "CreateOptions",
            _ => "UpdateOptions",
        };
        let mut shown = serde_json::json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if options.dry_run {
            shown["dryRun"] = vec!["All"].into();
        }
        if let Some(manager) = &options.sent_manager {
            shown["fieldManager"] = manager.as_str().into();
        }
        if let Some(validation) = options.sent_validation {
            shown["fieldValidation"] = validation.into();
        }
        Self {
            target,
            operation,
            name,
            options: shown,
            dry_run: options.dry_run,
        }
    }

    fn attributes(&self) -> Attributes<'_> {
        attributes(self.target, self.operation, self.name)
    }

    pub(super) fn review(&self) -> Review<'_> {
        let user = &self.target.user;
        Review {
            operation: self.operation.name(),
            request_kind: kind_of(self.target.row, &self.target.subresource),
            request_resource: resource_of(self.target.row),
            subresource: &self.target.subresource,
            name: self.name,
            namespace: admission_namespace(self.target, self.name),
            user: User {
                username: &user.name,
                uid: &user.uid,
                groups: &user.groups,
                extra: &user.extra,
            },
            dry_run: self.dry_run,
            options: &self.options,
        }
    }
}

fn attributes<'a>(target: &'a Target, operation: Operation, name: &'a str) -> Attributes<'a> {
    Attributes {
        operation: operation.name(),
        resource: resource_of(target.row),
        subresource: &target.subresource,
        namespace: admission_namespace(target, name),
    }
}

fn resource_of(row: &'static Resource) -> matching::Resource<'static> {
    matching::Resource {
        group: row.group,
        version: row.version,
        plural: row.plural,
    }
}

/// The kind of what a resource or a subresource of it takes.
fn kind_of(row: &'static Resource, subresource: &str) -> Kind<'static> {
    match row.subresource(subresource) {
        Some(sub) if !sub.version.is_empty() => Kind {
            group: sub.group,
            version: sub.version,
            kind: sub.kind,
        },
        Some(sub) => Kind {
            group: row.group,
            version: row.version,
            kind: sub.kind,
        },
        None => Kind {
            group: row.group,
            version: row.version,
            kind: row.kind,
        },
    }
}

/// Rows by what is stored.
static BY_STORAGE: LazyLock<HashMap<&'static str, Vec<&'static Resource>>> = LazyLock::new(|| {
    let mut all: HashMap<_, Vec<_>> = HashMap::new();
    for row in rows() {
        all.entry(row.storage).or_default().push(row);
    }
    all
});

/// The webhooks of one kind that a request meets by their rules.
pub(crate) struct Call {
    registry: Arc<Registry>,
    phase: Phase,
    /// Each with the row in whose version it sees the objects.
    concerned: Vec<(Arc<Hook>, &'static Resource)>,
    deadline: Instant,
}

/// What mutating webhooks did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mutated {
    /// Whether the object was patched.
    pub patched: bool,
    /// Whether it holds a list or map that is empty.
    pub empty: bool,
}

/// Which webhooks are asked again after others changed the object.
#[derive(Default)]
struct Rounds {
    again: bool,
    changed: bool,
    /// Those that were asked, and want to be asked again after changes.
    asked: HashSet<String>,
    /// Those of them after which the object was changed.
    wanted: HashSet<String>,
    /// The object after the last one.
    output: Option<Value>,
}

impl Rounds {
    fn changed(&mut self) {
        self.wanted.extend(self.asked.drain());
    }
}

impl ApiServer {
    /// The webhooks of a kind that a request meets; none for nearly all requests.
    pub(crate) fn webhooks(&self, phase: Phase, target: &Target, operation: Operation, name: &str) -> Option<Call> {
        let registry = self.webhooks.some(phase)?;
        if is_exempt(target.row.group, target.row.kind) {
            return None;
        }
        let attributes = attributes(target, operation, name);
        let equivalents = || self.equivalents(target);
        let concerned: Vec<_> = registry
            .hooks
            .of(phase)
            .iter()
            .filter_map(|hook| {
                let others = || equivalents().into_iter().map(resource_of).collect();
                let found = hook.concerned_by(&attributes, &others)?;
                if found == attributes.resource {
                    return Some((Arc::clone(hook), target.row));
                }
                let row = equivalents().into_iter().find(|row| resource_of(row) == found)?;
                Some((Arc::clone(hook), row))
            })
            .collect();
        (!concerned.is_empty()).then(|| Call {
            registry,
            phase,
            concerned,
            deadline: Instant::now() + REQUEST_TIME,
        })
    }

    /// Whether some webhook may look at a request.
    pub(crate) fn is_watched_by_webhooks(&self, target: &Target, operation: Operation) -> bool {
        let met = |phase| self.webhooks(phase, target, operation, &target.name).is_some();
        met(Phase::Mutating) || met(Phase::Validating)
    }

    /// The rows of the same objects in all groups and versions that are served.
    fn equivalents(&self, target: &Target) -> Vec<&'static Resource> {
        let row = target.row;
        let has = |other: &&'static Resource| target.subresource.is_empty() || other.subresource(&target.subresource).is_some();
        if let Some(defined) = row.custom {
            let served = |version: &&str| Some(self.customs.find(row.group, version, row.plural)?.served.row);
            return defined.versions.iter().filter_map(served).filter(has).collect();
        }
        let all = BY_STORAGE.get(row.storage).into_iter().flatten().copied();
        all.filter(has).collect()
    }

    /// Asks mutating webhooks, and runs built-in mutation and those who want it again where they changed the object. `old` is in
    /// the target's version, as the object is.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn mutate_by_webhooks(
        &self,
        call: &Call,
        asked: &Asked<'_>,
        value: &mut Value,
        old: Option<&Value>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Mutated, Status> {
        let mut rounds = Rounds::default();
        let mut mutated = Mutated::default();
        let managers = value.pointer("/metadata/managedFields").cloned();
        self.mutating_round(call, asked, (value, old), &mut rounds, (&mut mutated, warnings))
            .await?;
        if rounds.changed {
            self.mutate(asked.target, asked.operation, value, old, options, warnings)?;
            rounds.again = true;
            if rounds.output.as_ref().is_some_and(|output| output != value) {
                rounds.changed();
            }
            self.mutating_round(call, asked, (value, old), &mut rounds, (&mut mutated, warnings))
                .await?;
        }
        if mutated.patched
            && let Some(problem) = apply::misread_managers(value)
        {
            match managers {
                Some(managers) => drop(metadata(value).insert("managedFields".to_owned(), managers)),
                None => drop(metadata(value).remove("managedFields")),
            }
            let text = format!(
                ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating \
                 admission controller; please fix your requests: {problem}"
            );
            warn(warnings, vec![text]);
        }
        Ok(mutated)
    }

    async fn mutating_round(
        &self,
        call: &Call,
        asked: &Asked<'_>,
        (value, old): (&mut Value, Option<&Value>),
        rounds: &mut Rounds,
        (mutated, warnings): (&mut Mutated, &mut Vec<String>),
    ) -> Result<(), Status> {
        for (hook, row) in &call.concerned {
            let selected = Selected {
                object: Some(&*value).filter(|value| !value.is_null()),
                old,
            };
            if !self.selects(hook, asked, selected)? {
                continue;
            }
            // In the second round nobody is asked for the first time.
            let passed_over = rounds.again && !rounds.wanted.contains(&hook.id);
            let started = Instant::now();
            let outcome = self
                .mutate_by(call, (hook, row, passed_over), asked, (value, old), warnings)
                .await;
            match outcome {
                Ok(Outcome::Unasked) => continue,
                Ok(Outcome::Unjudged(status)) => return Err(status),
                _ => {}
            }
            let operation = asked.operation.name();
            let counts = &self.webhooks.counts;
            counts.asked((hook, call.phase), operation, started.elapsed(), outcome.as_ref().err());
            let changed = match &outcome {
                Ok(Outcome::Patched(patched)) => {
                    mutated.patched = true;
                    mutated.empty |= patched.empty;
                    patched.changed
                }
                _ => false,
            };
            if changed {
                rounds.changed();
                rounds.changed = true;
            }
            if hook.reinvoked {
                rounds.asked.insert(hook.id.clone());
            }
            if let Err(failure) = outcome {
                ignored(hook, failure, call.deadline)?;
            }
        }
        rounds.output = rounds.changed.then(|| value.clone());
        Ok(())
    }

    /// Asks one webhook and follows its patch.
    async fn mutate_by(
        &self,
        call: &Call,
        (hook, row, passed_over): (&Hook, &'static Resource, bool),
        asked: &Asked<'_>,
        (value, old): (&mut Value, Option<&Value>),
        warnings: &mut Vec<String>,
    ) -> Result<Outcome, Failure> {
        let target = asked.target;
        let object = shown(target, target.row, row, value).map_err(Failure::Unusable)?;
        let before = match old {
            Some(old) => shown(target, target.row, row, old).map_err(Failure::Unusable)?,
            None => Cow::Owned(Value::Null),
        };
        let objects = Objects {
            kind: kind_of(row, &target.subresource),
            resource: resource_of(row),
            object: &object,
            old: &before,
        };
        match self.is_wanted((hook, call.phase), asked, &objects) {
            Ok(true) if !passed_over => {}
            Ok(_) => return Ok(Outcome::Unasked),
            Err(status) => return Ok(Outcome::Unjudged(status)),
        }
        let review = asked.review();
        let asking = self.ask(&call.registry, (call.phase, hook), &review, &objects, call.deadline);
        let verdict = asking.await?;
        warn(warnings, verdict.warnings);
        if let Some(status) = verdict.denied {
            return Err(Failure::Rejected(status));
        }
        if verdict.patch.is_empty() {
            return Ok(Outcome::Unpatched);
        }
        let object = object.into_owned();
        let Some(mut patched) = self.patched(hook, row, target, object, &verdict.patch)? else {
            return Ok(Outcome::Unpatched);
        };
        let new = std::mem::take(&mut patched.value);
        take_back(target, row, new, value);
        Ok(Outcome::Patched(patched))
    }

    /// An object with a webhook's patch applied, decoded and defaulted; none where the patch has no operations.
    fn patched(
        &self,
        hook: &Hook,
        row: &'static Resource,
        target: &Target,
        object: Value,
        patch: &[u8],
    ) -> Result<Option<Patched>, Failure> {
        let internal = |why: &dyn std::fmt::Display| Failure::Unusable(Status::internal(&why.to_string()));
        let kind = kind_of(row, &target.subresource);
        let whole = is_whole(row, &kind);
        let served = if whole { self.served(target, row) } else { None };
        let ty = match schema::kind(kind.group, kind.version, kind.kind) {
            Some(ty) if served.is_none() => ty,
            _ => row.schema(),
        };
        let present = Present::of(object);
        let nowhere = present.value().is_null();
        let document = by_webhook(ty, &present, patch).map_err(|error| match error {
            UnfitPatch::Undecodable(why) => {
                let why = format!("received undecodable patch in webhook response: {why}");
                Failure::call(&hook.name, why, 503)
            }
            _ if nowhere => Failure::nothing_to_patch(&hook.name),
            other => internal(&other),
        })?;
        let Some(document) = document else { return Ok(None) };
        if nowhere {
            return Err(Failure::nothing_to_patch(&hook.name));
        }
        let decoded = match &served {
            Some(served) => custom::settled(served, document.into_value(), Vec::new(), FieldValidation::Ignore),
            None => Body::of_node(document).typed(ty, FieldValidation::Ignore),
        };
        let decoded = decoded.map_err(|error| match error {
            DecodeError::Cost(error) => Failure::Unusable(error.into()),
            error => internal(&error),
        })?;
        let changed = differ(present.value(), &decoded.value, ty);
        let mut value = decoded.value;
        if whole && served.is_none() {
            rules::defaults(row, &mut value);
        }
        Ok(Some(Patched {
            value,
            changed,
            empty: decoded.empty,
        }))
    }

    /// The version of a definition that a row is of.
    fn served(&self, target: &Target, row: &'static Resource) -> Option<Arc<Served>> {
        let own = target.custom.as_ref()?;
        if std::ptr::eq(own.row, row) {
            return Some(Arc::clone(own));
        }
        Some(self.customs.find(row.group, row.version, row.plural)?.served)
    }

    /// Asks validating webhooks. The object is in the version in which it is stored, `old` in the target's.
    ///
    /// # Errors
    /// What the client is told: the first refusal that came.
    pub(crate) async fn validate_by_webhooks(
        &self,
        call: &Call,
        asked: &Asked<'_>,
        (value, old): (Option<&Value>, Option<&Value>),
        warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let target = asked.target;
        let null = Value::Null;
        // The same objects for all that see the same version.
        let mut shown_in: Vec<Shown<'_>> = Vec::new();
        let mut relevant = Vec::new();
        for (hook, row) in &call.concerned {
            let selected = Selected { object: value, old };
            if !self.selects(hook, asked, selected)? {
                continue;
            }
            let at = match shown_in.iter().position(|(known, ..)| std::ptr::eq(*known, *row)) {
                Some(at) => at,
                None => {
                    let object = match value {
                        Some(value) => shown(target, target.stored(), row, value)?,
                        None => Cow::Borrowed(&null),
                    };
                    let before = match old {
                        Some(old) => shown(target, target.row, row, old)?,
                        None => Cow::Borrowed(&null),
                    };
                    shown_in.push((row, object, before));
                    shown_in.len() - 1
                }
            };
            let objects = seen(target, &shown_in[at]);
            if self.is_wanted((hook, call.phase), asked, &objects)? {
                relevant.push((hook, at));
            }
        }
        let review = asked.review();
        let mut calls: FuturesUnordered<_> = relevant
            .into_iter()
            .map(|(hook, at)| {
                let objects = seen(target, &shown_in[at]);
                let review = &review;
                async move {
                    let started = Instant::now();
                    let asking = self.ask(&call.registry, (call.phase, hook), review, &objects, call.deadline);
                    let (told, outcome) = match asking.await {
                        Ok(verdict) => (
                            verdict.warnings,
                            verdict.denied.map_or(Ok(()), |status| Err(Failure::Rejected(status))),
                        ),
                        Err(failure) => (Vec::new(), Err(failure)),
                    };
                    let counts = &self.webhooks.counts;
                    let operation = asked.operation.name();
                    counts.asked((hook, call.phase), operation, started.elapsed(), outcome.as_ref().err());
                    (hook, told, outcome)
                }
            })
            .collect();
        let mut first = Ok(());
        while let Some((hook, told, outcome)) = calls.next().await {
            warn(warnings, told);
            let refused = match outcome {
                Ok(()) => Ok(()),
                Err(failure @ Failure::Call { .. }) if hook.ignores_failures => {
                    tracing::warn!(webhook = hook.name, %failure, "a webhook failed and is ignored");
                    Ok(())
                }
                Err(failure) => Err(failure.into_status()),
            };
            first = first.and(refused);
        }
        first
    }

    /// Whether a webhook's selectors take a request.
    fn selects(&self, hook: &Hook, asked: &Asked<'_>, mut selected: Selected<'_>) -> Result<bool, Status> {
        if asked.operation == Operation::Connect {
            selected.object = None; // the options of a connection have no labels, not even none
        }
        let labels_of = |namespace: &str| {
            let namespace = self.store.get(&keys::object("", "namespaces", "", namespace))?;
            let labels = namespace.header().labels.iter();
            Some(
                labels
                    .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
                    .collect(),
            )
        };
        hook.selects(&asked.attributes(), selected, &labels_of)
    }
}

/// Goes on after a call that failed where the webhook's policy is to ignore that, and there is time left.
fn ignored(hook: &Hook, failure: Failure, deadline: Instant) -> Result<(), Status> {
    if !(hook.ignores_failures && matches!(failure, Failure::Call { .. })) {
        return Err(failure.into_status());
    }
    tracing::warn!(webhook = hook.name, %failure, "a webhook failed and is ignored");
    if Instant::now() >= deadline {
        return Err(Status::timeout("request did not complete within requested timeout", 0));
    }
    Ok(())
}

/// What one mutating webhook did.
enum Outcome {
    /// It was not asked.
    Unasked,
    /// It was not asked, and the request fails: its conditions cannot be judged.
    Unjudged(Status),
    /// It admitted the object as it is.
    Unpatched,
    /// It patched the object.
    Patched(Patched),
}

/// What a patch gave.
struct Patched {
    value: Value,
    changed: bool,
    empty: bool,
}

/// The objects of a request in a row's version: the new one and the one as it is.
type Shown<'v> = (&'static Resource, Cow<'v, Value>, Cow<'v, Value>);

/// They as a webhook sees them.
fn seen<'a>(target: &'a Target, (row, object, old): &'a Shown<'_>) -> Objects<'a> {
    Objects {
        kind: kind_of(row, &target.subresource),
        resource: resource_of(row),
        object,
        old,
    }
}

/// Whether a subresource takes the resource's own objects.
fn is_whole(row: &'static Resource, kind: &Kind<'_>) -> bool {
    (kind.group, kind.version, kind.kind) == (row.group, row.version, row.kind)
}

/// An object of one version as webhooks see it in another; of a scale, the scale.
fn shown<'v>(
    target: &Target,
    from: &'static Resource,
    to: &'static Resource,
    value: &'v Value,
) -> Result<Cow<'v, Value>, Status> {
    if value.is_null() {
        return Ok(Cow::Borrowed(value));
    }
    if target.subresource == "scale" {
        return scale_of(target, value).map(Cow::Owned);
    }
    let kind = kind_of(to, &target.subresource);
    if !is_whole(to, &kind) {
        let mut body = value.clone();
        let group = if kind.group.is_empty() {
            String::new()
        } else {
            format!("{}/", kind.group)
        };
        body["apiVersion"] = format!("{group}{}", kind.version).into();
        body["kind"] = kind.kind.into();
        return Ok(Cow::Owned(body));
    }
    if std::ptr::eq(from, to) {
        return Ok(Cow::Borrowed(value));
    }
    let mut value = value.clone();
    rules::between(from, to, &mut value);
    Ok(Cow::Owned(value))
}

/// Puts what a webhook made of an object in its place, in the version in which that is.
fn take_back(target: &Target, row: &'static Resource, mut new: Value, value: &mut Value) {
    if target.subresource == "scale" {
        let replicas = new["spec"]["replicas"].as_i64().unwrap_or(0);
        let own = target.custom.as_ref().and_then(|served| served.scale.as_ref());
        let at: Vec<&str> = match own {
            Some(paths) => paths.spec_replicas.iter().map(String::as_str).collect(),
            None => apply::scale::REPLICAS.to_vec(),
        };
        path::set(value, &at, replicas);
        return;
    }
    if !std::ptr::eq(row, target.row) && is_whole(target.row, &kind_of(target.row, &target.subresource)) {
        rules::between(row, target.row, &mut new);
    }
    *value = new;
}

/// Whether two objects differ in more than in what is empty.
fn differ(before: &Value, after: &Value, ty: &'static Struct) -> bool {
    if before == after {
        return false;
    }
    let stored = |value: &Value| {
        let mut value = value.clone();
        canonicalize_as(&mut value, ty, Empty::Stored);
        value
    };
    stored(before) != stored(after)
}
