//! Each node gets a range of pod addresses of its own out of the cluster's.
//!
//! Invariant: no two nodes have ranges that overlap. It must not run for two nodes at once.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::ownership::object_ref;
use crate::plan::{Action, EventKind, EventNote, Plan};

/// A node, and what it could be given.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The node that may need a range.
    pub node: Arc<Node>,
    /// What [`Taken::free`] says.
    pub free: Option<Vec<String>>,
}

/// Which shares of the cluster's ranges nodes have. It follows the nodes one by one, so that a node that comes costs nothing
/// for each that is there.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The cluster's ranges: one, or one of each family.
    cluster: Vec<(Range, Shares)>,
}

/// The first and last share that some range of a node's covers, with the number of such nodes.
type Shares = BTreeMap<(u128, u128), u32>;

impl Taken {
    /// No node has anything of these ranges.
    #[must_use]
    pub fn of(cluster: &[Range]) -> Self {
        Self {
            cluster: cluster.iter().map(|range| (*range, BTreeMap::new())).collect(),
        }
    }

    /// A node has these ranges (`spec.podCIDRs`).
    pub fn add(&mut self, ranges: &[String]) {
        for (own, shares) in &mut self.cluster {
            for covered in ranges.iter().filter_map(|text| own.covered(text)) {
                *shares.entry((*covered.start(), *covered.end())).or_default() += 1;
            }
        }
    }

    /// A node of which [`Taken::add`] was told has these ranges no more.
    pub fn remove(&mut self, ranges: &[String]) {
        for (own, shares) in &mut self.cluster {
            for covered in ranges.iter().filter_map(|text| own.covered(text)) {
                let key = (*covered.start(), *covered.end());
                if let Some(count) = shares.get_mut(&key) {
                    *count -= 1;
                    if *count == 0 {
                        shares.remove(&key);
                    }
                }
            }
        }
    }

    /// The lowest share of each of the cluster's ranges that no node has; `None` where one has none left.
    #[must_use]
    pub fn free(&self) -> Option<Vec<String>> {
        self.cluster.iter().map(|(range, shares)| free(range, shares)).collect()
    }
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
    let free = snapshot.free.as_ref();
    if has || free.is_some_and(Vec::is_empty) || node.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let target = object_ref("v1", "Node", &node.metadata);
    match free {
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
fn free(range: &Range, taken: &Shares) -> Option<String> {
    let count = 1_u128 << (range.node_prefix - range.prefix);
    let mut at = 0;
    for (first, last) in taken.keys() {
        if *first > at {
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
            let ranges: Vec<String> = taken.iter().map(|text| (*text).to_owned()).collect();
            let mut taken = Taken::of(&[Range::parse(cluster).unwrap()]);
            let none = taken.free();
            taken.add(&ranges);
            let free = taken.free();
            let free = free.as_ref().map(|free| free[0].as_str());
            assert_eq!(free, expected, "{cluster} {ranges:?}");
            // Two nodes that claim one range hold it until both are gone.
            taken.add(&ranges);
            taken.remove(&ranges);
            assert_eq!(
                taken.free().as_ref().map(|free| free[0].as_str()),
                expected,
                "{cluster} {ranges:?}"
            );
            taken.remove(&ranges);
            assert_eq!(taken.free(), none);
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
                free: Taken::of(&[Range::parse("10.42.0.0/16").unwrap()]).free(),
            };
            assert_eq!(reconcile(&snapshot, Timestamp::UNIX_EPOCH).actions.len(), actions);
        }
    }
}
