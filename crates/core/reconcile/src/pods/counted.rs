//! A pod as those see it who keep a number of pods: its header, and the few facts that are read from its bytes once per revision.
//!
//! Invariant: whoever looks at all pods of a workload looks at these and decodes none, so that a look at five thousand pods costs
//! what five thousand small records cost (`a_look_at_many_pods_decodes_none` of the manager).

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use trireme_api::facts::{Facts, Held};
use trireme_api::{Header, Object};

use super::available_since;

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Pending, not said, or something that nobody knows.
    Pending,
    /// Unknown.
    Unknown,
    /// Running.
    Running,
    /// Succeeded.
    Succeeded,
    /// Failed.
    Failed,
}

/// What a pod's header does not say of it.
#[derive(Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// `status.phase`.
    pub phase: Phase,
    /// `spec.nodeName`, empty where it has none.
    pub node: Box<str>,
    /// Whether the condition Ready is True.
    pub ready: bool,
    /// Since when it is; nothing where it is not.
    pub ready_since: Option<Timestamp>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `controller.kubernetes.io/pod-deletion-cost`, 0 where it is absent or no number.
    pub deletion_cost: i32,
    /// The most restarts of one container, and of one sidecar.
    pub restarts: (i32, i32),
    /// The node that it asks for by its name, where it asks for one alone: a daemon's.
    pub asks_for: Option<Box<str>>,
    /// `status.podIPs`, and `podIP` where it is none of them.
    pub addresses: Box<[Box<str>]>,
    /// `spec.hostname`, empty where it has none.
    pub hostname: Box<str>,
    /// `spec.subdomain`, likewise.
    pub subdomain: Box<str>,
    /// The ports with a name, those of sidecars behind the others.
    pub ports: Box<[NamedPort]>,
}

/// A port of a container that has a name.
#[derive(Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// Its number.
    pub number: i32,
}

/// A pod with its facts. Cloning is two reference counts.
#[derive(Clone, Debug)]
pub struct CountedPod {
    object: Object,
    facts: Arc<Held<PodFacts>>,
}

impl CountedPod {
    /// A pod's header and facts.
    ///
    /// # Errors
    /// When the bytes are not those of a pod.
    pub fn of(object: &Object) -> Result<Self, serde_json::Error> {
        Ok(Self {
            facts: object.facts()?,
            object: object.clone(),
        })
    }

    /// The whole pod.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Name, labels, owners, whether it is being deleted.
    #[must_use]
    pub fn header(&self) -> &Header {
        self.object.header()
    }

    /// The rest.
    #[must_use]
    pub fn facts(&self) -> &PodFacts {
        &self.facts
    }

    /// Succeeded or failed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.facts.is_finished()
    }

    /// Not finished and not being deleted.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.is_finished() && !self.header().deleting
    }

    /// Whether the pod is available, or in how long it will be if it stays ready; `None` where it is not ready.
    #[must_use]
    pub fn available_in(&self, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
        let since = self.facts.ready.then_some(self.facts.ready_since)?;
        available_since(since, min_ready_seconds, now)
    }
}

#[cfg(test)]
impl CountedPod {
    /// A pod made for a test.
    pub(crate) fn made(pod: &serde_json::Value) -> Self {
        Self::of(&Object::from_value(pod).unwrap()).unwrap()
    }
}

impl PodFacts {
    /// Whether both say the same to those who send to pods: where the pod is and answers, and by which names.
    #[must_use]
    pub fn serves_alike(&self, other: &Self) -> bool {
        self.is_finished() == other.is_finished()
            && (self.ready, &self.node, &self.addresses) == (other.ready, &other.node, &other.addresses)
            && (&self.hostname, &self.subdomain, &self.ports) == (&other.hostname, &other.subdomain, &other.ports)
    }

    /// Succeeded or failed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

#[derive(Deserialize)]
struct Bytes<'a> {
    #[serde(borrow, default)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    spec: Option<Spec<'a>>,
    #[serde(borrow, default)]
    status: Option<Status<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata<'a> {
    #[serde(borrow)]
    annotations: Option<Annotations<'a>>,
    creation_timestamp: Option<Time>,
}

#[derive(Default, Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, default, rename = "controller.kubernetes.io/pod-deletion-cost")]
    deletion_cost: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    #[serde(borrow)]
    node_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    affinity: Option<Affinity<'a>>,
    #[serde(borrow)]
    hostname: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subdomain: Option<Cow<'a, str>>,
    #[serde(borrow)]
    containers: Option<Vec<Option<Container<'a>>>>,
    #[serde(borrow)]
    init_containers: Option<Vec<Option<Container<'a>>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Affinity<'a> {
    #[serde(borrow)]
    node_affinity: Option<NodeAffinity<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeAffinity<'a> {
    #[serde(borrow)]
    required_during_scheduling_ignored_during_execution: Option<NodeSelector<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelector<'a> {
    #[serde(borrow)]
    node_selector_terms: Option<Vec<Option<NodeSelectorTerm<'a>>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelectorTerm<'a> {
    #[serde(borrow)]
    match_fields: Option<Vec<Option<Requirement<'a>>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Requirement<'a> {
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operator: Option<Cow<'a, str>>,
    #[serde(borrow)]
    values: Option<Vec<Cow<'a, str>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    restart_policy: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ports: Option<Vec<Option<ContainerPort<'a>>>>,
}

impl Container<'_> {
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    protocol: Option<Cow<'a, str>>,
    container_port: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status<'a> {
    #[serde(borrow)]
    phase: Option<Cow<'a, str>>,
    #[serde(borrow)]
    conditions: Option<Vec<Option<Condition<'a>>>>,
    #[serde(borrow)]
    container_statuses: Option<Vec<Option<ContainerStatus<'a>>>>,
    #[serde(borrow)]
    init_container_statuses: Option<Vec<Option<ContainerStatus<'a>>>>,
    #[serde(borrow, rename = "podIP")]
    pod_ip: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "podIPs")]
    pod_ips: Option<Vec<Option<Address<'a>>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address<'a> {
    #[serde(borrow)]
    ip: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    last_transition_time: Option<Time>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    restart_count: Option<i32>,
}

impl Facts for PodFacts {
    fn read(object: &Object) -> Result<Self, serde_json::Error> {
        let Bytes { metadata, spec, status } = serde_json::from_slice(object.bytes())?;
        let (metadata, spec, status) = (
            metadata.unwrap_or_default(),
            spec.unwrap_or_default(),
            status.unwrap_or_default(),
        );
        let mut conditions = status.conditions.iter().flatten().flatten();
        let ready = conditions.find(|condition| condition.kind.as_deref() == Some("Ready"));
        let ready = ready.filter(|ready| ready.status.as_deref() == Some("True"));
        let cost = metadata.annotations.and_then(|annotations| annotations.deletion_cost);
        Ok(Self {
            phase: match status.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            },
            node: spec.node_name.as_deref().unwrap_or_default().into(),
            ready: ready.is_some(),
            ready_since: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
            created: metadata.creation_timestamp.map(|time| time.0),
            deletion_cost: cost.map_or(0, |cost| cost_of(&cost)),
            restarts: restarts(&spec, &status),
            asks_for: asks_for(&spec),
            addresses: addresses(&status),
            hostname: spec.hostname.as_deref().unwrap_or_default().into(),
            subdomain: spec.subdomain.as_deref().unwrap_or_default().into(),
            ports: ports(&spec),
        })
    }

    fn weight_beside(&self) -> usize {
        let asks_for = self.asks_for.as_ref().map_or(0, |node| node.len());
        let texts = self.node.len() + asks_for + self.hostname.len() + self.subdomain.len();
        let addresses: usize = self.addresses.iter().map(|address| address.len()).sum();
        let ports = self.ports.iter().map(|port| port.name.len() + port.protocol.len());
        texts + size_of_val(&*self.addresses) + addresses + size_of_val(&*self.ports) + ports.sum::<usize>()
    }
}

/// A cost as upstream reads it: no plus sign and no leading zeros.
fn cost_of(text: &str) -> i32 {
    let canonical = text == "0" || text.starts_with(|first: char| first == '-' || ('1'..='9').contains(&first));
    text.parse().ok().filter(|_| canonical).unwrap_or(0)
}

fn restarts(spec: &Spec<'_>, status: &Status<'_>) -> (i32, i32) {
    let inits = spec.init_containers.iter().flatten().flatten();
    let sidecars: Vec<&str> = inits
        .filter(|container| container.is_sidecar())
        .filter_map(|container| container.name.as_deref())
        .collect();
    let is_sidecar = |status: &&ContainerStatus<'_>| status.name.as_deref().is_some_and(|name| sidecars.contains(&name));
    let counts = |status: &ContainerStatus<'_>| status.restart_count.unwrap_or(0);
    let regular = status.container_statuses.iter().flatten().flatten();
    let inits = status.init_container_statuses.iter().flatten().flatten();
    (
        regular.map(counts).max().unwrap_or(0).max(0),
        inits.filter(is_sidecar).map(counts).max().unwrap_or(0).max(0),
    )
}

fn asks_for(spec: &Spec<'_>) -> Option<Box<str>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let terms = required.node_selector_terms.iter().flatten().flatten();
    let mut fields = terms.flat_map(|term| term.match_fields.iter().flatten().flatten());
    let named = fields.find(|field| field.key.as_deref() == Some("metadata.name") && field.operator.as_deref() == Some("In"))?;
    match named.values.as_deref() {
        Some([node]) => Some(Box::from(&**node)),
        _ => None,
    }
}

fn addresses(status: &Status<'_>) -> Box<[Box<str>]> {
    let listed = status.pod_ips.iter().flatten().flatten();
    let mut addresses: Vec<&str> = listed.filter_map(|address| address.ip.as_deref()).collect();
    addresses.extend(status.pod_ip.as_deref().filter(|first| !addresses.contains(first)));
    let addresses = addresses.into_iter().filter(|address| !address.is_empty());
    addresses.map(Box::from).collect()
}

fn ports(spec: &Spec<'_>) -> Box<[NamedPort]> {
    let containers = spec.containers.iter().flatten().flatten();
    let inits = spec.init_containers.iter().flatten().flatten();
    let all = containers.chain(inits.filter(|container| container.is_sidecar()));
    let ports = all.flat_map(|container| container.ports.iter().flatten().flatten());
    let named = ports.filter_map(|port| {
        let name = port.name.as_deref().filter(|name| !name.is_empty())?;
        Some(NamedPort {
            name: name.into(),
            protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
            number: port.container_port.unwrap_or_default(),
        })
    });
    named.collect()
}

/// Which of two pods to delete first: `Less` is the first to go. `neighbours` counts the pods of the same owner on the
/// pod's node. The order is upstream's `ActivePodsWithRanks`, but that pods whose ages have one rank are told apart by what comes
/// next even where the ages differ: upstream's is no order then (of three pods each may come before the next).
#[must_use]
pub fn deletion_order(left: (&CountedPod, usize), right: (&CountedPod, usize), now: Timestamp) -> Ordering {
    let ((left, left_neighbours), (right, right_neighbours)) = (left, right);
    let (mine, other) = (left.facts(), right.facts());
    let phase = |facts: &PodFacts| match facts.phase {
        Phase::Running => 2,
        Phase::Unknown => 1,
        Phase::Pending | Phase::Succeeded | Phase::Failed => 0,
    };
    let by_ready_since = || {
        if mine.ready && other.ready {
            age_rank(mine.ready_since, now).cmp(&age_rank(other.ready_since, now))
        } else {
            Ordering::Equal
        }
    };
    let assigned = |facts: &PodFacts| !facts.node.is_empty();
    assigned(mine)
        .cmp(&assigned(other))
        .then_with(|| phase(mine).cmp(&phase(other)))
        .then_with(|| mine.ready.cmp(&other.ready))
        .then_with(|| mine.deletion_cost.cmp(&other.deletion_cost))
        .then_with(|| right_neighbours.cmp(&left_neighbours))
        .then_with(by_ready_since)
        .then_with(|| other.restarts.cmp(&mine.restarts))
        .then_with(|| age_rank(mine.created, now).cmp(&age_rank(other.created, now)))
        .then_with(|| left.header().uid.cmp(&right.header().uid))
}

/// Buckets of age: powers of two of nanoseconds, so that pods of nearly the same age count as equal; those without a time first,
/// then those of the future.
fn age_rank(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let Some(since) = since else { return -2 };
    let age = now.as_nanosecond() - since.as_nanosecond();
    age.checked_ilog2().map_or(-1, i64::from)
}

#[cfg(test)]
mod tests;
