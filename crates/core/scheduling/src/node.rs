//! Nodes and the pods on them, as the scheduler sees them.
//!
//! Invariant: a node's sums are those of its pods; pods that have finished are not among them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use trireme_api::quantity::Quantity;

use crate::requests::{PodRequests, Resources};

/// Everything that placement depends on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeState>,
    /// Labels of namespaces, for the namespace selectors of inter-pod affinity.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// The node.
    pub node: Arc<Node>,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub pods_max: i64,
    /// Pods on it by UID.
    pub pods: HashMap<String, Placed>,
    /// Sum of the pods' requests.
    pub requested: Resources,
    /// Sum of the pods' requests with defaults, for scoring.
    pub scored: Resources,
    /// Sizes of its images by normalised name.
    pub images: HashMap<String, i64>,
}

/// A pod on a node.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The pod.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requests: PodRequests,
}

impl NodeState {
    /// A node without pods.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let mut state = Self {
            node: Arc::clone(&node),
            allocatable: Resources::default(),
            pods_max: 0,
            pods: HashMap::new(),
            requested: Resources::default(),
            scored: Resources::default(),
            images: HashMap::new(),
        };
        state.set_node(node);
        state
    }

    /// Takes a changed node; its pods stay.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::from_list).unwrap_or_default();
        self.pods_max = allocatable
            .and_then(|list| list.get("pods"))
            .and_then(|text| Quantity::parse(&text.0).ok())
            .map_or(0, |quantity| quantity.value());
        self.images = status
            .and_then(|status| status.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or_default();
                image.names.iter().flatten().map(move |name| (name.clone(), size))
            })
            .collect();
        self.node = node;
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// One of its labels.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Puts a pod on the node, in place of an earlier state of it.
    pub fn add_pod(&mut self, pod: Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.remove_pod(&uid);
        let requests = PodRequests::of(&pod);
        self.requested.add(&requests.resources);
        self.scored.add(&requests.scored);
        self.pods.insert(uid, Placed { pod, requests });
    }

    /// Takes a pod off the node; whether it was there.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.pods.remove(uid) else { return false };
        self.requested.subtract(&placed.requests.resources);
        self.scored.subtract(&placed.requests.scored);
        true
    }
}

impl Snapshot {
    /// From whole lists; pods without a known node are left out, finished ones too.
    #[must_use]
    pub fn from_lists(nodes: impl IntoIterator<Item = Arc<Node>>, pods: impl IntoIterator<Item = Arc<Pod>>) -> Self {
        let nodes = nodes.into_iter().map(NodeState::new);
        let mut snapshot = Self {
            nodes: nodes.map(|state| (state.name().to_owned(), state)).collect(),
            namespaces: BTreeMap::new(),
        };
        for pod in pods {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            if let Some(state) = snapshot.nodes.get_mut(&node).filter(|_| !is_finished(&pod)) {
                state.add_pod(pod);
            }
        }
        snapshot
    }
}

/// Whether a pod has succeeded or failed and so holds nothing any more.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
