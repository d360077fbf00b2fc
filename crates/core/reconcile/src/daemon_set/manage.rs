//! One pod on each node that should have one, and none elsewhere: those that are missing, and those that ended or are too
//! many.

use super::backoff::{Pauses, Place};
use super::placement::hash_of;
use super::{Changes, Work, note, rollout};
use crate::plan::EventKind;
use crate::pods::{CountedPod, Phase};

impl<'a> Work<'a> {
    /// What each node lacks or has too much of.
    pub(super) fn manage(&self, pauses: &mut Pauses) -> Changes<'a> {
        let mut changes = Changes::default();
        for (node, fit) in &self.nodes {
            let held = self.pods.get(node);
            if fit.run && held.is_none() {
                changes.create.push(node);
            } else if fit.stay {
                let running = self.without_ended(node, pauses, &mut changes);
                self.prune(node, fit.run, &running, &mut changes);
            } else {
                let there = held.into_iter().flatten();
                changes.delete.extend(there.filter(|pod| !is_going(pod)));
            }
        }
        // What waits for a node that is gone waits for ever, and nobody else cleans it up.
        let elsewhere = self.pods.iter().filter(|(node, _)| !self.nodes.contains_key(*node));
        let waiting = elsewhere
            .flat_map(|(_, pods)| pods)
            .filter(|pod| !is_bound(pod) && !is_going(pod));
        changes.delete.extend(waiting);
        changes
    }

    /// The pods of a node that have not ended. Those that have go, failed ones after a pause.
    fn without_ended(&self, node: &'a str, pauses: &mut Pauses, changes: &mut Changes<'a>) -> Vec<&'a CountedPod> {
        let mut running = Vec::new();
        for pod in self.pods.get(node).into_iter().flatten().filter(|pod| !is_going(pod)) {
            let name = format!("{}/{}", pod.header().namespace, pod.header().name);
            let (kind, reason, message) = match pod.facts().phase {
                Phase::Failed => {
                    let place = self.place(node);
                    if let Some(left) = pauses.left(&place, self.now) {
                        changes.again = Some(changes.again.map_or(left, |again| again.min(left)));
                        continue;
                    }
                    pauses.lengthen(place, self.now);
                    let message = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
                    (EventKind::Warning, "FailedDaemonPod", message)
                }
                Phase::Succeeded => {
                    let message = format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
                    (EventKind::Normal, "SucceededDaemonPod", message)
                }
                _ => {
                    running.push(*pod);
                    continue;
                }
            };
            changes.events.push(note(self.set, kind, reason, message));
            changes.delete.push(pod);
        }
        running
    }

    fn place(&self, node: &str) -> Place {
        Place {
            uid: self.set.metadata.uid.clone().unwrap_or_default(),
            generation: self
                .set
                .status
                .as_ref()
                .and_then(|status| status.observed_generation)
                .unwrap_or(0),
            node: node.into(),
        }
    }

    /// Leaves one pod on a node; while surging two, an old one that serves and a new one that is to take its place.
    fn prune(&self, node: &'a str, should_run: bool, running: &[&'a CountedPod], changes: &mut Changes<'a>) {
        if !rollout::allows_surge(self.set) {
            changes.delete.extend(running.iter().skip(1));
            return;
        }
        if running.is_empty() && should_run {
            // What is on its way out does not count while surging.
            changes.create.push(node);
        }
        if running.len() < 2 {
            return;
        }
        let is_new = |pod: &CountedPod| hash_of(Some(&pod.header().labels)) == self.hash;
        let (new, old): (Vec<&CountedPod>, Vec<&CountedPod>) = running.iter().copied().partition(|pod| is_new(pod));
        changes.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!old.facts().ready || self.is_available(new))
        {
            changes.delete.push(old);
        }
    }
}

/// Whether a pod is being deleted.
pub(super) fn is_going(pod: &CountedPod) -> bool {
    pod.header().deleting
}

fn is_bound(pod: &CountedPod) -> bool {
    !pod.facts().node.is_empty()
}
