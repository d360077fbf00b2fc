//! Sets of numbers as closed ranges: addresses of a family, ports of a protocol.
//!
//! Invariant of a settled one: ranges are sorted and neither overlap nor touch, so equal sets are equal values and the kernel takes them as they are.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::facts::{Cidr, Family};

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ranges(Vec<(u128, u128)>);

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn last_of(family: Family) -> u128 {
    match family {
        Family::V4 => u32::MAX.into(),
        Family::V6 => u128::MAX,
    }
}

/// First and last address of a range.
fn ends(cidr: Cidr) -> (u128, u128) {
    let first = number(cidr.address());
    let host_bits = match cidr.family() {
        Family::V4 => u128::from(u32::MAX).checked_shr(cidr.prefix().into()).unwrap_or(0) & u128::from(u32::MAX),
        Family::V6 => u128::MAX.checked_shr(cidr.prefix().into()).unwrap_or(0),
    };
    (first, first | host_bits)
}

impl Ranges {
    pub(super) fn of_cidr(cidr: Cidr) -> Self {
        Self(vec![ends(cidr)])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is all addresses of a family.
    pub(super) fn is_all(&self, family: Family) -> bool {
        self.0 == [(0, last_of(family))]
    }

    /// Whether it is all ports.
    pub(super) fn is_all_ports(&self) -> bool {
        self.0 == [(0, u16::MAX.into())]
    }

    /// Puts numbers in; [`Ranges::settle`] once all are there.
    pub(super) fn add(&mut self, first: u128, last: u128) {
        self.0.push((first, last));
    }

    /// Puts others in; [`Ranges::settle`] once all are there.
    pub(super) fn add_all(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// Restores the invariant.
    pub(super) fn settle(&mut self) {
        self.0.sort_unstable();
        let mut settled: Vec<(u128, u128)> = Vec::with_capacity(self.0.len());
        for &(from, to) in &self.0 {
            match settled.last_mut() {
                Some(before) if from <= before.1.saturating_add(1) => before.1 = before.1.max(to),
                _ => settled.push((from, to)),
            }
        }
        self.0 = settled;
    }

    /// What is here and not there, in one pass over both.
    pub(super) fn without(&self, holes: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len() + holes.0.len());
        let mut at = 0;
        for &(from, to) in &self.0 {
            let mut next = Some(from);
            while let (Some(start), Some(&(first, last))) = (next, holes.0.get(at)) {
                if first > to {
                    break;
                }
                if first > start {
                    left.push((start, first - 1));
                }
                next = match last.checked_add(1) {
                    Some(after) if after <= to => Some(after.max(start)),
                    _ => None,
                };
                if last < to {
                    at += 1;
                }
            }
            left.extend(next.map(|start| (start, to)));
        }
        Self(left)
    }

    /// How many ranges.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// As nftables writes addresses.
    pub(super) fn addresses(&self, family: Family) -> impl Iterator<Item = String> {
        let address = move |bits: u128| match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        self.texts(move |bits| address(bits).to_string())
    }

    /// As nftables writes ports.
    pub(super) fn ports(&self) -> impl Iterator<Item = String> {
        self.texts(|port| port.to_string())
    }

    fn texts(&self, text: impl Fn(u128) -> String) -> impl Iterator<Item = String> {
        self.0.iter().map(move |&(from, to)| {
            if from == to {
                text(from)
            } else {
                format!("{}-{}", text(from), text(to))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn block(of: &str, except: &[&str]) -> Vec<String> {
        let mut holes = Ranges::default();
        for it in except {
            holes.add_all(&Ranges::of_cidr(cidr(it)));
        }
        holes.settle();
        Ranges::of_cidr(cidr(of))
            .without(&holes)
            .addresses(cidr(of).family())
            .collect()
    }

    #[test]
    fn what_is_excepted_is_cut_out() {
        for (of, except, left) in [
            ("10.0.0.0/30", &[][..], &["10.0.0.0-10.0.0.3"][..]),
            ("10.0.0.0/30", &["10.0.0.1/32"], &["10.0.0.0", "10.0.0.2-10.0.0.3"]),
            ("10.0.0.0/30", &["10.0.0.0/31"], &["10.0.0.2-10.0.0.3"]),
            ("10.0.0.0/30", &["10.0.0.0/30"], &[]),
            ("10.0.0.0/30", &["10.0.0.0/8"], &[]),
            ("10.0.0.0/30", &["11.0.0.0/8"], &["10.0.0.0-10.0.0.3"]),
            (
                "10.0.0.0/29",
                &["9.0.0.0/8", "10.0.0.1/32", "10.0.0.4/31", "10.0.0.7/32"],
                &["10.0.0.0", "10.0.0.2-10.0.0.3", "10.0.0.6"],
            ),
            ("10.0.0.7/32", &[], &["10.0.0.7"]),
            ("0.0.0.0/0", &["0.0.0.0/1"], &["128.0.0.0-255.255.255.255"]),
            ("0.0.0.0/0", &["255.255.255.255/32"], &["0.0.0.0-255.255.255.254"]),
            ("fd00::/126", &["fd00::1/128"], &["fd00::", "fd00::2-fd00::3"]),
            ("::/0", &["8000::/1"], &["::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ] {
            assert_eq!(block(of, except), left, "{of} without {except:?}");
        }
        assert!(Ranges::of_cidr(cidr("0.0.0.0/0")).is_all(Family::V4));
        assert!(Ranges::of_cidr(cidr("::/0")).is_all(Family::V6));
        assert!(!Ranges::of_cidr(cidr("0.0.0.0/1")).is_all(Family::V4));
    }

    #[test]
    fn what_touches_becomes_one() {
        let mut ports = Ranges::default();
        for (first, last) in [(80, 80), (90, 95), (81, 85), (84, 89), (1, 1)] {
            ports.add(first, last);
        }
        ports.settle();
        assert_eq!(ports.ports().collect::<Vec<_>>(), ["1", "80-95"]);
        ports.add(0, u16::MAX.into());
        ports.settle();
        assert!(ports.is_all_ports());
        let mut blocks = Ranges::of_cidr(cidr("10.0.1.0/24"));
        blocks.add_all(&Ranges::of_cidr(cidr("10.0.0.0/24")));
        blocks.settle();
        assert_eq!(blocks, Ranges::of_cidr(cidr("10.0.0.0/23")));
    }
}
