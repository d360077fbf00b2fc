//! Changes of objects into the snapshot and the queue: what the scheduler needs of each is extracted once, and the object let
//! go.
//!
//! Invariant: an assumed pod is on its node until the cache shows it bound, or its binding failed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;
use trireme_api::Object;
use trireme_client::Change;
use trireme_scheduling::hints::{self, Change as Hint};
use trireme_scheduling::{NodeRecord, Plugins, PodRecord, Snapshot, Template, Templates};

use super::queue::PodQueue;

/// What is known of the cluster.
#[derive(Default)]
pub(super) struct Feed {
    /// `spec.schedulerName` of the pods that are taken.
    names: Vec<String>,
    pub(super) snapshot: Snapshot,
    templates: Templates,
    /// Pods decided about and not yet seen as bound.
    assumed: HashSet<Arc<str>>,
    /// Nominations that the API does not show yet.
    nominating: HashMap<Arc<str>, Box<str>>,
    /// Namespace/name of claims that have changed, or whose volumes have, since somebody last looked.
    pub(super) changed_claims: Vec<String>,
    /// Pods with claims whose assumption ended since somebody last looked.
    pub(super) unassumed: Vec<Arc<str>>,
    /// Objects that could not be read, so that each is told once.
    unread: HashSet<(String, String, String)>,
}

impl Feed {
    /// One that takes pods with these scheduler names.
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    pub(super) fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains(uid)
    }

    /// Takes a change, and wakes the pods whom it may help.
    pub(super) fn take(&mut self, change: &Change, queue: &mut PodQueue) {
        let read = match change.resource.plural.as_ref() {
            "pods" => self.take_pod(change, queue),
            "nodes" => self.take_node(change, queue),
            "namespaces" => {
                let labels = change.new.as_ref().map(|object| object.header().labels.clone());
                if self.snapshot.put_namespace(&change.name, labels) {
                    wake(queue, Hint::Other, |failed| failed.has(Plugins::POD_AFFINITY));
                }
                Ok(())
            }
            "persistentvolumeclaims"
            | "persistentvolumes"
            | "storageclasses"
            | "csinodes"
            | "csidrivers"
            | "csistoragecapacities"
            | "volumeattachments" => self.take_storage(change, queue),
            other => self.take_selector(other, change),
        };
        if read.is_ok() && self.unread.is_empty() {
            return;
        }
        let place = (
            change.resource.plural.to_string(),
            change.namespace.clone(),
            change.name.clone(),
        );
        match read {
            Ok(()) => {
                self.unread.remove(&place);
            }
            Err(error) => {
                let (resource, namespace, name) = &place;
                if self.unread.contains(&place) {
                    return;
                }
                tracing::warn!(
                    resource,
                    namespace,
                    name,
                    "the scheduler cannot read the object and goes on without it: {error}"
                );
                self.unread.insert(place);
            }
        }
    }

    fn take_selector(&mut self, plural: &str, change: &Change) -> Result<(), serde_json::Error> {
        let json = change.new.as_ref().map(|object| &object.bytes()[..]);
        let (namespace, name) = (change.namespace.as_str(), change.name.as_str());
        let kind = match plural {
            "services" => return self.snapshot.put_service(namespace, name, json),
            "poddisruptionbudgets" => return self.snapshot.put_budget(namespace, name, json),
            "replicasets" => "ReplicaSet.apps",
            "statefulsets" => "StatefulSet.apps",
            _ => "ReplicationController.",
        };
        // Theirs never change.
        let same = |old: &Object, new: &Object| old.header().uid == new.header().uid;
        if kind.ends_with(".apps")
            && let (Some(old), Some(new)) = (&change.old, &change.new)
            && same(old, new)
        {
            return Ok(());
        }
        self.snapshot.put_controller(kind, (namespace, name), json)
    }

    /// Takes a change of what pods' volumes depend on.
    fn take_storage(&mut self, change: &Change, queue: &mut PodQueue) -> Result<(), serde_json::Error> {
        let json = change.new.as_ref().map(|object| &object.bytes()[..]);
        let (namespace, name) = (change.namespace.as_str(), change.name.as_str());
        let (new, gone) = (change.old.is_none(), change.new.is_none());
        let storage = &mut self.snapshot.storage;
        let hint = match change.resource.plural.as_ref() {
            "persistentvolumeclaims" => {
                storage.put_claim(namespace, name, json)?;
                self.changed_claims.push(format!("{namespace}/{name}"));
                Some(Hint::Claim { namespace, name, new })
            }
            "persistentvolumes" => {
                let old = storage.put_volume(name, json)?;
                let record = storage.volume(name);
                let moved = match (&old, record) {
                    (Some(old), Some(record)) => old.zones() != record.zones(),
                    _ => true,
                };
                let claim = record.or(old.as_ref()).and_then(|record| record.volume.claim.as_ref());
                self.changed_claims
                    .extend(claim.map(|claim| format!("{}/{}", claim.namespace, claim.name)));
                Some(Hint::Volume { moved })
            }
            "storageclasses" => {
                let old = storage.put_class(name, json)?;
                let class = storage.class(name);
                let moved = class.is_some_and(|class| old.as_ref().is_none_or(|old| old.topologies != class.topologies));
                let new_and_waits = new && class.is_some_and(|class| class.waits);
                moved.then_some(Hint::Class { new_and_waits })
            }
            "csinodes" => {
                let old = storage.put_csi_node(name, json)?.unwrap_or_default();
                let limits = storage.limits(name).into_iter().flatten();
                let was = |driver: &str| old.get(driver).copied().flatten().unwrap_or_default();
                let mut raised = limits.filter(|(driver, limit)| limit.unwrap_or_default() > was(driver));
                (new || raised.next().is_some()).then_some(Hint::CsiNode { new })
            }
            "csidrivers" => {
                storage.put_driver(name, json)?;
                Some(Hint::Capacity)
            }
            "csistoragecapacities" => {
                let old = storage.put_capacity(namespace, name, json)?.and_then(|old| old.limit);
                let limit = storage.capacity(namespace, name).and_then(|capacity| capacity.limit.as_ref());
                let raised = limit.is_some_and(|limit| old.is_none_or(|old| *limit > old));
                (new || raised).then_some(Hint::Capacity)
            }
            _ => {
                storage.put_attachment(name, json)?;
                gone.then_some(Hint::Detached)
            }
        };
        let detached = matches!(hint, Some(Hint::Detached));
        if let Some(hint) = hint.filter(|_| detached || !gone) {
            wake(queue, hint, |_| true);
        }
        Ok(())
    }

    fn take_node(&mut self, change: &Change, queue: &mut PodQueue) -> Result<(), serde_json::Error> {
        let Some(object) = &change.new else {
            if self.snapshot.remove_node(&change.name) {
                // One domain fewer may be what a spread waits for.
                wake(queue, Hint::Other, |failed| failed.has(Plugins::SPREAD));
            }
            return Ok(());
        };
        let new = NodeRecord::read(object.bytes())?;
        let held = self.snapshot.node(&new.name).map(|node| &node.record);
        if held == Some(&new) {
            return Ok(());
        }
        let old = self.snapshot.put_node(new.clone());
        wake(queue, Hint::Node(old.as_ref(), &new), |_| true);
        Ok(())
    }

    fn take_pod(&mut self, change: &Change, queue: &mut PodQueue) -> Result<(), serde_json::Error> {
        let now = Instant::now();
        if let Some(old) = &change.old {
            let uid = &old.header().uid;
            if change.new.as_ref().is_none_or(|new| new.header().uid != *uid) {
                self.drop_pod(uid, queue, now);
            }
        }
        let Some(object) = &change.new else { return Ok(()) };
        let mut pod = self.templates.read(object.bytes())?;
        if pod.node.is_some() {
            queue.remove(&pod.uid);
            self.snapshot.clear_nomination(&pod.uid);
            self.nominating.remove(&pod.uid);
            self.take_bound(Arc::new(pod), queue, now);
            return Ok(());
        }
        if !self.is_ours(&pod) {
            queue.remove(&pod.uid);
            if self.snapshot.clear_nomination(&pod.uid) {
                wake(queue, Hint::Left(&pod), |_| true);
            }
            return Ok(());
        }
        match (&pod.nominated, self.nominating.get(&pod.uid)) {
            (None, Some(node)) => pod.nominated = Some(node.clone()),
            (Some(_), Some(_)) => {
                self.nominating.remove(&pod.uid);
            }
            _ => {}
        }
        let pod = Arc::new(pod);
        if !self.assumed.contains(&pod.uid) && self.snapshot.clear_nomination(&pod.uid) | pod.nominated.is_some() {
            self.snapshot.nominate(Arc::clone(&pod));
        }
        queue.put(pod, now);
        Ok(())
    }

    /// A pod is gone.
    fn drop_pod(&mut self, uid: &str, queue: &mut PodQueue, now: Instant) {
        let waited = queue.known(uid).map(Arc::clone);
        queue.remove(uid);
        if self.assumed.remove(uid) {
            self.unassumed.push(uid.into());
        }
        self.nominating.remove(uid);
        let nominated = self.snapshot.clear_nomination(uid);
        if let Some(gone) = self.snapshot.remove_pod(uid).or(waited.filter(|_| nominated)) {
            wake_at(queue, Hint::Left(&gone), now);
        }
    }

    /// A pod with a node, as the cache shows it.
    fn take_bound(&mut self, pod: Arc<PodRecord>, queue: &mut PodQueue, now: Instant) {
        let was_assumed = self.assumed.remove(&pod.uid);
        if was_assumed && !pod.template.claims.is_empty() {
            self.unassumed.push(Arc::clone(&pod.uid));
        }
        let old = self.snapshot.pod(&pod.uid).map(Arc::clone);
        if pod.finished {
            if let Some(gone) = self.snapshot.remove_pod(&pod.uid) {
                wake_at(queue, Hint::Left(&gone), now);
            }
            return;
        }
        match old {
            // A new status says nothing to the snapshot.
            Some(old) if alike(&old, &pod) => {
                if was_assumed {
                    wake_at(queue, Hint::Came(&pod), now);
                }
            }
            old => {
                self.snapshot.put_pod(Arc::clone(&pod));
                match old {
                    Some(old) if !was_assumed => wake_at(queue, Hint::Changed(&old, &pod), now),
                    _ => wake_at(queue, Hint::Came(&pod), now),
                }
            }
        }
    }

    /// Counts a pod on a node before the API shows it.
    pub(super) fn assume(&mut self, pod: &PodRecord, node: &str) {
        self.assumed.insert(Arc::clone(&pod.uid));
        self.snapshot.clear_nomination(&pod.uid);
        self.snapshot.put_pod(Arc::new(PodRecord {
            node: Some(node.into()),
            ..pod.clone()
        }));
    }

    /// Takes an assumption back.
    pub(super) fn forget(&mut self, pod: &Arc<PodRecord>, queue: &mut PodQueue) {
        if !self.assumed.remove(&pod.uid) {
            return;
        }
        if let Some(gone) = self.snapshot.remove_pod(&pod.uid) {
            wake(queue, Hint::Left(&gone), |_| true);
        }
        if pod.nominated.is_some() {
            self.snapshot.nominate(Arc::clone(pod));
        }
    }

    fn is_ours(&self, pod: &PodRecord) -> bool {
        self.names.contains(&pod.template.scheduler_name) && !pod.template.gated && !pod.deleting && !pod.finished
    }

    /// Nominates a pod to a node before the API shows it.
    pub(super) fn nominate(&mut self, pod: &PodRecord, node: &str, queue: &mut PodQueue) {
        let pod = Arc::new(PodRecord {
            nominated: Some(node.into()),
            ..pod.clone()
        });
        self.nominating.insert(Arc::clone(&pod.uid), node.into());
        self.snapshot.nominate(Arc::clone(&pod));
        queue.put(pod, Instant::now());
    }

    /// A pod is nominated no more.
    pub(super) fn clear_nomination(&mut self, uid: &str) {
        self.nominating.remove(uid);
        self.snapshot.clear_nomination(uid);
    }
}

/// Whether two states of a bound pod are one to the snapshot; the templates are interned.
fn alike(old: &PodRecord, new: &PodRecord) -> bool {
    Arc::ptr_eq(&old.template, &new.template)
        && old.node == new.node
        && old.deleting == new.deleting
        && old.preempted == new.preempted
        && old.started == new.started
        && old.generation == new.generation
}

fn wake(queue: &mut PodQueue, hint: Hint<'_>, concerns: impl Fn(Plugins) -> bool) {
    queue.wake(Instant::now(), |pod: &Template, failed| {
        (failed.is_empty() || concerns(failed)) && hints::may_help(hint, pod, failed)
    });
}

fn wake_at(queue: &mut PodQueue, hint: Hint<'_>, now: Instant) {
    queue.wake(now, |pod, failed| hints::may_help(hint, pod, failed));
}
