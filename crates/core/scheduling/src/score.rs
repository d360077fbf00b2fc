//! Scores of the nodes that passed all filters, 0 to 100 each, summed with upstream's weights.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::affinity::PodAffinity;
use crate::filter::tolerated_by;
use crate::node::NodeState;
use crate::requests::{PodRequests, Resources};
use crate::selector::term_matches;
use crate::spread::Spread;

/// Weights of the scores.
const TAINT_TOLERATION: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const LEAST_ALLOCATED: i64 = 1;
const TOPOLOGY_SPREAD: i64 = 2;
const POD_AFFINITY: i64 = 2;
const BALANCED_ALLOCATION: i64 = 1;
const IMAGE_LOCALITY: i64 = 1;

/// The best of a score.
const MAX: i64 = 100;
const MIB: i64 = 1024 * 1024;
/// Between these sizes having an image counts; the upper one per container.
const IMAGE_MIN: i64 = 23 * MIB;
const IMAGE_MAX: i64 = 1000 * MIB;

/// What the nodes are scored for.
pub struct Scorer<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What it asks for.
    pub requests: &'a PodRequests,
    /// Preferences among pods.
    pub affinity: &'a PodAffinity<'a>,
    /// Spread over domains.
    pub spread: &'a Spread,
    /// Nodes that have each image, over all nodes there are.
    pub all: &'a [&'a NodeState],
}

impl Scorer<'_> {
    /// Total scores, in the order of the nodes.
    #[must_use]
    pub fn score(&self, nodes: &[&NodeState]) -> Vec<i64> {
        let empty = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&empty);
        let mut totals = vec![0; nodes.len()];
        let mut add = |weight: i64, scores: Vec<i64>| {
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += weight * score;
            }
        };
        let each = |score: &dyn Fn(&NodeState) -> i64| -> Vec<i64> { nodes.iter().map(|state| score(state)).collect() };
        add(TAINT_TOLERATION, normalised(each(&|state| intolerable(spec, state)), true));
        add(NODE_AFFINITY, normalised(each(&|state| preference(spec, state)), false));
        add(LEAST_ALLOCATED, each(&|state| self.least_allocated(state)));
        add(BALANCED_ALLOCATION, each(&|state| self.balanced(state)));
        add(IMAGE_LOCALITY, each(&|state| self.images(spec, state)));
        add(POD_AFFINITY, self.pod_affinity(nodes));
        add(TOPOLOGY_SPREAD, self.spreading(nodes));
        totals
    }

    fn least_allocated(&self, state: &NodeState) -> i64 {
        let free = |all: i64, used: i64| if all == 0 || used > all { 0 } else { (all - used) * MAX / all };
        let (cpu, memory) = self.used(state);
        (free(state.allocatable.milli_cpu, cpu) + free(state.allocatable.memory, memory)) / 2
    }

    fn used(&self, state: &NodeState) -> (i64, i64) {
        let (pod, node) = (&self.requests.scored, &state.scored);
        (node.milli_cpu + pod.milli_cpu, node.memory + pod.memory)
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // fractions of a node
    fn balanced(&self, state: &NodeState) -> i64 {
        let asked: &Resources = &self.requests.resources;
        if asked.milli_cpu == 0 && asked.memory == 0 {
            return 0;
        }
        let fraction = |used: i64, all: i64| if all == 0 { 1.0 } else { (used as f64 / all as f64).min(1.0) };
        let (cpu, memory) = (
            state.requested.milli_cpu + asked.milli_cpu,
            state.requested.memory + asked.memory,
        );
        let cpu = fraction(cpu, state.allocatable.milli_cpu);
        let memory = fraction(memory, state.allocatable.memory);
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX as f64) as i64
    }

    fn images(&self, spec: &PodSpec, state: &NodeState) -> i64 {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let (mut sum, mut count) = (0, 0);
        for container in containers {
            count += 1;
            let image = normalised_image(container.image.as_deref().unwrap_or_default());
            if let Some(size) = state.images.get(&image) {
                let having = self.all.iter().filter(|other| other.images.contains_key(&image)).count();
                let share = i64::try_from(having).unwrap_or(1) * 1000 / i64::try_from(self.all.len().max(1)).unwrap_or(1);
                sum += size * share / 1000;
            }
        }
        let most = (IMAGE_MAX * count).max(IMAGE_MIN + 1);
        MAX * (sum.clamp(IMAGE_MIN, most) - IMAGE_MIN) / (most - IMAGE_MIN)
    }

    fn pod_affinity(&self, nodes: &[&NodeState]) -> Vec<i64> {
        let sums: Option<Vec<i64>> = nodes.iter().map(|state| self.affinity.score(state)).collect();
        let Some(sums) = sums else { return vec![0; nodes.len()] };
        let (least, most) = (sums.iter().min().copied(), sums.iter().max().copied());
        let (Some(least), Some(most)) = (least, most) else {
            return sums;
        };
        sums.iter()
            .map(|sum| {
                if most > least {
                    MAX * (sum - least) / (most - least)
                } else {
                    0
                }
            })
            .collect()
    }

    #[allow(clippy::cast_possible_truncation)] // scores are small
    fn spreading(&self, nodes: &[&NodeState]) -> Vec<i64> {
        let crowds: Vec<Option<i64>> = nodes
            .iter()
            .map(|state| self.spread.score(state).map(|score| score.round() as i64))
            .collect();
        let known = || crowds.iter().flatten().copied();
        let (Some(least), Some(most)) = (known().min(), known().max()) else {
            return vec![0; nodes.len()];
        };
        crowds
            .iter()
            .map(|crowd| match crowd {
                None => 0,
                Some(_) if most == 0 => MAX,
                Some(crowd) => MAX * (most + least - crowd) / most,
            })
            .collect()
    }
}

/// Taints that only ask to stay away, and are not tolerated.
fn intolerable(spec: &PodSpec, state: &NodeState) -> i64 {
    let taints = state
        .node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let soft = taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let open = soft.filter(|taint| {
        let mut tolerations = spec.tolerations.iter().flatten();
        !tolerations.any(|toleration| tolerated_by(toleration, taint))
    });
    i64::try_from(open.count()).unwrap_or(i64::MAX)
}

/// Sum of the weights of preferred node affinity terms.
fn preference(spec: &PodSpec, state: &NodeState) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred = affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let met = preferred
        .into_iter()
        .flatten()
        .filter(|term| term_matches(&term.preference, &state.node));
    met.map(|term| i64::from(term.weight)).sum()
}

/// Scaled so that the largest is 100; reversed, so that the largest is 0.
fn normalised(scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or_default();
    let scale = |score: i64| if most == 0 { 0 } else { score * MAX / most };
    let turn = |score: i64| if reverse { MAX - score } else { score };
    scores.into_iter().map(|score| turn(scale(score))).collect()
}

/// A name without a tag means `latest`.
fn normalised_image(name: &str) -> String {
    if name.rfind(':').is_none_or(|at| name[at..].contains('/')) {
        format!("{name}:latest")
    } else {
        name.to_owned()
    }
}
