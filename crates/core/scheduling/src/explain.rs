//! Why a pod is where it is, or nowhere: every node judged, and a sentence about all of them.
//!
//! Invariant: it asks the same filters and scores as [`crate::decide`], of all nodes, and changes nothing but what is kept for speed.

use std::sync::Arc;

use crate::filter::Rejection;
use crate::pod::PodRecord;
use crate::preempt::{Preemption, preempt};
use crate::profile::Profile;
use crate::schedule::{decide, rank};
use crate::snapshot::Snapshot;

/// What there is to say of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its name.
    pub name: Box<str>,
    /// Its score, or why it cannot take the pod.
    pub verdict: Result<i64, Rejection>,
}

/// Where a pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is on a node.
    On(Box<str>),
    /// It would go to a node, or one as good.
    Fits(Box<str>),
    /// No node takes it; the scheduler's message.
    Nowhere(String),
    /// It would get a node by the removal of these pods.
    Preempts(Box<str>, Vec<Box<str>>),
}

/// Everything that is to be said of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Where it stands.
    pub standing: Standing,
    /// All nodes; those that suit first, the best before the others, then by name.
    pub nodes: Vec<Judged>,
}

/// Explains a pod. One that is on a node is judged as if it were to be placed now.
#[must_use]
pub fn explain(snapshot: &mut Snapshot, profile: &Profile, pod: &PodRecord) -> Explanation {
    let there = pod.node.clone();
    let (mut asked, held) = (pod.clone(), snapshot.remove_pod(&pod.uid));
    asked.node = None;
    let mut nodes: Vec<Judged> = rank(snapshot, profile, &asked)
        .into_iter()
        .map(|(name, verdict)| Judged { name, verdict })
        .collect();
    nodes.sort_by(|one, other| {
        let key = |judged: &Judged| judged.verdict.as_ref().map_or(i64::MAX, |score| -score);
        key(one).cmp(&key(other)).then_with(|| one.name.cmp(&other.name))
    });
    let standing = match there {
        Some(node) => Standing::On(node),
        None => match decide(snapshot, profile, &asked, 0) {
            Ok(placement) if asked.nominated.as_deref() == Some(&*placement.node) => Standing::Fits(placement.node),
            // Of equally good nodes any may be taken; the first in order is told.
            Ok(placement) => Standing::Fits(nodes.first().map_or(placement.node, |first| first.name.clone())),
            Err(refused) => match preempt(snapshot, profile, &asked, &refused, 0) {
                Preemption::Remove { node, victims } => {
                    Standing::Preempts(node, victims.iter().map(|victim| victim.name.clone()).collect())
                }
                Preemption::Hopeless(why) => Standing::Nowhere(refused.message(&why)),
                Preemption::Ineligible(why) => Standing::Nowhere(refused.message(why)),
            },
        },
    };
    if let Some(held) = held {
        snapshot.put_pod(Arc::clone(&held));
    }
    Explanation { standing, nodes }
}
