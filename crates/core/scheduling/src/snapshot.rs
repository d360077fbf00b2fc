//! Nodes and pods as the scheduler sees them, kept current change by change.
//!
//! Invariant: sums and counts follow every change; nothing is counted anew for a pod but the relations of a template that was
//! not seen lately, or after nodes or namespaces got other labels or taints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::node::{NodeRecord, NodeState};
use crate::pod::{Constraint, PodRecord, Template};
use crate::profile::{DefaultSpread, Profile};
use crate::relations::{HOSTNAME, Relations, ZONE};
use crate::selector::{Expression, LabelSelector, Labels};
use crate::topology::{NOWHERE, Topology};
use crate::view::{BudgetView, SelectingView};
use crate::volumes::Storage;

/// Templates whose relations are kept current.
const RELATIONS_MAX: usize = 8;
/// With more topology keys than this, those that nobody uses any more are looked for.
const TOPOLOGIES_MIN: usize = 32;

/// What nodes and pods are looked at with: domains of topology keys and labels of namespaces.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    topologies: Vec<Topology>,
    namespaces: HashMap<String, Labels>,
}

impl Surroundings {
    pub(crate) fn topology(&self, key: &str) -> Option<usize> {
        self.topologies.iter().position(|topology| topology.key == key)
    }

    pub(crate) fn domain(&self, topology: usize, slot: usize) -> u32 {
        self.topologies.get(topology).map_or(NOWHERE, |topology| topology.of(slot))
    }

    pub(crate) fn labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace)
    }
}

/// A PodDisruptionBudget as preemption sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Which pods; absent or empty: none.
    pub selector: Option<LabelSelector>,
    /// How many more disruptions it allows.
    pub allowed: i32,
    /// Names of pods whose disruption was granted already.
    pub disrupted: Vec<String>,
}

/// Everything that placement depends on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(crate) surroundings: Surroundings,
    /// Claims and volumes.
    pub storage: Storage,
    pub(crate) nodes: Vec<NodeState>,
    free: Vec<usize>,
    by_name: HashMap<Box<str>, usize>,
    /// On which node slot a pod is, by UID.
    places: HashMap<Arc<str>, usize>,
    pub(crate) order: Vec<usize>,
    order_is_stale: bool,
    /// Where the next decision begins to look, in the order of nodes.
    pub(crate) start: usize,
    /// How many nodes have each image.
    pub(crate) image_nodes: HashMap<String, i64>,
    /// Nodes with taints that only ask to stay away.
    pub(crate) soft_tainted: usize,
    /// Pods with affinity on each node slot.
    affine: HashMap<usize, usize>,
    relations: Vec<Relations>,
    nominated: HashMap<Box<str>, Vec<Arc<PodRecord>>>,
    nominations: HashMap<Arc<str>, Box<str>>,
    pub(crate) budgets: BTreeMap<(String, String), Budget>,
    services: HashMap<String, BTreeMap<String, Labels>>,
    controllers: HashMap<(String, String, String), LabelSelector>,
}

/// Kinds, with their groups, whose selectors the built-in spread follows.
pub const CONTROLLERS: [&str; 3] = ["ReplicaSet.apps", "StatefulSet.apps", "ReplicationController."];

impl Snapshot {
    /// How many nodes there are.
    #[must_use]
    pub fn node_count(&self) -> usize {
        if self.order_is_stale {
            self.nodes.iter().filter(|node| node.known).count()
        } else {
            self.order.len()
        }
    }

    /// A node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeState> {
        self.slot(name).map(|slot| &self.nodes[slot])
    }

    pub(crate) fn slot(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied().filter(|slot| self.nodes[*slot].known)
    }

    /// Brings the order in which nodes are looked at up to date: one of each zone in turn.
    pub(crate) fn refresh_order(&mut self) {
        if std::mem::take(&mut self.order_is_stale) {
            let mut zones: BTreeMap<(&str, &str), Vec<(&str, usize)>> = BTreeMap::new();
            for (slot, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.known) {
                zones.entry(node.record.zone()).or_default().push((node.name(), slot));
            }
            for nodes in zones.values_mut() {
                nodes.sort_unstable();
            }
            let longest = zones.values().map(Vec::len).max().unwrap_or_default();
            let turns = (0..longest).flat_map(|turn| zones.values().filter_map(move |nodes| nodes.get(turn)));
            self.order = turns.map(|(_, slot)| *slot).collect();
        }
    }

    fn slot_for(&mut self, name: &str) -> usize {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let node = NodeState {
            record: NodeRecord {
                name: name.into(),
                ..NodeRecord::default()
            },
            ..NodeState::default()
        };
        let slot = self.free.pop().unwrap_or(self.nodes.len());
        if slot == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[slot] = node;
        }
        self.by_name.insert(name.into(), slot);
        slot
    }

    /// A node is new or has changed. The old record, if there was one.
    pub fn put_node(&mut self, record: NodeRecord) -> Option<NodeRecord> {
        let slot = self.slot_for(&record.name);
        let node = &mut self.nodes[slot];
        let was_known = std::mem::replace(&mut node.known, true);
        let old = std::mem::replace(&mut node.record, record);
        let new = &self.nodes[slot].record;
        if !was_known || old.labels != new.labels || old.taints != new.taints {
            self.relations.clear();
            for topology in &mut self.surroundings.topologies {
                topology.set(slot, new.label(&topology.key));
            }
        }
        self.order_is_stale |= !was_known || old.zone() != new.zone();
        let new = self.nodes[slot].record.clone();
        self.tally(&old, -1, was_known);
        self.tally(&new, 1, true);
        was_known.then_some(old)
    }

    fn tally(&mut self, record: &NodeRecord, by: i64, counted: bool) {
        if !counted {
            return;
        }
        for image in record.images.keys() {
            let nodes = self.image_nodes.entry(image.clone()).or_default();
            *nodes += by;
            if *nodes == 0 {
                self.image_nodes.remove(image);
            }
        }
        if record.taints.iter().any(crate::node::Taint::is_soft) {
            self.soft_tainted = if by > 0 {
                self.soft_tainted + 1
            } else {
                self.soft_tainted.saturating_sub(1)
            };
        }
    }

    /// A node is gone; its pods are remembered for when it comes back.
    pub fn remove_node(&mut self, name: &str) -> bool {
        let Some(slot) = self.slot(name) else { return false };
        let node = &mut self.nodes[slot];
        node.known = false;
        let record = std::mem::replace(
            &mut node.record,
            NodeRecord {
                name: name.into(),
                ..NodeRecord::default()
            },
        );
        for topology in &mut self.surroundings.topologies {
            topology.set(slot, None);
        }
        self.tally(&record, -1, true);
        self.relations.clear();
        self.order_is_stale = true;
        self.release(slot);
        true
    }

    /// Gives a slot back that neither a node nor a pod needs.
    fn release(&mut self, slot: usize) {
        let node = &self.nodes[slot];
        if !node.known && node.pods.is_empty() {
            self.by_name.remove(&node.record.name);
            self.free.push(slot);
        }
    }

    /// A pod with a node is there or has changed; finished ones are taken off. The node's slot counts it from now on.
    pub fn put_pod(&mut self, pod: Arc<PodRecord>) {
        self.remove_pod(&pod.uid);
        let Some(name) = pod.node.as_deref().filter(|_| !pod.finished) else {
            return;
        };
        let slot = self.slot_for(name);
        self.ensure_topologies(&pod.template);
        if pod.template.has_pod_affinity() {
            *self.affine.entry(slot).or_default() += 1;
        }
        self.storage.count(&pod, slot, 1);
        self.places.insert(Arc::clone(&pod.uid), slot);
        self.tell(slot, &pod, 1);
        self.nodes[slot].add(pod);
    }

    /// A pod is gone; what it was, if it was on a node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodRecord>> {
        let slot = self.places.remove(uid)?;
        let pod = self.nodes[slot].remove(uid)?;
        if pod.template.has_pod_affinity()
            && let Some(count) = self.affine.get_mut(&slot)
        {
            *count -= 1;
            if *count == 0 {
                self.affine.remove(&slot);
            }
        }
        self.storage.count(&pod, slot, -1);
        self.tell(slot, &pod, -1);
        self.release(slot);
        Some(pod)
    }

    fn tell(&mut self, slot: usize, pod: &PodRecord, by: i64) {
        let node = &self.nodes[slot];
        if !node.known {
            return;
        }
        for relations in &mut self.relations {
            relations.count(&self.surroundings, (slot, node), pod, by, false);
        }
    }

    /// A bound pod as it is known here.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodRecord>> {
        let slot = self.places.get(uid)?;
        self.nodes[*slot].pods.iter().find(|pod| &*pod.uid == uid)
    }

    /// Labels of a namespace; none where it is gone. Whether they are other than before.
    pub fn put_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        let changed = match labels {
            Some(labels) => {
                let old = self.surroundings.namespaces.insert(name.to_owned(), labels);
                old.as_ref() != self.surroundings.namespaces.get(name)
            }
            None => self.surroundings.namespaces.remove(name).is_some(),
        };
        if changed && !self.affine_nowhere() {
            self.relations.clear();
        }
        changed
    }

    fn affine_nowhere(&self) -> bool {
        self.affine.is_empty() && self.relations.iter().all(|relations| !relations.template.has_pod_affinity())
    }

    /// The selector of a Service, by which its pods are spread; none where it is gone.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn put_service(&mut self, namespace: &str, name: &str, json: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let selector: Labels = match json {
            None => Labels::new(),
            Some(json) => {
                let view: SelectingView = serde_json::from_slice(json)?;
                view.spec
                    .selector
                    .map(serde_json::from_value)
                    .transpose()?
                    .unwrap_or_default()
            }
        };
        let services = self.services.entry(namespace.to_owned()).or_default();
        let changed = if selector.is_empty() {
            services.remove(name).is_some()
        } else {
            services.insert(name.to_owned(), selector.clone()) != Some(selector)
        };
        if services.is_empty() {
            self.services.remove(namespace);
        }
        if changed {
            self.relations.retain(|relations| relations.template.namespace != namespace);
        }
        Ok(())
    }

    /// The selector of a controller of one of [`CONTROLLERS`]; none where it is gone.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn put_controller(
        &mut self,
        kind: &str,
        (namespace, name): (&str, &str),
        json: Option<&[u8]>,
    ) -> Result<(), serde_json::Error> {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let Some(json) = json else {
            self.controllers.remove(&key);
            return Ok(());
        };
        let view: SelectingView = serde_json::from_slice(json)?;
        let selector = view.spec.selector.unwrap_or_default();
        let selector = if kind == "ReplicationController." {
            LabelSelector {
                match_labels: serde_json::from_value::<Option<Labels>>(selector)?.unwrap_or_default(),
                match_expressions: Vec::new(),
            }
        } else {
            serde_json::from_value::<Option<LabelSelector>>(selector)?.unwrap_or_default()
        };
        if self.controllers.get(&key) != Some(&selector) {
            self.controllers.insert(key, selector);
            self.relations.retain(|relations| relations.template.namespace != namespace);
        }
        Ok(())
    }

    /// A PodDisruptionBudget; none where it is gone.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn put_budget(&mut self, namespace: &str, name: &str, json: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(json) = json else {
            self.budgets.remove(&key);
            return Ok(());
        };
        let view: BudgetView = serde_json::from_slice(json)?;
        let budget = Budget {
            selector: view.spec.selector,
            allowed: view.status.disruptions_allowed,
            disrupted: view.status.disrupted_pods.into_keys().collect(),
        };
        self.budgets.insert(key, budget);
        Ok(())
    }

    /// A pod that waits for room on the node that it is nominated to.
    pub fn nominate(&mut self, pod: Arc<PodRecord>) {
        self.clear_nomination(&pod.uid);
        let Some(node) = pod.nominated.clone() else { return };
        self.ensure_topologies(&pod.template);
        self.nominations.insert(Arc::clone(&pod.uid), node.clone());
        self.nominated.entry(node).or_default().push(pod);
    }

    /// A pod is nominated no more. Whether it was.
    pub fn clear_nomination(&mut self, uid: &str) -> bool {
        let Some(node) = self.nominations.remove(uid) else {
            return false;
        };
        if let Some(pods) = self.nominated.get_mut(&node) {
            pods.retain(|pod| &*pod.uid != uid);
            if pods.is_empty() {
                self.nominated.remove(&node);
            }
        }
        true
    }

    /// Pods that are nominated to a node.
    #[must_use]
    pub fn nominated_to(&self, node: &str) -> &[Arc<PodRecord>] {
        if self.nominated.is_empty() {
            return &[];
        }
        self.nominated.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    fn ensure_topologies(&mut self, template: &Template) {
        let liked = template.liked.iter().map(|(_, term)| term);
        let terms = template.near.iter().chain(&template.far).chain(liked);
        let keys = terms.map(|term| &term.topology_key);
        for key in keys.chain(template.spread.iter().map(|constraint| &constraint.topology_key)) {
            self.ensure_topology(key);
        }
    }

    fn ensure_topology(&mut self, key: &str) {
        if self.surroundings.topology(key).is_some() {
            return;
        }
        let mut topology = Topology::new(key);
        for (slot, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.known) {
            topology.set(slot, node.record.label(key));
        }
        self.surroundings.topologies.push(topology);
    }

    /// Forgets topology keys and values that were used once.
    fn tidy_topologies(&mut self) {
        let values: usize = self.surroundings.topologies.iter().map(Topology::seen).sum();
        let keys = self.surroundings.topologies.len();
        if keys <= TOPOLOGIES_MIN && values <= (keys + 1) * (2 * self.nodes.len() + 64) {
            return;
        }
        self.relations.clear();
        self.surroundings.topologies.clear();
        let slots: Vec<usize> = self.affine.keys().copied().collect();
        for slot in slots {
            let pods: Vec<_> = self.nodes[slot].pods.iter().map(|pod| Arc::clone(&pod.template)).collect();
            pods.iter().for_each(|template| self.ensure_topologies(template));
        }
        let nominated: Vec<_> = self
            .nominated
            .values()
            .flatten()
            .map(|pod| Arc::clone(&pod.template))
            .collect();
        nominated.iter().for_each(|template| self.ensure_topologies(template));
    }

    /// The relations of a pod to those that are there, current. They are to be given back by [`Self::keep`].
    pub(crate) fn relations(&mut self, template: &Arc<Template>, profile: &Profile) -> Relations {
        let mutual = profile.hard_pod_affinity_weight;
        let same = |known: &Relations| Arc::ptr_eq(&known.template, template) && known.mutual == mutual;
        if let Some(at) = self.relations.iter().position(same) {
            return self.relations.remove(at);
        }
        let defaults = if template.spread.is_empty() {
            self.default_constraints(template, &profile.default_spread)
        } else {
            Vec::new()
        };
        // Pods of a StatefulSet differ in labels that nobody looks at.
        if let Some(at) = self
            .relations
            .iter()
            .position(|known| self.serves(known, template, &defaults))
        {
            let mut known = self.relations.remove(at);
            known.template = Arc::clone(template);
            return known;
        }
        self.tidy_topologies();
        self.ensure_topologies(template);
        for constraint in &defaults {
            self.ensure_topology(&constraint.topology_key);
        }
        let mut relations = Relations::new(&self.surroundings, template, &defaults, mutual);
        relations.requires_all |= profile.default_spread != DefaultSpread::System;
        let affine_only = relations.looks_at_affine_only();
        if affine_only {
            for slot in self.affine.keys() {
                let node = &self.nodes[*slot];
                if node.known {
                    for pod in node.pods.iter().filter(|pod| pod.template.has_pod_affinity()) {
                        relations.count(&self.surroundings, (*slot, node), pod, 1, false);
                    }
                }
            }
            return relations;
        }
        for (slot, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.known) {
            relations.see_node(&self.surroundings, slot, node);
            for pod in &node.pods {
                relations.count(&self.surroundings, (slot, node), pod, 1, false);
            }
        }
        relations
    }

    /// Whether the relations of one template are those of another too.
    fn serves(&self, known: &Relations, template: &Template, defaults: &[Constraint]) -> bool {
        let own = &known.template;
        let plain = |template: &Template| !template.has_pod_affinity() && template.spread.is_empty();
        self.affine.is_empty()
            && plain(own)
            && plain(template)
            && own.namespace == template.namespace
            && own.node_selector == template.node_selector
            && own.required_nodes == template.required_nodes
            && known.is_spread_by(defaults)
            // Whether a pod would count itself depends on its labels.
            && !defaults.iter().any(|constraint| constraint.hard)
    }

    /// Takes relations back, as the most lately used.
    pub(crate) fn keep(&mut self, relations: Relations) {
        if self.relations.len() >= RELATIONS_MAX {
            self.relations.remove(0);
        }
        self.relations.push(relations);
    }

    /// The constraints of a pod without any, among those that its Services and its controller select.
    fn default_constraints(&self, template: &Template, spread: &DefaultSpread) -> Vec<Constraint> {
        let mut selector = LabelSelector::default();
        let services = self.services.get(&template.namespace).into_iter().flatten();
        for (_, wanted) in services {
            if wanted.iter().all(|(key, value)| template.labels.get(key) == Some(value)) {
                selector
                    .match_labels
                    .extend(wanted.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        if let Some((kind, name)) = &template.controller {
            let key = (kind.clone(), template.namespace.clone(), name.clone());
            if let Some(own) = self.controllers.get(&key) {
                let equal = own.match_labels.iter().map(|(key, value)| Expression {
                    key: key.clone(),
                    operator: "In".into(),
                    values: vec![value.clone()],
                });
                selector
                    .match_expressions
                    .extend(equal.chain(own.match_expressions.iter().cloned()));
            }
        }
        if selector.is_empty() {
            return Vec::new();
        }
        if let DefaultSpread::List(constraints) = spread {
            let selecting = |constraint: &Constraint| Constraint {
                selector: Some(selector.clone()),
                ..constraint.clone()
            };
            return constraints.iter().map(selecting).collect();
        }
        [(HOSTNAME, 3), (ZONE, 5)]
            .into_iter()
            .map(|(key, skew_max)| Constraint {
                skew_max,
                topology_key: key.to_owned(),
                hard: false,
                selector: Some(selector.clone()),
                domains_min: 1,
                honours_affinity: true,
                honours_taints: false,
            })
            .collect()
    }
}
