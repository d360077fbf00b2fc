//! Scores of the nodes that passed all filters, 0 to 100 each, summed with upstream's weights.
//!
//! Invariant: integers and floating point numbers are rounded where upstream rounds them, so that the order of nodes is its.

use crate::filter::tolerates;
use crate::node::NodeState;
use crate::pod::Template;
use crate::profile::{Profile, Strategy, Weighted};
use crate::relations::Relations;
use crate::requests::Resources;
use crate::snapshot::Snapshot;
use crate::topology::NOWHERE;

/// The best of a score.
const MAX: i64 = 100;
const MIB: i64 = 1024 * 1024;
/// Between these sizes having an image counts; the upper one per container.
const IMAGE_MIN: i64 = 23 * MIB;
const IMAGE_MAX: i64 = 1000 * MIB;

/// Adds up the scores of nodes, in the order of their slots.
pub(crate) fn totals(
    snapshot: &Snapshot,
    profile: &Profile,
    template: &Template,
    relations: &Relations,
    slots: &[usize],
) -> Vec<i64> {
    let nodes = || slots.iter().map(|slot| &snapshot.nodes[*slot]);
    let weights = &profile.weights;
    let fit = Wanted::all(&profile.fit_resources, &template.requests.scored);
    let balance = Wanted::all(&profile.balanced_resources, &template.requests.resources);
    // A pod that asks for none of them is as good for the balance everywhere.
    let balances = weights.balanced > 0 && balance.iter().any(|wanted| wanted.asked != 0);
    let mut totals: Vec<i64> = nodes()
        .map(|node| {
            let mut total = 0;
            if weights.fit > 0 {
                total += weights.fit * strategy(&profile.strategy, &fit, node);
            }
            if balances {
                total += weights.balanced * balanced(&balance, node);
            }
            total
        })
        .collect();
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    if weights.taints > 0 && snapshot.soft_tainted > 0 {
        let open = nodes().map(|node| intolerable(template, node)).collect();
        add(weights.taints, normalised(open, true));
    }
    if weights.node_affinity > 0 && !(template.preferred_nodes.is_empty() && profile.added_preferred.is_empty()) {
        let met = nodes().map(|node| preference(profile, template, node)).collect();
        add(weights.node_affinity, normalised(met, false));
    }
    if weights.images > 0 && template.images.iter().any(|image| snapshot.image_nodes.contains_key(image)) {
        let count = snapshot.node_count();
        add(
            weights.images,
            nodes().map(|node| images(snapshot, template, node, count)).collect(),
        );
    }
    let ignored = profile.ignores_preferences_of_others && template.liked.is_empty();
    let drawn = !relations.liked.is_empty() && !ignored;
    if weights.pod_affinity > 0 && drawn {
        add(weights.pod_affinity, pod_affinity(snapshot, relations, slots));
    }
    if weights.spread > 0 && !relations.soft.is_empty() {
        add(weights.spread, spreading(snapshot, relations, slots));
    }
    totals
}

/// Which amount of [`Resources`] a name means.
#[derive(Clone, Copy)]
enum Kind<'a> {
    Cpu,
    Memory,
    EphemeralStorage,
    Other(&'a str),
}

impl<'a> Kind<'a> {
    fn named(name: &'a str) -> Self {
        match name {
            "cpu" => Self::Cpu,
            "memory" => Self::Memory,
            "ephemeral-storage" => Self::EphemeralStorage,
            other => Self::Other(other),
        }
    }

    fn of(self, resources: &Resources) -> i64 {
        match self {
            Self::Cpu => resources.milli_cpu,
            Self::Memory => resources.memory,
            Self::EphemeralStorage => resources.ephemeral_storage,
            Self::Other(name) => resources.others.get(name).copied().unwrap_or_default(),
        }
    }
}

/// A resource that counts for a pod, found once a decision.
struct Wanted<'a> {
    kind: Kind<'a>,
    weight: i64,
    asked: i64,
}

impl<'a> Wanted<'a> {
    /// Those of a profile that count for a pod: what it does not ask for does only where every pod is taken to.
    fn all(resources: &'a [Weighted], asked: &Resources) -> Vec<Self> {
        let wanted = resources.iter().map(|Weighted { name, weight }| {
            let kind = Kind::named(name);
            Self {
                kind,
                weight: *weight,
                asked: kind.of(asked),
            }
        });
        wanted
            .filter(|wanted| wanted.asked != 0 || !matches!(wanted.kind, Kind::Other(_)))
            .collect()
    }

    /// What a node would have in use and has at all; none where it has nothing. `held` is what CPU and memory are in use by.
    fn use_of(&self, held: &Resources, node: &NodeState) -> Option<(i64, i64)> {
        let all = self.kind.of(&node.record.allocatable);
        if all == 0 {
            return None;
        }
        // Only CPU and memory are counted with defaults.
        let held = if matches!(self.kind, Kind::Cpu | Kind::Memory) {
            held
        } else {
            &node.requested
        };
        Some((self.kind.of(held) + self.asked, all))
    }
}

fn strategy(strategy: &Strategy, resources: &[Wanted<'_>], node: &NodeState) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for wanted in resources {
        let Some((used, all)) = wanted.use_of(&node.scored, node) else {
            continue;
        };
        let score = match strategy {
            Strategy::LeastAllocated if used > all => 0,
            Strategy::LeastAllocated => (all - used) * MAX / all,
            Strategy::MostAllocated => used.min(all) * MAX / all,
            Strategy::RequestedToCapacityRatio(points) => {
                let percent = if used > all { 100 } else { used * 100 / all };
                match on_line(points, percent) {
                    // A resource without a score does not count.
                    score if score <= 0 => continue,
                    score => score,
                }
            }
        };
        sum += score * wanted.weight;
        weights += wanted.weight;
    }
    if weights == 0 {
        return 0;
    }
    match strategy {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // scores are small
        Strategy::RequestedToCapacityRatio(_) => (sum as f64 / weights as f64).round() as i64,
        _ => sum / weights,
    }
}

/// The value of a broken line; the points' scores go to 10.
fn on_line(points: &[(i64, i64)], at: i64) -> i64 {
    let scaled = |score: i64| score * (MAX / 10);
    let Some(next) = points.iter().position(|(utilisation, _)| at <= *utilisation) else {
        return points.last().map_or(0, |(_, score)| scaled(*score));
    };
    let (to, above) = (points[next].0, scaled(points[next].1));
    match next.checked_sub(1).map(|before| points[before]) {
        None => above,
        Some((from, below)) => scaled(below) + (above - scaled(below)) * (at - from) / (to - from),
    }
}

/// How much better balanced a node's use of resources is with the pod than without, around 75.
fn balanced(resources: &[Wanted<'_>], node: &NodeState) -> i64 {
    let mut with = Fractions::default();
    let mut without = Fractions::default();
    for wanted in resources {
        if let Some((used, all)) = wanted.use_of(&node.requested, node) {
            with.push(used, all);
            without.push(used - wanted.asked, all);
        }
    }
    MAX / 2 + (MAX / 2 + with.score() - without.score()) / 2
}

/// Parts of resources in use; the usual two need no memory.
#[derive(Default)]
struct Fractions {
    two: [f64; 2],
    more: Vec<f64>,
    count: usize,
}

impl Fractions {
    #[inline]
    #[allow(clippy::cast_precision_loss)] // fractions of a node
    fn push(&mut self, used: i64, all: i64) {
        let fraction = (used as f64 / all as f64).min(1.0);
        match self.count {
            at @ (0 | 1) => self.two[at] = fraction,
            _ => self.more.push(fraction),
        }
        self.count += 1;
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // few resources, small scores
    fn score(&self) -> i64 {
        let deviation = match self.count {
            0 | 1 => 0.0,
            2 => ((self.two[0] - self.two[1]) / 2.0).abs(),
            count => {
                let all = || self.two.iter().chain(&self.more);
                let mut total = 0.0;
                for fraction in all() {
                    total += fraction;
                }
                let mean = total / count as f64;
                let mut sum = 0.0;
                for fraction in all() {
                    sum += (fraction - mean) * (fraction - mean);
                }
                (sum / count as f64).sqrt()
            }
        };
        ((1.0 - deviation) * MAX as f64) as i64
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // sizes of images
fn images(snapshot: &Snapshot, template: &Template, node: &NodeState, count: usize) -> i64 {
    let mut sum = 0;
    for image in &template.images {
        if let Some(size) = node.record.images.get(image) {
            let having = snapshot.image_nodes.get(image).copied().unwrap_or_default();
            let share = having as f64 / count as f64;
            sum += (*size as f64 * share) as i64;
        }
    }
    let most = IMAGE_MAX * i64::try_from(template.containers).unwrap_or(1);
    MAX * (sum.min(most).max(IMAGE_MIN) - IMAGE_MIN) / (most - IMAGE_MIN)
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // scores are small
fn pod_affinity(snapshot: &Snapshot, relations: &Relations, slots: &[usize]) -> Vec<i64> {
    let surroundings = &snapshot.surroundings;
    let here = |slot: &usize| -> i64 {
        let liked = relations.liked.iter();
        liked.map(|sums| sums.at(surroundings.domain(sums.topology, *slot))).sum()
    };
    let sums: Vec<i64> = slots.iter().map(here).collect();
    let (least, most) = (sums.iter().min().copied(), sums.iter().max().copied());
    let (Some(least), Some(most)) = (least, most) else {
        return sums;
    };
    let scale = |sum: &i64| {
        if most > least {
            (MAX as f64 * ((sum - least) as f64 / (most - least) as f64)) as i64
        } else {
            0
        }
    };
    sums.iter().map(scale).collect()
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // counts of pods and nodes are small
fn spreading(snapshot: &Snapshot, relations: &Relations, slots: &[usize]) -> Vec<i64> {
    let surroundings = &snapshot.surroundings;
    let complete = |slot: usize| {
        let mut soft = relations.soft.iter();
        !relations.requires_all || soft.all(|counted| surroundings.domain(counted.topology, slot) != NOWHERE)
    };
    let scored: Vec<bool> = slots.iter().map(|slot| complete(*slot)).collect();
    let present = || {
        slots
            .iter()
            .zip(&scored)
            .filter(|(_, scored)| **scored)
            .map(|(slot, _)| *slot)
    };
    let weights: Vec<f64> = relations
        .soft
        .iter()
        .map(|counted| {
            let domains = if counted.is_by_host() {
                present().count()
            } else {
                let mut domains: Vec<u32> = present().map(|slot| surroundings.domain(counted.topology, slot)).collect();
                domains.sort_unstable();
                domains.dedup();
                domains.len()
            };
            ((domains + 2) as f64).ln()
        })
        .collect();
    let crowd = |slot: usize| {
        let mut sum = 0.0;
        for (counted, weight) in relations.soft.iter().zip(&weights) {
            if surroundings.domain(counted.topology, slot) != NOWHERE {
                sum += counted.crowd(surroundings, slot) as f64 * weight + (counted.skew_max() - 1) as f64;
            }
        }
        sum.round() as i64
    };
    let crowds: Vec<i64> = slots.iter().map(|slot| crowd(*slot)).collect();
    let known = || {
        crowds
            .iter()
            .zip(&scored)
            .filter(|(_, scored)| **scored)
            .map(|(crowd, _)| *crowd)
    };
    let (least, most) = (known().min().unwrap_or_default(), known().max().unwrap_or_default().max(0));
    let score = |(crowd, scored): (&i64, &bool)| match (scored, most) {
        (false, _) => 0,
        (true, 0) => MAX,
        (true, most) => MAX * (most + least - crowd) / most,
    };
    crowds.iter().zip(&scored).map(score).collect()
}

/// Taints that only ask to stay away, and are not tolerated.
fn intolerable(template: &Template, node: &NodeState) -> i64 {
    let soft = node.record.taints.iter().filter(|taint| taint.is_soft());
    i64::try_from(soft.filter(|taint| !tolerates(template, taint)).count()).unwrap_or(i64::MAX)
}

/// Sum of the weights of preferred node affinity terms.
fn preference(profile: &Profile, template: &Template, node: &NodeState) -> i64 {
    let record = &node.record;
    let terms = profile.added_preferred.iter().chain(&template.preferred_nodes);
    let met = terms.filter(|(_, term)| term.selects(&record.name, &record.labels));
    met.map(|(weight, _)| weight).sum()
}

/// Scaled so that the largest is 100; reversed, so that the largest is 0.
fn normalised(scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or_default();
    let scale = |score: i64| if most == 0 { 0 } else { score * MAX / most };
    let turn = |score: i64| if reverse { MAX - score } else { score };
    scores.into_iter().map(|score| turn(scale(score))).collect()
}
