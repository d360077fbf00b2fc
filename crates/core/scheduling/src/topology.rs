//! Domains of a topology key as small numbers, so that counting by domain is counting in a vector.
//!
//! Invariant: two nodes have the same number exactly where they have the same value of the key.

use std::collections::HashMap;

/// The number of a node that lacks the label.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// One topology key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    pub(crate) key: String,
    /// Domain by node slot.
    of_node: Vec<u32>,
    numbers: HashMap<String, u32>,
}

impl Topology {
    pub(crate) fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            ..Self::default()
        }
    }

    /// Takes a node's value; whether it is another one than before.
    pub(crate) fn set(&mut self, slot: usize, value: Option<&str>) -> bool {
        if self.of_node.len() <= slot {
            self.of_node.resize(slot + 1, NOWHERE);
        }
        let number = match value {
            None => NOWHERE,
            Some(value) => match self.numbers.get(value) {
                Some(number) => *number,
                None => {
                    let next = u32::try_from(self.numbers.len()).unwrap_or(NOWHERE - 1);
                    self.numbers.insert(value.to_owned(), next);
                    next
                }
            },
        };
        std::mem::replace(&mut self.of_node[slot], number) != number
    }

    /// A node's domain.
    pub(crate) fn of(&self, slot: usize) -> u32 {
        self.of_node.get(slot).copied().unwrap_or(NOWHERE)
    }

    /// How many values were ever seen.
    pub(crate) fn seen(&self) -> usize {
        self.numbers.len()
    }
}

/// A sum for each domain of a topology.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    /// Index of the topology.
    pub(crate) topology: usize,
    by_domain: Vec<i64>,
}

impl Sums {
    pub(crate) fn new(topology: usize) -> Self {
        Self {
            topology,
            by_domain: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, domain: u32, by: i64) {
        if domain == NOWHERE {
            return;
        }
        let domain = domain as usize;
        if self.by_domain.len() <= domain {
            self.by_domain.resize(domain + 1, 0);
        }
        self.by_domain[domain] += by;
    }

    pub(crate) fn at(&self, domain: u32) -> i64 {
        if domain == NOWHERE {
            return 0;
        }
        self.by_domain.get(domain as usize).copied().unwrap_or_default()
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.by_domain.iter().all(|sum| *sum == 0)
    }
}

/// Adds to the sums of a topology, which are made where there are none.
pub(crate) fn add_to(sums: &mut Vec<Sums>, topology: usize, domain: u32, by: i64) {
    if domain == NOWHERE {
        return;
    }
    match sums.iter_mut().find(|sums| sums.topology == topology) {
        Some(sums) => sums.add(domain, by),
        None => {
            let mut new = Sums::new(topology);
            new.add(domain, by);
            sums.push(new);
        }
    }
}
