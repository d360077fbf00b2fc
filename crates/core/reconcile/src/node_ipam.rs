//! Each node gets a range of pod addresses of its own out of the cluster's.
//!
//! Invariant: no two nodes have ranges that overlap. It must not run for two nodes at once.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::ownership::object_ref;
use crate::plan::{Action, EventKind, EventNote, Plan};

/// A node, all others, and the ranges to allocate from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The node that may need a range.
    pub node: Arc<Node>,
    /// `spec.podCIDRs` of all nodes.
    pub taken: Vec<String>,
    /// The cluster's ranges: one, or one of each family.
    pub cluster: Vec<Range>,
}

/// A range to allocate from, and the size of a node's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub address: IpAddr,
    /// Length of the cluster's prefix.
    pub prefix: u8,
    /// Length of a node's prefix: 24 for IPv4, 64 for IPv6.
    pub node_prefix: u8,
}

impl Range {
    /// Parses `10.42.0.0/16`; node shares are /24 (IPv4) or /64 (IPv6). `None` where it is no range or too small.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = parse(text)?;
        let node_prefix = if address.is_ipv4() { 24 } else { 64 };
        (prefix <= node_prefix).then_some(Self {
            address,
            prefix,
            node_prefix,
        })
    }

    fn share(&self, at: u128) -> String {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        let first = number(self.address) + (at << (bits - u32::from(self.node_prefix)));
        let address = if self.address.is_ipv4() {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(first).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(first))
        };
        format!("{address}/{}", self.node_prefix)
    }

    /// Which of its shares a range covers; `None` if none.
    fn covered(&self, text: &str) -> Option<std::ops::RangeInclusive<u128>> {
        let (address, prefix) = parse(text)?;
        if address.is_ipv4() != self.address.is_ipv4() {
            return None;
        }
        let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
        let size = |prefix: u8| {
            1_u128
                .checked_shl(bits - u32::from(prefix))
                .map_or(u128::MAX, |size| size - 1)
        };
        let (first, own) = (number(address), number(self.address));
        let (last, own_last) = (first.saturating_add(size(prefix)), own.saturating_add(size(self.prefix)));
        if last < own || first > own_last {
            return None;
        }
        let shift = bits - u32::from(self.node_prefix);
        Some(((first.max(own) - own) >> shift)..=((last.min(own_last) - own) >> shift))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn parse(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= longest).then_some((address, prefix))
}

/// Gives the node its ranges if it has none.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let node = &*snapshot.node;
    let has = node
        .spec
        .as_ref()
        .and_then(|spec| spec.pod_cidrs.as_ref())
        .is_some_and(|ranges| !ranges.is_empty());
    let mut plan = Plan::default();
    if has || snapshot.cluster.is_empty() || node.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let target = object_ref("v1", "Node", &node.metadata);
    let shares: Option<Vec<_>> = snapshot.cluster.iter().map(|range| free(range, &snapshot.taken)).collect();
    match shares {
        Some(shares) => plan.actions.push(Action::Patch {
            patch: json!({"metadata": {"uid": target.uid}, "spec": {"podCIDR": shares[0], "podCIDRs": shares}}),
            target,
            subresource: None,
        }),
        None => plan.actions.push(Action::Event(EventNote {
            message: format!("Node {} status is now: CIDRNotAvailable", target.name),
            regarding: target,
            kind: EventKind::Normal,
            reason: "CIDRNotAvailable".into(),
        })),
    }
    plan
}

/// The lowest share that no node has.
fn free(range: &Range, taken: &[String]) -> Option<String> {
    let count = 1_u128 << (range.node_prefix - range.prefix);
    let taken: BTreeSet<(u128, u128)> = taken
        .iter()
        .filter_map(|text| range.covered(text))
        .map(|covered| (*covered.start(), *covered.end()))
        .collect();
    let mut at = 0;
    for (first, last) in taken {
        if first > at {
            break;
        }
        at = at.max(last + 1);
    }
    (at < count).then(|| range.share(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_share() {
        for (cluster, taken, expected) in [
            ("10.42.0.0/16", vec![], Some("10.42.0.0/24")),
            ("10.42.0.0/16", vec!["10.42.0.0/24", "10.42.2.0/24"], Some("10.42.1.0/24")),
            ("10.42.0.0/16", vec!["10.42.0.0/23", "10.9.0.0/24"], Some("10.42.2.0/24")),
            ("10.42.0.0/16", vec!["10.0.0.0/8"], None),
            ("10.42.0.0/23", vec!["10.42.0.0/24", "10.42.1.0/24"], None),
            ("fd00::/56", vec!["fd00::/64"], Some("fd00:0:0:1::/64")),
        ] {
            let taken: Vec<_> = taken.into_iter().map(String::from).collect();
            assert_eq!(
                free(&Range::parse(cluster).unwrap(), &taken).as_deref(),
                expected,
                "{cluster} {taken:?}"
            );
        }
        assert_eq!(Range::parse("10.42.0.0/25"), None);
        assert_eq!(Range::parse("nonsense"), None);
    }

    #[test]
    fn a_node_keeps_what_it_has() {
        let node = |spec| Arc::new(serde_json::from_value::<Node>(json!({"metadata": {"name": "n"}, "spec": spec})).unwrap());
        for (spec, actions) in [
            (json!({}), 1),
            (json!({"podCIDR": "10.42.7.0/24", "podCIDRs": ["10.42.7.0/24"]}), 0),
        ] {
            let snapshot = Snapshot {
                node: node(spec),
                taken: Vec::new(),
                cluster: vec![Range::parse("10.42.0.0/16").unwrap()],
            };
            assert_eq!(reconcile(&snapshot, Timestamp::UNIX_EPOCH).actions.len(), actions);
        }
    }
}
