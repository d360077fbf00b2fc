//! Which addresses of a node's range its pods have.
//!
//! Invariant: an address that was given back is given again only after all others of the range, as on a real node.

use std::collections::HashSet;
use std::net::Ipv4Addr;

/// The range's own address, the gateway's and the last one are nobody's.
const RESERVED_FIRST: u32 = 2;

#[derive(Clone, Debug)]
pub(super) struct Addresses {
    first: u32,
    /// How many there are to give.
    count: u32,
    next: u32,
    taken: HashSet<u32>,
}

impl Addresses {
    pub(super) fn of(network: Ipv4Addr, prefix: u8) -> Self {
        let size = 1_u64 << (32 - u32::from(prefix.min(32)));
        let count = size.saturating_sub(u64::from(RESERVED_FIRST) + 1);
        Self {
            first: network.to_bits().saturating_add(RESERVED_FIRST),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            next: 0,
            taken: HashSet::new(),
        }
    }

    pub(super) fn take(&mut self) -> Option<Ipv4Addr> {
        if self.taken.len() as u64 >= u64::from(self.count) {
            return None;
        }
        loop {
            let offset = self.next;
            self.next = (self.next + 1) % self.count;
            if self.taken.insert(offset) {
                return Some(Ipv4Addr::from_bits(self.first.wrapping_add(offset)));
            }
        }
    }

    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address.to_bits().wrapping_sub(self.first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_pods_and_comes_back_last() {
        let mut range = Addresses::of(Ipv4Addr::new(10, 42, 7, 0), 29);
        let all: Vec<String> = std::iter::from_fn(|| range.take())
            .map(|address| address.to_string())
            .collect();
        assert_eq!(all, ["10.42.7.2", "10.42.7.3", "10.42.7.4", "10.42.7.5", "10.42.7.6"]);
        range.give_back(Ipv4Addr::new(10, 42, 7, 3));
        range.give_back(Ipv4Addr::new(10, 42, 7, 2));
        range.give_back(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(range.take(), Some(Ipv4Addr::new(10, 42, 7, 2)));
        range.give_back(Ipv4Addr::new(10, 42, 7, 2));
        assert_eq!(
            range.take(),
            Some(Ipv4Addr::new(10, 42, 7, 3)),
            "the one that was free longer"
        );
        for (prefix, count) in [(32, 0), (31, 0), (30, 1), (24, 253)] {
            let mut range = Addresses::of(Ipv4Addr::new(10, 0, 0, 0), prefix);
            assert_eq!(std::iter::from_fn(|| range.take()).count(), count, "/{prefix}");
        }
    }
}
