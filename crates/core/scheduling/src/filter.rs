//! Filters that look at one node alone, in upstream's order, and why they turn a node down.

use std::fmt;
use std::sync::Arc;

use trireme_api::fit;

use crate::node::{NodeRecord, NodeState, Taint};
use crate::pod::{Template, Toleration};
use crate::profile::Profile;
use crate::requests::Resources;

/// A plugin as a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Plugins(u16);

impl Plugins {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// NodeUnschedulable.
    pub const UNSCHEDULABLE: Self = Self(1);
    /// TaintToleration.
    pub const TAINTS: Self = Self(1 << 1);
    /// NodeAffinity.
    pub const NODE_AFFINITY: Self = Self(1 << 2);
    /// NodePorts.
    pub const PORTS: Self = Self(1 << 3);
    /// NodeResourcesFit.
    pub const FIT: Self = Self(1 << 4);
    /// PodTopologySpread.
    pub const SPREAD: Self = Self(1 << 5);
    /// InterPodAffinity.
    pub const POD_AFFINITY: Self = Self(1 << 6);
    /// VolumeRestrictions.
    pub const VOLUME_RESTRICTIONS: Self = Self(1 << 7);
    /// NodeVolumeLimits.
    pub const VOLUME_LIMITS: Self = Self(1 << 8);
    /// VolumeBinding.
    pub const VOLUME_BINDING: Self = Self(1 << 9);
    /// VolumeZone.
    pub const VOLUME_ZONE: Self = Self(1 << 10);
    /// NodeName.
    pub const NODE_NAME: Self = Self(1 << 11);
    /// All of them.
    pub const ALL: Self = Self((1 << 12) - 1);

    /// Whether all of `other` are among them.
    #[inline]
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As a number.
    #[must_use]
    pub fn bits(self) -> u64 {
        u64::from(self.0)
    }

    /// From [`Self::bits`].
    #[must_use]
    pub fn of_bits(bits: u64) -> Self {
        Self(u16::try_from(bits).unwrap_or(u16::MAX))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of `other` is among them.
    #[must_use]
    pub fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Those that are not among `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One reason against a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Cordoned.
    Cordoned,
    /// A taint.
    Taint,
    /// Node affinity or selector.
    NodeAffinity,
    /// The profile's own node affinity.
    Enforced,
    /// The pod names other nodes.
    NamesOthers,
    /// Host ports.
    Ports,
    /// No room for another pod.
    Pods,
    /// Not enough of a resource.
    Insufficient(Arc<str>),
    /// Spread.
    Spread,
    /// Spread, for want of a label.
    NoSpreadLabel,
    /// Required affinity.
    Affinity,
    /// Required anti-affinity.
    AntiAffinity,
    /// Required anti-affinity of pods that are there.
    ExistingAntiAffinity,
    /// A disk that a pod there has.
    Disk,
    /// A claim that one pod alone may use, and another does.
    OnePods,
    /// More volumes of a driver than the node takes.
    TooManyVolumes,
    /// A bound volume cannot be reached.
    VolumeElsewhere,
    /// No volume to bind, and none can be made.
    NothingToBind,
    /// No room for another volume.
    NoStorage,
    /// A bound volume is gone.
    NoVolume,
    /// A bound volume is in another zone.
    Zone,
    /// What a plugin says of all nodes before any is looked at.
    Beforehand(Plugins, Arc<str>),
    /// Preemption: nobody of lower priority is there.
    NoVictims,
    /// Preemption: it would not help.
    NotHelpful,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cordoned => "node(s) were unschedulable",
            Self::Taint => "node(s) had untolerated taint(s)",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Enforced => "node(s) didn't match scheduler-enforced node affinity",
            Self::NamesOthers => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::Pods => "Too many pods",
            Self::Insufficient(name) => return write!(formatter, "Insufficient {name}"),
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::NoSpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::Affinity => "node(s) didn't match pod affinity rules",
            Self::AntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
            Self::Disk => "node(s) had no available disk",
            Self::OnePods => {
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
            }
            Self::TooManyVolumes => "node(s) exceed max volume count",
            Self::VolumeElsewhere => "node(s) didn't match PersistentVolume's node affinity",
            Self::NothingToBind => "node(s) didn't find available persistent volumes to bind",
            Self::NoStorage => "node(s) did not have enough free storage",
            Self::NoVolume => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            Self::Zone => "node(s) had no available volume zone",
            Self::Beforehand(_, text) => text,
            Self::NoVictims => "No preemption victims found for incoming pod",
            Self::NotHelpful => "Preemption is not helpful for scheduling",
        })
    }
}

impl Reason {
    fn plugin(&self) -> Plugins {
        match self {
            Self::Cordoned => Plugins::UNSCHEDULABLE,
            Self::Taint => Plugins::TAINTS,
            Self::NodeAffinity | Self::Enforced | Self::NamesOthers => Plugins::NODE_AFFINITY,
            Self::Ports => Plugins::PORTS,
            Self::Pods | Self::Insufficient(_) => Plugins::FIT,
            Self::Spread | Self::NoSpreadLabel => Plugins::SPREAD,
            Self::Affinity | Self::AntiAffinity | Self::ExistingAntiAffinity => Plugins::POD_AFFINITY,
            Self::Disk | Self::OnePods => Plugins::VOLUME_RESTRICTIONS,
            Self::TooManyVolumes => Plugins::VOLUME_LIMITS,
            Self::VolumeElsewhere | Self::NothingToBind | Self::NoStorage | Self::NoVolume => Plugins::VOLUME_BINDING,
            Self::Zone => Plugins::VOLUME_ZONE,
            Self::Beforehand(plugin, _) => *plugin,
            Self::NoVictims | Self::NotHelpful => Plugins::default(),
        }
    }
}

/// Why a node was turned down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The reason, and further ones of the same plugin.
    reason: Reason,
    more: Vec<Reason>,
    /// Whether removing pods could change it.
    pub preemption_helps: bool,
}

impl Rejection {
    pub(crate) fn last(reason: Reason) -> Self {
        Self {
            reason,
            more: Vec::new(),
            preemption_helps: false,
        }
    }

    pub(crate) fn passing(reason: Reason) -> Self {
        Self {
            preemption_helps: true,
            ..Self::last(reason)
        }
    }

    /// Rejects where there are reasons.
    pub(crate) fn of(reasons: Vec<Reason>, preemption_helps: bool) -> Result<(), Self> {
        let mut reasons = reasons.into_iter();
        match reasons.next() {
            None => Ok(()),
            Some(reason) => Err(Self {
                reason,
                more: reasons.collect(),
                preemption_helps,
            }),
        }
    }

    /// Its reasons.
    pub fn reasons(&self) -> impl Iterator<Item = &Reason> {
        std::iter::once(&self.reason).chain(&self.more)
    }

    /// Whose it is.
    #[must_use]
    pub fn plugin(&self) -> Plugins {
        self.reason.plugin()
    }
}

/// Runs the filters until the first that rejects.
///
/// # Errors
/// That filter's reasons.
pub(crate) fn check(template: &Template, node: &NodeState, profile: &Profile) -> Result<(), Rejection> {
    let (record, filters) = (&node.record, profile.filters);
    if filters.has(Plugins::UNSCHEDULABLE) && !is_open(template, record) {
        return Err(Rejection::last(Reason::Cordoned));
    }
    if filters.has(Plugins::TAINTS) && !tolerates_hard(template, record) {
        return Err(Rejection::last(Reason::Taint));
    }
    if filters.has(Plugins::NODE_AFFINITY) {
        let enforced = profile.added_required.as_ref();
        if enforced.is_some_and(|enforced| !enforced.selects(&record.name, &record.labels)) {
            return Err(Rejection::last(Reason::Enforced));
        }
        if !admits(template, record) {
            return Err(Rejection::last(Reason::NodeAffinity));
        }
    }
    if filters.has(Plugins::PORTS) && !has_ports(template, node) {
        return Err(Rejection::passing(Reason::Ports));
    }
    if filters.has(Plugins::FIT) {
        has_room(template, node, profile)?;
    }
    Ok(())
}

/// Whether a node is not cordoned, or the pod tolerates that.
#[must_use]
pub fn is_open(template: &Template, node: &NodeRecord) -> bool {
    let cordon = fit::Taint {
        key: "node.kubernetes.io/unschedulable",
        value: "",
        effect: "NoSchedule",
    };
    !node.unschedulable
        || template
            .tolerations
            .iter()
            .any(|toleration| toleration.as_fit().tolerates(&cordon))
}

impl Toleration {
    pub(crate) fn as_fit(&self) -> fit::Toleration<'_> {
        fit::Toleration {
            key: &self.key,
            operator: &self.operator,
            value: &self.value,
            effect: &self.effect,
        }
    }
}

/// Whether a pod tolerates a taint.
#[must_use]
pub fn tolerates(template: &Template, taint: &Taint) -> bool {
    let taint = taint.as_fit();
    template
        .tolerations
        .iter()
        .any(|toleration| toleration.as_fit().tolerates(&taint))
}

/// Whether a pod tolerates all taints of a node that keep pods away.
#[must_use]
pub fn tolerates_hard(template: &Template, node: &NodeRecord) -> bool {
    node.taints
        .iter()
        .filter(|taint| taint.is_hard())
        .all(|taint| tolerates(template, taint))
}

/// Whether `nodeSelector` and required node affinity admit a node.
#[must_use]
pub fn admits(template: &Template, node: &NodeRecord) -> bool {
    let by_labels = template
        .node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value));
    by_labels
        && template
            .required_nodes
            .as_ref()
            .is_none_or(|required| required.selects(&node.name, &node.labels))
}

/// Whether the host ports that a pod asks for are free.
#[must_use]
pub fn has_ports(template: &Template, node: &NodeState) -> bool {
    let wanted = &template.requests.ports;
    wanted.is_empty() || !node.ports.iter().any(|held| wanted.iter().any(|port| port.conflicts(held)))
}

fn has_room(template: &Template, node: &NodeState, profile: &Profile) -> Result<(), Rejection> {
    let (asked, all, used) = (&template.requests.resources, &node.record.allocatable, &node.requested);
    let lacks = |asked: i64, all: i64, used: i64| asked > 0 && asked > all - used;
    let full = i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.record.pods_max;
    let short = lacks(asked.milli_cpu, all.milli_cpu, used.milli_cpu)
        || lacks(asked.memory, all.memory, used.memory)
        || lacks(asked.ephemeral_storage, all.ephemeral_storage, used.ephemeral_storage)
        || !asked.others.is_empty();
    if !full && !short {
        return Ok(());
    }
    let mut reasons = Vec::new();
    let mut preemption_helps = true;
    if full {
        reasons.push(Reason::Pods);
    }
    for (name, asked, all, used) in amounts(asked, all, used) {
        if lacks(asked, all, used) && !profile.ignores(name) {
            reasons.push(Reason::Insufficient(name.into()));
            preemption_helps &= asked <= all;
        }
    }
    Rejection::of(reasons, preemption_helps)
}

/// Name, asked for, allocatable and used, of each resource that is asked for.
fn amounts<'a>(asked: &'a Resources, all: &'a Resources, used: &'a Resources) -> impl Iterator<Item = (&'a str, i64, i64, i64)> {
    let fixed = [
        ("cpu", asked.milli_cpu, all.milli_cpu, used.milli_cpu),
        ("memory", asked.memory, all.memory, used.memory),
        (
            "ephemeral-storage",
            asked.ephemeral_storage,
            all.ephemeral_storage,
            used.ephemeral_storage,
        ),
    ];
    let of = |list: &Resources, name: &String| list.others.get(name).copied().unwrap_or_default();
    let others = asked.others.iter();
    fixed
        .into_iter()
        .chain(others.map(move |(name, amount)| (name.as_str(), *amount, of(all, name), of(used, name))))
}
