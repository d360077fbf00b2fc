//! A pod as the scheduler sees it: a small record of its own, and a [`Template`] that like pods share.
//!
//! Invariant: two pods with equal templates are judged alike by every filter and score. A record holds no object.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use crate::requests::PodRequests;
use crate::selector::{LabelSelector, Labels, NodeSelector, NodeSelectorTerm};
use crate::view::{PodSpecView, PodView, SpreadView, TermView, TolerationView, VolumeView, WeightedTermView};

/// What placement depends on, of a pod; the same for all pods of most controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Template {
    /// Namespace.
    pub namespace: String,
    /// Labels.
    pub labels: Labels,
    /// `spec.schedulerName`.
    pub scheduler_name: String,
    /// `spec.priority`.
    pub priority: i32,
    /// Whether it may preempt others.
    pub preempts: bool,
    /// Whether scheduling gates hold it back.
    pub gated: bool,
    /// What it asks for.
    pub requests: PodRequests,
    /// `spec.nodeSelector`.
    pub node_selector: Labels,
    /// Required node affinity.
    pub required_nodes: Option<NodeSelector>,
    /// Preferred node affinity, with weights.
    pub preferred_nodes: Vec<(i64, NodeSelectorTerm)>,
    /// Required affinity to pods.
    pub near: Vec<PodTerm>,
    /// Required anti-affinity to pods.
    pub far: Vec<PodTerm>,
    /// Preferences among pods with weights; negative to keep away.
    pub liked: Vec<(i64, PodTerm)>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Topology spread constraints.
    pub spread: Vec<Constraint>,
    /// Images of containers, init containers and volumes, normalised.
    pub images: Vec<String>,
    /// How many containers and init containers there are.
    pub containers: usize,
    /// The managing controller: kind with group, and name.
    pub controller: Option<(String, String)>,
    /// Claims that its volumes name or make, in their order.
    pub claims: Vec<ClaimSource>,
    /// Disks that its volumes name without a claim.
    pub disks: Vec<Disk>,
}

/// Which claim a volume of a pod has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClaimSource {
    /// One of this name.
    Named(String),
    /// The pod's own, for the volume of this name.
    Ephemeral(String),
}

impl ClaimSource {
    /// The claim's name, for a pod of that name.
    #[must_use]
    pub fn name<'a>(&'a self, pod: &str) -> Cow<'a, str> {
        match self {
            Self::Named(name) => Cow::Borrowed(name),
            Self::Ephemeral(volume) => Cow::Owned(format!("{pod}-{volume}")),
        }
    }

    /// Whether it may be the claim of that name, of one of the like pods whose names are not known.
    #[must_use]
    pub fn may_be(&self, claim: &str) -> bool {
        match self {
            Self::Named(name) => name == claim,
            Self::Ephemeral(volume) => claim.strip_suffix(volume.as_str()).is_some_and(|pod| pod.ends_with('-')),
        }
    }
}

/// A disk that not every two pods of a node may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Disk {
    /// A GCE persistent disk.
    Gce(String, ReadOnly),
    /// An AWS volume.
    Aws(String),
    /// An iSCSI target, by its qualified name.
    Iscsi(String, ReadOnly),
    /// A Ceph image: monitors, pool and image.
    Rbd(Vec<String>, String, String, ReadOnly),
}

/// Whether a disk is mounted to be read only.
type ReadOnly = bool;

impl Disk {
    /// Whether two pods cannot have both on one node.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gce(mine, read), Self::Gce(theirs, reads)) | (Self::Iscsi(mine, read), Self::Iscsi(theirs, reads)) => {
                mine == theirs && !(*read && *reads)
            }
            (Self::Aws(mine), Self::Aws(theirs)) => mine == theirs,
            (Self::Rbd(monitors, pool, image, read), Self::Rbd(others, their_pool, their_image, reads)) => {
                let shared = monitors.iter().any(|monitor| others.contains(monitor));
                shared && pool == their_pool && image == their_image && !(*read && *reads)
            }
            _ => false,
        }
    }
}

/// A toleration; absent fields are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// `key`.
    pub key: String,
    /// `operator`.
    pub operator: String,
    /// `value`.
    pub value: String,
    /// `effect`.
    pub effect: String,
}

/// A term of affinity to other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// Which pods; absent: none.
    pub selector: Option<LabelSelector>,
    /// In which namespaces, by name.
    pub namespaces: Vec<String>,
    /// In which namespaces, by label.
    pub namespace_selector: Option<LabelSelector>,
    /// What makes places the same.
    pub topology_key: String,
}

/// A topology spread constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Constraint {
    /// Largest difference allowed.
    pub skew_max: i64,
    /// What makes places the same.
    pub topology_key: String,
    /// Whether it filters; otherwise it scores.
    pub hard: bool,
    /// Which pods count; absent: none.
    pub selector: Option<LabelSelector>,
    /// Fewer domains than this count as an empty one.
    pub domains_min: usize,
    /// Whether only nodes that the pod's selector and affinity admit are counted.
    pub honours_affinity: bool,
    /// Whether only nodes whose taints the pod tolerates are counted.
    pub honours_taints: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRecord {
    /// UID.
    pub uid: Arc<str>,
    /// Name.
    pub name: Box<str>,
    /// What like pods share.
    pub template: Arc<Template>,
    /// `spec.nodeName`, or the node it is assumed on.
    pub node: Option<Box<str>>,
    /// `status.nominatedNodeName`.
    pub nominated: Option<Box<str>>,
    /// `status.startTime` as a number that orders as times do; none counts as later than all.
    pub started: Option<u64>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its deletion is a preemption by the scheduler.
    pub preempted: bool,
    /// Whether it has succeeded or failed, and so holds nothing any more.
    pub finished: bool,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub version: u64,
}

/// Templates in use, each once.
#[derive(Debug, Default)]
pub struct Templates {
    known: HashSet<Arc<Template>>,
    sweep_at: usize,
}

/// Fewer unused templates than this are not worth a search.
const SWEEP_MIN: usize = 256;

impl Templates {
    /// The one copy of a template.
    pub fn intern(&mut self, template: Template) -> Arc<Template> {
        if let Some(known) = self.known.get(&template) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.known.retain(|template| Arc::strong_count(template) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        let template = Arc::new(template);
        self.known.insert(Arc::clone(&template));
        template
    }

    /// Reads a pod from its JSON.
    ///
    /// # Errors
    /// When a field has another type than the API says.
    pub fn read(&mut self, json: &[u8]) -> Result<PodRecord, serde_json::Error> {
        let view: PodView = serde_json::from_slice(json)?;
        let PodView { metadata, spec, status } = view;
        let preempted = status
            .conditions
            .iter()
            .find(|condition| condition.kind == "DisruptionTarget");
        let preempted =
            preempted.is_some_and(|condition| condition.status == "True" && condition.reason == "PreemptionByScheduler");
        let some = |text: &str| (!text.is_empty()).then(|| text.into());
        let controller = metadata.owner_references.into_iter().find(|owner| owner.controller);
        let controller = controller.map(|owner| {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            (format!("{}.{group}", owner.kind), owner.name)
        });
        Ok(PodRecord {
            uid: metadata.uid.into(),
            name: metadata.name.into(),
            node: some(&spec.node_name),
            nominated: some(&status.nominated_node_name),
            started: started(&status.start_time),
            deleting: metadata.deletion_timestamp.is_some(),
            preempted: preempted && metadata.deletion_timestamp.is_some(),
            generation: metadata.generation.unwrap_or_default(),
            version: metadata.resource_version.parse().unwrap_or_default(),
            finished: status.phase == "Succeeded" || status.phase == "Failed",
            template: self.intern(template(metadata.namespace, metadata.labels, controller, spec)),
        })
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// The digits of a UTC time to the second.
fn started(time: &str) -> Option<u64> {
    let digits: String = time.chars().filter(char::is_ascii_digit).take(14).collect();
    digits.parse().ok()
}

fn template(namespace: String, labels: Labels, controller: Option<(String, String)>, spec: PodSpecView) -> Template {
    let requests = PodRequests::of(&spec);
    let images = {
        let containers = spec.init_containers.iter().chain(&spec.containers);
        let containers = containers.map(|container| container.image.as_str());
        let volumes = spec.volumes.iter().filter_map(|volume| volume.image.as_ref());
        let volumes = volumes.map(|image| image.reference.as_str());
        containers.chain(volumes).map(normalised_image).collect()
    };
    let own = |term: TermView| PodTerm::of(term, &namespace);
    let weighted = |terms: Vec<WeightedTermView>, sign: i64| -> Vec<_> {
        let weight = |term: &WeightedTermView| sign * i64::from(term.weight);
        terms
            .into_iter()
            .map(|term| (weight(&term), own(term.pod_affinity_term)))
            .collect()
    };
    let affinity = spec.affinity;
    let liked = [
        weighted(affinity.pod_affinity.preferred, 1),
        weighted(affinity.pod_anti_affinity.preferred, -1),
    ]
    .concat();
    let preferred = affinity.node_affinity.preferred.into_iter();
    Template {
        scheduler_name: if spec.scheduler_name.is_empty() {
            "default-scheduler".to_owned()
        } else {
            spec.scheduler_name
        },
        priority: spec.priority,
        preempts: spec.preemption_policy != "Never",
        gated: !spec.scheduling_gates.is_empty(),
        requests,
        node_selector: spec.node_selector,
        required_nodes: affinity.node_affinity.required,
        preferred_nodes: preferred.map(|term| (i64::from(term.weight), term.preference)).collect(),
        near: affinity.pod_affinity.required.into_iter().map(own).collect(),
        far: affinity.pod_anti_affinity.required.into_iter().map(own).collect(),
        liked,
        tolerations: spec.tolerations.into_iter().map(toleration).collect(),
        spread: spec
            .topology_spread_constraints
            .into_iter()
            .map(|view| Constraint::of(view, &labels))
            .collect(),
        images,
        containers: spec.containers.len() + spec.init_containers.len(),
        controller,
        disks: spec.volumes.iter().flat_map(disks).collect(),
        claims: spec.volumes.into_iter().filter_map(claim).collect(),
        namespace,
        labels,
    }
}

fn claim(volume: VolumeView) -> Option<ClaimSource> {
    match volume.persistent_volume_claim {
        Some(claim) => Some(ClaimSource::Named(claim.claim_name)),
        None => volume.ephemeral.map(|_| ClaimSource::Ephemeral(volume.name)),
    }
}

fn disks(volume: &VolumeView) -> impl Iterator<Item = Disk> {
    let gce = volume.gce_persistent_disk.as_ref();
    let aws = volume.aws_elastic_block_store.as_ref();
    let (iscsi, rbd) = (volume.iscsi.as_ref(), volume.rbd.as_ref());
    let gce = gce.map(|disk| Disk::Gce(disk.pd_name.clone(), disk.read_only));
    let aws = aws.map(|disk| Disk::Aws(disk.volume_id.clone()));
    let iscsi = iscsi.map(|disk| Disk::Iscsi(disk.iqn.clone(), disk.read_only));
    let rbd = rbd.map(|disk| Disk::Rbd(disk.monitors.clone(), disk.pool.clone(), disk.image.clone(), disk.read_only));
    gce.into_iter().chain(aws).chain(iscsi).chain(rbd)
}

fn toleration(view: TolerationView) -> Toleration {
    let TolerationView {
        key,
        operator,
        value,
        effect,
    } = view;
    Toleration {
        key,
        operator,
        value,
        effect,
    }
}

/// A name without a tag means `latest`.
pub(crate) fn normalised_image(name: &str) -> String {
    if name.rfind(':').is_none_or(|at| name[at..].contains('/')) {
        format!("{name}:latest")
    } else {
        name.to_owned()
    }
}

impl PodTerm {
    fn of(view: TermView, own_namespace: &str) -> Self {
        let mut namespaces = view.namespaces;
        if namespaces.is_empty() && view.namespace_selector.is_none() {
            namespaces.push(own_namespace.to_owned());
        }
        Self {
            selector: view.label_selector,
            namespaces,
            namespace_selector: view.namespace_selector,
            topology_key: view.topology_key,
        }
    }

    /// Whether it means a pod; `namespace_labels` are those of that pod's namespace, none where it is not known.
    #[must_use]
    pub fn means(&self, pod: &Template, namespace_labels: Option<&Labels>) -> bool {
        let Some(selector) = &self.selector else { return false };
        let within = self.namespaces.contains(&pod.namespace)
            || self.namespace_selector.as_ref().is_some_and(|wanted| {
                // An empty selector means all namespaces, also those that nobody has seen yet.
                wanted.is_empty() || namespace_labels.is_some_and(|labels| wanted.selects(labels))
            });
        within && selector.selects(&pod.labels)
    }
}

impl Constraint {
    fn of(view: SpreadView, labels: &Labels) -> Self {
        let mut selector = view.label_selector;
        if let Some(selector) = &mut selector {
            for key in view.match_label_keys {
                if let Some(value) = labels.get(&key) {
                    selector.match_expressions.push(crate::selector::Expression {
                        key,
                        operator: "In".into(),
                        values: vec![value.clone()],
                    });
                }
            }
        }
        Self {
            skew_max: i64::from(view.max_skew),
            topology_key: view.topology_key,
            hard: view.when_unsatisfiable == "DoNotSchedule",
            selector,
            domains_min: view.min_domains.and_then(|least| usize::try_from(least).ok()).unwrap_or(1),
            honours_affinity: view.node_affinity_policy != "Ignore",
            honours_taints: view.node_taints_policy == "Honor",
        }
    }
}

impl Template {
    /// Whether it says anything about where other pods are.
    #[must_use]
    pub fn has_pod_affinity(&self) -> bool {
        !self.near.is_empty() || !self.far.is_empty() || !self.liked.is_empty()
    }

    /// Whether its volumes say anything about where it can be.
    #[must_use]
    pub fn has_volumes(&self) -> bool {
        !self.claims.is_empty() || !self.disks.is_empty()
    }
}
