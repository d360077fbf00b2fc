//! The DaemonSet controller: one pod on every node that should have one (pkg/controller/daemon).
//!
//! One plan takes one step: adopt or release; settle the history; then the status, and either pods that are missing or
//! too many, or the next pods of a rolling update. The next look takes the next.

pub mod backoff;
pub mod placement;

mod history;
mod manage;
mod node;
mod rollout;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};

use crate::ownership::{self, Claim};
use crate::plan::{Action, EventKind, EventNote, ObjectRef, Plan};
use crate::pods::CountedPod;
use crate::replicaset::{create_pod, delete_pod, pod_from_template};
use backoff::Pauses;
pub use node::{NodeFacts, SeenNode};
use placement::{Fit, Placement};

/// Most pods made, and most deleted, by one plan.
pub const BURST_REPLICAS: usize = 250;

/// What the controller looks at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Desired.
    pub daemon_set: Arc<DaemonSet>,
    /// All nodes.
    pub nodes: Vec<SeenNode>,
    /// The pods of its namespace that it selects or controls.
    pub pods: Vec<CountedPod>,
    /// All revisions of its namespace.
    pub revisions: Vec<Arc<ControllerRevision>>,
}

/// What one plan works on.
struct Work<'a> {
    set: &'a DaemonSet,
    /// The nodes and whether a pod belongs there.
    nodes: BTreeMap<&'a str, Fit>,
    /// Pods of ours by the node they are on or ask for; those that ended and are being deleted left out.
    pods: BTreeMap<&'a str, Vec<&'a CountedPod>>,
    /// The hash of the present revision.
    hash: String,
    now: Timestamp,
}

/// Which pods to make and to delete.
#[derive(Debug, Default)]
struct Changes<'a> {
    /// Nodes that need one.
    create: Vec<&'a str>,
    delete: Vec<&'a CountedPod>,
    /// Told before anything is done.
    events: Vec<EventNote>,
    /// When there may be more to do.
    again: Option<Duration>,
}

/// Plans one step. `pauses` remembers where pods failed, from one look to the next; `suffix` gives five fresh letters for
/// the name of a pod at each call.
#[must_use]
pub fn reconcile(snapshot: &Snapshot, pauses: &mut Pauses, now: Timestamp, suffix: &mut dyn FnMut() -> String) -> Plan {
    let set = &*snapshot.daemon_set;
    let mut plan = Plan::default();
    let Some(spec) = &set.spec else { return plan };
    if spec.selector == LabelSelector::default() {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        let note = note(set, EventKind::Warning, "SelectingAll", message.into());
        plan.actions.push(Action::Event(note));
        return plan;
    }
    if set.metadata.deletion_timestamp.is_some() {
        return plan; // Its history may be gone already, so nothing can be told of its pods.
    }
    pauses.forget_old(now);
    let owner = ownership::controller_reference("apps/v1", "DaemonSet", &set.metadata);
    let ours = claim(snapshot, &spec.selector, &owner, &mut plan);
    let revisions = history::claim(snapshot, &spec.selector, &owner, &mut plan);
    if !plan.actions.is_empty() {
        return plan; // What was adopted or released is seen at the next look.
    }
    let Some(history) = history::settle(snapshot, &owner, revisions, &ours, &mut plan) else {
        return plan;
    };
    let placement = Placement::of(set);
    let work = Work {
        set,
        nodes: snapshot.nodes.iter().map(|node| (node.name(), placement.fit(node))).collect(),
        pods: by_node(ours.iter().copied().filter(|pod| !is_going_and_finished(pod))),
        hash: history.hash,
        now,
    };
    let mut changes = work.manage(pauses);
    if changes.create.is_empty() && changes.delete.is_empty() {
        work.roll(&mut changes);
    }

    // Status before pods: it tells what was observed, and a failing creation must not hold it back.
    work.push_status(history.collision_count, &mut plan);
    plan.actions.extend(changes.events.into_iter().map(Action::Event));
    let regarding = regarding(set);
    for pod in changes.delete.into_iter().take(BURST_REPLICAS) {
        delete_pod(&mut plan, &regarding, ownership::pod_ref(pod.object()));
    }
    let template = placement::template(set, &work.hash);
    for node in changes.create.into_iter().take(BURST_REPLICAS) {
        let template = placement::pinned(template.clone(), node);
        let pod = pod_from_template(&template, &set.metadata, owner.clone(), suffix);
        create_pod(&mut plan, &regarding, &pod);
    }
    history::truncate(set, &history.old, &ours, &mut plan);
    plan.requeue_after = changes.again.into_iter().chain(work.next_available()).min();
    plan
}

/// The pods of ours; what is to be adopted or released goes into the plan.
fn claim<'a>(snapshot: &'a Snapshot, selector: &LabelSelector, owner: &OwnerReference, plan: &mut Plan) -> Vec<&'a CountedPod> {
    let mut ours = Vec::new();
    for pod in &snapshot.pods {
        let matches = ownership::selects(selector, Some(&pod.header().labels));
        match ownership::claim_pod(owner, false, pod.object(), matches) {
            Claim::Ours => ours.push(pod),
            Claim::Adopt(action) | Claim::Release(action) => plan.actions.push(action),
            Claim::NotOurs => {}
        }
    }
    ours
}

/// Pods by the node they are on or ask for; such as ask for none are left out.
fn by_node<'a>(pods: impl Iterator<Item = &'a CountedPod>) -> BTreeMap<&'a str, Vec<&'a CountedPod>> {
    let mut by_node: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = placement::target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| age(pod));
    }
    by_node
}

/// Those on their node before those on their way, then the oldest first.
fn age(pod: &CountedPod) -> (bool, Option<Timestamp>, &str) {
    let facts = pod.facts();
    (facts.node.is_empty(), facts.created, &pod.header().name)
}

/// It ended and is about to be gone: there is nothing more to do with it.
fn is_going_and_finished(pod: &CountedPod) -> bool {
    pod.is_finished() && pod.header().deleting
}

fn regarding(set: &DaemonSet) -> ObjectRef {
    ownership::object_ref("apps/v1", "DaemonSet", &set.metadata)
}

fn note(set: &DaemonSet, kind: EventKind, reason: &str, message: String) -> EventNote {
    EventNote {
        regarding: regarding(set),
        kind,
        reason: reason.into(),
        message,
    }
}

impl Work<'_> {
    fn min_ready_seconds(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn is_available(&self, pod: &CountedPod) -> bool {
        pod.available_in(self.min_ready_seconds(), self.now)
            .is_some_and(|left| left.is_zero())
    }

    /// In how long the next pod becomes available if it stays ready.
    fn next_available(&self) -> Option<Duration> {
        let pods = self.pods.values().flatten();
        pods.filter_map(|pod| pod.available_in(self.min_ready_seconds(), self.now))
            .filter(|left| !left.is_zero())
            .min()
    }
}

#[cfg(test)]
mod tests;
