//! Safety properties of replicas, looked at from outside all the time.
//!
//! Invariant: these hold at every moment, whatever breaks: one leader per term, and one state per revision.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use trireme_store::Page;

/// What was seen of replicas.
#[derive(Debug, Default)]
pub struct Replicas {
    leaders: BTreeMap<u64, String>,
    states: BTreeMap<u64, (u64, String)>,
    reached: BTreeMap<(String, u64), u64>,
    violations: Vec<String>,
}

impl Replicas {
    /// A host says that it leads. Whether that is news.
    pub fn leads(&mut self, host: &str, term: u64) -> bool {
        let known = self.leaders.len();
        let leader = self.leaders.entry(term).or_insert_with(|| host.to_owned());
        if leader != host {
            self.violations
                .push(format!("term {term} has two leaders: {leader} and {host}"));
        }
        self.leaders.len() > known
    }

    /// A host, in one of its lives, holds this.
    pub fn shows(&mut self, host: &str, life: u64, page: &Page) {
        let mut hasher = std::hash::DefaultHasher::new();
        for (key, object) in &page.items {
            (key, object.bytes()).hash(&mut hasher);
        }
        let digest = hasher.finish();
        let (first, by) = self.states.entry(page.revision).or_insert_with(|| (digest, host.to_owned()));
        if *first != digest {
            let revision = page.revision;
            self.violations
                .push(format!("at revision {revision}, {by} and {host} hold different objects"));
        }
        let reached = self.reached.entry((host.to_owned(), life)).or_default();
        if page.revision < *reached {
            let (from, to) = (*reached, page.revision);
            self.violations
                .push(format!("{host} went back from revision {from} to {to} without having ended"));
        }
        *reached = page.revision;
    }

    /// No term has two leaders.
    pub fn one_leader_per_term(&self) -> Vec<String> {
        self.of("two leaders")
    }

    /// Two replicas at one revision hold the same; so what is committed never changes.
    pub fn same_state_at_same_revision(&self) -> Vec<String> {
        self.of("different objects")
    }

    /// A replica never goes back while its process lives.
    pub fn replicas_never_go_back(&self) -> Vec<String> {
        self.of("went back")
    }

    fn of(&self, kind: &str) -> Vec<String> {
        self.violations
            .iter()
            .filter(|violation| violation.contains(kind))
            .cloned()
            .collect()
    }

    /// How many leaders there were.
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }
}
