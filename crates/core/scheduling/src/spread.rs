//! Topology spread constraints: `DoNotSchedule` filters, `ScheduleAnyway` and the built-in defaults score.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Pod, PodSpec, TopologySpreadConstraint};

use crate::filter::{Rejection, matches_node_affinity, tolerates};
use crate::node::{NodeState, Snapshot};
use crate::selector::selects;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// How many matching pods each domain of each constraint has.
#[derive(Debug)]
pub struct Spread {
    hard: Vec<Counted>,
    soft: Vec<Counted>,
}

#[derive(Debug)]
struct Counted {
    key: String,
    skew_max: i64,
    domains_min: Option<usize>,
    /// 1 where the pod would count itself.
    own: i64,
    domains: HashMap<String, i64>,
}

impl Spread {
    /// Counts over all nodes. A pod without constraints is spread by its controller over hosts (skew 3) and zones
    /// (skew 5), softly.
    #[must_use]
    pub fn new(snapshot: &Snapshot, pod: &Pod) -> Self {
        let explicit = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref());
        let explicit = explicit.unwrap_or_default();
        if explicit.is_empty() {
            return Self {
                hard: Vec::new(),
                soft: defaults(snapshot, pod),
            };
        }
        let counted = |hard: bool| -> Vec<Counted> {
            let kind = explicit
                .iter()
                .filter(|constraint| (constraint.when_unsatisfiable == "DoNotSchedule") == hard);
            let kind: Vec<_> = kind.collect();
            let keys: Vec<_> = kind.iter().map(|constraint| constraint.topology_key.as_str()).collect();
            kind.iter()
                .map(|constraint| count(snapshot, pod, constraint, &keys))
                .collect()
        };
        Self {
            hard: counted(true),
            soft: counted(false),
        }
    }

    /// The filter.
    ///
    /// # Errors
    /// Which rule the node breaks.
    pub fn check(&self, state: &NodeState) -> Result<(), Rejection> {
        for constraint in &self.hard {
            let Some(value) = state.label(&constraint.key) else {
                return Err(Rejection::final_one(NO_LABEL));
            };
            let there = constraint.domains.get(value).copied().unwrap_or_default();
            if there + constraint.own - constraint.least() > constraint.skew_max {
                return Err(Rejection::passing(MISMATCH));
            }
        }
        Ok(())
    }

    /// Crowdedness of a node: less is better. `None` where there is nothing to spread, or the node lacks a label.
    #[must_use]
    pub fn score(&self, state: &NodeState) -> Option<f64> {
        if self.soft.is_empty() {
            return None;
        }
        let mut sum = 0.0;
        for constraint in &self.soft {
            let value = state.label(&constraint.key)?;
            let there = constraint.domains.get(value).copied().unwrap_or_default();
            #[allow(clippy::cast_precision_loss)] // counts of pods and nodes are small
            let (there, domains, skew) = (there as f64, constraint.domains.len() as f64, constraint.skew_max as f64);
            sum += there * (domains + 2.0).ln() + (skew - 1.0);
        }
        Some(sum)
    }
}

impl Counted {
    fn least(&self) -> i64 {
        if self.domains_min.is_some_and(|least| self.domains.len() < least) {
            return 0;
        }
        self.domains.values().copied().min().unwrap_or_default()
    }
}

fn count(snapshot: &Snapshot, pod: &Pod, constraint: &TopologySpreadConstraint, keys: &[&str]) -> Counted {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut selector = constraint.label_selector.clone();
    if let (Some(selector), Some(labels)) = (&mut selector, &pod.metadata.labels) {
        let wanted = selector.match_labels.get_or_insert_with(BTreeMap::new);
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                wanted.insert(key.clone(), value.clone());
            }
        }
    }
    let honours = |policy: &Option<String>, default: bool| policy.as_deref().map_or(default, |policy| policy == "Honor");
    let by_affinity = honours(&constraint.node_affinity_policy, true);
    let by_taints = honours(&constraint.node_taints_policy, false);
    let mut domains = HashMap::new();
    for state in snapshot.nodes.values() {
        if keys.iter().any(|key| state.label(key).is_none())
            || (by_affinity && !matches_node_affinity(spec, state))
            || (by_taints && !tolerates_all(spec, state))
        {
            continue;
        }
        let Some(value) = state.label(&constraint.topology_key) else {
            continue;
        };
        let matching = state.pods.values().filter(|placed| {
            let other = &placed.pod.metadata;
            other.deletion_timestamp.is_none()
                && other.namespace == pod.metadata.namespace
                && selects(selector.as_ref(), other.labels.as_ref())
        });
        *domains.entry(value.to_owned()).or_default() += i64::try_from(matching.count()).unwrap_or(i64::MAX);
    }
    Counted {
        key: constraint.topology_key.clone(),
        skew_max: i64::from(constraint.max_skew),
        domains_min: constraint.min_domains.and_then(|least| usize::try_from(least).ok()),
        own: i64::from(selects(selector.as_ref(), pod.metadata.labels.as_ref())),
        domains,
    }
}

fn tolerates_all(spec: &PodSpec, state: &NodeState) -> bool {
    let taints = state
        .node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let mut hard = taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
    hard.all(|taint| tolerates(spec, taint))
}

fn controller(pod: &Pod) -> Option<&str> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners
        .find(|owner| owner.controller == Some(true))
        .map(|owner| owner.uid.as_str())
}

fn defaults(snapshot: &Snapshot, pod: &Pod) -> Vec<Counted> {
    let Some(owner) = controller(pod) else { return Vec::new() };
    let has_zones = snapshot.nodes.values().all(|state| state.label(ZONE).is_some());
    let keys = [(HOSTNAME, 3), (ZONE, 5)]
        .into_iter()
        .filter(|(key, _)| *key == HOSTNAME || has_zones);
    keys.map(|(key, skew_max)| {
        let mut domains = HashMap::new();
        for state in snapshot.nodes.values() {
            let Some(value) = state.label(key) else { continue };
            let siblings = state
                .pods
                .values()
                .filter(|placed| placed.pod.metadata.deletion_timestamp.is_none() && controller(&placed.pod) == Some(owner));
            *domains.entry(value.to_owned()).or_default() += i64::try_from(siblings.count()).unwrap_or(i64::MAX);
        }
        Counted {
            key: key.to_owned(),
            skew_max,
            domains_min: None,
            own: 1,
            domains,
        }
    })
    .collect()
}
