//! A NetworkPolicy, read once: defaults filled in, selectors parsed, blocks cut.
//!
//! Invariant: what cannot be read opens nothing. (The API lets nothing such in.)

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as SelectorObject;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use trireme_api::selector::LabelSelector;

use super::Labels;
use super::ranges::Ranges;
use crate::facts::{Cidr, Family, Protocol};

/// A NetworkPolicy as rules are made from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(super) namespace: String,
    subjects: LabelSelector,
    /// `None`: this direction is not the policy's.
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

/// Which way a packet goes, as the pod that a policy selects sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// One element of `spec.ingress` or `spec.egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// `None`: everybody.
    pub(super) peers: Option<Vec<Peer>>,
    /// `None`: every port of every protocol.
    pub(super) ports: Option<Vec<PolicyPort>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Pods(PodPeer),
    Block(Family, Ranges),
}

/// Pods by labels. Two with the same key are the same pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodPeer {
    pub(super) key: String,
    pub(super) scope: Scope,
    pub(super) pods: LabelSelector,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// This namespace.
    One(String),
    /// Namespaces by labels.
    Selected(LabelSelector),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PolicyPort {
    /// From the first to the last.
    Numbers(Protocol, u16, u16),
    /// The port that the receiving pod calls so.
    Named(Protocol, String),
}

impl Policy {
    /// Reads a NetworkPolicy.
    #[must_use]
    pub fn of(policy: &networking::NetworkPolicy) -> Self {
        let namespace = policy.metadata.namespace.clone().unwrap_or_default();
        let spec = policy.spec.clone().unwrap_or_default();
        let ingress = spec.ingress.unwrap_or_default();
        let egress = spec.egress.unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        let is_of = |name: &str, default: bool| {
            if types.is_empty() {
                default
            } else {
                types.iter().any(|it| it == name)
            }
        };
        Self {
            subjects: spec.pod_selector.map_or_else(LabelSelector::everything, |it| {
                parsed(&it).unwrap_or_else(LabelSelector::everything)
            }),
            ingress: is_of("Ingress", true).then(|| {
                let rules = ingress.iter();
                rules
                    .map(|it| rule(&namespace, it.from.as_deref(), it.ports.as_deref()))
                    .collect()
            }),
            egress: is_of("Egress", !egress.is_empty()).then(|| {
                let rules = egress.iter();
                rules
                    .map(|it| rule(&namespace, it.to.as_deref(), it.ports.as_deref()))
                    .collect()
            }),
            namespace,
        }
    }

    pub(super) fn selects(&self, labels: &Labels) -> bool {
        self.subjects.matches(labels)
    }

    pub(super) fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

fn parsed(selector: &SelectorObject) -> Option<LabelSelector> {
    let value = serde_json::to_value(selector).ok()?;
    LabelSelector::from_value(Some(&value)).ok()
}

fn text(selector: &SelectorObject) -> String {
    serde_json::to_string(selector).unwrap_or_default()
}

fn rule(
    namespace: &str,
    peers: Option<&[networking::NetworkPolicyPeer]>,
    ports: Option<&[networking::NetworkPolicyPort]>,
) -> Rule {
    Rule {
        peers: peers
            .filter(|it| !it.is_empty())
            .map(|it| it.iter().filter_map(|it| peer(namespace, it)).collect()),
        ports: ports
            .filter(|it| !it.is_empty())
            .map(|it| it.iter().filter_map(port).collect()),
    }
}

fn peer(namespace: &str, peer: &networking::NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let cidr: Cidr = block.cidr.parse().ok()?;
        let mut holes = Ranges::default();
        for except in block.except.iter().flatten() {
            let except: Cidr = except.parse().ok()?;
            if except.family() == cidr.family() {
                holes.add_all(&Ranges::of_cidr(except));
            }
        }
        holes.settle();
        return Some(Peer::Block(cidr.family(), Ranges::of_cidr(cidr).without(&holes)));
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return None;
    }
    let (pods, pods_text) = match &peer.pod_selector {
        Some(selector) => (parsed(selector)?, text(selector)),
        None => (LabelSelector::everything(), "{}".to_owned()),
    };
    let (scope, scope_text) = match &peer.namespace_selector {
        Some(selector) => (Scope::Selected(parsed(selector)?), text(selector)),
        // No label selector as JSON begins with a slash.
        None => (Scope::One(namespace.to_owned()), format!("/{namespace}")),
    };
    Some(Peer::Pods(PodPeer {
        key: format!("{scope_text} {pods_text}"),
        scope,
        pods,
    }))
}

/// Names become part of a script: whatever the API let in, only letters, digits and dashes get that far.
fn is_plain(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')
}

fn port(port: &networking::NetworkPolicyPort) -> Option<PolicyPort> {
    let protocol = Protocol::of(port.protocol.as_deref())?;
    match &port.port {
        None => Some(PolicyPort::Numbers(protocol, 0, u16::MAX)),
        Some(IntOrString::Int(number)) => {
            let first = u16::try_from(*number).ok()?;
            let last = port.end_port.map_or(Some(first), |it| u16::try_from(it).ok())?;
            (first <= last).then_some(PolicyPort::Numbers(protocol, first, last))
        }
        Some(IntOrString::String(name)) => is_plain(name).then(|| PolicyPort::Named(protocol, name.clone())),
    }
}
