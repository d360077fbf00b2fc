//! The snapshot that the scheduler decides on, kept up to date change by change.
//!
//! Invariant: an assumed pod is on its node until the cache shows it bound, or its binding failed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use trireme_client::Change;
use trireme_scheduling::node::is_finished;
use trireme_scheduling::{NodeState, Snapshot};

#[derive(Default)]
pub(super) struct ClusterState {
    snapshot: Snapshot,
    /// On which node a pod was counted, by UID; also for nodes that are not known (yet).
    places: HashMap<String, String>,
    /// Pods of nodes that are not known, by node and UID.
    strays: HashMap<String, HashMap<String, Arc<Pod>>>,
    /// Pods decided about and not yet seen as bound.
    assumed: HashSet<String>,
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Whether a node may take pods that it did not take before.
fn opens(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}

impl ClusterState {
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains(uid)
    }

    /// A changed node; whether waiting pods may have a chance now.
    pub(super) fn take_node(&mut self, name: &str, node: Option<Arc<Node>>) -> bool {
        let Some(new) = node else {
            if let Some(gone) = self.snapshot.nodes.remove(name) {
                let strays = self.strays.entry(name.to_owned()).or_default();
                strays.extend(gone.pods.into_iter().map(|(uid, placed)| (uid, placed.pod)));
            }
            return false;
        };
        if let Some(state) = self.snapshot.nodes.get_mut(name) {
            let opens = opens(&state.node, &new);
            state.set_node(new);
            return opens;
        }
        let mut state = NodeState::new(new);
        for pod in self.strays.remove(name).into_iter().flatten() {
            state.add_pod(pod.1);
        }
        self.snapshot.nodes.insert(name.to_owned(), state);
        true
    }

    /// A changed namespace; whether waiting pods may have a chance now.
    pub(super) fn take_namespace(&mut self, change: &Change) -> bool {
        match &change.new {
            Some(object) => {
                let labels = object.header().labels.clone();
                let old = self.snapshot.namespaces.insert(change.name.clone(), labels.clone());
                old != Some(labels)
            }
            None => self.snapshot.namespaces.remove(&change.name).is_some(),
        }
    }

    /// A bound pod as the cache shows it; whether others may have a chance now.
    pub(super) fn take_pod(&mut self, pod: Arc<Pod>) -> bool {
        let uid = uid_of(&pod);
        self.assumed.remove(&uid);
        if is_finished(&pod) {
            return self.remove_pod(&uid);
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        let came = self.places.get(&uid) != Some(&node);
        self.put(pod, &node);
        // A new neighbour may be what an affinity waits for.
        came
    }

    /// Counts a pod on a node before the API shows it.
    pub(super) fn assume(&mut self, pod: Arc<Pod>, node: &str) {
        self.assumed.insert(uid_of(&pod));
        self.put(pod, node);
    }

    /// Takes an assumption back.
    pub(super) fn forget(&mut self, uid: &str) {
        if self.assumed.remove(uid) {
            self.remove_pod(uid);
        }
    }

    fn put(&mut self, pod: Arc<Pod>, node: &str) {
        let uid = uid_of(&pod);
        if self.places.get(&uid).is_some_and(|place| place != node) {
            self.remove_pod(&uid);
        }
        self.places.insert(uid.clone(), node.to_owned());
        match self.snapshot.nodes.get_mut(node) {
            Some(state) => state.add_pod(pod),
            None => {
                self.strays.entry(node.to_owned()).or_default().insert(uid, pod);
            }
        }
    }

    /// A pod is gone or has finished; whether it left room.
    pub(super) fn remove_pod(&mut self, uid: &str) -> bool {
        self.assumed.remove(uid);
        let Some(node) = self.places.remove(uid) else { return false };
        if let Some(strays) = self.strays.get_mut(&node) {
            strays.remove(uid);
            if strays.is_empty() {
                self.strays.remove(&node);
            }
        }
        self.snapshot.nodes.get_mut(&node).is_some_and(|state| state.remove_pod(uid))
    }
}
