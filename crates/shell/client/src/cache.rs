//! The shared cache: each resource is listed and watched once per process, whoever asks.
//!
//! Invariant: an object is held as the very [`Object`] that the transport gave, so in process its bytes and its one
//! typed decode are the store's. Reading never waits for the network.

mod present;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use trireme_api::Object;

use crate::refused::Refused;
use crate::store::{Change, Progress, Store};
use crate::transport::{ListOptions, ResourceRef, Transport};
use crate::typed::ApiObject;
use crate::{reflector, typed::Client};

/// The shared view of the API.
pub struct Cache {
    transport: Arc<dyn Transport>,
    shutdown: CancellationToken,
    stores: RwLock<HashMap<ResourceRef, (Arc<Store>, CancellationToken)>>,
    refused: Refused,
}

impl Cache {
    /// An empty cache; its reflectors end with `shutdown`.
    #[must_use]
    pub fn new(client: &Client, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            transport: Arc::clone(client.transport()),
            shutdown,
            stores: RwLock::default(),
            refused: Refused::default(),
        })
    }

    /// Starts to hold a resource, if it is not held yet. Must be called within a tokio runtime.
    pub fn ensure(&self, resource: &ResourceRef) {
        self.ensure_selected(resource, ListOptions::default());
    }

    /// As [`Cache::ensure`] for a type.
    pub fn ensure_of<K: ApiObject>(&self) {
        self.ensure(&ResourceRef::of::<K>());
    }

    /// Starts to hold a selection of a resource (an agent wants its own pods only). The first caller's selection
    /// holds for all.
    pub fn ensure_selected(&self, resource: &ResourceRef, selection: ListOptions) {
        self.hold(resource, selection, None);
    }

    /// As [`Cache::ensure`], with what an earlier process knew, which counts until the API answers.
    pub fn ensure_known(&self, resource: &ResourceRef, items: Vec<Object>) {
        self.hold(resource, ListOptions::default(), Some(items));
    }

    fn hold(&self, resource: &ResourceRef, selection: ListOptions, known: Option<Vec<Object>>) {
        let mut stores = self.stores.write();
        if stores.contains_key(resource) {
            return;
        }
        let store = Arc::new(Store::new(resource.clone()));
        if let Some(items) = known {
            store.replace(items, 0);
        }
        let ended = self.shutdown.child_token();
        stores.insert(resource.clone(), (Arc::clone(&store), ended.clone()));
        drop(stores);
        tokio::spawn(reflector::run(Arc::clone(&self.transport), store, selection, ended));
    }

    /// Stops holding a resource (its CRD went away).
    pub fn forget(&self, resource: &ResourceRef) {
        if let Some((_, ended)) = self.stores.write().remove(resource) {
            ended.cancel();
        }
    }

    fn store(&self, resource: &ResourceRef) -> Option<Arc<Store>> {
        Some(Arc::clone(&self.stores.read().get(resource)?.0))
    }

    /// Which resources are held.
    #[must_use]
    pub fn resources(&self) -> Vec<ResourceRef> {
        self.stores.read().keys().cloned().collect()
    }

    /// Whether a resource is held and was listed at least once.
    #[must_use]
    pub fn is_synced(&self, resource: &ResourceRef) -> bool {
        self.store(resource).is_some_and(|store| store.now_at().synced)
    }

    /// Waits until every given resource was listed. A resource that is not held is started.
    pub async fn synced(&self, resources: &[ResourceRef]) {
        for resource in resources {
            self.ensure(resource);
            self.wait_until(resource, |progress, _| progress.synced).await;
        }
    }

    /// The revision up to which a resource has been seen; 0 before its first list.
    #[must_use]
    pub fn revision(&self, resource: &ResourceRef) -> u64 {
        self.store(resource).map(|store| store.now_at().revision).unwrap_or_default()
    }

    /// Waits until a resource has been seen up to a revision of one of its objects. False where it is not held.
    pub async fn wait_revision(&self, resource: &ResourceRef, revision: u64) -> bool {
        self.wait_until(resource, |progress, _| progress.synced && progress.revision >= revision)
            .await
    }

    /// Waits until an object of this UID is not to be seen any more. False where the resource is not held.
    pub async fn wait_gone(&self, resource: &ResourceRef, uid: &str) -> bool {
        self.wait_until(resource, |_, store| store.by_uid(uid).is_none()).await
    }

    async fn wait_until(&self, resource: &ResourceRef, done: impl Fn(Progress, &Store) -> bool) -> bool {
        let Some(store) = self.store(resource) else { return false };
        let mut progress = store.progress();
        loop {
            let now = *progress.borrow_and_update();
            if done(now, &store) {
                return true;
            }
            if progress.changed().await.is_err() {
                return false;
            }
        }
    }

    /// One object, undecoded.
    #[must_use]
    pub fn object(&self, resource: &ResourceRef, namespace: &str, name: &str) -> Option<Object> {
        self.store(resource)?.get(namespace, name)
    }

    /// Objects of a resource in order of namespace and name, undecoded; `None` means all namespaces.
    #[must_use]
    pub fn objects(&self, resource: &ResourceRef, namespace: Option<&str>) -> Vec<Object> {
        self.store(resource).map(|store| store.list(namespace)).unwrap_or_default()
    }

    /// Whether a predicate lets some object through; it is asked in order, and no more after the first. It must be quick: nothing
    /// changes in the view meanwhile.
    #[must_use]
    pub fn any(&self, resource: &ResourceRef, namespace: Option<&str>, wanted: impl FnMut(&Object) -> bool) -> bool {
        self.store(resource).is_some_and(|store| store.any(namespace, wanted))
    }

    /// How many objects of a resource are held.
    #[must_use]
    pub fn count(&self, resource: &ResourceRef) -> usize {
        self.store(resource).map(|store| store.len()).unwrap_or_default()
    }

    /// Objects of a resource that name this UID as an owner, undecoded.
    #[must_use]
    pub fn objects_by_owner(&self, resource: &ResourceRef, uid: &str) -> Vec<Object> {
        self.store(resource).map(|store| store.by_owner(uid)).unwrap_or_default()
    }

    /// The pods on a node, undecoded, in no order.
    #[must_use]
    pub fn pods_on(&self, node: &str) -> Vec<Object> {
        let pods = ResourceRef::of::<k8s_openapi::api::core::v1::Pod>();
        self.store(&pods).map(|store| store.on_node(node)).unwrap_or_default()
    }

    /// The nodes that some pod is on, in no order.
    #[must_use]
    pub fn nodes_of_pods(&self) -> Vec<String> {
        let pods = ResourceRef::of::<k8s_openapi::api::core::v1::Pod>();
        self.store(&pods).map(|store| store.nodes()).unwrap_or_default()
    }

    /// The object of a resource with this UID.
    #[must_use]
    pub fn object_by_uid(&self, resource: &ResourceRef, uid: &str) -> Option<Object> {
        self.store(resource)?.by_uid(uid)
    }

    /// An object of a change, typed. `None` where it does not fit its type, which is told once and counted.
    #[must_use]
    pub fn typed<K: ApiObject>(&self, object: &Object) -> Option<Arc<K>> {
        self.refused.typed(object)
    }

    /// How many objects that are held do not fit the type they were asked for, in the text format of `/metrics`.
    #[must_use]
    pub fn render_metrics(&self) -> String {
        self.refused
            .render(|resource, namespace, name| self.object(resource, namespace, name).is_some())
    }

    /// One object.
    #[must_use]
    pub fn get<K: ApiObject>(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.typed(&self.object(&ResourceRef::of::<K>(), namespace, name)?)
    }

    /// All objects of a namespace, or all there are.
    #[must_use]
    pub fn list<K: ApiObject>(&self, namespace: Option<&str>) -> Vec<Arc<K>> {
        self.objects(&ResourceRef::of::<K>(), namespace)
            .iter()
            .filter_map(|object| self.typed(object))
            .collect()
    }

    /// Objects that a predicate lets through, by their header or their bytes. Decodes only those.
    #[must_use]
    pub fn select<K: ApiObject>(&self, namespace: Option<&str>, wanted: impl Fn(&Object) -> bool) -> Vec<Arc<K>> {
        let objects = self.objects(&ResourceRef::of::<K>(), namespace);
        let selected = objects.iter().filter(|object| wanted(object));
        selected.filter_map(|object| self.typed(object)).collect()
    }

    /// What is read of the objects that a predicate lets through. Nothing is decoded but by the reader; whom it refuses is left
    /// out, told once and counted, as where a type does not fit.
    #[must_use]
    pub fn read<K: ApiObject, T>(
        &self,
        namespace: Option<&str>,
        wanted: impl Fn(&Object) -> bool,
        read: impl Fn(&Object) -> Result<T, serde_json::Error>,
    ) -> Vec<T> {
        let objects = self.objects(&ResourceRef::of::<K>(), namespace);
        let selected = objects.iter().filter(|object| wanted(object));
        selected
            .filter_map(|object| self.refused.read::<K, T>(object, &read))
            .collect()
    }

    /// Objects that carry all these labels. Decodes only those.
    #[must_use]
    pub fn list_by_label<K: ApiObject>(&self, namespace: Option<&str>, labels: &BTreeMap<String, String>) -> Vec<Arc<K>> {
        self.list_where(namespace, |has| labels.iter().all(|(key, value)| has.get(key) == Some(value)))
    }

    /// Objects whose labels satisfy a predicate. Decodes only those.
    #[must_use]
    pub fn list_where<K: ApiObject>(
        &self,
        namespace: Option<&str>,
        matches: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> Vec<Arc<K>> {
        self.select(namespace, |object| matches(&object.header().labels))
    }

    /// Objects that name this UID as an owner.
    #[must_use]
    pub fn by_owner<K: ApiObject>(&self, uid: &str) -> Vec<Arc<K>> {
        let objects = self.objects_by_owner(&ResourceRef::of::<K>(), uid);
        objects.iter().filter_map(|object| self.typed(object)).collect()
    }

    /// Calls a function for every object held and for every change from now on, in order, until it returns false. It
    /// must be quick, must not block and must not subscribe. Starts to hold the resource if needed.
    pub fn on_change(&self, resource: &ResourceRef, handler: impl Fn(&Change) -> bool + Send + Sync + 'static) {
        self.ensure(resource);
        if let Some(store) = self.store(resource) {
            store.subscribe(Arc::new(handler));
        }
    }

    /// Changes of some resources to take in one's own time. Several changes of an object that was not taken yet become
    /// one, so the queue is bounded by the number of objects.
    #[must_use]
    pub fn subscribe(&self, resources: &[ResourceRef]) -> Subscription {
        let queue = Arc::new(Queue::default());
        for resource in resources {
            let queue = Arc::downgrade(&queue);
            self.on_change(resource, move |change| match queue.upgrade() {
                Some(queue) => {
                    queue.push(change);
                    true
                }
                None => false,
            });
        }
        Subscription(queue)
    }
}

/// A queue of coalesced changes.
pub struct Subscription(Arc<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

type Place = (Arc<ResourceRef>, String, String);

#[derive(Default)]
struct Waiting {
    order: std::collections::VecDeque<Place>,
    changes: HashMap<Place, Change>,
}

impl Queue {
    fn push(&self, change: &Change) {
        let place = (Arc::clone(&change.resource), change.namespace.clone(), change.name.clone());
        let mut waiting = self.waiting.lock();
        match waiting.changes.get_mut(&place) {
            Some(earlier) => earlier.new.clone_from(&change.new),
            None => {
                waiting.order.push_back(place.clone());
                waiting.changes.insert(place, change.clone());
            }
        }
        drop(waiting);
        self.filled.notify_one();
    }

    fn pop(&self) -> Option<Change> {
        let mut waiting = self.waiting.lock();
        let place = waiting.order.pop_front()?;
        waiting.changes.remove(&place)
    }
}

impl Subscription {
    /// The next change; waits for one.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.0.pop() {
                return change;
            }
            self.0.filled.notified().await;
        }
    }

    /// The next change if one is there.
    pub fn try_next(&mut self) -> Option<Change> {
        self.0.pop()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::testing::FakeTransport;

    fn maps() -> ResourceRef {
        ResourceRef::of::<ConfigMap>()
    }

    fn map(name: &str, owner: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": name, "namespace": "default", "labels": {"app": name},
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": owner}],
            },
        })
    }

    #[tokio::test]
    async fn follows_writes_and_keeps_its_indices() {
        let fake = FakeTransport::new();
        let client = Client::new(fake.clone());
        fake.seed(&maps(), map("a", "u1"));
        let cache = Cache::new(&client, CancellationToken::new());
        cache.synced(&[maps()]).await;
        assert_eq!(cache.by_owner::<ConfigMap>("u1").len(), 1);
        let revision = fake.seed(&maps(), map("a", "u2")).header().resource_version;
        assert!(cache.wait_revision(&maps(), revision).await);
        assert!(cache.by_owner::<ConfigMap>("u1").is_empty());
        assert_eq!(cache.by_owner::<ConfigMap>("u2").len(), 1);
        let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
        assert_eq!(cache.list_by_label::<ConfigMap>(Some("default"), &labels).len(), 1);
        let uid = cache.object(&maps(), "default", "a").unwrap().header().uid.clone();
        client
            .delete::<ConfigMap>("default", "a", &crate::DeleteOptions::default())
            .await
            .unwrap();
        assert!(cache.wait_gone(&maps(), &uid).await);
        assert_eq!(cache.count(&maps()), 0);
    }

    #[tokio::test]
    async fn what_does_not_decode_hides_nothing_else_and_is_counted_while_it_is_there() {
        let fake = FakeTransport::new();
        let client = Client::new(fake.clone());
        let mut bad = map("bad", "u");
        bad["data"] = 5.into();
        fake.seed(&maps(), bad);
        fake.seed(&maps(), map("good", "u"));
        let cache = Cache::new(&client, CancellationToken::new());
        cache.synced(&[maps()]).await;
        let counted = |cache: &Cache| {
            let text = cache.render_metrics();
            text.lines()
                .find_map(|line| line.strip_prefix("trireme_undecodable_objects{group=\"\",resource=\"configmaps\"} "))
                .map(str::to_owned)
        };
        assert_eq!(counted(&cache), None);
        for _ in 0..3 {
            assert_eq!(cache.list::<ConfigMap>(None).len(), 1);
            assert_eq!(cache.by_owner::<ConfigMap>("u").len(), 1);
        }
        assert!(cache.get::<ConfigMap>("default", "bad").is_none());
        assert_eq!(counted(&cache).as_deref(), Some("1"));
        let listed = client.list::<ConfigMap>(None, &ListOptions::default()).await.unwrap();
        assert_eq!(listed.len(), 1);
        let revision = fake.seed(&maps(), map("bad", "u")).header().resource_version;
        assert!(cache.wait_revision(&maps(), revision).await);
        assert_eq!(cache.list::<ConfigMap>(None).len(), 2);
        assert_eq!(counted(&cache), None);
    }

    #[tokio::test]
    async fn what_was_known_before_counts_until_the_api_answers() {
        let fake = FakeTransport::new();
        fake.seed(&maps(), map("b", "u"));
        let cache = Cache::new(&Client::new(fake.clone()), CancellationToken::new());
        let mut value = map("a", "u");
        value["metadata"]["uid"] = "old".into();
        cache.ensure_known(&maps(), vec![Object::from_value(&value).unwrap()]);
        assert!(cache.is_synced(&maps()) && cache.object(&maps(), "default", "a").is_some());
        assert!(cache.wait_gone(&maps(), "old").await);
        assert!(cache.object(&maps(), "default", "b").is_some());
    }

    #[tokio::test]
    async fn pods_are_found_by_the_node_that_they_are_on() {
        let fake = FakeTransport::new();
        let client = Client::new(fake.clone());
        let pods = ResourceRef::of::<k8s_openapi::api::core::v1::Pod>();
        let pod = |name: &str, node: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d"}, "spec": {"nodeName": node}});
        fake.seed(&pods, pod("a", "n"));
        fake.seed(&pods, pod("b", ""));
        let cache = Cache::new(&client, CancellationToken::new());
        cache.synced(std::slice::from_ref(&pods)).await;
        let on = |node: &str| {
            let mut names: Vec<_> = cache.pods_on(node).iter().map(|pod| pod.header().name.clone()).collect();
            names.sort();
            names
        };
        assert_eq!((on("n"), on("")), (vec!["a".to_owned()], vec![]));
        let bound = fake.seed(&pods, pod("b", "n"));
        assert!(cache.wait_revision(&pods, bound.header().resource_version).await);
        assert_eq!(on("n"), ["a", "b"]);
        // Again, and elsewhere (another pod of the name).
        fake.seed(&pods, pod("b", "n"));
        let moved = fake.seed(&pods, pod("a", "m"));
        assert!(cache.wait_revision(&pods, moved.header().resource_version).await);
        assert_eq!((on("n"), on("m")), (vec!["b".to_owned()], vec!["a".to_owned()]));
        client
            .delete::<k8s_openapi::api::core::v1::Pod>("d", "b", &crate::DeleteOptions::default())
            .await
            .unwrap();
        while !on("n").is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn lists_again_when_history_is_gone_and_tells_the_differences() {
        let fake = FakeTransport::new();
        let client = Client::new(fake.clone());
        fake.seed(&maps(), map("a", "u"));
        let cache = Cache::new(&client, CancellationToken::new());
        cache.synced(&[maps()]).await;
        let mut changes = cache.subscribe(&[maps()]);
        assert_eq!(changes.next().await.name, "a");
        fake.hold(&maps(), true);
        client
            .delete::<ConfigMap>("default", "a", &crate::DeleteOptions::default())
            .await
            .unwrap();
        let revision = fake.seed(&maps(), map("b", "u")).header().resource_version;
        fake.compact();
        fake.hold(&maps(), false);
        assert!(cache.wait_revision(&maps(), revision).await);
        let mut seen = [changes.next().await, changes.next().await].map(|change| (change.name, change.new.is_some()));
        seen.sort();
        assert_eq!(seen, [("a".to_owned(), false), ("b".to_owned(), true)]);
    }
}
