//! Whether a change can help a pod that fitted nowhere: upstream's queueing hints.
//!
//! Invariant: a change that could make the pod fit is never called useless; the other way round it may err.

use crate::filter::{Plugins, admits, is_open, tolerates_hard};
use crate::node::{NodeRecord, NodeState};
use crate::pod::{ClaimSource, PodRecord, Template};

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
    /// A claim came (`new`) or has changed.
    Claim {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
        /// Whether it came.
        new: bool,
    },
    /// A volume came or has changed.
    Volume {
        /// Whether it says to be elsewhere than before.
        moved: bool,
    },
    /// A class came, or its volumes can be made elsewhere than before.
    Class {
        /// Whether it came, and its volumes wait for a pod.
        new_and_waits: bool,
    },
    /// A CSINode came, or takes more volumes.
    CsiNode {
        /// Whether it came.
        new: bool,
    },
    /// A driver has more room, or asks for none any more.
    Capacity,
    /// A volume was detached from a node.
    Detached,
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
                || (failed.has(Plugins::VOLUME_LIMITS) && !other.template.claims.is_empty())
                || (failed.has(Plugins::VOLUME_RESTRICTIONS) && shares_volumes(pod, &other.template))
        }
        Change::Claim { namespace, name, new } => {
            let own = || pod.namespace == namespace && pod.claims.iter().any(|claim| claim.may_be(name));
            let (always, once) = (
                Plugins::VOLUME_BINDING.and(Plugins::VOLUME_ZONE),
                Plugins::VOLUME_RESTRICTIONS.and(Plugins::VOLUME_LIMITS),
            );
            (failed.has_any(always) || (new && failed.has_any(once))) && own()
        }
        Change::Volume { moved } => failed.has(Plugins::VOLUME_BINDING) || (failed.has(Plugins::VOLUME_ZONE) && moved),
        Change::Class { new_and_waits } => {
            failed.has(Plugins::VOLUME_BINDING) || (failed.has(Plugins::VOLUME_ZONE) && new_and_waits)
        }
        Change::CsiNode { new } => failed.has(Plugins::VOLUME_LIMITS) || (failed.has(Plugins::VOLUME_BINDING) && new),
        Change::Capacity => failed.has(Plugins::VOLUME_BINDING),
        Change::Detached => failed.has(Plugins::VOLUME_LIMITS) && !pod.claims.is_empty(),
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

fn shares_volumes(pod: &Template, other: &Template) -> bool {
    let named = |claim: &&ClaimSource| matches!(claim, ClaimSource::Named(_));
    let shared = || pod.claims.iter().filter(named).any(|claim| other.claims.contains(claim));
    (pod.namespace == other.namespace && shared())
        || pod
            .disks
            .iter()
            .any(|disk| other.disks.iter().any(|held| disk.conflicts(held)))
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
