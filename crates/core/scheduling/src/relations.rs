//! What the pods that are there mean for one incoming pod: affinity and anti-affinity both ways, and spread over domains.
//!
//! Invariant: after any sequence of pods that come and go it equals what counting all of them anew would give. So it is made
//! once for like pods and kept current pod by pod.

use std::sync::Arc;

use crate::filter::{Reason, Rejection, admits, tolerates_hard};
use crate::node::NodeState;
use crate::pod::{Constraint, PodRecord, PodTerm, Template};
use crate::selector::LabelSelector;
use crate::snapshot::Surroundings;
use crate::topology::{NOWHERE, Sums, add_to};

/// The label of a node's own name.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// One constraint with its counts.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    constraint: Constraint,
    /// Index of the topology.
    pub(crate) topology: usize,
    /// Matching pods by domain; [`ABSENT`] where no node of the domain counts.
    by_domain: Vec<i64>,
    /// Matching pods by node slot; only for scores by host.
    by_node: Vec<i64>,
    /// 1 where the pod would count itself.
    own: i64,
}

/// The count of a domain without any node that counts.
const ABSENT: i64 = i64::MIN;

/// The relations of like pods to those that are there.
#[derive(Clone, Debug)]
pub(crate) struct Relations {
    pub(crate) template: Arc<Template>,
    pub(crate) hard: Vec<Counted>,
    pub(crate) soft: Vec<Counted>,
    /// Whether a node must have all keys of the soft constraints to be scored.
    pub(crate) requires_all: bool,
    near: Vec<Sums>,
    far: Vec<Sums>,
    closed: Vec<Sums>,
    pub(crate) liked: Vec<Sums>,
    /// Whether the pod satisfies its own required terms, so that the first of a group can be placed.
    is_own_friend: bool,
    /// What an existing pod's required affinity to this one is worth.
    pub(crate) mutual: i64,
}

impl Relations {
    /// Without any pods; `defaults` are the constraints of a pod that has none of its own.
    pub(crate) fn new(surroundings: &Surroundings, template: &Arc<Template>, defaults: &[Constraint], mutual: i64) -> Self {
        let constraints = if template.spread.is_empty() {
            defaults
        } else {
            &template.spread[..]
        };
        let counted = |hard: bool| -> Vec<Counted> {
            let kind = constraints.iter().filter(|constraint| constraint.hard == hard);
            kind.filter_map(|constraint| {
                Some(Counted {
                    topology: surroundings.topology(&constraint.topology_key)?,
                    by_domain: Vec::new(),
                    by_node: Vec::new(),
                    own: i64::from(selects(constraint.selector.as_ref(), template)),
                    constraint: constraint.clone(),
                })
            })
            .collect()
        };
        Self {
            hard: counted(true),
            soft: counted(false),
            requires_all: !template.spread.is_empty(),
            near: Vec::new(),
            far: Vec::new(),
            closed: Vec::new(),
            liked: Vec::new(),
            is_own_friend: is_friend(surroundings, &template.near, template),
            mutual,
            template: Arc::clone(template),
        }
    }

    /// Whether nothing but pods with affinity of their own can matter.
    pub(crate) fn looks_at_affine_only(&self) -> bool {
        let own = &self.template;
        self.hard.is_empty() && self.soft.is_empty() && !own.has_pod_affinity()
    }

    /// Whether it has exactly these constraints, which are soft.
    pub(crate) fn is_spread_by(&self, soft: &[Constraint]) -> bool {
        self.hard.is_empty() && self.soft.iter().map(|counted| &counted.constraint).eq(soft)
    }

    /// Notes that a node exists; its pods are told one by one.
    pub(crate) fn see_node(&mut self, surroundings: &Surroundings, slot: usize, node: &NodeState) {
        for hard in [true, false] {
            if !self.counts_at(surroundings, slot, hard) {
                continue;
            }
            let counted = if hard { &mut self.hard } else { &mut self.soft };
            for counted in counted {
                let domain = surroundings.domain(counted.topology, slot);
                if domain != NOWHERE && admitted(&counted.constraint, &self.template, node) {
                    let count = counted.count_mut(domain);
                    *count = (*count).max(0);
                }
            }
        }
    }

    fn counts_at(&self, surroundings: &Surroundings, slot: usize, hard: bool) -> bool {
        let (counted, all) = if hard {
            (&self.hard, true)
        } else {
            (&self.soft, self.requires_all)
        };
        !all || counted.iter().all(|one| surroundings.domain(one.topology, slot) != NOWHERE)
    }

    /// A pod comes to a node (`by` 1) or leaves it (-1). A pod that is being deleted does not count for spread, unless it is
    /// tried what would be without it (`trying`).
    pub(crate) fn count(
        &mut self,
        surroundings: &Surroundings,
        (slot, node): (usize, &NodeState),
        pod: &PodRecord,
        by: i64,
        trying: bool,
    ) {
        if (trying || !pod.deleting) && pod.template.namespace == self.template.namespace {
            self.count_spread(surroundings, (slot, node), &pod.template, by, trying);
        }
        let other = &pod.template;
        let own = Arc::clone(&self.template);
        if !own.has_pod_affinity() && !other.has_pod_affinity() {
            return;
        }
        let place = |key: &str| {
            let topology = surroundings.topology(key)?;
            Some((topology, surroundings.domain(topology, slot)))
        };
        let note = |sums: &mut Vec<Sums>, term: &PodTerm, by: i64| {
            if let Some((topology, domain)) = place(&term.topology_key) {
                add_to(sums, topology, domain, by);
            }
        };
        let (theirs, mine) = (surroundings.labels(&other.namespace), surroundings.labels(&own.namespace));
        if is_friend(surroundings, &own.near, other) {
            for term in &own.near {
                note(&mut self.near, term, by);
            }
        }
        for term in own.far.iter().filter(|term| term.means(other, theirs)) {
            note(&mut self.far, term, by);
        }
        for (weight, term) in own.liked.iter().filter(|(_, term)| term.means(other, theirs)) {
            note(&mut self.liked, term, by * weight);
        }
        for term in other.far.iter().filter(|term| term.means(&own, mine)) {
            note(&mut self.closed, term, by);
        }
        for (weight, term) in other.liked.iter().filter(|(_, term)| term.means(&own, mine)) {
            note(&mut self.liked, term, by * weight);
        }
        for term in other.near.iter().filter(|term| term.means(&own, mine)) {
            note(&mut self.liked, term, by * self.mutual);
        }
    }

    fn count_spread(
        &mut self,
        surroundings: &Surroundings,
        (slot, node): (usize, &NodeState),
        other: &Template,
        by: i64,
        trying: bool,
    ) {
        let whole = [
            self.counts_at(surroundings, slot, true),
            self.counts_at(surroundings, slot, false),
        ];
        let counted = self.hard.iter_mut().map(|one| (one, whole[0]));
        for (counted, counts) in counted.chain(self.soft.iter_mut().map(|one| (one, whole[1]))) {
            // An empty selector counts nobody, though the pod itself satisfies it.
            let matches = counted
                .constraint
                .selector
                .as_ref()
                .is_some_and(|selector| (trying || !selector.is_empty()) && selector.selects(&other.labels));
            if !matches {
                continue;
            }
            if !counted.constraint.hard && counted.constraint.topology_key == HOSTNAME {
                if counted.by_node.len() <= slot {
                    counted.by_node.resize(slot + 1, 0);
                }
                counted.by_node[slot] += by;
            }
            let domain = surroundings.domain(counted.topology, slot);
            if counts && domain != NOWHERE && admitted(&counted.constraint, &self.template, node) {
                let count = counted.count_mut(domain);
                *count = (*count).max(0) + by;
            }
        }
    }

    /// The filter of spread.
    pub(crate) fn check_spread(&self, surroundings: &Surroundings, slot: usize, least: &[i64]) -> Result<(), Rejection> {
        for (counted, least) in self.hard.iter().zip(least) {
            let domain = surroundings.domain(counted.topology, slot);
            if domain == NOWHERE {
                return Err(Rejection::last(Reason::NoSpreadLabel));
            }
            let there = counted.at(domain).max(0);
            if there + counted.own - least > counted.constraint.skew_max {
                return Err(Rejection::passing(Reason::Spread));
            }
        }
        Ok(())
    }

    /// The least count over the domains of each hard constraint.
    pub(crate) fn least(&self) -> Vec<i64> {
        let least = |counted: &Counted| {
            let present = counted.by_domain.iter().filter(|count| **count != ABSENT);
            let (mut domains, mut least) = (0, i64::from(i32::MAX));
            for count in present {
                domains += 1;
                least = least.min(*count);
            }
            if domains < counted.constraint.domains_min { 0 } else { least }
        };
        self.hard.iter().map(least).collect()
    }

    /// The filter of affinity and anti-affinity.
    pub(crate) fn check_affinity(&self, surroundings: &Surroundings, slot: usize) -> Result<(), Rejection> {
        if !self.template.near.is_empty() && !self.is_near(surroundings, slot) {
            return Err(Rejection::last(Reason::Affinity));
        }
        let taken = |sums: &Sums| sums.at(surroundings.domain(sums.topology, slot)) > 0;
        if self.far.iter().any(taken) {
            return Err(Rejection::passing(Reason::AntiAffinity));
        }
        if self.closed.iter().any(taken) {
            return Err(Rejection::passing(Reason::ExistingAntiAffinity));
        }
        Ok(())
    }

    fn is_near(&self, surroundings: &Surroundings, slot: usize) -> bool {
        let mut all_near = true;
        for term in &self.template.near {
            let Some(topology) = surroundings.topology(&term.topology_key) else {
                return false;
            };
            let domain = surroundings.domain(topology, slot);
            if domain == NOWHERE {
                return false;
            }
            let sums = self.near.iter().find(|sums| sums.topology == topology);
            all_near &= sums.is_some_and(|sums| sums.at(domain) > 0);
        }
        all_near || (self.is_own_friend && self.near.iter().all(Sums::is_zero))
    }
}

impl Counted {
    fn count_mut(&mut self, domain: u32) -> &mut i64 {
        let domain = domain as usize;
        if self.by_domain.len() <= domain {
            self.by_domain.resize(domain + 1, ABSENT);
        }
        &mut self.by_domain[domain]
    }

    fn at(&self, domain: u32) -> i64 {
        self.by_domain.get(domain as usize).copied().unwrap_or(ABSENT)
    }

    /// Matching pods in a node's domain, for its score.
    pub(crate) fn crowd(&self, surroundings: &Surroundings, slot: usize) -> i64 {
        if self.is_by_host() {
            self.by_node.get(slot).copied().unwrap_or_default()
        } else {
            self.at(surroundings.domain(self.topology, slot)).max(0)
        }
    }

    /// Whether its domains are the hosts, of which each counts for itself.
    pub(crate) fn is_by_host(&self) -> bool {
        self.constraint.topology_key == HOSTNAME
    }

    pub(crate) fn skew_max(&self) -> i64 {
        self.constraint.skew_max
    }
}

fn selects(selector: Option<&LabelSelector>, template: &Template) -> bool {
    selector.is_some_and(|selector| selector.selects(&template.labels))
}

fn is_friend(surroundings: &Surroundings, near: &[PodTerm], other: &Template) -> bool {
    let labels = surroundings.labels(&other.namespace);
    !near.is_empty() && near.iter().all(|term| term.means(other, labels))
}

/// Whether a node counts for a constraint, by its policies.
fn admitted(constraint: &Constraint, template: &Template, node: &NodeState) -> bool {
    (!constraint.honours_affinity || admits(template, &node.record))
        && (!constraint.honours_taints || tolerates_hard(template, &node.record))
}
