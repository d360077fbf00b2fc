//! Safety properties of replicas, looked at from outside all the time.
//!
//! Invariant: these hold at every moment, whatever breaks: one leader per term, and one state per revision.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use trireme_store::{Page, Statistics};

/// What was seen of replicas.
#[derive(Debug, Default)]
pub struct Replicas {
    leaders: BTreeMap<u64, String>,
    states: BTreeMap<u64, (u64, String)>,
    applied: BTreeMap<u64, (u64, u64, String)>,
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
    pub fn shows(&mut self, host: &str, life: u64, statistics: &Statistics, page: &Page) {
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
        let Statistics {
            applied_index: index,
            applied_term: term,
            ..
        } = *statistics;
        let applied = (term, page.revision, host.to_owned());
        let first = self.applied.entry(index).or_insert(applied);
        if (first.0, first.1) != (term, page.revision) {
            let other = &first.2;
            self.violations
                .push(format!("at log index {index}, {other} and {host} applied different entries"));
        }
        let reached = self.reached.entry((host.to_owned(), life)).or_default();
        if page.revision < *reached {
            let (from, to) = (*reached, page.revision);
            self.violations
                .push(format!("{host} went back from revision {from} to {to} without having ended"));
        }
        *reached = page.revision;
    }

    /// Consensus ended on a host though its disk had lost nothing.
    pub fn fails(&mut self, host: &str, life: u64, reason: &str) {
        let violation = format!("{host} gave up in its life {life} without need: {reason}");
        if !self.violations.contains(&violation) {
            self.violations.push(violation);
        }
    }

    /// A host leads a new term, at a revision, when clients had been told of another.
    pub fn begins(&mut self, host: &str, term: u64, revision: u64, acknowledged: u64) {
        if revision < acknowledged {
            self.violations.push(format!(
                "{host} leads term {term} but lacks what was acknowledged: it is at revision {revision} of {acknowledged}"
            ));
        }
    }

    /// Election safety: no term has two leaders.
    pub fn one_leader_per_term(&self) -> Vec<String> {
        self.of("two leaders")
    }

    /// Leader completeness: whoever leads a new term has everything that was acknowledged before.
    pub fn leaders_are_complete(&self) -> Vec<String> {
        self.of("lacks what was acknowledged")
    }

    /// Log matching, of what is committed: the same index means the same entry, and the same revision after it.
    pub fn same_entry_at_same_index(&self) -> Vec<String> {
        self.of("applied different entries")
    }

    /// State machine safety: two replicas at one revision hold the same; so what is committed never changes.
    pub fn same_state_at_same_revision(&self) -> Vec<String> {
        self.of("different objects")
    }

    /// A replica never goes back while its process lives.
    pub fn replicas_never_go_back(&self) -> Vec<String> {
        self.of("went back")
    }

    /// Only a disk that lost something ends consensus; a full or slow one does not.
    pub fn nobody_gives_up_without_need(&self) -> Vec<String> {
        self.of("without need")
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
