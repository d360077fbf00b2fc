//! An API in memory, for tests of everything that sits on a [`Transport`].
//!
//! Invariant: one revision per write, watches are gapless. It does no validation, admission or defaulting: what must be
//! exact about the API is tested against the API server.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use trireme_api::bulk::Present;
use trireme_api::{Object, Status};
use trireme_resources::patch::strategic_merge;

use crate::transport::{
    DeleteOptions, ListOptions, ObjectList, Patch, Propagation, ResourceRef, Target, Transport, WatchEvent, WatchOptions,
    WriteOptions,
};

type Place = (ResourceRef, String, String);

/// The API in memory.
pub struct FakeTransport {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Object>,
    history: Vec<(u64, ResourceRef, WatchEvent)>,
    revision: u64,
    /// Revisions up to this one are forgotten.
    compacted: u64,
    calls: Vec<String>,
    failures: VecDeque<(String, Status)>,
    broken: HashSet<ResourceRef>,
}

impl FakeTransport {
    /// An empty API at revision 1.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Arc::new(Mutex::new(State {
                revision: 1,
                ..State::default()
            })),
            revision: watch::channel(1).0,
        })
    }

    /// Makes the next call that begins so (`POST pods`) fail.
    pub fn fail_next(&self, call: &str, status: Status) {
        self.state.lock().failures.push_back((call.to_owned(), status));
    }

    /// Forgets history, so that watches from before now get 410.
    pub fn compact(&self) {
        let mut state = self.state.lock();
        state.compacted = state.revision;
        state.history.clear();
    }

    /// Whether watches of a resource hold back their events.
    pub fn hold(&self, resource: &ResourceRef, held: bool) {
        let mut state = self.state.lock();
        if held {
            state.broken.insert(resource.clone());
        } else {
            state.broken.remove(resource);
        }
        drop(state);
        self.revision.send_modify(|_| {});
    }

    /// All writing calls so far: `VERB plural[/subresource] namespace/name`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Puts an object there as it is (a uid is made up), as a client outside would.
    ///
    /// # Panics
    /// When the value is not an object with metadata.
    pub fn seed(&self, resource: &ResourceRef, value: Value) -> Object {
        let mut state = self.state.lock();
        let object = state.put(resource, value).expect("a seeded value is an object");
        self.revision.send_replace(state.revision);
        object
    }

    fn write<T>(&self, call: String, act: impl FnOnce(&mut State) -> Result<T, Status>) -> Result<T, Status> {
        let mut state = self.state.lock();
        let fails = state
            .failures
            .front()
            .is_some_and(|(prefix, _)| call.starts_with(prefix.as_str()));
        state.calls.push(call);
        if fails && let Some((_, status)) = state.failures.pop_front() {
            return Err(status);
        }
        let done = act(&mut state);
        self.revision.send_replace(state.revision);
        done
    }
}

impl State {
    fn put(&mut self, resource: &ResourceRef, mut value: Value) -> Result<Object, Status> {
        let metadata = value["metadata"]
            .as_object_mut()
            .ok_or_else(|| Status::bad_request("no metadata"))?;
        self.revision += 1;
        metadata.insert("resourceVersion".into(), self.revision.to_string().into());
        if !metadata.contains_key("uid") {
            metadata.insert("uid".into(), format!("uid-{}", self.revision).into());
        }
        let object = Object::from_value(&value).map_err(|error| Status::bad_request(error.to_string()))?;
        let header = object.header();
        let place = (resource.clone(), header.namespace.clone(), header.name.clone());
        let event = match self.objects.insert(place, object.clone()) {
            None => WatchEvent::Added(object.clone()),
            Some(_) => WatchEvent::Modified(object.clone()),
        };
        self.history.push((self.revision, resource.clone(), event));
        Ok(object)
    }

    fn drop_object(&mut self, place: &Place) {
        let Some(last) = self.objects.remove(place) else { return };
        self.revision += 1;
        let mut value = last.value();
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        if let Ok(last) = Object::from_value(&value) {
            self.history.push((self.revision, place.0.clone(), WatchEvent::Deleted(last)));
        }
    }

    fn find(&self, target: &Target) -> Result<Object, Status> {
        self.objects
            .get(&place_of(target))
            .cloned()
            .ok_or_else(|| Status::not_found(&target.resource.group, &target.resource.plural, &target.name))
    }

    /// Stores what an update made, or removes it where nothing holds it any more.
    fn settle(&mut self, target: &Target, value: Value) -> Result<Object, Status> {
        let object = self.put(&target.resource, value)?;
        let held_by_spec = target.resource.plural == "namespaces"
            && object.value()["spec"]["finalizers"]
                .as_array()
                .is_some_and(|list| !list.is_empty());
        if object.header().deleting && object.header().finalizers.is_empty() && !held_by_spec {
            self.drop_object(&place_of(target));
        }
        Ok(object)
    }
}

fn place_of(target: &Target) -> Place {
    (
        target.resource.clone(),
        target.namespace.clone().unwrap_or_default(),
        target.name.clone(),
    )
}

fn call(verb: &str, target: &Target) -> String {
    let subresource = target.subresource.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
    format!(
        "{verb} {}{subresource} {}/{}",
        target.resource.plural,
        target.namespace.as_deref().unwrap_or_default(),
        target.name
    )
}

fn decode(body: &Bytes) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))
}

/// RFC 7386.
pub fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in members {
        if value.is_null() {
            if let Some(object) = into.as_object_mut() {
                object.remove(name);
            }
        } else {
            merge(&mut into[name.as_str()], value);
        }
    }
}

fn row_of(target: &Target) -> Option<&'static trireme_resources::Resource> {
    let ResourceRef {
        group, version, plural, ..
    } = &target.resource;
    trireme_resources::find(group, version, plural)
}

fn selected(object: &Object, labels: Option<&str>, fields: Option<&str>) -> bool {
    let by_label = labels.into_iter().flat_map(|text| text.split(',')).all(|term| {
        term.split_once('=')
            .is_none_or(|(key, value)| object.header().labels.get(key).map(String::as_str) == Some(value))
    });
    by_label
        && fields.into_iter().flat_map(|text| text.split(',')).all(|term| {
            term.split_once('=').is_none_or(|(path, wanted)| {
                let value = object.value();
                let found = path.split('.').fold(&value, |at, name| &at[name]);
                found.as_str().unwrap_or_default() == wanted
            })
        })
}

#[async_trait]
impl Transport for FakeTransport {
    async fn get(&self, target: &Target) -> Result<Object, Status> {
        self.state.lock().find(target)
    }

    async fn list(&self, resource: &ResourceRef, namespace: Option<&str>, options: &ListOptions) -> Result<ObjectList, Status> {
        let state = self.state.lock();
        let items = state
            .objects
            .iter()
            .filter(|((of, within, _), _)| of == resource && namespace.is_none_or(|wanted| wanted == within))
            .map(|(_, object)| object)
            .filter(|object| selected(object, options.label_selector.as_deref(), options.field_selector.as_deref()));
        Ok(ObjectList {
            resource_version: state.revision,
            items: items.cloned().collect(),
        })
    }

    async fn watch(
        &self,
        resource: &ResourceRef,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<BoxStream<'static, Result<WatchEvent, Status>>, Status> {
        if options.resource_version < self.state.lock().compacted {
            return Err(Status::expired("too old resource version"));
        }
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let feed = Feed {
            resource: resource.clone(),
            namespace: namespace.map(str::to_owned),
            options: options.clone(),
            at: options.resource_version,
        };
        tokio::spawn(feed.pump(Arc::clone(&self.state), self.revision.subscribe(), sender));
        Ok(tokio_stream::wrappers::UnboundedReceiverStream::new(receiver).boxed())
    }

    async fn create(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Object, Status> {
        let mut value = decode(&body)?;
        if target.subresource.as_deref() == Some("binding") {
            return self.write(call("POST", target), |state| {
                let mut pod = state.find(target)?.value();
                if pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty()) {
                    return Err(Status::conflict("", "pods", &target.name, "already bound"));
                }
                pod["spec"]["nodeName"] = value["target"]["name"].clone();
                state.put(&target.resource, pod)?;
                Object::from_value(&json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
                    .map_err(|error| Status::internal(&error.to_string()))
            });
        }
        let mut target = target.clone();
        target.name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Some(namespace) = &target.namespace {
            value["metadata"]["namespace"] = namespace.as_str().into();
        }
        self.write(call("POST", &target), |state| {
            if target.name.is_empty() {
                let prefix = value["metadata"]["generateName"].as_str().unwrap_or_default();
                target.name = format!("{prefix}{:05}", state.revision + 1);
                value["metadata"]["name"] = target.name.as_str().into();
            }
            if state.objects.contains_key(&place_of(&target)) {
                return Err(Status::already_exists(
                    &target.resource.group,
                    &target.resource.plural,
                    &target.name,
                ));
            }
            if options.dry_run {
                return Object::from_value(&value).map_err(|error| Status::bad_request(error.to_string()));
            }
            if let Some(metadata) = value["metadata"].as_object_mut() {
                metadata.remove("uid");
                metadata
                    .entry("creationTimestamp")
                    .or_insert_with(|| "2026-01-01T00:00:00Z".into());
            }
            state.put(&target.resource, value)
        })
    }

    async fn update(&self, target: &Target, body: Bytes, _: &WriteOptions) -> Result<Object, Status> {
        let mut value = decode(&body)?;
        self.write(call("PUT", target), |state| {
            let current = state.find(target)?;
            let wanted = value["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            if !wanted.is_empty() && wanted != current.header().resource_version.to_string() {
                return Err(Status::conflict(
                    &target.resource.group,
                    &target.resource.plural,
                    &target.name,
                    "the object has been modified; please apply your changes to the latest version and try again",
                ));
            }
            let old = current.value();
            if target.subresource.as_deref() == Some("status") {
                let status = value["status"].take();
                value = old.clone();
                value["status"] = status;
            } else if old.get("status").is_some() {
                value["status"] = old["status"].clone();
            }
            if target.subresource.as_deref() == Some("finalize") {
                let finalizers = value["spec"]["finalizers"].take();
                value = old.clone();
                value["spec"]["finalizers"] = finalizers;
            }
            value["metadata"]["uid"] = old["metadata"]["uid"].clone();
            state.settle(target, value)
        })
    }

    async fn patch(&self, target: &Target, patch: &Patch, _: &WriteOptions) -> Result<Object, Status> {
        let (Patch::Merge(body) | Patch::Strategic(body) | Patch::Apply(body) | Patch::Json(body)) = patch;
        let strategic = matches!(patch, Patch::Strategic(_));
        let patch = decode(body)?;
        self.write(call("PATCH", target), |state| {
            let current = state.find(target)?;
            let mut value = current.value();
            let uid = value["metadata"]["uid"].clone();
            let revision = value["metadata"]["resourceVersion"].clone();
            match row_of(target).filter(|_| strategic) {
                Some(row) => value = strategic_merge(row, &Present::of(value), body, false)?.document,
                None => merge(&mut value, &patch),
            }
            if value["metadata"]["uid"] != uid || value["metadata"]["resourceVersion"] != revision {
                return Err(Status::conflict(
                    &target.resource.group,
                    &target.resource.plural,
                    &target.name,
                    "precondition failed",
                ));
            }
            state.settle(target, value)
        })
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Option<Object>, Status> {
        self.write(call("DELETE", target), |state| {
            let current = state.find(target)?;
            if options.uid.as_ref().is_some_and(|uid| *uid != current.header().uid) {
                return Err(Status::conflict(
                    &target.resource.group,
                    &target.resource.plural,
                    &target.name,
                    "Precondition failed: UID",
                ));
            }
            let mut value = current.value();
            let held = match options.propagation {
                Some(Propagation::Foreground) => Some("foregroundDeletion"),
                Some(Propagation::Orphan) => Some("orphan"),
                _ => None,
            };
            let mut finalizers = current.header().finalizers.clone();
            finalizers.extend(held.map(str::to_owned));
            let in_spec = target.resource.plural == "namespaces" && !value["spec"]["finalizers"].is_null();
            if finalizers.is_empty() && !in_spec {
                state.drop_object(&place_of(target));
                return Ok(None);
            }
            if current.header().deleting {
                return Ok(Some(current));
            }
            value["metadata"]["finalizers"] = json!(finalizers);
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            if in_spec {
                value["status"]["phase"] = "Terminating".into();
            }
            state.put(&target.resource, value).map(Some)
        })
    }
}

struct Feed {
    resource: ResourceRef,
    namespace: Option<String>,
    options: WatchOptions,
    at: u64,
}

impl Feed {
    async fn pump(
        mut self,
        state: Arc<Mutex<State>>,
        mut revision: watch::Receiver<u64>,
        sender: tokio::sync::mpsc::UnboundedSender<Result<WatchEvent, Status>>,
    ) {
        loop {
            for event in self.take(&state.lock()) {
                if sender.send(event).is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sender.closed() => return,
                changed = revision.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The events that came since the last time.
    fn take(&mut self, state: &State) -> Vec<Result<WatchEvent, Status>> {
        if state.broken.contains(&self.resource) {
            return Vec::new();
        }
        if self.at < state.compacted && state.history.first().is_none_or(|(first, _, _)| *first > self.at + 1) {
            self.at = state.revision;
            return vec![Err(Status::expired("too old resource version"))];
        }
        let since = state.history.iter().filter(|(revision, _, _)| *revision > self.at);
        let events = since
            .filter(|(_, resource, _)| *resource == self.resource)
            .filter(|(_, _, event)| self.wants(event))
            .map(|(_, _, event)| Ok(event.clone()))
            .collect();
        self.at = state.revision;
        events
    }

    fn wants(&self, event: &WatchEvent) -> bool {
        let (WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object)) = event else {
            return true;
        };
        self.namespace
            .as_ref()
            .is_none_or(|wanted| *wanted == object.header().namespace)
            && selected(
                object,
                self.options.label_selector.as_deref(),
                self.options.field_selector.as_deref(),
            )
    }
}
