//! A node and the pods on it, as the scheduler sees them.
//!
//! Invariant: a node's sums are those of its pods; pods that have finished are not among them.

use std::collections::HashMap;
use std::sync::Arc;

use trireme_api::fit;
use trireme_api::quantity::Quantity;

use crate::pod::PodRecord;
use crate::requests::{HostPort, Resources};
use crate::selector::Labels;
use crate::view::NodeView;

/// A taint; absent fields are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Taint {
    /// `key`.
    pub key: String,
    /// `value`.
    pub value: String,
    /// `effect`.
    pub effect: String,
}

impl Taint {
    pub(crate) fn as_fit(&self) -> fit::Taint<'_> {
        fit::Taint {
            key: &self.key,
            value: &self.value,
            effect: &self.effect,
        }
    }

    /// Whether it only asks to stay away.
    #[must_use]
    pub fn is_soft(&self) -> bool {
        self.effect == "PreferNoSchedule"
    }

    /// Whether it keeps pods away that do not tolerate it.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.effect == "NoSchedule" || self.effect == "NoExecute"
    }
}

/// What placement depends on, of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRecord {
    /// Name.
    pub name: Box<str>,
    /// Labels.
    pub labels: Arc<Labels>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub pods_max: i64,
    /// Sizes of its images, by normalised name.
    pub images: HashMap<String, i64>,
}

impl NodeRecord {
    /// Reads a node from its JSON.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let NodeView { metadata, spec, status } = serde_json::from_slice(json)?;
        let pods = status
            .allocatable
            .get("pods")
            .and_then(|amount| Quantity::parse(&amount.0).ok());
        let images = status.images.into_iter().flat_map(|image| {
            let size = image.size_bytes;
            image.names.into_iter().map(move |name| (name, size))
        });
        Ok(Self {
            name: metadata.name.into(),
            labels: Arc::new(metadata.labels),
            unschedulable: spec.unschedulable,
            taints: spec
                .taints
                .into_iter()
                .map(|taint| Taint {
                    key: taint.key,
                    value: taint.value,
                    effect: taint.effect,
                })
                .collect(),
            allocatable: Resources::from_list(&status.allocatable),
            pods_max: pods.map_or(0, |quantity| quantity.value()),
            images: images.collect(),
        })
    }

    /// One of its labels.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// What makes it a place of its own for the order in which nodes are looked at: region and zone.
    pub(crate) fn zone(&self) -> (&str, &str) {
        let of = |new: &str, old: &str| self.label(new).or_else(|| self.label(old)).unwrap_or_default();
        // The two lookups borrow from the same labels.
        (
            of("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
            of("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
        )
    }
}

/// One node with its pods.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    /// The node.
    pub record: NodeRecord,
    /// Sum of the pods' requests.
    pub requested: Resources,
    /// Sum of the pods' requests with defaults, for scoring.
    pub scored: Resources,
    /// Pods on it.
    pub pods: Vec<Arc<PodRecord>>,
    /// Host ports that its pods have.
    pub ports: Vec<HostPort>,
    /// Whether there is such a node; otherwise only pods that name it.
    pub known: bool,
}

impl NodeState {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Puts a pod on it.
    pub fn add(&mut self, pod: Arc<PodRecord>) {
        let requests = &pod.template.requests;
        self.requested.add(&requests.resources);
        self.scored.add(&requests.scored);
        self.ports.extend(requests.ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Takes a pod off it, if it is there.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodRecord>> {
        let at = self.pods.iter().position(|pod| &*pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        let requests = &pod.template.requests;
        self.requested.subtract(&requests.resources);
        self.scored.subtract(&requests.scored);
        for port in &requests.ports {
            if let Some(at) = self.ports.iter().position(|held| held == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }
}
