//! Carries out a plan, action by action.
//!
//! Invariant: it adds no decision. It stops at the first action that fails; what is told of an action, done or failed,
//! stands in the plan. Creations of one kind that follow each other go together, one at first and one more for each that
//! succeeds, so twice as many each time (upstream's slow start): a refusal is met before many more follow, and many pods share
//! a flush of the log.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use trireme_api::{Object, Status};
use trireme_client::typed::target_of;
use trireme_client::{
    DeleteOptions, EventRecorder, EventType, ListOptions, Patch, Propagation, Regarding, ResourceRef, Target, WriteOptions,
};
use trireme_reconcile::plan::{Action, EventKind, EventNote, ObjectRef, Plan};

use crate::metrics::ControllerMetrics;
use crate::registration::{Context, Failure};
use crate::written::Written;

/// How many objects are created together at most.
const TOGETHER_MAX: usize = 256;
/// How many are created together at first where the key's last plan created without a refusal: with many to make, a plan
/// follows the other, and each would begin with one. So many may be refused at once where a quota is used up between two.
const TOGETHER_AGAIN_MAX: usize = 64;

/// The kind that an action creates.
fn created_kind(action: &Action) -> Option<&str> {
    match action {
        Action::Event(_) => None,
        _ => match action.effect() {
            Action::Create { object, .. } => object["kind"].as_str(),
            _ => None,
        },
    }
}

/// What an action came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// It was carried out.
    Acted,
    /// There was nothing left to do.
    Needless,
}

/// Where a plan stopped.
#[derive(Debug)]
pub struct Stopped {
    /// The action that failed, by its place in the plan.
    pub at: usize,
    /// What it was.
    pub failure: Failure,
    /// What the API said.
    pub status: Status,
}

/// Carries out plans for one controller.
pub struct Executor<'a> {
    /// Client, cache and kinds.
    pub context: &'a Context,
    /// Where writes are noted.
    pub written: &'a Written,
    /// Events of the controller.
    pub events: &'a EventRecorder,
    /// Counters of the controller.
    pub metrics: &'a ControllerMetrics,
}

impl Executor<'_> {
    /// Carries out a plan, creating so many objects together at first; how many the key's next plan may begin with.
    ///
    /// # Errors
    /// The first action that failed; what stood behind it was not done, unless it went together with it.
    pub async fn execute(&self, plan: &Plan, together: usize) -> Result<usize, Box<Stopped>> {
        let (mut at, mut most) = (0, together.clamp(1, TOGETHER_AGAIN_MAX));
        let mut created = false;
        while let Some(action) = plan.actions.get(at) {
            let Some(kind) = created_kind(action) else {
                let outcome = self.one(action).await;
                self.tell(at, action, outcome)?;
                at += 1;
                continue;
            };
            let rest = &plan.actions[at..];
            let alike = rest.iter().take_while(|action| created_kind(action) == Some(kind)).count();
            self.create(at, &rest[..alike], &mut most).await?;
            created = true;
            at += alike;
        }
        Ok(if created { most.min(TOGETHER_AGAIN_MAX) } else { 1 })
    }

    /// Creates objects of one kind, which stand in the plan from a place on. No more are begun after one is refused.
    async fn create(&self, from: usize, actions: &[Action], most: &mut usize) -> Result<(), Box<Stopped>> {
        let mut next = actions.iter().enumerate();
        let mut writes = FuturesUnordered::new();
        let mut first: Option<Box<Stopped>> = None;
        loop {
            while first.is_none()
                && writes.len() < *most
                && let Some((at, action)) = next.next()
            {
                writes.push(async move { (at, action, self.one(action).await) });
            }
            let Some((at, action, outcome)) = writes.next().await else {
                break;
            };
            match self.tell(from + at, action, outcome) {
                Ok(()) => *most = (*most + 1).min(TOGETHER_MAX),
                Err(stopped) if first.as_ref().is_none_or(|first| stopped.at < first.at) => first = Some(stopped),
                Err(_) => {}
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Does what an action does.
    async fn one(&self, action: &Action) -> Result<Done, Status> {
        match action {
            Action::Event(_) => Ok(Done::Needless),
            _ => self.act(action.effect()).await,
        }
    }

    /// Tells what is to be told of an action, and counts it.
    fn tell(&self, at: usize, action: &Action, outcome: Result<Done, Status>) -> Result<(), Box<Stopped>> {
        let (done, failed) = match action {
            Action::Event(note) => {
                self.record(note, note.message.clone());
                return Ok(());
            }
            Action::Told { done, failed, .. } => (done.as_ref(), failed.as_ref()),
            _ => (None, None),
        };
        match outcome {
            Ok(Done::Acted) => {
                if let Some(note) = done {
                    self.record(note, note.message.clone());
                }
            }
            Ok(Done::Needless) => {}
            Err(status) => {
                // A race that was lost is no failure: what there is now is looked at again.
                if let Some(note) = failed.filter(|_| status.code != 409) {
                    self.record(note, format!("{}: {status}", note.message));
                }
                let failure = match action.effect() {
                    _ if status.code == 409 => Failure::Other(status.message.clone()),
                    Action::Create { .. } => Failure::Create(status.message.clone()),
                    Action::Delete { .. } => Failure::Delete(status.message.clone()),
                    Action::UpdateSubresource { .. } => Failure::Subresource(status.message.clone()),
                    _ => Failure::Other(status.message.clone()),
                };
                return Err(Box::new(Stopped { at, failure, status }));
            }
        }
        self.metrics.actions.inc();
        Ok(())
    }

    fn record(&self, note: &EventNote, message: String) {
        let about = &note.regarding;
        let regarding = Regarding {
            api_version: about.api_version.clone(),
            kind: about.kind.clone(),
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            uid: about.uid.clone(),
            ..Regarding::default()
        };
        let kind = match note.kind {
            EventKind::Normal => EventType::Normal,
            EventKind::Warning => EventType::Warning,
        };
        self.events.record(regarding, kind, &note.reason, message);
    }

    /// One effect.
    async fn act(&self, action: &Action) -> Result<Done, Status> {
        let transport = self.context.client.transport();
        let options = self.context.client.write_options();
        match action {
            Action::Create { object, exists_is_done } => {
                let mut target = self.target_of_value(object, None)?;
                target.name.clear();
                match transport.create(&target, encode(object), &options).await {
                    Ok(answer) => {
                        self.written.wrote(&target.resource, &answer);
                        Ok(Done::Acted)
                    }
                    Err(status) if *exists_is_done && status.is_already_exists() => Ok(Done::Needless),
                    // What is going away needs nothing new in it.
                    Err(status) if namespace_ends(&status) => Ok(Done::Needless),
                    Err(status) => Err(status),
                }
            }
            Action::Update { object } => {
                let target = self.target_of_value(object, None)?;
                let answer = transport.update(&target, encode(object), &options).await?;
                self.note(&target, &answer);
                Ok(Done::Acted)
            }
            Action::UpdateStatus { object } => {
                let target = self.target_of_value(object, Some("status"))?;
                let answer = transport.update(&target, encode(object), &options).await?;
                self.note(&target, &answer);
                Ok(Done::Acted)
            }
            Action::UpdateSubresource {
                target,
                subresource,
                object,
            } => {
                let target = self.target_of_ref(target, Some(subresource))?;
                let answer = transport.update(&target, encode(object), &options).await?;
                self.note(&target, &answer);
                Ok(Done::Acted)
            }
            Action::Patch {
                target: about,
                subresource,
                patch,
            } => {
                let target = self.target_of_ref(about, *subresource)?;
                let mut patch = patch.clone();
                if !about.uid.is_empty() && patch.is_object() {
                    patch["metadata"]["uid"] = about.uid.as_str().into();
                }
                let answer = transport.patch(&target, &Patch::Merge(encode(&patch)), &options).await?;
                self.note(&target, &answer);
                Ok(Done::Acted)
            }
            Action::RemoveFinalizer {
                target: about,
                finalizer,
            } => {
                let target = self.target_of_ref(about, None)?;
                // By name, so that a finalizer which another writer adds meanwhile stays.
                let patch = json!({"metadata": {"uid": about.uid, "$deleteFromPrimitiveList/finalizers": [finalizer]}});
                match transport.patch(&target, &Patch::Strategic(encode(&patch)), &options).await {
                    Ok(answer) => self.note(&target, &answer),
                    Err(status) if status.is_not_found() => return Ok(Done::Needless),
                    Err(status) => return Err(status),
                }
                Ok(Done::Acted)
            }
            Action::Apply { object, manager } => {
                let target = self.target_of_value(object, None)?;
                let options = WriteOptions {
                    field_manager: Some((*manager).to_owned()),
                    force: true,
                    ..options
                };
                let answer = transport.patch(&target, &Patch::Apply(encode(object)), &options).await?;
                self.note(&target, &answer);
                Ok(Done::Acted)
            }
            Action::Delete {
                target: about,
                grace_period_seconds,
                propagation,
            } => {
                let target = self.target_of_ref(about, None)?;
                self.delete(&target, about, *grace_period_seconds, *propagation).await
            }
            // A plan tells events and effects apart.
            Action::Event(_) | Action::Told { .. } => Ok(Done::Needless),
        }
    }

    async fn delete(
        &self,
        target: &Target,
        about: &ObjectRef,
        grace: Option<i64>,
        propagation: Option<&'static str>,
    ) -> Result<Done, Status> {
        let options = DeleteOptions {
            grace_period_seconds: grace,
            uid: (!about.uid.is_empty()).then(|| about.uid.clone()),
            resource_version: None,
            propagation: match propagation {
                Some("Foreground") => Some(Propagation::Foreground),
                Some("Orphan") => Some(Propagation::Orphan),
                Some(_) => Some(Propagation::Background),
                None => None,
            },
        };
        match self.context.client.transport().delete(target, &options).await {
            Ok(Some(answer)) => self.note(target, &answer),
            Ok(None) => self.written.removed(&target.resource, &about.uid),
            Err(status) if status.is_not_found() => return Ok(Done::Needless),
            // Another object of that name: the one meant is gone.
            Err(status) if status.is_conflict() && !about.uid.is_empty() => {
                // By a list, since the roles of those who delete pods do not have `get`.
                let options = ListOptions {
                    field_selector: Some(format!("metadata.name={}", target.name)),
                    ..ListOptions::default()
                };
                let transport = self.context.client.transport();
                let held = transport
                    .list(&target.resource, target.namespace.as_deref(), &options)
                    .await?;
                if held.items.iter().any(|object| object.header().uid == about.uid) {
                    return Err(status);
                }
                return Ok(Done::Needless);
            }
            Err(status) => return Err(status),
        }
        Ok(Done::Acted)
    }

    /// Notes an answer, unless it is of another kind than the object's own (`scale`, `binding`).
    fn note(&self, target: &Target, answer: &Object) {
        let kind = self.context.kinds.kind(&target.resource);
        if kind.is_none_or(|kind| kind == answer.header().kind) {
            self.written.wrote(&target.resource, answer);
        }
    }

    fn resource(&self, api_version: &str, kind: &str) -> Result<ResourceRef, Status> {
        self.context
            .kinds
            .resource(api_version, kind)
            .ok_or_else(|| Status::bad_request(format!("no resource is known for {kind} of {api_version}")))
    }

    fn target_of_value(&self, object: &Value, subresource: Option<&'static str>) -> Result<Target, Status> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = self.resource(&text(&object["apiVersion"]), &text(&object["kind"]))?;
        let metadata = &object["metadata"];
        Ok(target_of(
            resource,
            &text(&metadata["namespace"]),
            &text(&metadata["name"]),
            subresource,
        ))
    }

    fn target_of_ref(&self, about: &ObjectRef, subresource: Option<&'static str>) -> Result<Target, Status> {
        let resource = self.resource(&about.api_version, &about.kind)?;
        Ok(target_of(resource, &about.namespace, &about.name, subresource))
    }
}

/// Whether a creation was refused because its namespace is being deleted.
fn namespace_ends(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn encode(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
