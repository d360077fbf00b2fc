//! One resource's objects in memory, with the indices that controllers ask for.
//!
//! Invariant: the indices name exactly the objects held. It does no I/O; [`crate::reflector`] feeds it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use trireme_api::{Object, Owner};

use crate::transport::ResourceRef;

/// What happened to one object. `old` is absent for a new object, `new` for a deleted one.
#[derive(Clone, Debug)]
pub struct Change {
    /// Of which resource.
    pub resource: Arc<ResourceRef>,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// As it was.
    pub old: Option<Object>,
    /// As it is.
    pub new: Option<Object>,
}

impl Change {
    /// The object as it is, or as it last was.
    #[must_use]
    pub fn latest(&self) -> Option<&Object> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// Called for every change; `false` ends its subscription.
pub(crate) type Handler = Arc<dyn Fn(&Change) -> bool + Send + Sync>;

/// How far a resource's view has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) synced: bool,
    pub(crate) revision: u64,
    /// Counts changes, so that waiters for "this object is gone" wake up.
    pub(crate) changes: u64,
}

/// Objects and indices of one resource.
pub(crate) struct Store {
    pub(crate) resource: Arc<ResourceRef>,
    content: RwLock<Content>,
    /// Held while a change is applied and told, so that handlers see changes in order and none twice.
    handlers: Mutex<Vec<Handler>>,
    progress: watch::Sender<Progress>,
}

type Place = (String, String);

#[derive(Default)]
struct Content {
    objects: BTreeMap<String, BTreeMap<String, Object>>,
    owned: HashMap<String, BTreeSet<Place>>,
    uids: HashMap<String, Place>,
    /// Pods by the node that they are on; of other resources nothing.
    on_node: HashMap<String, Vec<Object>>,
    are_pods: bool,
}

impl Content {
    /// The node that an object is on, where that matters.
    fn node_of<'a>(&self, object: &'a Object) -> Option<Cow<'a, str>> {
        let node = self.are_pods.then(|| object.text_at(&["spec", "nodeName"]))??;
        (!node.is_empty()).then_some(node)
    }

    fn put(&mut self, object: Object) -> Option<Object> {
        let header = object.header();
        let place = (header.namespace.clone(), header.name.clone());
        let old = self.remove(&place);
        for Owner { uid, .. } in &header.owners {
            self.owned.entry(uid.clone()).or_default().insert(place.clone());
        }
        self.uids.insert(header.uid.clone(), place.clone());
        if let Some(node) = self.node_of(&object) {
            self.on_node.entry(node.into_owned()).or_default().push(object.clone());
        }
        self.objects.entry(place.0).or_default().insert(place.1, object);
        old
    }

    fn remove(&mut self, place: &Place) -> Option<Object> {
        let names = self.objects.get_mut(&place.0)?;
        let old = names.remove(&place.1)?;
        if names.is_empty() {
            self.objects.remove(&place.0);
        }
        for owner in &old.header().owners {
            if let Some(places) = self.owned.get_mut(&owner.uid) {
                places.remove(place);
                if places.is_empty() {
                    self.owned.remove(&owner.uid);
                }
            }
        }
        self.uids.remove(&old.header().uid);
        if let Some(node) = self.node_of(&old)
            && let Some(pods) = self.on_node.get_mut(&*node)
        {
            pods.retain(|pod| !pod.is_same(&old));
            if pods.is_empty() {
                self.on_node.remove(&*node);
            }
        }
        Some(old)
    }

    fn find(&self, place: &Place) -> Option<&Object> {
        self.objects.get(&place.0)?.get(&place.1)
    }
}

impl Store {
    pub(crate) fn new(resource: ResourceRef) -> Self {
        Self {
            content: RwLock::new(Content {
                are_pods: resource.group.is_empty() && resource.plural == "pods",
                ..Content::default()
            }),
            resource: Arc::new(resource),
            handlers: Mutex::default(),
            progress: watch::channel(Progress::default()).0,
        }
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(crate) fn now_at(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Tells a handler of everything held, and from now on of every change.
    pub(crate) fn subscribe(&self, handler: Handler) {
        let mut handlers = self.handlers.lock();
        for object in self.list(None) {
            if !handler(&self.change(None, Some(object))) {
                return;
            }
        }
        handlers.push(handler);
    }

    fn change(&self, old: Option<Object>, new: Option<Object>) -> Change {
        let header = new.as_ref().or(old.as_ref()).map(Object::header);
        Change {
            resource: Arc::clone(&self.resource),
            namespace: header.map(|header| header.namespace.clone()).unwrap_or_default(),
            name: header.map(|header| header.name.clone()).unwrap_or_default(),
            old,
            new,
        }
    }

    fn tell(&self, handlers: &mut Vec<Handler>, old: Option<Object>, new: Option<Object>) {
        if handlers.is_empty() {
            return;
        }
        let change = self.change(old, new);
        handlers.retain(|handler| handler(&change));
    }

    /// Takes a whole list in place of what is held.
    pub(crate) fn replace(&self, items: Vec<Object>, revision: u64) {
        let mut handlers = self.handlers.lock();
        let mut stale: BTreeSet<Place> = {
            let content = self.content.read();
            content.uids.values().cloned().collect()
        };
        for object in items {
            let place = (object.header().namespace.clone(), object.header().name.clone());
            stale.remove(&place);
            let old = self.content.write().put(object.clone());
            let same = old
                .as_ref()
                .is_some_and(|old| old.header().resource_version == object.header().resource_version);
            if !same {
                self.tell(&mut handlers, old, Some(object));
            }
        }
        for place in stale {
            let old = self.content.write().remove(&place);
            self.tell(&mut handlers, old, None);
        }
        self.advance(revision, true);
    }

    pub(crate) fn put(&self, object: Object) {
        let mut handlers = self.handlers.lock();
        let revision = object.header().resource_version;
        let old = self.content.write().put(object.clone());
        self.tell(&mut handlers, old, Some(object));
        self.advance(revision, false);
    }

    pub(crate) fn remove(&self, last: &Object) {
        let mut handlers = self.handlers.lock();
        let header = last.header();
        let place = (header.namespace.clone(), header.name.clone());
        let old = self.content.write().remove(&place);
        if old.is_some() {
            self.tell(&mut handlers, Some(last.clone()), None);
        }
        self.advance(header.resource_version, false);
    }

    /// Everything up to a revision has been seen.
    pub(crate) fn advance(&self, revision: u64, listed: bool) {
        self.progress.send_modify(|progress| {
            progress.synced |= listed;
            progress.changes += 1;
            progress.revision = if listed { revision } else { progress.revision.max(revision) };
        });
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Object> {
        self.content.read().objects.get(namespace)?.get(name).cloned()
    }

    pub(crate) fn list(&self, namespace: Option<&str>) -> Vec<Object> {
        let content = self.content.read();
        match namespace {
            Some(namespace) => {
                let names = content.objects.get(namespace);
                names.map(|names| names.values().cloned().collect()).unwrap_or_default()
            }
            None => content.objects.values().flat_map(BTreeMap::values).cloned().collect(),
        }
    }

    pub(crate) fn any(&self, namespace: Option<&str>, wanted: impl FnMut(&Object) -> bool) -> bool {
        let content = self.content.read();
        match namespace {
            Some(namespace) => content.objects.get(namespace).is_some_and(|names| names.values().any(wanted)),
            None => content.objects.values().flat_map(BTreeMap::values).any(wanted),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.content.read().uids.len()
    }

    pub(crate) fn by_owner(&self, uid: &str) -> Vec<Object> {
        let content = self.content.read();
        let places = content.owned.get(uid).into_iter().flatten();
        places.filter_map(|place| content.find(place).cloned()).collect()
    }

    pub(crate) fn on_node(&self, node: &str) -> Vec<Object> {
        self.content.read().on_node.get(node).cloned().unwrap_or_default()
    }

    pub(crate) fn nodes(&self) -> Vec<String> {
        self.content.read().on_node.keys().cloned().collect()
    }

    pub(crate) fn by_uid(&self, uid: &str) -> Option<Object> {
        let content = self.content.read();
        content.find(content.uids.get(uid)?).cloned()
    }
}
