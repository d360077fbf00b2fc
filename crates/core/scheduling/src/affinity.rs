//! Inter-pod affinity and anti-affinity: required terms filter, preferred ones score.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Affinity, Pod, PodAffinityTerm};

use crate::filter::Rejection;
use crate::node::{NodeState, Snapshot};
use crate::selector::selects;

/// Topology key and value.
type Domain = (String, String);

/// What the pods that are there mean for one incoming pod.
#[derive(Debug, Default)]
pub struct PodAffinity<'a> {
    required: Vec<&'a PodAffinityTerm>,
    required_anti: Vec<&'a PodAffinityTerm>,
    /// Pods that satisfy all required terms, by domain.
    friends: HashMap<Domain, i64>,
    /// Pods that satisfy a required anti-affinity term, by domain.
    foes: HashMap<Domain, i64>,
    /// Domains that existing pods close to the incoming one.
    closed: HashMap<Domain, i64>,
    /// Whether the pod satisfies its own required terms, so that the first of a group can be placed.
    is_own_friend: bool,
    /// Sum of preferences by domain.
    liked: HashMap<Domain, i64>,
}

fn terms(affinity: Option<&Affinity>, anti: bool) -> Vec<&PodAffinityTerm> {
    let required = affinity.and_then(|affinity| {
        if anti {
            affinity
                .pod_anti_affinity
                .as_ref()?
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        } else {
            affinity
                .pod_affinity
                .as_ref()?
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        }
    });
    required.into_iter().flatten().collect()
}

/// Preferred terms with their weight, negative for anti-affinity.
fn preferences(affinity: Option<&Affinity>) -> Vec<(&PodAffinityTerm, i64)> {
    let Some(affinity) = affinity else { return Vec::new() };
    let near = affinity.pod_affinity.as_ref();
    let near = near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref());
    let far = affinity.pod_anti_affinity.as_ref();
    let far = far.and_then(|far| far.preferred_during_scheduling_ignored_during_execution.as_ref());
    let near = near
        .into_iter()
        .flatten()
        .map(|term| (&term.pod_affinity_term, i64::from(term.weight)));
    let far = far
        .into_iter()
        .flatten()
        .map(|term| (&term.pod_affinity_term, -i64::from(term.weight)));
    near.chain(far).collect()
}

fn affinity_of(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref()?.affinity.as_ref()
}

fn namespace_of(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// Whether a term of `owner` selects `other`.
fn term_selects(
    term: &PodAffinityTerm,
    owner: &Pod,
    other: &Pod,
    namespaces: &BTreeMap<String, BTreeMap<String, String>>,
) -> bool {
    let namespace = namespace_of(other);
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let within = if listed.is_empty() && term.namespace_selector.is_none() {
        namespace == namespace_of(owner)
    } else {
        listed.iter().any(|name| name == namespace)
            || (term.namespace_selector.is_some() && selects(term.namespace_selector.as_ref(), namespaces.get(namespace)))
    };
    within && selects(term.label_selector.as_ref(), other.metadata.labels.as_ref())
}

fn domain(state: &NodeState, key: &str) -> Option<Domain> {
    Some((key.to_owned(), state.label(key)?.to_owned()))
}

impl<'a> PodAffinity<'a> {
    /// Looks at all pods once.
    #[must_use]
    pub fn new(snapshot: &Snapshot, pod: &'a Pod) -> Self {
        let own = affinity_of(pod);
        let mut this = Self {
            required: terms(own, false),
            required_anti: terms(own, true),
            ..Self::default()
        };
        let namespaces = &snapshot.namespaces;
        let is_friend = |other: &Pod, required: &[&PodAffinityTerm]| {
            !required.is_empty() && required.iter().all(|term| term_selects(term, pod, other, namespaces))
        };
        this.is_own_friend = is_friend(pod, &this.required);
        let liked = preferences(own);
        for state in snapshot.nodes.values() {
            let note = |into: &mut HashMap<Domain, i64>, key: &str, by: i64| {
                if let Some(domain) = domain(state, key) {
                    *into.entry(domain).or_default() += by;
                }
            };
            for placed in state.pods.values() {
                let other = placed.pod.as_ref();
                let theirs = affinity_of(other);
                if own.is_none() && theirs.is_none() {
                    continue;
                }
                if is_friend(other, &this.required) {
                    for term in &this.required {
                        note(&mut this.friends, &term.topology_key, 1);
                    }
                }
                for term in &this.required_anti {
                    if term_selects(term, pod, other, namespaces) {
                        note(&mut this.foes, &term.topology_key, 1);
                    }
                }
                for (term, weight) in &liked {
                    if term_selects(term, pod, other, namespaces) {
                        note(&mut this.liked, &term.topology_key, *weight);
                    }
                }
                for term in terms(theirs, true) {
                    if term_selects(term, other, pod, namespaces) {
                        note(&mut this.closed, &term.topology_key, 1);
                    }
                }
                let mutual = preferences(theirs).into_iter();
                // A required affinity of an existing pod counts with weight 1.
                for (term, weight) in mutual.chain(terms(theirs, false).into_iter().map(|term| (term, 1))) {
                    if term_selects(term, other, pod, namespaces) {
                        note(&mut this.liked, &term.topology_key, weight);
                    }
                }
            }
        }
        this
    }

    /// The filter.
    ///
    /// # Errors
    /// Which of the three rules the node breaks.
    pub fn check(&self, state: &NodeState) -> Result<(), Rejection> {
        if !self.near_friends(state) {
            return Err(Rejection::final_one("node(s) didn't match pod affinity rules"));
        }
        let in_domain =
            |term: &&&PodAffinityTerm| domain(state, &term.topology_key).is_some_and(|domain| self.foes.contains_key(&domain));
        if self.required_anti.iter().find(in_domain).is_some() {
            return Err(Rejection::passing("node(s) didn't match pod anti-affinity rules"));
        }
        let closed = |(key, value): &Domain| state.label(key) == Some(value);
        if self.closed.keys().any(closed) {
            return Err(Rejection::passing("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    fn near_friends(&self, state: &NodeState) -> bool {
        let mut all_near = true;
        for term in &self.required {
            let Some(domain) = domain(state, &term.topology_key) else {
                return false;
            };
            all_near &= self.friends.contains_key(&domain);
        }
        all_near || (self.friends.is_empty() && self.is_own_friend)
    }

    /// Sum of preferences at a node; `None` where nothing is preferred anywhere.
    #[must_use]
    pub fn score(&self, state: &NodeState) -> Option<i64> {
        if self.liked.is_empty() {
            return None;
        }
        let here = self.liked.iter().filter(|((key, value), _)| state.label(key) == Some(value));
        Some(here.map(|(_, weight)| weight).sum())
    }
}
