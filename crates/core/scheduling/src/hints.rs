//! Whether a change can help a pod that fitted nowhere: upstream's queueing hints.
//!
//! Invariant: a change that could make the pod fit is never called useless; the other way round it may err.

use crate::filter::{Plugins, admits, is_open, tolerates_hard};
use crate::node::{NodeRecord, NodeState};
use crate::pod::{PodRecord, Template};

/// Something that happened to the cluster.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A node came, or changed from what it was.
    Node(Option<&'a NodeRecord>, &'a NodeRecord),
    /// A pod came to a node.
    Came(&'a PodRecord),
    /// A pod left its node, or holds less there.
    Left(&'a PodRecord),
    /// A pod on a node has other labels, or is being deleted.
    Changed(&'a PodRecord, &'a PodRecord),
    /// Something that is not looked at closer: labels of namespaces, Services.
    Other,
}

/// Whether a change may help a pod that these plugins turned down.
#[must_use]
pub fn may_help(change: Change<'_>, pod: &Template, failed: Plugins) -> bool {
    if failed.is_empty() {
        return true;
    }
    match change {
        Change::Other => true,
        Change::Node(old, new) => node_helps(old, new, pod, failed),
        Change::Came(other) => {
            (failed.has(Plugins::POD_AFFINITY) && !pod.near.is_empty())
                || (failed.has(Plugins::SPREAD) && counts_for_spread(pod, other))
        }
        Change::Left(other) => {
            let ports = || !pod.requests.ports.is_empty() && shares_ports(pod, other);
            failed.has(Plugins::FIT)
                || (failed.has(Plugins::PORTS) && ports())
                || (failed.has(Plugins::SPREAD) && counts_for_spread(pod, other))
                || failed.has(Plugins::POD_AFFINITY)
        }
        Change::Changed(old, new) => {
            let relabelled = old.template.labels != new.template.labels;
            (failed.has(Plugins::SPREAD) && (counts_for_spread(pod, old) || counts_for_spread(pod, new)))
                || (failed.has(Plugins::POD_AFFINITY) && relabelled)
                || (failed.has(Plugins::FIT) && old.template.requests != new.template.requests)
        }
    }
}

fn counts_for_spread(pod: &Template, other: &PodRecord) -> bool {
    pod.namespace == other.template.namespace
        && pod.spread.iter().any(|constraint| {
            let selector = constraint.selector.as_ref();
            selector.is_some_and(|selector| selector.selects(&other.template.labels))
        })
}

fn shares_ports(pod: &Template, other: &PodRecord) -> bool {
    let theirs = &other.template.requests.ports;
    pod.requests
        .ports
        .iter()
        .any(|port| theirs.iter().any(|held| port.conflicts(held)))
}

/// Whether a node that came or changed may take the pod where it did not before.
fn node_helps(old: Option<&NodeRecord>, new: &NodeRecord, pod: &Template, failed: Plugins) -> bool {
    let suits = |node: &NodeRecord| is_open(pod, node) && tolerates_hard(pod, node) && admits(pod, node) && has_size(pod, node);
    let relabelled = old.is_none_or(|old| old.labels != new.labels || old.taints != new.taints);
    // Another domain, or one fewer, changes what all other nodes are worth.
    if (failed.has(Plugins::SPREAD) || failed.has(Plugins::POD_AFFINITY)) && relabelled {
        return true;
    }
    if !suits(new) {
        return false;
    }
    let Some(old) = old else { return true };
    !suits(old) || relabelled || grew(pod, old, new)
}

/// Whether an empty node of this size would take the pod.
fn has_size(pod: &Template, node: &NodeRecord) -> bool {
    let (asked, all) = (&pod.requests.resources, &node.allocatable);
    node.pods_max > 0
        && asked.milli_cpu <= all.milli_cpu.max(0)
        && asked.memory <= all.memory.max(0)
        && asked.ephemeral_storage <= all.ephemeral_storage.max(0)
        && asked
            .others
            .iter()
            .all(|(name, amount)| *amount <= all.others.get(name).copied().unwrap_or_default())
}

fn grew(pod: &Template, old: &NodeRecord, new: &NodeRecord) -> bool {
    let (asked, was, is) = (&pod.requests.resources, &old.allocatable, &new.allocatable);
    let other = |all: &crate::Resources, name: &String| all.others.get(name).copied().unwrap_or_default();
    new.pods_max > old.pods_max
        || (asked.milli_cpu > 0 && is.milli_cpu > was.milli_cpu)
        || (asked.memory > 0 && is.memory > was.memory)
        || (asked.ephemeral_storage > 0 && is.ephemeral_storage > was.ephemeral_storage)
        || asked.others.keys().any(|name| other(is, name) > other(was, name))
}

/// Whether a node could ever take a pod, whatever is on it; for a pod that waits for room there.
#[must_use]
pub fn could_take(pod: &Template, node: &NodeState) -> bool {
    is_open(pod, &node.record) && tolerates_hard(pod, &node.record) && admits(pod, &node.record) && has_size(pod, &node.record)
}
