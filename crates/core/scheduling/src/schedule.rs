//! Filters, then scores, then one of the best.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::filter::{self, Plugins, Reason, Rejection};
use crate::node::NodeState;
use crate::pod::{PodRecord, Template};
use crate::profile::Profile;
use crate::relations::Relations;
use crate::score;
use crate::snapshot::Snapshot;
use crate::volumes::{Demand, VolumePlan};

/// Where a pod goes.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Name of the node.
    pub node: Box<str>,
    /// How many nodes were looked at.
    pub evaluated: usize,
    /// How many of them suited.
    pub suitable: usize,
    /// What is to be done for its volumes first; none where all are bound.
    pub volumes: Option<Box<VolumePlan>>,
}

/// Why a pod goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// What holds for all nodes before any is looked at.
    pub(crate) beforehand: Option<Rejection>,
    /// The nodes that were looked at, by slot.
    pub(crate) rejections: Vec<(usize, Rejection)>,
}

/// Places a pod. `seed` chooses among equally good nodes.
///
/// # Errors
/// When no node passes the filters.
pub fn decide(snapshot: &mut Snapshot, profile: &Profile, pod: &PodRecord, seed: u64) -> Result<Placement, Refused> {
    snapshot.refresh_order();
    let nodes = snapshot.order.len();
    let refused = |beforehand, rejections| {
        Err(Refused {
            nodes,
            beforehand,
            rejections,
        })
    };
    if nodes == 0 {
        return refused(None, Vec::new());
    }
    let (inquiry, named) = match ask_beforehand(snapshot, profile, pod) {
        Ok(asked) => asked,
        Err(rejection) => return refused(Some(rejection), Vec::new()),
    };
    let relations = snapshot.relations(&pod.template, profile);
    let found = find(snapshot, &inquiry, &relations, named.as_deref());
    let (suitable, rejections) = match found {
        (suitable, _) if !suitable.is_empty() => (suitable, 0),
        (_, rejections) => {
            snapshot.keep(relations);
            return refused(None, rejections);
        }
    };
    let best = if let [only] = suitable[..] {
        only
    } else {
        let totals = score::totals(snapshot, profile, &pod.template, &relations, &suitable);
        let best = totals.iter().copied().max().unwrap_or_default();
        let ties = || suitable.iter().zip(&totals).filter(|(_, total)| **total == best);
        let count = ties().count().max(1) as u64;
        let chosen = usize::try_from(seed % count).unwrap_or_default();
        ties().nth(chosen).map_or(suitable[0], |(slot, _)| *slot)
    };
    snapshot.keep(relations);
    let node = &snapshot.nodes[best];
    let demand = inquiry.demand.as_ref();
    Ok(Placement {
        volumes: demand.and_then(|demand| demand.plan(&snapshot.storage, node)).map(Box::new),
        node: node.name().into(),
        evaluated: suitable.len() + rejections,
        suitable: suitable.len(),
    })
}

/// Scores of all nodes that pass the filters, by name, with nothing left out: for tests and explanations.
#[must_use]
pub fn rank(snapshot: &mut Snapshot, profile: &Profile, pod: &PodRecord) -> Vec<(Box<str>, Result<i64, Rejection>)> {
    snapshot.refresh_order();
    let order = snapshot.order.clone();
    let (inquiry, _) = match ask_beforehand(snapshot, profile, pod) {
        Ok(asked) => asked,
        Err(rejection) => {
            let name = |slot: &usize| (snapshot.nodes[*slot].record.name.clone(), Err(rejection.clone()));
            return order.iter().map(name).collect();
        }
    };
    let relations = snapshot.relations(&pod.template, profile);
    let least = relations.least();
    let checked: Vec<_> = order
        .iter()
        .map(|slot| (*slot, check_node(snapshot, &inquiry, &relations, &least, *slot)))
        .collect();
    let suitable: Vec<usize> = checked
        .iter()
        .filter(|(_, check)| check.is_ok())
        .map(|(slot, _)| *slot)
        .collect();
    let mut totals = score::totals(snapshot, profile, &pod.template, &relations, &suitable).into_iter();
    snapshot.keep(relations);
    let name = |slot: usize| snapshot.nodes[slot].record.name.clone();
    checked
        .into_iter()
        .map(|(slot, check)| (name(slot), check.map(|()| totals.next().unwrap_or_default())))
        .collect()
}

/// A pod that is to be placed, by which profile, and what its volumes ask.
pub(crate) struct Inquiry<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) pod: &'a PodRecord,
    pub(crate) demand: Option<Demand>,
}

/// Names of the nodes that come into question; none: all.
type Named<'a> = Option<Vec<&'a str>>;

/// What can be said before any node is looked at.
fn ask_beforehand<'a>(
    snapshot: &Snapshot,
    profile: &'a Profile,
    pod: &'a PodRecord,
) -> Result<(Inquiry<'a>, Named<'a>), Rejection> {
    let by_affinity = profile.filters.has(Plugins::NODE_AFFINITY);
    let named = by_affinity.then(|| named_nodes(&pod.template)).flatten();
    if named.as_ref().is_some_and(Vec::is_empty) {
        let reason = Reason::Beforehand(Plugins::NODE_AFFINITY, "pod affinity terms conflict".into());
        return Err(Rejection::last(reason));
    }
    let demand = Demand::of(snapshot, profile.filters, pod)?;
    Ok((Inquiry { profile, pod, demand }, named))
}

/// Suitable nodes, as many as are wanted, and why the others that were looked at are not.
fn find(
    snapshot: &mut Snapshot,
    inquiry: &Inquiry<'_>,
    relations: &Relations,
    named: Option<&[&str]>,
) -> (Vec<usize>, Vec<(usize, Rejection)>) {
    let least = relations.least();
    let nominated = inquiry.pod.nominated.as_deref().and_then(|node| snapshot.slot(node));
    if let Some(slot) = nominated
        && check_node(snapshot, inquiry, relations, &least, slot).is_ok()
    {
        return (vec![slot], Vec::new());
    }
    let nodes = snapshot.order.len();
    let (from, count) = (snapshot.start % nodes, named.map_or(nodes, <[_]>::len));
    let wanted = inquiry.profile.nodes_to_find(count);
    let mut suitable = Vec::with_capacity(wanted);
    let mut rejections = Vec::new();
    let turns = (0..count).filter_map(|turn| match named {
        Some(named) => snapshot.slot(named[turn]),
        None => Some(snapshot.order[(from + turn) % nodes]),
    });
    for slot in turns {
        match check_node(snapshot, inquiry, relations, &least, slot) {
            Ok(()) => suitable.push(slot),
            Err(rejection) => rejections.push((slot, rejection)),
        }
        if suitable.len() >= wanted {
            break;
        }
    }
    snapshot.start = (from + suitable.len() + rejections.len()) % nodes;
    (suitable, rejections)
}

/// The nodes that required node affinity names, where every term names some; none where all nodes come into question.
fn named_nodes(template: &Template) -> Option<Vec<&str>> {
    let required = template.required_nodes.as_ref()?;
    if required.node_selector_terms.is_empty() {
        return None;
    }
    let mut all: Vec<&str> = Vec::new();
    for term in &required.node_selector_terms {
        let fields = term.match_fields.iter();
        let mut names = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
        let first = names.next()?;
        let mut both: Vec<&str> = first.values.iter().map(String::as_str).collect();
        for further in names {
            both.retain(|name| further.values.iter().any(|value| value == name));
        }
        all.extend(both);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// Runs all filters on a node: with the pods that are nominated to it and are no less important, and without them.
pub(crate) fn check_node(
    snapshot: &Snapshot,
    inquiry: &Inquiry<'_>,
    relations: &Relations,
    least: &[i64],
    slot: usize,
) -> Result<(), Rejection> {
    check_state(snapshot, inquiry, (relations, least), (slot, &snapshot.nodes[slot]))
}

/// As [`check_node`] for a state of the node that is only supposed.
pub(crate) fn check_state(
    snapshot: &Snapshot,
    inquiry: &Inquiry<'_>,
    (relations, least): (&Relations, &[i64]),
    (slot, node): (usize, &NodeState),
) -> Result<(), Rejection> {
    let pod = inquiry.pod;
    let counts = |other: &&Arc<PodRecord>| other.template.priority >= pod.template.priority && other.uid != pod.uid;
    let mut nominated = snapshot.nominated_to(node.name()).iter().filter(counts).peekable();
    if nominated.peek().is_some() {
        let (mut node, mut relations) = (node.clone(), relations.clone());
        for other in nominated {
            relations.count(&snapshot.surroundings, (slot, &node), other, 1, true);
            node.add(Arc::clone(other));
        }
        let least = relations.least();
        check_all(snapshot, inquiry, (&relations, &least), (slot, &node))?;
    }
    check_all(snapshot, inquiry, (relations, least), (slot, node))
}

fn check_all(
    snapshot: &Snapshot,
    inquiry: &Inquiry<'_>,
    (relations, least): (&Relations, &[i64]),
    (slot, node): (usize, &NodeState),
) -> Result<(), Rejection> {
    let (template, filters) = (&inquiry.pod.template, inquiry.profile.filters);
    filter::check(template, node, inquiry.profile)?;
    if let Some(demand) = &inquiry.demand {
        demand.check(snapshot, template, (slot, node))?;
    }
    if filters.has(Plugins::SPREAD) {
        relations.check_spread(&snapshot.surroundings, slot, least)?;
    }
    if filters.has(Plugins::POD_AFFINITY) {
        relations.check_affinity(&snapshot.surroundings, slot)?;
    }
    Ok(())
}

impl Refused {
    /// Whose filters turned nodes down.
    #[must_use]
    pub fn plugins(&self) -> Plugins {
        if let Some(rejection) = &self.beforehand {
            return rejection.plugin();
        }
        let absent = if self.rejections.len() < self.nodes {
            Plugins::NODE_AFFINITY
        } else {
            Plugins::default()
        };
        let all = self.rejections.iter().map(|(_, rejection)| rejection.plugin());
        all.fold(absent, Plugins::and)
    }

    /// For example `0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims
    /// found for incoming pod.`; `afterwards` is what preemption said.
    #[must_use]
    pub fn message(&self, afterwards: &str) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let reasons = match &self.beforehand {
            Some(rejection) => {
                let texts: Vec<_> = rejection.reasons().map(ToString::to_string).collect();
                texts.join(", ")
            }
            None => {
                let explicit = self.rejections.iter().flat_map(|(_, rejection)| rejection.reasons());
                let absent = self.nodes.saturating_sub(self.rejections.len());
                histogram(explicit, (&Reason::NamesOthers, absent))
            }
        };
        let afterwards = if afterwards.is_empty() {
            String::new()
        } else {
            format!(" preemption: {afterwards}")
        };
        format!("0/{} nodes are available: {reasons}.{afterwards}", self.nodes)
    }
}

/// `1 reason, 2 other reason`, sorted as text.
pub(crate) fn histogram<'a>(reasons: impl Iterator<Item = &'a Reason>, (absent, count): (&'a Reason, usize)) -> String {
    let mut counts: BTreeMap<&Reason, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    if count > 0 {
        *counts.entry(absent).or_default() += count;
    }
    let mut texts: Vec<_> = counts
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    texts.sort();
    texts.join(", ")
}
