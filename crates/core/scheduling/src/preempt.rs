//! Preemption: whom to remove from which node so that a pod finds room.
//!
//! Invariant: nobody of the same or a higher priority is ever a victim. Victims, their order and the choice among nodes are
//! upstream's (DefaultPreemption); where upstream takes any of equally good nodes, the first in the order tried is taken.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::filter::{Reason, Rejection};
use crate::pod::PodRecord;
use crate::profile::Profile;
use crate::relations::Relations;
use crate::schedule::{Inquiry, Refused, check_state, histogram};
use crate::snapshot::{Budget, Snapshot};
use crate::volumes::Demand;

/// What preemption can do for a pod that fits nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Remove these, the most important first, and wait for this node.
    Remove {
        /// The node.
        node: Box<str>,
        /// Who makes room.
        victims: Vec<Arc<PodRecord>>,
    },
    /// Nothing, and a node that the pod was nominated to is no use to it.
    Hopeless(String),
    /// Nothing now; a nomination stays as it is.
    Ineligible(&'static str),
}

struct Candidate {
    slot: usize,
    victims: Vec<Arc<PodRecord>>,
    violations: usize,
}

/// Looks for room by removing less important pods. `seed` says where to begin.
#[must_use]
pub fn preempt(snapshot: &mut Snapshot, profile: &Profile, pod: &PodRecord, refused: &Refused, seed: u64) -> Preemption {
    if !profile.preempts {
        return Preemption::Hopeless(String::new());
    }
    if let Some(why) = ineligible(snapshot, pod, refused) {
        return Preemption::Ineligible(why);
    }
    let potential: Vec<usize> = refused
        .rejections
        .iter()
        .filter(|(_, rejection)| rejection.preemption_helps)
        .map(|(slot, _)| *slot)
        .collect();
    let mut statuses: Vec<Rejection> = Vec::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    // What keeps it from all nodes, such as a claim that is gone, left no candidates; since then nothing has changed.
    let inquiry = Demand::of(snapshot, profile.filters, pod)
        .ok()
        .map(|demand| Inquiry { profile, pod, demand });
    if let Some(inquiry) = inquiry.filter(|_| !potential.is_empty()) {
        let relations = snapshot.relations(&pod.template, profile);
        let enough = (potential.len() * profile.candidates_percent / 100)
            .max(profile.candidates_min)
            .min(potential.len());
        let offset = usize::try_from(seed % potential.len() as u64).unwrap_or_default();
        for turn in 0..potential.len() {
            let slot = potential[(offset + turn) % potential.len()];
            match victims_on(snapshot, &inquiry, &relations, slot) {
                Ok(candidate) => candidates.push(candidate),
                Err(rejection) => statuses.push(rejection),
            }
            if candidates.len() >= enough && candidates.iter().any(|candidate| candidate.violations == 0) {
                break;
            }
        }
        snapshot.keep(relations);
    }
    // Those that break no budget come first.
    candidates.sort_by_key(|candidate| candidate.violations > 0);
    match best(candidates) {
        Some(best) => Preemption::Remove {
            node: snapshot.nodes[best.slot].name().into(),
            victims: best.victims,
        },
        None => {
            let absent = refused.nodes.saturating_sub(statuses.len());
            let reasons = histogram(statuses.iter().flat_map(Rejection::reasons), (&Reason::NotHelpful, absent));
            Preemption::Hopeless(format!("0/{} nodes are available: {reasons}.", refused.nodes))
        }
    }
}

fn ineligible(snapshot: &Snapshot, pod: &PodRecord, refused: &Refused) -> Option<&'static str> {
    if !pod.template.preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let slot = snapshot.slot(pod.nominated.as_deref()?)?;
    let rejection = refused.rejections.iter().find(|(rejected, _)| *rejected == slot);
    if rejection.is_none_or(|(_, rejection)| !rejection.preemption_helps) {
        return None;
    }
    let mut there = snapshot.nodes[slot].pods.iter();
    there
        .any(|other| other.preempted && other.template.priority < pod.template.priority)
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Orders by importance: priority first, then who started earlier; who has not started is the least important.
fn importance(pod: &PodRecord) -> (Reverse<i32>, u64) {
    (Reverse(pod.template.priority), pod.started.unwrap_or(u64::MAX))
}

fn victims_on(snapshot: &Snapshot, inquiry: &Inquiry<'_>, relations: &Relations, slot: usize) -> Result<Candidate, Rejection> {
    let lower = |other: &&Arc<PodRecord>| other.template.priority < inquiry.pod.template.priority;
    let mut potential: Vec<Arc<PodRecord>> = snapshot.nodes[slot].pods.iter().filter(lower).map(Arc::clone).collect();
    if potential.is_empty() {
        return Err(Rejection::last(Reason::NoVictims));
    }
    let (mut node, mut relations) = (snapshot.nodes[slot].clone(), relations.clone());
    let surroundings = &snapshot.surroundings;
    for other in &potential {
        node.remove(&other.uid);
        relations.count(surroundings, (slot, &node), other, -1, true);
    }
    let fits = |node: &_, relations: &Relations| {
        let least = relations.least();
        check_state(snapshot, inquiry, (relations, &least), (slot, node))
    };
    fits(&node, &relations)?;
    potential.sort_by_key(|other| importance(other));
    let (violating, others) = by_budget(
        potential,
        snapshot.budgets.iter().map(|((namespace, _), budget)| (&**namespace, budget)),
    );
    let mixed = !violating.is_empty() && !others.is_empty();
    let (mut victims, mut violations) = (Vec::new(), 0);
    let turns = violating
        .into_iter()
        .map(|other| (other, 1))
        .chain(others.into_iter().map(|other| (other, 0)));
    for (other, violates) in turns {
        node.add(Arc::clone(&other));
        relations.count(surroundings, (slot, &node), &other, 1, true);
        if fits(&node, &relations).is_err() {
            node.remove(&other.uid);
            relations.count(surroundings, (slot, &node), &other, -1, true);
            victims.push(other);
            violations += violates;
        }
    }
    if mixed {
        victims.sort_by_key(|other| importance(other));
    }
    if victims.is_empty() {
        return Err(Rejection::last(Reason::NotHelpful));
    }
    Ok(Candidate {
        slot,
        victims,
        violations,
    })
}

/// Those whose removal breaks a budget, and the others, each in the order given.
fn by_budget<'a>(
    pods: Vec<Arc<PodRecord>>,
    budgets: impl Iterator<Item = (&'a str, &'a Budget)>,
) -> (Vec<Arc<PodRecord>>, Vec<Arc<PodRecord>>) {
    let mut budgets: Vec<(&str, &Budget, i32)> = budgets
        .map(|(namespace, budget)| (namespace, budget, budget.allowed))
        .collect();
    pods.into_iter().partition(|pod| {
        let mut violates = false;
        if pod.template.labels.is_empty() {
            return false;
        }
        for (namespace, budget, allowed) in &mut budgets {
            let selects = *namespace == pod.template.namespace
                && budget
                    .selector
                    .as_ref()
                    .is_some_and(|selector| !selector.is_empty() && selector.selects(&pod.template.labels));
            if selects && !budget.disrupted.iter().any(|name| **name == *pod.name) {
                *allowed = allowed.saturating_sub(1);
                violates |= *allowed < 0;
            }
        }
        violates
    })
}

fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    // Of equally good ones `min_by_key` takes the first.
    candidates.into_iter().min_by_key(|candidate| {
        let priorities = candidate.victims.iter().map(|victim| i64::from(victim.template.priority));
        let highest = priorities.clone().max();
        let first = candidate.victims.first().map(|victim| victim.template.priority);
        // Moved above zero, so that many of a negative priority weigh more than few.
        let sum: i64 = priorities.clone().map(|priority| priority + i64::from(i32::MAX) + 1).sum();
        let important = candidate
            .victims
            .iter()
            .filter(|victim| Some(i64::from(victim.template.priority)) == highest);
        let earliest = important.map(|victim| victim.started.unwrap_or(u64::MAX)).min();
        (candidate.violations, first, sum, candidate.victims.len(), Reverse(earliest))
    })
}
