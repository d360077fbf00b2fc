//! NetworkPolicies are a function too: policies, labels of namespaces and pods, and the node in; one nftables ruleset for the
//! pods of this node out.
//!
//! Invariants: a pod's packet is judged by the policies that select the pod and by no others, at a cost that grows neither with
//! their number nor with that of pods, but only with that of the different lists of ports in them: who may speak is a set.
//! Addresses are those behind Services, since rules stand after translation. An address of this node's range that belongs to
//! no pod known here is closed, so a pod that has just come is never open by mistake. What the node itself sends is not judged:
//! probes reach every pod. Without any policy there are no rules at all. Tests: `tests/policies`, against a slow reference.

mod parse;
mod pods;
mod ranges;
mod render;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use parse::Policy;
pub use pods::{NamedPort, PolicyPod};

use crate::facts::NodeFacts;
use crate::ruleset::{POLICY_TABLE, Ruleset};

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// Everything that the rules for this node's pods follow from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// All NetworkPolicies, in any order.
    pub policies: &'a [Arc<Policy>],
    /// Labels of all namespaces, by name.
    pub namespaces: &'a BTreeMap<String, Labels>,
    /// All pods, in any order; those whose `node` is the node's name are judged, all are peers.
    pub pods: &'a [Arc<PolicyPod>],
    /// The node itself.
    pub node: &'a NodeFacts,
}

/// What follows from an [`Input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the kernel should hold in the tables called [`POLICY_TABLE`].
    pub ruleset: Ruleset,
    /// How many pods of this node some policy selects.
    pub isolated_pods: usize,
    /// Whether the rules name pods by their labels or ports, so that pods of other nodes and namespaces' labels matter.
    pub names_pods: bool,
}

/// Computes the rules for the pods of a node.
#[must_use]
pub fn isolate(input: &Input<'_>) -> Outcome {
    if input.policies.is_empty() {
        return Outcome {
            ruleset: Ruleset::new(POLICY_TABLE),
            isolated_pods: 0,
            names_pods: false,
        };
    }
    render::render(input)
}
